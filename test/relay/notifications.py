"""A stand-in for the notification service, in the network of the relay. It fails on demand."""

import contextlib
import socket
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import NamedTuple


class Push(NamedTuple):
    """A request: its body, the status of the answer, and its time (time.time())."""

    token: str
    status: int
    when: float


class NotificationService:
    """The requests so far, and the answer to the next ones.

    `status`: the status of all answers until it is set again. `url`: the URL for the relay.
    """

    def __init__(self, url):
        self.url = url
        self.status = 200
        self._pushes = []
        self._arrived = threading.Condition()

    def answer(self, token):
        """Keep a request and return its status."""
        with self._arrived:
            self._pushes.append(Push(token, self.status, time.time()))
            self._arrived.notify_all()
            return self.status

    def pushes(self, token):
        """Return the pushes for a token so far."""
        return [push for push in self._pushes if push.token == token]

    def wait_for(self, token, count=1, seconds=5):
        """Wait for `count` pushes for a token, and return them. Raises TimeoutError."""
        with self._arrived:
            if not self._arrived.wait_for(lambda: len(self.pushes(token)) >= count, seconds):
                found = [push.status for push in self.pushes(token)]
                raise TimeoutError(f"{count} pushes in {seconds} s expected, answered: {found}")
            return self.pushes(token)


@contextlib.contextmanager
def notification_service(neighbour):
    """Run the stand-in on the address of this host from which `neighbour`, a name, is reached."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        # Connecting a datagram socket sends nothing. It only chooses the address.
        probe.connect((neighbour, 9))
        address = probe.getsockname()[0]

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            token = self.rfile.read(int(self.headers.get("Content-Length", 0))).decode()
            self.send_response(service.answer(token))
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *arguments):
            pass

    with ThreadingHTTPServer((address, 0), Handler) as server:
        service = NotificationService(f"http://{address}:{server.server_port}/notify")
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield service
        finally:
            server.shutdown()
            thread.join()
