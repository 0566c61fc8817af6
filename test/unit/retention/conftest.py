"""Fixtures for the tests of retention: a relay without mailboxes, and its notifications."""

import json
import os

import pytest
from chatmaild.retention import plan as plan_module
from support.mailbox_tree import (
    settings_for,
)


@pytest.fixture(autouse=True)
def pending(tmp_path, monkeypatch):
    """Return the directory of the waiting notifications, which does not exist at first."""
    monkeypatch.setattr(plan_module, "PENDING", str(tmp_path / "pending"))
    return tmp_path / "pending"


@pytest.fixture
def mail(tmp_path):
    """Return the settings of a relay without mailboxes."""
    (tmp_path / "mail").mkdir()
    return settings_for(tmp_path / "mail")


@pytest.fixture
def relay_json(mail, tmp_path):
    path = tmp_path / "relay.json"
    path.write_text(json.dumps(mail), encoding="utf-8")
    return path


@pytest.fixture
def before_rename(monkeypatch):
    """Return a function that sets an action, which runs right before a mailbox is renamed."""
    rename = os.rename

    def install(happens):
        def renamed(*names, **directories):
            monkeypatch.setattr(os, "rename", rename)
            happens()
            rename(*names, **directories)

        monkeypatch.setattr(os, "rename", renamed)

    return install
