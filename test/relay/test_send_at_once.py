"""Postfix sends each reply at once: its sockets for TCP have TCP_NODELAY."""

import json
import socket

import pytest

# Prints [[port, "listen" or "session", TCP_NODELAY]] of the sockets of master(8) and smtpd(8).
PROGRAM = """
import ctypes, json, os, socket, subprocess
tcp, found = (socket.AF_INET, socket.AF_INET6), []
for pid in subprocess.check_output(["pgrep", "-x", "master|smtpd"], text=True).split():
    process = os.pidfd_open(int(pid))
    for name in os.listdir(f"/proc/{pid}/fd"):
        if os.readlink(f"/proc/{pid}/fd/{name}").startswith("socket:"):
            copy = ctypes.CDLL(None).syscall(438, process, int(name), 0)
            one = socket.socket(fileno=copy)
            if one.family in tcp and one.type == socket.SOCK_STREAM:
                listens = one.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
                kind = "listen" if listens else "session"
                option = one.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
                found.append([one.getsockname()[1], kind, option])
print(json.dumps(found))
"""


@pytest.mark.parametrize("command", ["restart", "reload"])
def test_each_port_and_each_session_sends_at_once(relay, command):
    relay.run(f"systemctl {command} postfix")
    with socket.create_connection((relay.domain, 25), timeout=30) as session:
        assert session.recv(4) == b"220 "
        found = json.loads(relay.run(["python3", "-c", PROGRAM]).stdout)
    assert {25, 465, 587} <= {port for port, kind, _ in found if kind == "listen"}
    assert 25 in {port for port, kind, _ in found if kind == "session"}
    assert [one for one in found if one[2] != 1] == []
