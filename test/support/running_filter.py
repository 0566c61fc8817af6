"""Runs a filter as on a relay, with its directories below a directory of the test."""

import base64
import json
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import dkim
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ed25519, rsa

SERVICES = Path(__file__).parents[2] / "chatmail/program/files"

# The senders of the tests. Each gets a mailbox, because the filter refuses other senders.
SENDERS = ("alice0000", "sent", "again", "hasty", "other")

SETTINGS = {
    "form": "domain",
    "mail_domain": "chat.example.org",
    "address_domain": "chat.example.org",
    "dkim_required": True,
    "federation": {"block": [], "allow": []},
    "max_user_send_per_minute": 60,
    "max_user_send_burst_size": 10,
    "max_message_size": 31457280,
}


def write_key(directory: Path, selector: str, algorithm: str) -> str:
    """Write a private key and return its DNS record."""
    if algorithm == "rsa-sha256":
        key = rsa.generate_private_key(65537, 2048)
        public = key.public_key().public_bytes(
            serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
        )
        kind = "rsa"
    else:
        key = ed25519.Ed25519PrivateKey.generate()
        public = key.public_key().public_bytes(
            serialization.Encoding.Raw, serialization.PublicFormat.Raw
        )
        kind = "ed25519"
    pem = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    (directory / f"{selector}.pem").write_bytes(pem)
    return f"v=DKIM1; k={kind}; p={base64.b64encode(public).decode()}"


def write_signing(directory: Path, selectors: dict[str, str]) -> None:
    listed = [{"selector": name, "algorithm": kind} for name, kind in selectors.items()]
    (directory / "signing.json").write_text(json.dumps({"selectors": listed}))


class Filter:
    """The filter's process with keys, mailboxes and DNS of its own."""

    def __init__(self, home: Path, **settings):
        self.home = home
        self.keys, self.mailboxes = home / "keys", home / "mail"
        self.sockets = home / "s"
        for directory in (self.keys, self.mailboxes, self.sockets):
            directory.mkdir()
        for sender in SENDERS:
            self.add_mailbox(f"{sender}@chat.example.org")
        self.settings = SETTINGS | {"mailboxes_dir": str(self.mailboxes)} | settings
        self.zone = {
            "rsa._domainkey.chat.example.org.": [write_key(self.keys, "rsa", "rsa-sha256")],
            "ed._domainkey.chat.example.org.": [write_key(self.keys, "ed", "ed25519-sha256")],
        }
        write_signing(self.keys, {"rsa": "rsa-sha256", "ed": "ed25519-sha256"})
        self.publish()
        (home / "relay.json").write_text(json.dumps(self.settings))

    def publish(self, **records) -> None:
        """Put records into DNS. A value None makes a look-up time out."""
        self.zone |= records
        (self.home / "zone.json").write_text(json.dumps(self.zone))

    def add_mailbox(self, address: str, cleartext: bool = False) -> None:
        home = self.mailboxes / address
        home.mkdir()
        (home / "password").write_text("{SHA512-CRYPT}$6$")
        if not cleartext:
            (home / "enforceE2EEincoming").touch()

    def start(self) -> None:
        """Start the process. Return when it has told systemd that it is ready."""
        notify = self.home / "notify"
        notify.unlink(missing_ok=True)
        self.systemd = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.systemd.bind(str(notify))
        self.systemd.settimeout(30)
        with (self.home / "log").open("ab") as log:
            self.process = subprocess.Popen(
                [
                    sys.executable,
                    Path(__file__).with_name("filter_with_dns.py"),
                    self.home / "zone.json",
                    *("--settings", self.home / "relay.json"),
                    *("--keys", self.keys),
                    *("--sockets", self.sockets),
                ],
                env=os.environ | {"PYTHONPATH": str(SERVICES), "NOTIFY_SOCKET": str(notify)},
                stderr=log,
            )
        assert self.systemd.recv(100) == b"READY=1", self.logged()

    def logged(self) -> str:
        return (self.home / "log").read_text()

    def children(self) -> list[int]:
        """Return the process ids of the roles: submission, incoming, sign."""
        task = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children")
        return [int(pid) for pid in task.read_text().split()]

    def stop(self) -> int:
        """End the process. Return its exit status."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        status = self.process.wait(30)
        self.systemd.close()
        return status


def verified(filter_, raw: bytes, index: int) -> bool:
    """Return whether dkimpy verifies a signature of a message that a filter signed."""

    def dns(name, timeout):
        return filter_.zone[name.decode()][0].encode()

    return dkim.DKIM(raw).verify(index, dnsfunc=dns)
