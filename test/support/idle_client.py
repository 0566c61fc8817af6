"""A client that waits for mail as Delta Chat does."""

import socket
import zlib

import pytest
from relay.client import tls_context


class IdleClient:
    """An IMAP client that waits for mail as Delta Chat does. It compresses if the server offers."""

    def __init__(self, relay, account):
        plain = socket.create_connection((relay.domain, 993), timeout=20)
        self.socket = tls_context().wrap_socket(plain)
        self.deflate = self.inflate = None
        self.received = b""
        self.line()
        capabilities = self.command(f"LOGIN {account.address} {account.password}")
        self.compressed = "COMPRESS=DEFLATE" in capabilities + self.command("CAPABILITY")
        if self.compressed:
            self.command("COMPRESS DEFLATE")
            # RFC 4978 section 4: raw deflate, without the header of zlib.
            self.deflate, self.inflate = zlib.compressobj(wbits=-15), zlib.decompressobj(-15)
        self.command("SELECT INBOX")

    def send(self, line):
        data = line.encode() + b"\r\n"
        if self.deflate:
            data = self.deflate.compress(data) + self.deflate.flush(zlib.Z_SYNC_FLUSH)
        self.socket.sendall(data)

    def line(self):
        """Return the next line. The test fails if the server has closed the connection."""
        while b"\r\n" not in self.received:
            data = self.socket.recv(65536)
            if not data:
                pytest.fail("the relay closed an IMAP connection")
            self.received += self.inflate.decompress(data) if self.inflate else data
        line, _, self.received = self.received.partition(b"\r\n")
        return line.decode()

    def command(self, command):
        """Send a command and return its answer as text, which must be OK."""
        self.send(f"a {command}")
        return self.answer()

    def answer(self):
        lines = []
        while not (lines and lines[-1].startswith("a ")):
            lines.append(self.line())
        assert lines[-1].startswith("a OK"), lines[-1]
        return "\n".join(lines)

    def idle(self):
        """Begin to wait."""
        self.send("a IDLE")
        assert self.line().startswith("+")

    def wait_for_message(self):
        """Return when the server announces a new message."""
        while not self.line().endswith(" EXISTS"):
            pass

    def done(self):
        """End IDLE, and check that the session still works."""
        self.send("DONE")
        self.answer()
        self.command("NOOP")

    def close(self):
        self.socket.close()


def live_imap_processes(relay):
    """Return how many processes serve a client. Others wait for the next one."""
    _, *rows = relay.run("doveadm process status imap").stdout.splitlines()
    return sum(row.split()[2] == "0" for row in rows)  # It can serve no further client now.
