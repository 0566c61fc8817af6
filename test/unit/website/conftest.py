"""What the tests in a browser share."""

import threading
from http.server import ThreadingHTTPServer

import pytest
from support.website import settings, webdev


@pytest.fixture
def serve():
    """Return a function that serves pages with nginx's headers and returns their address."""
    servers: list[ThreadingHTTPServer] = []

    def start(**more):
        servers.append(webdev.make_server(settings(**more)))
        threading.Thread(target=servers[-1].serve_forever, daemon=True).start()
        return f"http://127.0.0.1:{servers[-1].server_port}"

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()
