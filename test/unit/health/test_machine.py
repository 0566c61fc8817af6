"""The steps about the machine, with what its programs would say."""

import subprocess
import time

import pytest
from chatmaild.certificate import failures
from chatmaild.certificate.self_signed import make_pair
from chatmaild.health import machine
from chatmaild.health.running import Failed, NotAsked

ACTIVE = {
    **dict.fromkeys(("coturn", "dovecot", "nginx", "postfix", "unbound"), "active"),
    **{f"chatmail-{name}": "active" for name in ("accounts", "filter", "metadata", "transport")},
}


@pytest.fixture
def program(monkeypatch):
    """Return the outputs of programs, by name; a test sets those that it needs."""
    outputs = {}
    monkeypatch.setattr(machine, "ask_program", lambda name, *_: outputs[name])
    return outputs


def units(monkeypatch, restarts=None, **changes):
    found = {**ACTIVE, **changes}
    monkeypatch.setattr(machine, "count_restarts", lambda _: restarts or {})
    monkeypatch.setattr(
        machine, "find_units", lambda _: {name: each for name, each in found.items() if each}
    )


def test_all_units_are_active(state, monkeypatch):
    units(monkeypatch)
    assert machine.units(state) == "9 units are active"
    assert state.units == ACTIVE


def test_unit_that_ended_by_itself_and_runs_again_is_told(state, monkeypatch):
    units(monkeypatch, restarts={"chatmail-filter": 3})
    said = "9 units are active; chatmail-filter ended by itself, and was started again 3 times"
    assert machine.units(state) == said


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"chatmail-filter": "failed"}, "chatmail-filter is failed; expected: active"),
        ({"chatmail-filter": None}, "chatmail-filter is not installed"),
        ({"dovecot": "inactive", "unbound": None}, "dovecot is inactive, unbound is not installed"),
        ({"chatmail-metrics": "failed"}, "chatmail-metrics is failed"),
    ],
)
def test_unit_that_does_not_run_is_named(state, monkeypatch, changes, said):
    units(monkeypatch, **changes)
    with pytest.raises(Failed, match=said):
        machine.units(state)
    assert state.units["nginx"] == "active"


def test_own_iroh_relay_must_run(state, monkeypatch):
    units(monkeypatch)
    state.settings["iroh_relay"] = None
    with pytest.raises(Failed, match="chatmail-iroh is not installed"):
        machine.units(state)


def test_mail_that_pillar_stops_is_no_fault(state, monkeypatch):
    units(monkeypatch, dovecot="inactive", postfix="inactive")
    state.settings["mail"] = False
    assert "mail: false" in machine.units(state)
    units(monkeypatch, dovecot="inactive", nginx="failed")
    with pytest.raises(Failed, match=r"^nginx is failed;"):
        machine.units(state)


def test_full_disk_names_the_setting(state, monkeypatch, tmp_path):
    monkeypatch.setattr(machine, "QUEUE", str(tmp_path))
    assert "MiB free" in machine.disk(state)
    state.settings["submission_min_free"] = 1 << 80
    with pytest.raises(
        Failed, match=rf"{tmp_path} has \d+ bytes free; expected: {1 << 80} or more"
    ):
        machine.disk(state)
    state.settings["min_free_disk_space"] = 1 << 80
    with pytest.raises(Failed, match=r"/mail has .*\(min_free_disk_space\)"):
        machine.disk(state)
    state.settings.update(min_free_disk_space=1, submission_min_free=1)
    monkeypatch.setattr(machine, "MIN_FREE_INODES", 1 << 80)
    with pytest.raises(Failed, match="inodes free"):
        machine.disk(state)


@pytest.mark.parametrize(
    ("shown", "outcome"),
    [
        ("NTP=yes\nNTPSynchronized=yes\n", None),
        ("NTP=no\nNTPSynchronized=yes\n", None),
        ("NTP=no\nNTPSynchronized=no\n", NotAsked),
        ("NTP=yes\nNTPSynchronized=no\n", Failed),
    ],
)
def test_clock_without_a_time_service_is_unknown(state, program, shown, outcome):
    program["timedatectl"] = shown
    if outcome is None:
        assert machine.clock(state) == "synchronized"
    else:
        with pytest.raises(outcome):
            machine.clock(state)


def queued(name, domain, age):
    address = {"address": f"abcdefghi@{domain}"}
    return {"queue_name": name, "arrival_time": time.time() - age, "recipients": [address]}


