"""What the key of a move may do, and for how long."""

from datetime import UTC, datetime

import pytest
from chatmaild.common.errors import InvalidRequest, OperatorError
from chatmaild.inventory import places
from chatmaild.move import sending

SETTINGS = {"mailboxes_dir": "/home/vmail/mail/chat.example.org", "tls_mode": "acme"}
PATHS = places.list_paths(SETTINGS, last=True)
KEY = "ssh-ed25519 " + "A" * 68
# As rsync 3.2 and 3.4 call it on the other machine.
RSYNC = "rsync --server --sender -lHogDtpRre.iLsfxCIvu --delete-missing-args --no-implied-dirs . "


def test_rsync_may_send_the_paths_of_a_relay():
    wanted = [*PATHS[:3], "/etc/chatmail/turn-secret"]
    assert sending.allowed_command(RSYNC + " ".join(wanted), PATHS)[-4:] == wanted


@pytest.mark.parametrize(
    "line",
    [
        "",
        "sh -c id",
        "rsync --server . /home/vmail/mail/chat.example.org",
        RSYNC,
        f"{RSYNC} /etc/shadow",
        f"{RSYNC} {PATHS[0]} /etc/shadow",
        f"{RSYNC} {PATHS[0]}/../../../etc/shadow",
        f"{RSYNC} /etc",
        f"{RSYNC} {PATHS[0]} ; id",
        RSYNC.replace("-lHog", "-LlHog") + PATHS[0],
        RSYNC.replace(" . ", " --files-from=/etc/shadow . ") + PATHS[0],
        RSYNC.replace(" . ", " --remove-source-files . ") + PATHS[0],
        RSYNC.replace(" . ", " --log-file=/etc/cron.d/x . ") + PATHS[0],
        RSYNC.replace("--sender", "") + PATHS[0],
    ],
)
def test_everything_else_is_refused(line):
    with pytest.raises(OperatorError, match="and nothing else"):
        sending.allowed_command(line, PATHS)


def test_key_works_from_the_new_machine_for_a_while(monkeypatch):
    until = datetime(2026, 11, 26, 18, 5, tzinfo=UTC)
    line = sending._authorise(f"{KEY} a comment", ["192.0.2.7", "2001:db8::7"], until)
    assert line.startswith('restrict,from="192.0.2.7,2001:db8::7",')
    assert 'expiry-time="20261126180500Z",command="' in line
    assert line.endswith(f'-m chatmaild.move" {KEY} chatmail-move\n')


@pytest.mark.parametrize(
    ("key", "addresses", "error"),
    [
        ("ssh-rsa AAAA", ["192.0.2.7"], "public_key: expected an Ed25519 key"),
        (f"{KEY}\nssh-ed25519 {'B' * 68}".replace(KEY, "x"), ["192.0.2.7"], "public_key"),
        (KEY, [], "addresses: an empty list"),
        (KEY, ['192.0.2.7",command="sh'], "addresses: "),
        (KEY, ["*"], "addresses: "),
    ],
)
def test_wrong_key_or_address_is_refused(key, addresses, error):
    with pytest.raises(InvalidRequest, match=error):
        sending.admit(key, addresses, 60)


def test_queue_is_copied_only_at_the_end():
    first, last = (places.list_paths(SETTINGS, last=each) for each in (False, True))
    assert {path for path in last if path not in first} == {
        f"{places.QUEUE}/{name}" for name in places.QUEUE_DIRECTORIES
    }


@pytest.mark.parametrize(
    ("mode", "tls", "certbot"),
    [("acme", True, True), ("self_signed", True, False), ("external", False, False)],
)
def test_certificate_is_copied_where_the_relay_owns_it(mode, tls, certbot):
    paths = places.list_paths({**SETTINGS, "tls_mode": mode}, last=False)
    assert ("/etc/chatmail/tls" in paths) is tls
    assert any(path.startswith("/etc/letsencrypt") for path in paths) is certbot


@pytest.mark.parametrize(
    "address",
    [
        f'fe80::1%"\nrestrict,command="sh" ssh-ed25519 {"B" * 68} x',
        'fe80::1%",no-such-option,from="*',
        "fe80::1%eth0",
    ],
)
def test_zone_of_an_address_adds_no_line_to_the_keys(address):
    """Once, a hostile new machine got a root shell on the old one by the zone of an address."""
    with pytest.raises(InvalidRequest, match="addresses: "):
        sending._authorise(KEY, [address], datetime.now(UTC))
