"""The door chatmail_move: what it says of a machine, and which arguments it refuses."""

import importlib.util
import socket
from pathlib import Path

import pytest
from salt.exceptions import CommandExecutionError, SaltInvocationError

MODULE = Path(__file__).resolve().parents[2] / "_modules/chatmail_move.py"
KEYS = {"public_key": "ssh-ed25519 A", "host_key": "ssh-ed25519 B"}


@pytest.fixture
def move(tmp_path, monkeypatch):
    """The module, on a machine whose mail is in a directory of the test."""
    specification = importlib.util.spec_from_file_location("chatmail_move", MODULE)
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    module.MAIL_OFF = str(tmp_path / "mail-off")
    module.relay = {
        "mail_domain": "chat.example.org",
        "address_domain": "chat.example.org",
        "form": "domain",
        "mailboxes_dir": str(tmp_path / "deep" / "mail"),
        "debian_release": 13,
        "dns": {"addresses": None, "server": None, "hook": None},
    }
    module.asked = []
    module.__pillar__ = {"chatmail": {"mail_domain": "chat.example.org"}}
    module.__salt__ = {
        "chatmail_relay.settings": lambda: module.relay,
        "chatmail_program.settings": lambda: {"formula": "2026.11", "dns": module.relay["dns"]},
        "chatmail_identity.sign": lambda text: f"signed: {text}",
        "chatmail_program.call": lambda *given: module.asked.append(given) or dict(KEYS),
        "chatmail_dns.publish": lambda: ["one", "two"],
        "chatmail_dns.zone": lambda: "@ A 192.0.2.7",
        "file.file_exists": lambda _path: Path(module.relay["mailboxes_dir"]).exists(),
        "network.ip_addrs": lambda: ["192.0.2.7"],
        "network.ip_addrs6": lambda: ["2001:db8::7", "fe80::1"],
    }
    return module


def test_empty_machine_says_what_it_will_be(move):
    found = move.state()
    assert found.pop("free") > 0
    assert found == {
        "domain": "chat.example.org",
        "form": "domain",
        "mailboxes_dir": move.relay["mailboxes_dir"],
        "mail": True,
        "mail_off": None,
        "formula": None,
        "debian": 13,
        "addresses": 0,
        "used": 0,
        "own": ["192.0.2.7", "2001:db8::7"],
        "publishes": False,
    }


def test_relay_counts_its_addresses_and_says_why_mail_is_off(move):
    mail = Path(move.relay["mailboxes_dir"])
    for name in ("a@chat.example.org", "b@chat.example.org", "dovecot-uidlist"):
        (mail / name).mkdir(parents=True)
    (mail / "a@chat.example.org" / "message").write_bytes(b"x" * 100_000)
    Path(move.MAIL_OFF).write_text("it moved\n")
    move.relay["dns"] = {"addresses": ["203.0.113.7"], "server": "ns1:53", "hook": None}
    found = move.state()
    assert (found["addresses"], found["mail_off"], found["formula"]) == (2, "it moved", "2026.11")
    assert 100_000 <= found["used"] < 200_000
    # Behind NAT, the old machine sees one of its own addresses or the public one.
    assert found["own"] == ["192.0.2.7", "2001:db8::7", "203.0.113.7"]
    assert found["publishes"] is True


@pytest.mark.parametrize("reason", ["", "  ", "two\nlines", "x" * 201])
def test_reason_is_one_line(move, reason):
    with pytest.raises(SaltInvocationError, match="one line of 1 to 200 characters"):
        move.off(reason)
    assert move.asked == []


def test_keys_end_after_some_hours(move):
    move.admit("ssh-ed25519 A", ["192.0.2.7"])
    [(_part, command, arguments, _settings)] = move.asked
    assert (command, arguments["seconds"]) == ("admit", 6 * 3600)


def test_records_are_published_where_the_pillar_has_a_way(move):
    move.relay["dns"]["hook"] = "my_dns.apply"
    assert move.publish() == {"published": 2, "missing": ""}


def test_records_are_shown_until_dns_has_them_where_the_pillar_has_no_way(move):
    def fail():
        raise CommandExecutionError("no name server answers")

    for check, missing in (
        (lambda: {"result": False}, "@ A 192.0.2.7"),
        (fail, "@ A 192.0.2.7"),
        (lambda: {"result": True}, ""),
    ):
        move.__salt__["chatmail_dns.check"] = check
        assert move.publish() == {"published": 0, "missing": missing}


def test_machine_that_answers_mail_is_named_with_its_port(move, monkeypatch):
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        monkeypatch.setattr(move, "MAIL_PORTS", (port,))
        found = move.silent(["127.0.0.1"])
        assert found == {"result": False, "comment": f"127.0.0.1 port {port} answers"}
    assert move.silent(["127.0.0.1"])["result"] is True


def test_keys_are_signed_by_the_minion(move):
    assert move.key()["signature"] == "signed: chatmail_move ssh-ed25519 A"
    found = move.admit("ssh-ed25519 A", ["192.0.2.7"])
    assert found["signature"] == "signed: chatmail_move ssh-ed25519 B"
