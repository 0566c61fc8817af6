"""A host beside the relay where the program of the iroh relay is to be had."""

import contextlib
import io
import socket
import tarfile
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


def archive(program):
    """Return what a project would publish: a compressed archive with the program, bytes, in it."""
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w:gz") as made:
        member = tarfile.TarInfo("iroh-relay")
        member.size = len(program)
        made.addfile(member, io.BytesIO(program))
    return stream.getvalue()


@contextlib.contextmanager
def download_server(relay, program):
    """Serve `/<version>.tar.gz` with what `program(version)` returns; yields the URL before it."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            content = archive(program(self.path.removeprefix("/").removesuffix(".tar.gz")))
            self.send_response(200)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *arguments):
            pass

    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        # Nothing is sent: connecting a datagram socket only chooses the address.
        probe.connect((relay.ip, 9))
        address = probe.getsockname()[0]
    with ThreadingHTTPServer((address, 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://{address}:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()
