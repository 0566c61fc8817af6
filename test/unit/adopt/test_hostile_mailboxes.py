"""Root takes over directories that belong to the user of the mail, which somebody may control."""

import os

import pytest
from chatmaild.adopt import machine, mailboxes, undoing

DOMAIN = "chat.example.org"
MAILBOXES = f"/home/vmail/mail/{DOMAIN}"


@pytest.fixture
def pending(old):
    """The directory of the pending notifications."""
    old.write(f"{MAILBOXES}/pending_notifications/{'a' * 32}", f"a@{DOMAIN}\n17\ntoken")
    return machine.here(f"{MAILBOXES}/pending_notifications")


@pytest.mark.timeout(20)
def test_links_and_pipes_are_not_read(old, pending):
    """Once, a pipe among the notifications held up the take-over for ever."""
    secret = old.write("/etc/secret", "root\n17\nsecret")
    (pending / ("b" * 32)).symlink_to(secret)
    os.mkfifo(pending / ("c" * 32))
    home = old.write(f"{MAILBOXES}/abcdefghi@{DOMAIN}/password", "{X}y").parent
    (home / "metadata.json").symlink_to("/dev/zero")
    assert mailboxes.count(MAILBOXES, DOMAIN)["notifications"] == 1
    mailboxes.move_notifications(MAILBOXES, (os.getuid(), os.getgid()))
    assert [path.name for path in machine.here(mailboxes.OUR_PENDING).iterdir()] == ["a" * 32]


def test_undo_writes_through_no_link(old, pending):
    """Once, the user of the mail let root write a text of its choice over any file."""
    mailboxes.journal.keep(f"{MAILBOXES}/pending_notifications")
    target = old.write("/etc/cron.d/other", "as it was")
    [path] = pending.iterdir()
    path.unlink()
    path.symlink_to(target)
    undoing._put_back(f"{MAILBOXES}/pending_notifications")
    assert target.read_text() == "as it was"
    assert path.read_text().endswith("token")
    assert not path.is_symlink()
