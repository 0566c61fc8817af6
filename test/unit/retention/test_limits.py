"""The limits of retention, one at a time."""

import os
import time
from pathlib import Path

import pytest
from chatmaild.retention.mailbox import choose_oldest
from chatmaild.retention.plan import kept_bytes
from chatmaild.retention.quota import cut_one
from support.mailbox_tree import (
    DAY,
    DOMAIN,
    write_message,
)
from support.retention_oracle import (
    a_mailbox,
    everything,
    messages_of,
    sweep,
)


@pytest.mark.parametrize(
    ("place", "days", "disk", "goes"),
    [
        ("cur", 20.01, 10, True),
        ("new", 20.01, 10, True),
        ("tmp", 20.01, 10, True),
        (".Sent/cur", 20.01, 10, True),
        ("cur", 19.99, 10, False),
        ("cur", 7.01, 200_001, True),
        (".Sent/cur", 7.01, 200_001, True),
        ("cur", 7.01, 200_000, False),
        ("cur", 6.99, 200_001, False),
        ("new", 7.01, 200_001, False),
        ("tmp", 7.01, 200_001, False),
    ],
)
def test_day_limits_go_by_mtime_and_size_on_disk(mail, place, days, disk, goes):
    box, now = a_mailbox(mail, folders=("", ".Sent")), time.time()
    # The name has another age and another size. Neither matters here.
    path = write_message(box / place, now, mtime=now - days * DAY, disk=disk, size=5)
    sweep(mail)
    assert os.path.exists(path) is not goes
    assert (box / "maildirsize").exists() is not goes


@pytest.mark.parametrize("place", ["cur", "new", "tmp", ".Sent/cur", ".Sent/tmp"])
@pytest.mark.parametrize("name", ["no time", ".hidden", "note.txt", "-rf", "1700000000"])
def test_day_limits_take_files_of_any_name(mail, place, name):
    """Once, a file without the name of a message stayed for ever, with its content."""
    box, now = a_mailbox(mail, folders=("", ".Sent")), time.time()
    kept = [box / "dovecot-uidlist", box / "dovecot.index.log", box / ".Sent" / "maildirfolder"]
    for path in (*kept, box / place / name, box / place / f"{name} of yesterday"):
        path.write_text("Hello", encoding="ascii")
        os.utime(path, (now - 21 * DAY,) * 2)
    os.utime(box / place / f"{name} of yesterday", (now - DAY,) * 2)
    done, _ = sweep(mail)
    assert done["removed"]["old"] == done["passed_over"]["strange"] == 1
    assert done["report"]["messages_count"]["0"] == 0
    assert os.listdir(box / place) == [f"{name} of yesterday"]
    assert all(path.exists() for path in kept)


@pytest.mark.parametrize(("days", "goes"), [(90.01, True), (89.99, False)])
def test_login_limit_takes_the_whole_mailbox(mail, days, goes):
    box = a_mailbox(mail, login_days=days)
    write_message(box / "cur", time.time())
    done, _ = sweep(mail)
    assert done["removed"]["inactive"] == goes
    assert everything(mail["mailboxes_dir"]) == (set() if goes else {box.name} | {
        f"{box.name}/{path}" for path in everything(box)
    })  # fmt: skip


def test_login_limit_without_password_goes_by_the_directory(mail):
    """A delivery may make the directory of a removed mailbox again, without a password."""
    left, fresh = (a_mailbox(mail, name, password=False) for name in ("orphan000", "orphan001"))
    os.utime(left, (0, time.time() - 91 * DAY))
    done, _ = sweep(mail)
    assert (left.exists(), fresh.exists()) == (False, True)
    assert done["report"]["accounts"]["all"] == 0


def test_empty_directory_is_removed_unless_a_login_has_just_made_it(mail):
    top = Path(mail["mailboxes_dir"])
    for name, age in (("empty0000", 61), ("newborn00", 0)):
        (top / f"{name}@{DOMAIN}").mkdir()
        os.utime(top / f"{name}@{DOMAIN}", (0, time.time() - age))
    assert sweep(mail)[0]["removed"]["empty"] == 1
    assert everything(top) == {f"newborn00@{DOMAIN}"}


def test_cut_counts_all_folders_and_the_first_size_of_a_name(mail):
    mail["max_mailbox_size"] = 1000
    box, now = a_mailbox(mail, folders=("", ".Sent")), time.time()
    sizes = {"cur/{}.a,S=300,S=1:2,": 9, ".Sent/new/{}.b,W=5,S=200": 8, "tmp/{}.c": 7}
    sizes |= {"new/{}.d,S=x,S=999:2,": 6, "cur/{}.e,S=:2,S": 5, "cur/{}.f,S=100x:2,": 4}
    for name, days in sizes.items():
        path = Path(box, name.format(int(now - days * DAY)))
        with open(path, "wb") as file:
            file.truncate(100)
    before = 300 + 200 + 100 + 100 + 0 + 100
    cut_to_500 = cut_one(mail, box.name, 500)
    assert (cut_to_500["before"], cut_to_500["after"]) == (before, 500)
    assert cut_to_500["removed"]["over_quota"] == 1
    assert cut_one(mail, box.name, 299)["after"] == 200


def test_run_cuts_to_70_percent_of_the_quota(mail):
    mail["max_mailbox_size"] = 1000
    box, now = a_mailbox(mail), time.time()
    for serial in range(100):
        write_message(box / "cur", now - 2 * DAY, serial=serial, size=10)
    done, _ = sweep(mail)
    assert done["removed"]["over_quota"] == 30
    assert sorted(int(file.name[12:18]) for file in messages_of(box)) == list(range(30, 100))


def test_cut_never_takes_a_message_that_is_less_than_a_day_old(mail):
    box, now = a_mailbox(mail), time.time()
    old = write_message(box / "cur", now - DAY - 60, size=10**9)
    # The time of the file is old. The time in the name, which is from Dovecot, is new.
    young = write_message(box / "cur", now - DAY + 60, size=10**9, mtime=0)
    done = cut_one(mail, str(box))
    assert (os.path.exists(old), os.path.exists(young)) == (False, True)
    assert done["after"] == 10**9 > kept_bytes(mail)


def test_cut_of_more_messages_than_it_holds_equals_a_plain_sort():
    messages = [((n * 7919) % 50_000, str(n), ("cur",), 10, 10) for n in range(50_000)]
    excess = 123_456
    assert choose_oldest(iter(messages), excess) == sorted(messages)[: -(-excess // 10)]
