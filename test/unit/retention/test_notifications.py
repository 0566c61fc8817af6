"""The removal of one mailbox, with the notifications that wait for its devices."""

import json
import os
import time
from pathlib import Path

import pytest
from chatmaild.common.errors import OperatorError
from chatmaild.common.settings import load_settings
from chatmaild.retention.removal import remove_one
from support.mailbox_tree import (
    DOMAIN,
    make_mailbox,
    write_message,
)
from support.retention_oracle import (
    a_mailbox,
    everything,
    fingerprint,
    sweep,
)


def notify(directory, name, address, token="token"):
    """Write a notification as chatmail-accounts does."""
    directory.mkdir(exist_ok=True)
    content = {"address": address, "token": token, "first_try": time.time()}
    (directory / name).write_text(json.dumps(content), encoding="ascii")
    (directory / name).chmod(0o600)


def test_run_drops_notifications_of_addresses_without_mailbox(mail, pending):
    kept, idle = a_mailbox(mail), a_mailbox(mail, "idle00000", login_days=91)
    a_mailbox(mail, "orphan000", password=False)
    notify(pending, "kept", kept.name, token='"' * 4096)
    for name in (idle.name, f"long.gone@{DOMAIN}", f"orphan000@{DOMAIN}"):
        notify(pending, name.partition("@")[0], name)
    dry, _ = sweep(mail, dry_run=True)
    assert len(os.listdir(pending)) == 4
    done, _ = sweep(mail)
    assert os.listdir(pending) == ["kept"]
    assert (dry["removed_notifications"], done["removed_notifications"]) == (0, 3)
    assert sum(done["passed_over"].values()) == 0


def test_run_ignores_files_that_are_no_notifications(mail, pending, tmp_path):
    notify(tmp_path, "outside", f"gone@{DOMAIN}")
    notify(pending, ".draft-x", f"gone@{DOMAIN}")
    for number, address in enumerate(
        (f"../mail/x@{DOMAIN}", "", f"a/b@{DOMAIN}", "gone@elsewhere.example", None, ["x"], 7)
    ):
        notify(pending, f"address{number}", address)
    for number, text in enumerate(("", "{", "[]", "7", "null", "{}", "[" * 16384, " " * 10**6)):
        (pending / f"text{number}").write_text(text, encoding="ascii")
    (pending / "bytes").write_bytes(b'{"address": "\xff"}')
    (pending / os.fsdecode(b"\xff\n")).mkdir()
    (pending / "link").symlink_to(tmp_path / "outside")
    (pending / "dangling").symlink_to("nowhere")
    os.mkfifo(pending / "fifo")
    before = sorted(os.listdir(pending))
    done, _ = sweep(mail)
    assert sorted(os.listdir(pending)) == before
    assert (tmp_path / "outside").exists()
    assert done["passed_over"] == {"vanished": 0, "strange": len(before) - 1, "unreadable": 0}


def test_run_does_not_follow_a_link_to_notifications(mail, pending, tmp_path):
    notify(tmp_path / "outside", "x", f"gone@{DOMAIN}")
    pending.symlink_to(tmp_path / "outside")
    done, _ = sweep(mail)
    assert os.listdir(tmp_path / "outside") == ["x"]
    assert done["passed_over"]["strange"] == 1


def test_remove_takes_one_mailbox_of_any_age_and_its_notifications(mail, relay_json, pending):
    box, other = a_mailbox(mail, folders=("", ".Sent")), a_mailbox(mail, "user00002")
    write_message(box / ".Sent" / "cur", time.time())
    for number, address in enumerate((box.name, other.name, box.name, f"gone@{DOMAIN}")):
        notify(pending, str(number), address)
    before = everything(other)
    assert remove_one(load_settings(relay_json), box.name) == {"removed": True, "pending": 2}
    assert os.listdir(mail["mailboxes_dir"]) == [other.name]
    assert everything(other) == before
    assert sorted(os.listdir(pending)) == ["1", "3"]
    # Only what came after the removal is there.
    notify(pending, "4", box.name)
    assert remove_one(load_settings(relay_json), box.name) == {"removed": False, "pending": 1}


def test_remove_of_a_link_or_a_file_is_refused(mail, relay_json, tmp_path):
    outside = Path(make_mailbox(tmp_path / "outside", "x", login=0))
    before = fingerprint(outside)
    link, file = (Path(mail["mailboxes_dir"], f"{name}@{DOMAIN}") for name in ("link", "file"))
    link.symlink_to(outside)
    file.touch()
    for path in (link, file):
        with pytest.raises(OperatorError, match="cannot remove the mailbox"):
            remove_one(load_settings(relay_json), path.name)
    assert link.is_symlink()
    assert file.exists()
    assert fingerprint(outside) == before


def test_remove_does_not_follow_a_link_that_takes_the_place_of_the_mailbox(
    mail, relay_json, before_rename, tmp_path
):
    box = a_mailbox(mail)
    outside = Path(make_mailbox(tmp_path / "outside", "x", login=0))
    before = fingerprint(outside)

    def replaced():
        os.rename(box, f"{mail['mailboxes_dir']}/elsewhere")
        box.symlink_to(outside)

    before_rename(replaced)
    remove_one(load_settings(relay_json), box.name)
    assert fingerprint(outside) == before
