"""Delivery into a mailbox with thousands of unread messages, against an empty one."""

import socket
import statistics
import time

from bench.raw import fresh_account, log_in, message

SOCKET = "/var/spool/postfix/private/dovecot-lmtp"
SAMPLE = 200  # deliveries that are timed


class Delivery:
    """One LMTP connection into Dovecot, as Postfix has it (RFC 2033)."""

    def __init__(self, machine):
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.settimeout(60)
        self.socket.connect(str(machine.path(SOCKET)))
        self.lines = self.socket.makefile("rb")
        self.expect(1)
        self.socket.sendall(b"LHLO localhost\r\n")
        self.expect(1)

    def expect(self, replies):
        """Read replies, each of one or more lines; raise RuntimeError for a refusal."""
        while replies:
            line = self.lines.readline()
            if line[:1] not in b"23" or not line:
                raise RuntimeError(f"Dovecot answered {line!r}")
            replies -= line[3:4] == b" "

    def deliver(self, recipient, size=10_000):
        """Deliver one message; return the seconds that it took."""
        data = message("sender@example.org", recipient, size)
        began = time.perf_counter()
        self.socket.sendall(b"MAIL FROM:<sender@example.org>\r\n")
        self.expect(1)
        self.socket.sendall(b"RCPT TO:<%b>\r\n" % recipient.encode())
        self.expect(1)
        self.socket.sendall(b"DATA\r\n")
        self.expect(1)
        self.socket.sendall(data)
        self.expect(1)
        return time.perf_counter() - began

    def close(self):
        """End the connection."""
        self.lines.close()
        self.socket.close()


def full_and_empty(machine, unread=5000):
    """Return the median seconds of a delivery into an empty mailbox and into a full one.

    The two are timed in turn, so whatever else the machine does meets both. The empty one is a new
    mailbox after each ten deliveries.
    """
    full = fresh_account(machine.domain)
    log_in(full)
    connection = Delivery(machine)
    for _ in range(unread):
        connection.deliver(full.address, 2_000)
    into = {"empty": [], "full": []}
    for number in range(SAMPLE):
        if number % 10 == 0:
            empty = fresh_account(machine.domain)
            log_in(empty)
            connection.deliver(empty.address)  # The first one makes the maildir.
        into["empty"].append(connection.deliver(empty.address))
        into["full"].append(connection.deliver(full.address))
    connection.close()
    return statistics.median(into["empty"]), statistics.median(into["full"])