def test_queue_counts_mail_that_waits_for_others(state, monkeypatch):
    waiting = [queued("deferred", "example.net", 9999), queued("active", "_chat.example.org", 5)]
    monkeypatch.setattr(machine, "list_queue", lambda: waiting)
    assert machine.queue(state) == "messages that wait: 2"
    waiting.append(queued("deferred", "_chat.example.org", machine.STUCK + 5))
    with pytest.raises(
        Failed, match=r"own addresses that wait longer than 180 s: 1; expected: none"
    ):
        machine.queue(state)
    waiting.append(queued("hold", "example.net", 5))
    with pytest.raises(Failed, match=r"^messages on hold: 1; .*postsuper -H ALL"):
        machine.queue(state)


def test_queue_of_postfix_is_read(state, program):
    program["postqueue"] = '{"queue_name": "deferred"}\n{"queue_name": "active"}\n'
    assert [each["queue_name"] for each in machine.list_queue()] == ["deferred", "active"]
    program["postqueue"] = ""
    assert machine.list_queue() == []


@pytest.mark.parametrize(
    ("result", "timer", "said"),
    [
        ("exit-code", "active", "the last run ended with 'exit-code'"),
        ("success", "inactive", "chatmail-expire.timer is 'inactive'"),
    ],
)
def test_expiry_that_failed_or_will_not_come(state, monkeypatch, result, timer, said):
    shown = {"chatmail-expire.service": result, "chatmail-expire.timer": timer}
    monkeypatch.setattr(machine, "ask_program", lambda *command: f"{shown[command[-1]]}\n")
    with pytest.raises(Failed, match=said):
        machine.expiry(state)
    shown.update({"chatmail-expire.service": "success", "chatmail-expire.timer": "active"})
    assert machine.expiry(state) == "the last run succeeded"


def test_certificate_has_the_domain_days_and_an_authority(state, tmp_path, monkeypatch):
    monkeypatch.setattr(failures, "FAILURE", tmp_path / "failure.json")
    with pytest.raises(Failed, match="does not exist"):
        machine.certificate(state)
    make_pair(tmp_path, ["_chat.example.org"], 100)
    assert machine.certificate(state) == "99 days left"
    state.settings["tls_mode"] = "acme"
    with pytest.raises(Failed, match="self-signed; expected: one from an authority"):
        machine.certificate(state)
    state.settings["tls_mode"] = "self_signed"
    make_pair(tmp_path, ["_chat.example.org"], machine.MIN_DAYS)
    with pytest.raises(Failed, match="expires in 13 days; expected: 14 at least"):
        machine.certificate(state)
    make_pair(tmp_path, ["other.example.org"], 100)
    with pytest.raises(Failed, match=r"other\.example\.org; expected: _chat\.example\.org"):
        machine.certificate(state)


APT = """\
Inst libssl3t64 [3.5.1-1] (3.5.1-1+deb13u1 Debian-Security:13/stable-security [amd64])
Inst tzdata [2025a-1] (2025b-1 Debian:13.1/stable [all])
Conf libssl3t64 (3.5.1-1+deb13u1 Debian-Security:13/stable-security [amd64])
"""


def test_security_updates_and_a_reboot_are_a_figure(state, program, monkeypatch, tmp_path):
    program["apt-get"] = APT
    monkeypatch.setattr(machine, "REBOOT_REQUIRED", tmp_path / "reboot-required")
    assert machine.updates(state) == "security updates that wait: 1"
    (tmp_path / "reboot-required").touch()
    assert machine.updates(state) == "security updates that wait: 1; a reboot is due"


def test_apt_that_fails_is_no_fault_of_the_relay(state, monkeypatch):
    def fail(*_command):
        raise Failed("apt-get failed")

    monkeypatch.setattr(machine, "ask_program", fail)
    with pytest.raises(NotAsked, match="apt-get failed"):
        machine.updates(state)


def test_program_that_fails_or_is_missing_or_hangs_is_named(monkeypatch):
    assert machine.ask_program("echo", "here") == "here\n"
    with pytest.raises(Failed, match="sh failed with status 3: oh no"):
        machine.ask_program("sh", "-c", "echo well >&2; echo oh no >&2; exit 3")
    with pytest.raises(Failed, match="no-such-program is not installed: run `salt-call"):
        machine.ask_program("no-such-program")

    def hang(*_arguments, **_options):
        raise subprocess.TimeoutExpired("apt-get", 1)

    monkeypatch.setattr(subprocess, "run", hang)
    with pytest.raises(Failed, match="apt-get did not end within 10 s"):
        machine.ask_program("apt-get")
