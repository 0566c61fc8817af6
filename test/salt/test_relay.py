"""chatmail_relay: the programs on the relay's ports, and the state of the relay."""

import importlib.util
import json
import os
import socket
from pathlib import Path

import pytest
from salt.exceptions import CommandExecutionError


@pytest.fixture
def relay_module(salt_modules, tmp_path, monkeypatch):
    """Return the module's globals, with paths of the test's own."""
    namespace = salt_modules["chatmail_relay.ports"].func.__globals__
    monkeypatch.setitem(namespace, "SETTINGS", tmp_path / "relay.json")
    return namespace


@pytest.fixture
def listeners(relay_module, monkeypatch):
    """Listen on a TCP and a UDP port, and let the module take these for ports of the relay."""
    with (
        socket.create_server(("127.0.0.1", 0)) as tcp,
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as udp,
    ):
        udp.bind(("127.0.0.1", 0))
        ports = {"tcp": (tcp.getsockname()[1],), "udp": (udp.getsockname()[1],)}
        monkeypatch.setitem(relay_module, "PORTS", ports)
        yield ports


def test_every_foreign_listener_is_named_at_once(listeners, salt_modules, salt_states):
    found = salt_modules["chatmail_relay.ports"]()
    assert {(each["proto"], each["port"]) for each in found} == {
        ("tcp", *listeners["tcp"]),
        ("udp", *listeners["udp"]),
    }
    assert {each["pid"] for each in found} == {os.getpid()}
    assert all(each["process"] for each in found)
    for test in (True, False):
        ret = salt_states("chatmail_relay.ports_free", test=test, name="relay")
        assert ret["result"] is False
        assert ret["changes"] == {}
        for proto in ("tcp", "udp"):
            assert f"- {listeners[proto][0]}/{proto} at 127.0.0.1: " in ret["comment"]


def test_free_ports_and_ports_of_clients_are_no_reason_to_fail(
    listeners, relay_module, salt_states
):
    with socket.create_connection(("127.0.0.1", *listeners["tcp"])) as client:
        relay_module["PORTS"] = {"tcp": (client.getsockname()[1],), "udp": ()}
        ret = salt_states("chatmail_relay.ports_free", name="relay")
        assert (ret["result"], ret["changes"]) == (True, {})


@pytest.mark.parametrize(
    ("unit", "converged", "foreign"),
    [
        ("postfix@-.service", True, False),
        ("nginx.service", True, False),
        ("chatmail-accounts.service", True, False),
        ("apache2.service", True, True),
        (None, True, True),
        ("postfix@-.service", False, True),
        ("chatmail-accounts.service", False, True),
    ],
)
def test_units_of_the_relay_are_ours_once_it_is_set_up(
    listeners, relay_module, salt_modules, monkeypatch, unit, converged, foreign
):
    monkeypatch.setitem(relay_module, "_find_unit", lambda pid: unit)
    if converged:
        relay_module["SETTINGS"].write_text("{}")
    assert bool(salt_modules["chatmail_relay.ports"]()) is foreign


@pytest.mark.parametrize(
    ("cgroup", "unit"),
    [
        ("0::/system.slice/dovecot.service\n", "dovecot.service"),
        ("0::/system.slice/system-postfix.slice/postfix@-.service\n", "postfix@-.service"),
        ("0::/machine.slice/box.service/payload/system.slice/ssh.service\n", "ssh.service"),
        ("0::/user.slice/user-0.slice/session-1.scope\n", None),
        ("", None),
    ],
)
def test_unit_is_read_from_the_cgroup(relay_module, monkeypatch, cgroup, unit):
    monkeypatch.setattr(Path, "read_text", lambda self: cgroup)
    assert relay_module["_find_unit"](1) == unit


@pytest.fixture
def running(relay_module, salt_modules, salt_opts, tmp_path):
    """Return a relay's settings. The file of the last converge has them, too."""
    salt_opts["pillar"]["chatmail"] = {
        "mail_domain": "_chat.example.org",
        "mailboxes_dir": str(tmp_path / "mail"),
        "max_load_1m": 4,
    }
    relay = dict(salt_modules["chatmail_relay.settings"]())
    relay["tls_certificate"] = str(tmp_path / "fullchain.pem")
    relay_module["SETTINGS"].write_text(json.dumps(relay))
    return relay


def test_status_tells_what_the_machine_runs_with(
    running, relay_module, salt_modules, salt_opts, tmp_path, monkeypatch
):
    salt_opts["pillar"]["chatmail"]["registration"] = "closed"
    (tmp_path / "mail/a@_chat.example.org").mkdir(parents=True)
    (tmp_path / "mail/a@_chat.example.org/password").touch()
    call = salt_modules["chatmail_program.call"]
    answers = {
        "pkg.version": lambda name: "" if name == "unbound" else "1.0",
        "chatmail_program.call": call,
    }
    monkeypatch.setitem(relay_module, "__salt__", answers)
    status = salt_modules["chatmail_relay.status"]()
    assert sorted(status) == [
        "addresses", "certificate", "certificate_failure", "dkim_selectors", "domain", "form",
        "imap_idle", "imap_memory", "imap_notify", "limits", "local_files", "mail_off",
        "registration", "tls_mode", "unit_restarts", "units", "versions",
    ]  # fmt: skip
    assert status["domain"] == "_chat.example.org"
    assert status["addresses"] == 1
    assert status["certificate"] is None
    assert status["registration"] == "open"
    assert status["limits"]["max_imap_connections"]["limit"] == 10000
    assert status["versions"]["debian"] == running["debian_release"]
    assert "unbound" not in status["versions"]
    assert status["versions"]["postfix"] == "1.0"


