"""Fixtures for the tests of the records."""

import json

import pytest
from chatmaild.dns import records
from support import own_modules, relay_keys


@pytest.fixture
def settings(tmp_path, monkeypatch):
    """Return the settings of a relay that has an RSA key, an Ed25519 key and an ACME account."""
    relay_keys.keep_in(tmp_path / "dkim", monkeypatch)
    relay_keys.make()
    monkeypatch.setattr(records, "ACME_ACCOUNTS", tmp_path / "accounts")
    account = tmp_path / "accounts/acme-v02.api.letsencrypt.org/directory/0f"
    account.mkdir(parents=True)
    (account / "regr.json").write_text(json.dumps({"uri": own_modules.ACCOUNT}))
    return own_modules.settings(tmp_path)
