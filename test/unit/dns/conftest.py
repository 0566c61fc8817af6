"""What the tests of the records share."""

import grp
import json
import os

import pytest
from chatmaild.dkim import key_files, signing_state
from chatmaild.dns import records
from support import own_modules


@pytest.fixture
def settings(tmp_path, monkeypatch):
    """Return the settings of a relay that has an RSA key, an Ed25519 key and an ACME account."""
    if os.geteuid() != 0:
        pytest.skip("keys of root need root")
    monkeypatch.setattr(key_files, "DIRECTORY", tmp_path / "dkim")
    monkeypatch.setattr(key_files, "GROUP", grp.getgrgid(os.getgid()).gr_name)
    monkeypatch.setattr(records, "ACME_ACCOUNTS", tmp_path / "accounts")
    account = tmp_path / "accounts/acme-v02.api.letsencrypt.org/directory/0f"
    account.mkdir(parents=True)
    (account / "regr.json").write_text(json.dumps({"uri": own_modules.ACCOUNT}))
    made = [key_files.generate(algorithm=each)["selector"] for each in key_files.ALGORITHMS]
    signing_state.sign_with(made)
    return own_modules.settings(tmp_path)