def test_limits_are_those_of_the_settings(running, salt_modules):
    limits = salt_modules["chatmail_relay.limits"]()
    assert limits["max_load_1m"]["limit"] == 4
    assert limits["max_smtp_connections_per_ip"]["limit"] == 200
    assert limits["max_imap_connections"]["value"] >= 0


def test_certificate_without_a_path_is_the_one_in_use(running, salt_modules, tmp_path):
    assert salt_modules["chatmail_relay.certificate"]() is None
    (tmp_path / "fullchain.pem").write_text("junk")
    with pytest.raises(CommandExecutionError, match=r"fullchain\.pem: expected a PEM certificate"):
        salt_modules["chatmail_relay.certificate"]()


def test_status_before_the_first_converge_says_what_to_run(relay_module, salt_modules):
    with pytest.raises(CommandExecutionError, match=r"salt-call state\.apply chatmail"):
        salt_modules["chatmail_relay.status"]()


def test_error_about_a_file_without_a_certificate_has_its_path(
    relay_module, salt_modules, tmp_path
):
    (tmp_path / "x.pem").write_text("junk")
    with pytest.raises(CommandExecutionError, match=r"x\.pem: expected a PEM certificate"):
        salt_modules["chatmail_relay.certificate"](str(tmp_path / "x.pem"))
    assert salt_modules["chatmail_relay.certificate"](str(tmp_path / "none.pem")) is None


@pytest.mark.parametrize("kind", ["_modules", "_states"])
def test_missing_psutil_is_named_with_its_package(kind):
    """salt-ssh uses Debian's Python, into which only a package can install psutil."""
    path = Path(__file__).parents[2] / kind / "chatmail_relay.py"
    spec = importlib.util.spec_from_file_location("chatmail_relay", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    module.HAS_PSUTIL, module.__salt__ = False, {}
    loaded, reason = module.__virtual__()
    assert loaded is False
    assert "python3-psutil" in reason


MASTERS = {
    "salt": {"salt"},
    "salt.example:4510": {"salt.example"},
    "[2001:db8::1]:4510": set(),
    "2001:db8::1": set(),
    "192.0.2.1": set(),
}


@pytest.mark.parametrize("master", [*MASTERS, list(MASTERS)])
@pytest.mark.parametrize("known", ["now and then", "now alone", "never"])
def test_master_that_only_the_old_resolver_knows_fails_the_state(
    salt_opts, salt_modules, salt_states, monkeypatch, master, known
):
    """A minion that cannot find its master takes no more orders, not even to undo the change."""
    call = salt_states
    monkeypatch.setitem(salt_opts, "master", master)
    monkeypatch.setitem(salt_opts, "file_client", "remote")
    asked = []

    def program(part, do, arguments, settings):
        assert (part, do, settings) == ("dns", "resolves", {})
        asked.append((arguments["name"], arguments["search"]))
        return known == "now and then"

    monkeypatch.setitem(salt_modules, "chatmail_program.call", program)
    monkeypatch.setattr(
        socket, "getaddrinfo", (lambda *_: ["found"]) if known != "never" else raise_not_found
    )
    names = set().union(*MASTERS.values()) if isinstance(master, list) else MASTERS[master]
    ret = call("chatmail_relay.master_found", name="relay", search=["lan.example"])
    assert ret["changes"] == {}
    assert ret["result"] is (known != "now alone" or not names)
    expected = [] if known == "never" else [(name, ["lan.example"]) for name in sorted(names)]
    assert sorted(asked) == expected
    if names and known == "now alone":
        assert all(name in ret["comment"] for name in names)
        assert "resolver:forwarders" in ret["comment"]


def raise_not_found(*_):
    raise OSError("Name or service not known")


def test_machine_without_a_master_passes_the_check_of_the_master(salt_states):
    ret = salt_states("chatmail_relay.master_found", name="relay")
    assert (ret["result"], ret["changes"]) == (True, {})


def test_function_of_salt_ssh_returns_the_settings_of_the_last_converge(
    relay_module, salt_modules, salt_opts, tmp_path
):
    """salt-ssh sends a function neither the formula nor the pillar."""
    salt_opts["saltenv"] = "elsewhere"
    with pytest.raises(CommandExecutionError, match="environment elsewhere"):
        salt_modules["chatmail_relay.settings"]()
    salt_opts["root_dir"] = "/var/tmp/.root_0a1b2c_salt/running_data"
    with pytest.raises(CommandExecutionError, match=r"relay\.json: expected .* salt-ssh"):
        salt_modules["chatmail_relay.settings"]()
    (tmp_path / "relay.json").write_text('{"mail_domain": "chat.example.org"}')
    assert salt_modules["chatmail_relay.settings"]() == {"mail_domain": "chat.example.org"}


@pytest.mark.parametrize(("converged", "result"), [(False, False), (True, True)])
def test_machine_of_cmdeploy_is_no_relay_before_its_take_over(
    listeners, relay_module, salt_states, monkeypatch, converged, result
):
    """A highstate between two steps of a take-over would make new keys."""
    relay_module["PORTS"] = {"tcp": (), "udp": ()}
    there = {
        "/usr/local/lib/chatmaild/chatmail.ini": True,
        "/etc/chatmail/relay.json": converged,
    }
    exists = os.path.exists
    monkeypatch.setattr(os.path, "exists", lambda path: there.get(path) or exists(path))
    for test in (True, False):
        ret = salt_states("chatmail_relay.ports_free", test=test, name="relay")
        assert (ret["result"], ret["changes"]) == (result, {})
        assert ("chatmail_adopt.start" in ret["comment"]) is not result
