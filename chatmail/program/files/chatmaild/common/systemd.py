"""Notifications of a service to systemd."""

import os
import socket


def notify(state: str) -> None:
    """Send systemd a state such as `READY=1` or `STOPPING=1` (sd_notify(3)).

    Does nothing when systemd did not start this process.
    """
    address = os.environ.get("NOTIFY_SOCKET")
    if not address:
        return
    if address.startswith("@"):
        address = "\0" + address[1:]
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sock:
        sock.sendto(state.encode(), address)
