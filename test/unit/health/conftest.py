"""A relay without daemons: its settings, and mailboxes in a directory of the test."""

import contextlib

import pytest
from chatmaild.health import throwaway
from chatmaild.health.running import State

DOMAIN = "_chat.example.org"


@pytest.fixture
def settings(tmp_path):
    (tmp_path / "mail").mkdir()
    return {
        "mail_domain": DOMAIN,
        "address_domain": DOMAIN,
        "hostname": DOMAIN,
        "form": "test",
        "tls_mode": "self_signed",
        "tls_certificate": str(tmp_path / "fullchain.pem"),
        "registration": "closed",
        "dkim_required": True,
        "mail": True,
        "iroh_relay": "",
        "privacy_mail": None,
        "services": ["accounts", "filter", "metadata", "transport"],
        "mailboxes_dir": str(tmp_path / "mail"),
        "min_free_disk_space": 1,
        "submission_min_free": 1,
        "delete_inactive_users_after": 90,
        "delete_large_after": 7,
        "delete_mails_after": 20,
        "max_mailbox_size": 1000000,
        "username_min_length": 9,
        "username_max_length": 9,
        "password_min_length": 9,
    }


@pytest.fixture
def state(settings):
    return State(settings, offline=True)


@pytest.fixture
def queued(monkeypatch):
    """Return the messages in Postfix's queue. The tests run without the user vmail."""
    messages = []
    monkeypatch.setattr(throwaway, "list_queue", lambda: messages)
    monkeypatch.setattr(throwaway, "acting_as", lambda _user: contextlib.nullcontext())
    return messages
