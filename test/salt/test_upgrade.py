"""One release of the formula takes the place of another one in Salt's file_roots."""

import pytest

SLS = """
include:
  - chatmail.modules
probe:
  chatmail_probe.word: []
"""
# The probe of a release: a state that no other release needs to have.
STATE = """
def word(name):
    return {"name": name, "changes": {}, "result": True, "comment": "it is there"}
"""


@pytest.fixture
def converge(salt_call, tmp_path):
    """Return a function that applies the SLS, with or without the state of the probe."""
    probe = tmp_path / "release" / "_states" / "chatmail_probe.py"
    probe.parent.mkdir(parents=True)

    def converge(with_state):
        if with_state:
            probe.write_text(STATE)
        else:
            probe.unlink(missing_ok=True)
        sls = SLS if with_state else SLS.partition("probe:")[0]
        roots = {"base": [str(probe.parents[1]), str(salt_call.roots)]}
        return salt_call("state.apply", "own", sls={"own": sls}, file_roots=roots)

    return converge


def test_state_that_is_new_in_a_release_is_there_at_once(converge):
    """Salt kept its list of files for 20 seconds, in which a new release lacked its new files."""
    assert converge(with_state=False).returncode == 0
    done = converge(with_state=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "it is there" in {each["comment"] for each in done.returned.values()}


def test_state_that_a_release_does_not_have_any_more_is_no_fault(converge):
    """The list still had the file, and the run ended with a TypeError."""
    assert converge(with_state=True).returncode == 0
    done = converge(with_state=False)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("sls", ["chatmail", "chatmail.clean"])
def test_refusal_by_the_settings_is_one_message_and_copies_no_module(salt_call, tmp_path, sls):
    """chatmail.clean told it once for each part, after it had copied its modules."""
    done = salt_call("state.apply", sls, pillar={"chatmail": {"mail_domain": "chat"}})
    assert done.returncode != 0
    (message,) = done.returned
    assert "mail_domain: 'chat'" in message
    assert list((tmp_path / "root").rglob("extmods/modules/chatmail_relay.py")) == []
