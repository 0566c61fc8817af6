"""The state of a relay, which follows the settings on the machine and not a changed pillar."""

import json

import pytest
from chatmaild.certificate import failures
from chatmaild.dkim import key_files
from chatmaild.dovecot_objects import objects
from chatmaild.status import commands, description


@pytest.fixture
def relay(tmp_path, monkeypatch):
    """Return the settings of a relay on a machine without any files of the relay."""
    monkeypatch.setattr(failures, "FAILURE", tmp_path / "certificate.json")
    monkeypatch.setattr(key_files, "DIRECTORY", tmp_path / "dkim")
    monkeypatch.setattr(description, "list_limits", lambda _: {"nocreate": {}})
    monkeypatch.setattr(description, "_show_units", lambda _: "")
    monkeypatch.setattr(objects, "FOLDER", tmp_path)
    monkeypatch.setattr(description, "CONFIGURATIONS", [tmp_path / "main.cf", tmp_path / "no.cf"])
    return {
        "mail_domain": "_chat.example.org",
        "address_domain": "_chat.example.org",
        "form": "test-domain",
        "tls_mode": "self_signed",
        "registration": "open",
        "imap_notify": True,
        "debian_release": 13,
        "services": ["filter", "accounts"],
        "mailboxes_dir": str(tmp_path / "mail"),
        "tls_certificate": str(tmp_path / "fullchain.pem"),
    }


def test_machine_before_its_first_address_has_a_state(relay):
    state = commands.describe(relay)
    assert state["domain"] == "_chat.example.org"
    assert state["addresses"] == 0
    assert state["units"] == {}
    assert state["certificate"] is None
    assert state["certificate_failure"] is None
    assert state["dkim_selectors"] == []
    assert state["registration"] == "open"
    assert state["versions"] == {"debian": 13}


def test_addresses_are_the_directories_with_a_password(relay, tmp_path):
    for name, password in (("a@_chat.example.org", True), ("b@x", False), ("lost+found", False)):
        (tmp_path / "mail" / name).mkdir(parents=True)
        if password:
            (tmp_path / "mail" / name / "password").touch()
    assert commands.describe(relay)["addresses"] == 1


def test_units_that_are_installed_have_their_state(relay, monkeypatch):
    asked = []

    def show(names):
        asked.extend(names)
        return (
            "Id=dovecot.service\nLoadState=loaded\nActiveState=active\nNRestarts=0\n\n"
            "Id=coturn.service\nLoadState=not-found\nActiveState=inactive\nNRestarts=0\n\n"
            "Id=chatmail-filter.service\nLoadState=loaded\nActiveState=failed\nNRestarts=3\n"
        )

    monkeypatch.setattr(description, "_show_units", show)
    state = commands.describe(relay)
    assert state["units"] == {"dovecot": "active", "chatmail-filter": "failed"}
    assert state["unit_restarts"] == {"chatmail-filter": 3}
    assert {"chatmail-filter.service", "chatmail-accounts.service", "nginx.service"} <= set(asked)


def test_selectors_that_sign_are_in_the_state(relay, tmp_path):
    (tmp_path / "dkim").mkdir()
    (tmp_path / "dkim/signing.json").write_text('{"selectors": [{"selector": "r1"}]}')
    assert commands.describe(relay)["dkim_selectors"] == ["r1"]


def test_failure_of_the_authority_is_in_the_state(relay, tmp_path):
    failure = {"time": "2026-11-22T14:00:00+00:00", "error": "no answer", "missing": {}}
    (tmp_path / "certificate.json").write_text(json.dumps(failure))
    assert commands.describe(relay)["certificate_failure"] == failure


def test_notices_come_at_once_only_with_the_object(relay, tmp_path):
    assert "the object for Dovecot's imap is missing" in commands.describe(relay)["imap_notify"]
    (tmp_path / "imap.so").touch()
    assert commands.describe(relay)["imap_notify"].endswith("at once")


def test_idle_clients_are_told_at_once_only_with_the_object(relay, tmp_path):
    said = "the object for Dovecot's imap-hibernate is missing"
    assert said in commands.describe(relay)["imap_idle"]
    (tmp_path / "imap-hibernate.so").touch()
    assert said not in commands.describe(relay)["imap_idle"]


def test_idle_clients_take_little_memory_only_with_the_object(relay, tmp_path):
    said = "the object for Dovecot's imap-login is missing"
    assert said in commands.describe(relay)["imap_memory"]
    (tmp_path / "imap-login.so").touch()
    assert said not in commands.describe(relay)["imap_memory"]
    assert said.replace("-login", "") in commands.describe(relay)["imap_notify"]


def test_late_notices_that_the_setting_wants_are_no_fault(relay):
    described = commands.describe(relay | {"imap_notify": False})["imap_notify"]
    assert described.endswith("as the setting says")


def test_files_of_the_operator_in_use_are_in_the_state(relay, tmp_path):
    assert commands.describe(relay)["local_files"] == []
    mark = "    # --- From salt://chatmail_local/main.cf\n"
    (tmp_path / "main.cf").write_text(f"biff = no\n{mark}a = 1\n{mark.replace('From', 'End of')}")
    assert commands.describe(relay)["local_files"] == ["chatmail_local/main.cf"]
