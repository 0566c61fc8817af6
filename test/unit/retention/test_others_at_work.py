"""Other processes change the mailboxes between two steps of a run."""

import fcntl
import os
import shutil
import time
import tracemalloc
from pathlib import Path

import pytest
from chatmaild.common.errors import OperatorError
from chatmaild.retention import sweep as sweep_module
from chatmaild.retention.mailbox import Mailbox
from chatmaild.retention.plan import make_expiry_plan
from chatmaild.retention.sweep import sweep as sweep_mailboxes
from chatmaild.retention.tally import Tally
from support.mailbox_tree import (
    DAY,
    build_tree,
    make_mailbox,
    settings_for,
    write_message,
)
from support.retention_oracle import (
    MEGABYTE,
    a_mailbox,
    fingerprint,
    last_use,
    sweep,
)


def test_login_while_its_mailbox_is_removed_keeps_it(mail, before_rename):
    box = a_mailbox(mail, login_days=91)
    kept = write_message(box / "cur", time.time())
    before_rename(lambda: os.utime(box / "password"))
    done, _ = sweep(mail)
    assert done["removed"]["inactive"] == 0
    assert done["report"]["accounts"]["all"] == 1
    assert os.path.exists(kept)
    assert os.listdir(mail["mailboxes_dir"]) == [box.name]


def test_new_address_in_place_of_the_one_to_remove_is_kept(mail, before_rename):
    """After the run has opened the mailbox, it is deleted and registered again."""
    box = a_mailbox(mail, login_days=91)

    def replaced():
        os.rename(box, f"{mail['mailboxes_dir']}/elsewhere")
        a_mailbox(mail)

    before_rename(replaced)
    sweep(mail)
    assert time.time() - last_use(box) < 2 * DAY
    assert (box / "cur").is_dir()


def test_link_in_place_of_the_mailbox_to_remove_is_not_followed(mail, before_rename, tmp_path):
    box = a_mailbox(mail, login_days=91)
    outside = Path(make_mailbox(tmp_path / "outside", "x", login=0))
    before = fingerprint(outside)

    def replaced():
        os.rename(box, f"{mail['mailboxes_dir']}/elsewhere")
        box.symlink_to(outside)

    before_rename(replaced)
    sweep(mail)
    assert box.is_symlink()
    assert fingerprint(outside) == before


@pytest.mark.parametrize("place", ["", "cur", ".Sent", ".Sent/cur"])
def test_directory_turned_into_a_link_before_it_is_opened_is_not_followed(
    mail, tmp_path, monkeypatch, place
):
    """The run has read the name while it was still a directory."""
    folders, old = ("", ".Sent"), time.time() - 30 * DAY
    box = a_mailbox(mail, folders=folders)
    outside = Path(make_mailbox(tmp_path / "outside", box.name, login=0, folders=folders))
    for directory in (box, outside):
        for folder in folders:
            write_message(directory / folder / "cur", old, size=10**9)
    before, victim, really_open = fingerprint(outside), box / place, os.open

    def replaced_and_opened(path, *arguments, **options):
        if path == victim.name and not victim.is_symlink():
            victim.rename(tmp_path / "elsewhere")
            victim.symlink_to(outside / place)
        return really_open(path, *arguments, **options)

    monkeypatch.setattr(os, "open", replaced_and_opened)
    done, _ = sweep(mail)
    assert victim.is_symlink()
    assert done["passed_over"]["strange"] == 1
    assert fingerprint(outside) == before


def test_folder_turned_into_a_link_before_the_cut_is_not_followed(mail, tmp_path):
    box, now = a_mailbox(mail, folders=("", ".Sent")), time.time()
    for place in ("cur", ".Sent/cur"):
        write_message(box / place, now - 2 * DAY, size=400 * MEGABYTE)
    plan, tally = make_expiry_plan(mail, False), Tally()
    fd = os.open(box, os.O_RDONLY)
    try:
        mailbox = Mailbox(plan, tally, box.name, fd)
        mailbox.scan()
        before = shutil.move(box / ".Sent", tmp_path / "outside")
        (box / ".Sent").symlink_to(before)
        outside = fingerprint(before)
        mailbox.cut()
        mailbox.finish()
    finally:
        os.close(fd)
    assert fingerprint(before) == outside
    assert os.listdir(box / "cur") == []
    assert not (box / "maildirsize").exists()


def test_delivery_while_its_mailbox_is_removed_goes_with_it(mail, before_rename):
    box = a_mailbox(mail, login_days=91)
    before_rename(lambda: write_message(box / "new", time.time()))
    assert sweep(mail)[0]["removed"]["inactive"] == 1
    assert os.listdir(mail["mailboxes_dir"]) == []


def test_run_removes_what_an_interrupted_run_has_set_aside(mail):
    aside = make_mailbox(mail["mailboxes_dir"], ".expired-0123456789abcdef", login=0)
    sweep(mail, dry_run=True)
    assert os.path.exists(aside)
    done, _ = sweep(mail)
    assert not os.path.exists(aside)
    assert done["passed_over"]["strange"] == 0


def test_second_run_at_the_same_time_is_refused(mail):
    fd = os.open(mail["mailboxes_dir"], os.O_RDONLY)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        with pytest.raises(OperatorError, match="another run is at work"):
            sweep(mail)
        sweep(mail, dry_run=True)
    finally:
        os.close(fd)
    sweep(mail)


def test_memory_does_not_grow_with_the_number_of_mailboxes(tmp_path, monkeypatch):
    monkeypatch.setattr(sweep_module, "BATCH", 16)
    peaks = []
    for mailboxes in (50, 500):
        config = settings_for(tmp_path / str(mailboxes))
        build_tree(config["mailboxes_dir"], mailboxes, 3, time.time())
        sweep(config, dry_run=True)  # The first run makes what later runs use again.
        tracemalloc.start()
        sweep_mailboxes(make_expiry_plan(config, False))
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < peaks[0] + 20_000, peaks
