"""Fixtures for the tests in a browser."""

import threading
from http.server import ThreadingHTTPServer

import pytest
from support import browser
from support.website import build, settings, webdev


@pytest.fixture(scope="session")
def chromium():
    """Return the DevTools address of a running browser."""
    with browser.running_browser() as address:
        yield address


@pytest.fixture
def serve(monkeypatch):
    """Return a function that serves pages with nginx's headers and returns their address."""
    servers: list[ThreadingHTTPServer] = []

    def start(**more):
        chosen = settings(**more)
        # The server would build the pages for each request, which is only useful while editing.
        built = build.build(chosen)
        monkeypatch.setattr(build, "build", lambda _settings: built)
        servers.append(webdev.make_server(chosen))
        threading.Thread(target=servers[-1].serve_forever, args=[0.01], daemon=True).start()
        return f"http://127.0.0.1:{servers[-1].server_port}"

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()
