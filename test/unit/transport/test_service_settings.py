"""How the service is put together from the relay's settings, and what it opens."""

import asyncio
import os
import re
import runpy
import signal
import socket
import ssl
import stat
import sys
from pathlib import Path

import pytest
from chatmaild.common import journal, settings
from chatmaild.common.errors import OperatorError
from chatmaild.metrics import counters
from chatmaild.transport import __main__ as transport_main
from chatmaild.transport import sending
from support import transport_peers as peers

SETTINGS = {
    "hostname": "mx.ours.example", "mail_domain": "ours.example",
    "address_domain": "ours.example", "disable_ipv6": False, "max_message_size": 1000,
    "federation": {"block": [], "allow": [], "private_networks": ["192.0.2.0/24"]},
}  # fmt: skip
PARTS = {
    sending: ("Destinations", "HttpsClient", "Delivery"),
    transport_main: ("LmtpServer", "Gateway"),
}


@pytest.fixture
def started(tmp_path, monkeypatch):
    """Return a function that runs the service until it is ready, and what it was made of."""
    made = {}

    def note(module, name):
        kind = getattr(module, name)

        def make(*arguments, **options):
            made[name] = arguments, options
            return kind(*arguments, **options)

        monkeypatch.setattr(module, name, make)

    for module, names in PARTS.items():
        for name in names:
            note(module, name)
    told = []

    def notify(text):
        told.append(text)
        if text == "READY=1":
            path = tmp_path / "lmtp"
            made["mode"] = stat.S_IMODE(path.stat().st_mode)
            for family, address in (
                (socket.AF_UNIX, str(path)),
                (socket.AF_INET, transport_main.MXDELIV),
            ):
                with socket.socket(family) as client:
                    client.connect(address)
            # The first message loads the half of the service that sends.
            assert "Delivery" not in made
            made["LmtpServer"][0][0]("a@ours.example", [], None)
            os.kill(os.getpid(), made["signal"])

    monkeypatch.setattr(transport_main, "notify", notify)
    monkeypatch.setattr(transport_main, "LMTP_SOCKET", str(tmp_path / "lmtp"))
    monkeypatch.setattr(transport_main, "MXDELIV", ("127.0.0.1", peers.free_port()))
    monkeypatch.setattr(transport_main, "SPOOL", str(tmp_path))

    def run(number=signal.SIGTERM, **changes):
        made["signal"] = number
        asyncio.run(transport_main.run(SETTINGS | changes))
        assert told == ["READY=1", "STOPPING=1"]
        return made

    return run


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_service_opens_its_sockets_before_it_is_ready_and_ends_when_told(started, number):
    """Who may connect is decided by the directory of the socket."""
    assert started(number)["mode"] == 0o666


def test_hosts_are_verified_but_for_those_that_need_not_be(started):
    made = started()
    for name in ("HttpsClient", "Delivery"):
        arguments, _ = made[name]
        modes = [each.verify_mode for each in arguments if isinstance(each, ssl.SSLContext)]
        assert modes == [ssl.CERT_REQUIRED, ssl.CERT_NONE]


@pytest.mark.parametrize("disabled", [True, False])
def test_destinations_go_by_the_settings(started, disabled):
    arguments, options = started(disable_ipv6=disabled)["Destinations"]
    assert arguments == (("ours.example", "mx.ours.example"),)
    assert options == {"use_ipv6": not disabled, "private_networks": ["192.0.2.0/24"]}


def test_message_of_the_largest_size_fits_with_its_line_ends(started):
    """Postfix counts a line end as one octet, so a message of empty lines has twice its size."""
    made = started()
    assert made["LmtpServer"][0][1:3] == ("mx.ours.example", 2000)
    assert made["Gateway"][0][:2] == ("mx.ours.example", 1000)


def test_nginx_passes_mxdeliv_on_to_the_port_of_the_service():
    nginx = (Path(__file__).parents[3] / "chatmail/nginx/files/nginx.conf.jinja").read_text()
    [mxdeliv] = re.findall(r"location = /mxdeliv \{(.*?)\n        \}", nginx, re.S)
    address, port = transport_main.MXDELIV
    assert f"proxy_pass http://{address}:{port};" in mxdeliv


def test_module_is_a_program_that_needs_the_settings(monkeypatch):
    def missing():
        raise OperatorError("no settings")

    monkeypatch.delitem(sys.modules, "chatmaild.transport.__main__")
    monkeypatch.setattr(journal, "start_logging", lambda: None)
    monkeypatch.setattr(counters, "start", lambda _: None)
    monkeypatch.setattr(settings, "load_settings", missing)
    with pytest.raises(OperatorError, match="no settings"):
        runpy.run_module("chatmaild.transport", run_name="__main__")
