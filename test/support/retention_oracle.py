"""Computes slowly, path by path, what expiry must remove, and compares runs with the result."""

import os
import re
import stat
import time
from pathlib import Path

from chatmaild.retention.plan import make_expiry_plan
from chatmaild.retention.sweep import sweep as sweep_mailboxes
from support.mailbox_tree import (
    DAY,
    DOMAIN,
    KIB,
    make_mailbox,
)

ADDRESS = re.compile(r"[a-z0-9._-]+@chat\.example\.org")
MEGABYTE = KIB * KIB


def everything(top):
    """Return all paths below a directory. Links are not followed."""
    return {
        os.path.relpath(os.path.join(directory, name), top)
        for directory, directories, files in os.walk(top)
        for name in directories + files
    }


def files_of(mailbox):
    """Return the files to which the limits in days apply: all plain files in cur, new and tmp."""
    folders = [mailbox, *(p for p in mailbox.iterdir() if p.is_dir() and not p.is_symlink())]
    return [
        file
        for folder in folders
        if folder == mailbox or folder.name not in ("cur", "new", "tmp")
        for sub in ("cur", "new", "tmp")
        if (folder / sub).is_dir() and not (folder / sub).is_symlink()
        for file in (folder / sub).iterdir()
        if stat.S_ISREG(file.lstat().st_mode)
    ]


def messages_of(mailbox):
    """Return the messages: the files with a name that begins with a time."""
    return [file for file in files_of(mailbox) if re.match(r"\d+\.", file.name)]


def quota_size(file):
    """Return the bytes that Dovecot's quota counts for a message."""
    after = file.name.partition(",S=")[2]
    digits = re.match(r"\d*", after).group()
    if ",S=" in file.name and after[len(digits) :][:1] in ("", ":", ","):
        return int(digits or 0)
    return file.lstat().st_size


def is_due(file, config, now):
    """Tell whether a message is older than its limit in days."""
    status = file.lstat()
    age = (now - status.st_mtime) / DAY
    if age > config["delete_mails_after"]:
        return True
    large = status.st_size > 200000 and file.parent.name == "cur"
    return large and age > config["delete_large_after"]


def choose_oldest(files, target, now):
    """Return the oldest messages, as many as must go so that the others fit into the target."""
    files = sorted(files, key=lambda file: (int(file.name.split(".")[0]), file.name))
    gone = []
    for file in files:
        if sum(quota_size(other) for other in files if other not in gone) <= target:
            break
        if now - int(file.name.split(".")[0]) >= DAY:
            gone.append(file)
    return gone


def last_use(mailbox):
    """Return the Unix time of the last login. Without one, it is the time of the mailbox."""
    password = mailbox / "password"
    if not os.path.lexists(password):
        return mailbox.stat().st_mtime
    status = password.lstat()
    return status.st_mtime if stat.S_ISREG(status.st_mode) else float("inf")


def oracle(config, now):
    """Return the paths that a run must remove, with all paths below a removed directory."""
    top, gone = Path(config["mailboxes_dir"]), set()
    for mailbox in top.iterdir():
        if mailbox.is_symlink() or not mailbox.is_dir() or not ADDRESS.fullmatch(mailbox.name):
            continue
        age = (now - last_use(mailbox)) / DAY
        is_empty = not any(mailbox.iterdir()) and age * DAY > 60
        if age > config["delete_inactive_users_after"] or is_empty:
            gone |= {mailbox.name} | {f"{mailbox.name}/{path}" for path in everything(mailbox)}
            continue
        files = files_of(mailbox)
        old = [file for file in files if is_due(file, config, now)]
        kept = [file for file in messages_of(mailbox) if file not in old]
        full = choose_oldest(kept, config["max_mailbox_size"] * 70 // 100, now)
        gone |= {os.path.relpath(file, top) for file in old + full}
        if (old or full) and (mailbox / "maildirsize").exists():
            gone.add(f"{mailbox.name}/maildirsize")
    return gone


def sweep(config, *, dry_run=False, workers=1):
    """Run expiry. Return (the result, the announced paths)."""
    announced = []

    def watch(_total, newest):
        announced.extend(path for _, path in newest.announced)

    plan = make_expiry_plan(config, dry_run)
    return sweep_mailboxes(plan, workers, watch), announced


def check_against_oracle(config, workers=1):
    """Make a dry run and a run. Both must agree with the oracle and report the same numbers."""
    top = config["mailboxes_dir"]
    before = everything(top)
    wanted = oracle(config, time.time())
    dry, announced = sweep(config, dry_run=True, workers=workers)
    assert everything(top) == before
    done, nothing = sweep(config, workers=workers)
    assert before - everything(top) == wanted
    assert not everything(top) - before
    assert nothing == []
    whole = {path for path in announced if "/" not in path}
    single = {path for path in wanted if path.split("/")[0] not in whole}
    quota_sums = {path for path in wanted if path.endswith("/maildirsize")}
    assert set(announced) == whole | (single - quota_sums)
    assert len(announced) == len(set(announced)) == sum(dry["removed"].values())
    for key in ("removed", "removed_bytes", "passed_over", "report"):
        assert dry[key] == done[key], key
    again, _ = sweep(config)
    assert sum(again["removed"].values()) == 0
    assert again["report"] == done["report"]
    return done


def fingerprint(top):
    """Return {path: (mode, size, time, links)} of everything below a directory."""
    found = {}
    for path in everything(top):
        status = os.lstat(os.path.join(top, path))
        found[path] = (status.st_mode, status.st_size, status.st_mtime_ns, status.st_nlink)
    return found


def a_mailbox(config, name="user00001", *, login_days=1, **options):
    login = time.time() - login_days * DAY
    return Path(make_mailbox(config["mailboxes_dir"], f"{name}@{DOMAIN}", login=login, **options))
