"""Invitations on disk: how long and how often each is valid, and who can read the files."""

import hashlib
import os
import stat
import threading

import pytest
from chatmaild.accounts import invitations

NOW = 1_700_000_000.0
DAY = 24 * 3600


@pytest.fixture
def directory(tmp_path):
    return tmp_path / "invitations"


def make(directory, uses=1, days=7, note=""):
    return invitations.make(directory, uses, days, note, NOW)


def redeem(directory, token, now=NOW):
    """Return whether an invitation makes an address."""
    try:
        with invitations.redeem(directory, token, now):
            return True
    except invitations.NotInvited:
        return False


def test_invitation_is_valid_for_its_number_of_uses(directory):
    token = make(directory, uses=3)
    assert [redeem(directory, token) for _ in range(5)] == [True] * 3 + [False] * 2
    assert os.listdir(directory) == []


def test_invitation_is_valid_until_its_last_day_is_over(directory):
    token = make(directory, uses=2, days=2)
    assert redeem(directory, token, NOW + 2 * DAY)
    assert not redeem(directory, token, NOW + 2 * DAY + 1)


def test_disk_has_only_hashes_that_only_the_service_reads(directory):
    token = make(directory, note="choir")
    [path] = directory.iterdir()
    assert token not in path.name + path.read_text()
    assert stat.S_IMODE(directory.stat().st_mode) == 0o700
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_tokens_are_long_differ_and_need_no_escape_in_a_link(directory):
    tokens = {make(directory) for _ in range(200)}
    assert len(tokens) == 200
    assert all(invitations.TOKEN.fullmatch(token) for token in tokens)


def test_use_that_fails_does_not_count(directory):
    token = make(directory)
    with (
        pytest.raises(OSError, match="full"),
        invitations.redeem(directory, token, NOW),
    ):
        raise OSError("full")
    assert redeem(directory, token)


def test_list_has_valid_invitations_with_ids_for_revoke(directory):
    long, short = make(directory, uses=2, days=30, note="choir"), make(directory, days=1)
    listed = invitations.list_valid(directory, NOW)
    assert listed[invitations.identifier(long)] == (2, int(NOW) + 30 * DAY, "choir")
    assert set(listed) == {invitations.identifier(long), invitations.identifier(short)}
    assert set(invitations.list_valid(directory, NOW + 2 * DAY)) == {invitations.identifier(long)}
    assert len(os.listdir(directory)) == 1  # the revoked one has left no trace
    assert invitations.revoke(directory, invitations.identifier(long))
    assert not invitations.revoke(directory, invitations.identifier(long))
    assert not redeem(directory, long)


@pytest.mark.parametrize("name", ["", "i", "*", "i" + "?" * 11, "../../etc", "i0123456789ab"])
def test_revoke_of_a_text_that_is_no_id_revokes_nothing(directory, name):
    token = make(directory)
    assert not invitations.revoke(directory, name)
    assert redeem(directory, token)


def test_revoke_during_a_use_waits_and_is_not_undone_by_it(directory):
    """Otherwise the use would write the invitation again, with one use less."""
    token = make(directory, uses=5)
    revoked = threading.Thread(
        target=invitations.revoke, args=(directory, invitations.identifier(token))
    )
    with invitations.redeem(directory, token, NOW):
        revoked.start()
        revoked.join(0.1)
        assert revoked.is_alive()
    revoked.join(10)
    assert not redeem(directory, token)


@pytest.mark.parametrize(
    ("given", "named"),
    [
        ({"uses": 0}, "uses: 0, allowed is a whole number from 1 to"),
        ({"uses": "3"}, "uses: '3'"),
        ({"uses": True}, "uses: True"),
        ({"uses": 10**9}, "uses: "),
        ({"days": 0}, "days: 0"),
        ({"days": 1.5}, "days: 1.5"),
        ({"note": "x" * 201}, "note: "),
        ({"note": "a\nb"}, "note: "),
        ({"note": None}, "note: "),
    ],
)
def test_invitation_with_an_impossible_value_names_it(directory, given, named):
    with pytest.raises(ValueError, match=f"^{named}"):
        make(directory, **given)


def test_invitation_for_a_token_that_somebody_else_has(tmp_path):
    token = "A" * 22
    digest = hashlib.sha256(token.encode()).hexdigest()
    identifier = invitations.add(tmp_path, digest, 1, 7, "", NOW)
    assert identifier == invitations.identifier(token)
    with invitations.redeem(tmp_path, token, NOW):
        pass
    assert invitations.list_valid(tmp_path, NOW) == {}


@pytest.mark.parametrize("digest", ["", "../x", "A" * 64, "0" * 63, None])
def test_text_that_is_no_digest_makes_no_invitation(tmp_path, digest):
    with pytest.raises(ValueError, match="64 hexadecimal digits"):
        invitations.add(tmp_path, digest, 1, 7, "", NOW)
    assert list(tmp_path.iterdir()) == []
