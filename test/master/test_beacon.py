"""The beacon and the reactor of docs/fleet.md, with a real master and a service that notifies."""

import http.server
import queue
import re
import threading
from pathlib import Path

import pytest
from master.conftest import THIS_SIDE

PAGE = Path(__file__).resolve().parents[2] / "docs/fleet.md"


@pytest.fixture
def told(fleet):
    """Return a queue of the lines that the operator gets, by the reactor of the document."""
    lines = queue.SimpleQueue()

    class Service(http.server.BaseHTTPRequestHandler):
        def do_POST(self):
            lines.put(self.rfile.read(int(self.headers["Content-Length"])).decode())
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_):
            pass

    server = http.server.ThreadingHTTPServer((THIS_SIDE, 0), Service)
    threading.Thread(target=server.serve_forever).start()
    example = re.search(
        r"`/etc/salt/reactor/relay\.sls` posts.*?```\n(.*?)```", PAGE.read_text(), re.S
    )[1]
    url = f"http://{THIS_SIDE}:{server.server_port}/relays"
    text = example.replace("https://notify.example.org/relays", url)
    assert url in text
    reactor = fleet.configuration.parent / "reactor.sls"
    reactor.write_text(text)
    yield lines
    reactor.write_text("{}")
    server.shutdown()
    server.server_close()


def test_operator_is_told_of_a_unit_that_is_off_and_of_its_return(relays, told):
    name, relay = next(iter(relays.items()))
    relay.run("systemctl stop coturn")
    try:
        assert told.get(timeout=120) == f"{name}: stopped_units"
    finally:
        relay.run("systemctl start coturn")
    assert told.get(timeout=120) == f"{name}: well again"
    assert told.empty()
