"""A host beside the relay that serves the program of the iroh relay."""

import contextlib
import io
import socket
import tarfile
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


def archive(program):
    """Return a compressed tar archive with the program, as a project publishes it."""
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w:gz") as made:
        member = tarfile.TarInfo("iroh-relay")
        member.size = len(program)
        made.addfile(member, io.BytesIO(program))
    return stream.getvalue()


@contextlib.contextmanager
def download_server(relay, program):
    """Serve `program(version)` at `/<version>.tar.gz`. Yield the first part of the URL."""

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
        # Connecting a datagram socket sends nothing. It only chooses the address.
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
