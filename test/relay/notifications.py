"""A stand-in for the notification service, beside the relay in the lab, that fails on demand."""

import contextlib
import socket
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import NamedTuple


class Push(NamedTuple):
    """A request that came: its body, the status it got, and when (time.time())."""

    token: str
    status: int
    when: float


class NotificationService:
    """What came, and what comes next.

    `status`: what every request gets until it is set anew; `url`: where the relay finds it.
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
        """Return the pushes for a token once there are `count`; raises TimeoutError."""
        with self._arrived:
            if not self._arrived.wait_for(lambda: len(self.pushes(token)) >= count, seconds):
                found = [push.status for push in self.pushes(token)]
                raise TimeoutError(f"{count} pushes in {seconds} s expected, answered: {found}")
            return self.pushes(token)


@contextlib.contextmanager
def notification_service(neighbour):
    """Run the stand-in on the address of this host that `neighbour`, a name, is reached from."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        # Nothing is sent: connecting a datagram socket only chooses the address.
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
