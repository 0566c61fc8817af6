"""Expiry against an oracle that goes by paths, slowly, on hostile trees, and while others write."""

import contextlib
import fcntl
import json
import os
import pty
import re
import shutil
import stat
import subprocess
import sys
import tempfile
import threading
import time
import tracemalloc
from functools import partial
from pathlib import Path

import pytest
from chatmaild.common.errors import OperatorError
from chatmaild.common.settings import load_settings
from chatmaild.retention import commands, prometheus
from chatmaild.retention import plan as plan_module
from chatmaild.retention import sweep as sweep_module
from chatmaild.retention.mailbox import Mailbox, choose_oldest
from chatmaild.retention.plan import kept_bytes, make_expiry_plan
from chatmaild.retention.quota import cut_one
from chatmaild.retention.removal import remove_one
from chatmaild.retention.sweep import sweep as sweep_mailboxes
from chatmaild.retention.tally import Tally
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support.mailbox_tree import (
    DAY,
    DOMAIN,
    KIB,
    PACKAGE,
    build_tree,
    make_mailbox,
    run_program,
    settings_for,
    write_message,
)

PROGRAM = [sys.executable, "-m", "chatmaild.retention"]
ENVIRONMENT = os.environ | {"PYTHONPATH": str(PACKAGE.parent)}
ADDRESS = re.compile(r"[a-z0-9._-]+@chat\.example\.org")
MEGABYTE = KIB * KIB


# --- the oracle -----------------------------------------------------------------------------------


def everything(top):
    """Return all paths below a directory but the directory's own, links not followed."""
    return {
        os.path.relpath(os.path.join(directory, name), top)
        for directory, directories, files in os.walk(top)
        for name in directories + files
    }


def messages_of(mailbox):
    """Return what counts as a message: plain files with a time, in the folders' directories."""
    folders = [mailbox, *(p for p in mailbox.iterdir() if p.is_dir() and not p.is_symlink())]
    return [
        file
        for folder in folders
        if folder == mailbox or folder.name not in ("cur", "new", "tmp")
        for sub in ("cur", "new", "tmp")
        if (folder / sub).is_dir() and not (folder / sub).is_symlink()
        for file in (folder / sub).iterdir()
        if re.match(r"\d+\.", file.name) and stat.S_ISREG(file.lstat().st_mode)
    ]


def counted(file):
    """Return the bytes that Dovecot's quota counts for a message."""
    after = file.name.partition(",S=")[2]
    digits = re.match(r"\d*", after).group()
    if ",S=" in file.name and after[len(digits) :][:1] in ("", ":", ","):
        return int(digits or 0)
    return file.lstat().st_size


def due(file, config, now):
    """Tell whether a message is past one of the day limits."""
    status = file.lstat()
    age = (now - status.st_mtime) / DAY
    if age > config["delete_mails_after"]:
        return True
    large = status.st_size > 200000 and file.parent.name == "cur"
    return large and age > config["delete_large_after"]


def cut(files, target, now):
    """Return the messages that go to bring the rest to the target, oldest first."""
    files = sorted(files, key=lambda file: (int(file.name.split(".")[0]), file.name))
    gone = []
    for file in files:
        if sum(counted(other) for other in files if other not in gone) <= target:
            break
        if now - int(file.name.split(".")[0]) >= DAY:
            gone.append(file)
    return gone


def last_use(mailbox):
    """Return the Unix time of the last login, or since when there can have been none."""
    password = mailbox / "password"
    if not os.path.lexists(password):
        return mailbox.stat().st_mtime
    status = password.lstat()
    return status.st_mtime if stat.S_ISREG(status.st_mode) else float("inf")


def oracle(config, now):
    """Return the paths that a run has to remove, all that goes with a directory included."""
    top, gone = Path(config["mailboxes_dir"]), set()
    for mailbox in top.iterdir():
        if mailbox.is_symlink() or not mailbox.is_dir() or not ADDRESS.fullmatch(mailbox.name):
            continue
        age = (now - last_use(mailbox)) / DAY
        is_empty = not any(mailbox.iterdir()) and age * DAY > 60
        if age > config["delete_inactive_users_after"] or is_empty:
            gone |= {mailbox.name} | {f"{mailbox.name}/{path}" for path in everything(mailbox)}
            continue
        messages = messages_of(mailbox)
        old = [file for file in messages if due(file, config, now)]
        kept = [file for file in messages if file not in old]
        full = cut(kept, config["max_mailbox_size"] * 70 // 100, now)
        gone |= {os.path.relpath(file, top) for file in old + full}
        if (old or full) and (mailbox / "maildirsize").exists():
            gone.add(f"{mailbox.name}/maildirsize")
    return gone


# --- helpers --------------------------------------------------------------------------------------


def sweep(config, *, dry_run=False, workers=1):
    """Run; return (the result, the paths announced)."""
    announced = []

    def watch(_total, newest):
        announced.extend(path for _, path in newest.announced)

    plan = make_expiry_plan(config, dry_run)
    return sweep_mailboxes(plan, workers, watch), announced


def check_against_oracle(config, workers=1):
    """Dry-run and run; both must do what the oracle says, and say the same numbers."""
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
    """Return name, kind, size and time of everything below a directory."""
    found = {}
    for path in everything(top):
        status = os.lstat(os.path.join(top, path))
        found[path] = (status.st_mode, status.st_size, status.st_mtime_ns, status.st_nlink)
    return found


@pytest.fixture(autouse=True)
def pending(tmp_path, monkeypatch):
    """Return where notifications wait in these tests; there is no such directory at first."""
    monkeypatch.setattr(plan_module, "PENDING", str(tmp_path / "pending"))
    return tmp_path / "pending"


@pytest.fixture
def mail(tmp_path):
    """Return the settings of a relay without mailboxes."""
    (tmp_path / "mail").mkdir()
    return settings_for(tmp_path / "mail")


@pytest.fixture
def relay_json(mail, tmp_path):
    path = tmp_path / "relay.json"
    path.write_text(json.dumps(mail), encoding="utf-8")
    return path


def a_mailbox(config, name="user00001", *, login_days=1, **options):
    login = time.time() - login_days * DAY
    return Path(make_mailbox(config["mailboxes_dir"], f"{name}@{DOMAIN}", login=login, **options))


# --- whole trees ----------------------------------------------------------------------------------


@pytest.mark.parametrize("workers", [1, 2])
def test_run_on_a_generated_tree_removes_what_the_oracle_says(tmp_path, workers):
    config = settings_for(tmp_path / "mail")
    build_tree(config["mailboxes_dir"], 300, 10, time.time(), seed=workers)
    done = check_against_oracle(config, workers)
    removed = done["removed"]
    assert min(removed[reason] for reason in ("old", "large", "over_quota", "inactive")) > 0


def aged_file(directory, name, when):
    """Make an empty file of a name in bytes, which may be no text."""
    path = os.path.join(os.fsencode(directory), name)
    Path(os.fsdecode(path)).touch()
    os.utime(path, (when, when))


def hostile_top(config, victim, old):
    """Make what is no mailbox; return how many things are strange."""
    top = Path(config["mailboxes_dir"])
    (top / "a file").touch()
    os.mkfifo(top / f"fifo@{DOMAIN}")
    (top / f"link0@{DOMAIN}").symlink_to(victim)
    (top / f"gone@{DOMAIN}").symlink_to("nowhere")
    names = ["nobody", f"UPPER@{DOMAIN}", f"a@b@{DOMAIN}", f"a\nb@{DOMAIN}", "a@elsewhere.example"]
    names += [
        f"@{DOMAIN}",
        ".expired-zz",
        "...",
        os.fsdecode(b"\xff\xfe@chat.example.org"),
        "x" * 255,
    ]
    for name in names:
        write_message(f"{make_mailbox(top, name, login=old)}/cur", old)
    secret = a_mailbox(config, "password0", password=False)
    (secret / "password").symlink_to(f"{victim}/password")
    os.utime(secret / "password", (old, old), follow_symlinks=False)
    os.utime(secret, (old, old))
    return 4 + len(names) + 1


def hostile_names(config, name, victim, old):
    """Make a mailbox of odd names and links; return how many are strange, and messages to go."""
    box = a_mailbox(config, name, folders=("", ".Sent"))
    shutil.rmtree(box / "tmp")
    (box / "tmp").symlink_to(f"{victim}/cur")
    (box / ".Out").symlink_to(victim)
    (box / "cur" / f"{int(old)}.link,S=5:2,").symlink_to(next(Path(victim, "cur").iterdir()))
    os.mkfifo(box / "cur" / f"{int(old)}.fifo")
    (box / "cur" / f"{int(old)}.directory").mkdir()
    (box / "new" / "..strange").touch()
    (box / ".Sent" / ".Nested" / "cur").mkdir(parents=True)
    write_message(box / ".Sent" / ".Nested" / "cur", old)
    strange = [b"no time", b"-rf", b"\xff\xfe.x", b"x.1", b".nfs0001", b"...", b"\n", b"y" * 255]
    for odd in strange:
        aged_file(box / "cur", odd, old)
    due_names = [b"1.\xff\xfe,S=7:2,", b"2.a\nb", b"99999999999999999999.future,S=1", b"3..."]
    due_names += [b"4." + b"z" * 253, b"5.\n..\n,S=\xff"]
    for odd in due_names:
        aged_file(box / "new", odd, old)
    folders = [b"...", b"..\xff\n", b"." + b"f" * 254, b".-rf *"]
    for folder in folders:
        cur = Path(os.fsdecode(os.path.join(os.fsencode(box), folder)), "cur")
        cur.mkdir(parents=True)
        aged_file(cur, b"6.in a folder", old)
    return 2 + 3 + 1 + 1 + len(strange), len(due_names) + len(folders)


def hostile_cur(config, name, victim, old):
    """Make three mailboxes whose `cur` is none; return as `hostile_names` does."""

    def file(path):
        path.write_text("7 bytes", encoding="ascii")

    def link(path):
        path.symlink_to(f"{victim}/cur")

    for make in (file, link, os.mkfifo):
        box = a_mailbox(config, f"{name}-{make.__name__}", folders=("", ".Sent"))
        write_message(box / "new", old)
        for cur in (box / "cur", box / ".Sent" / "cur"):
            cur.rmdir()
            make(cur)
    return 4, 3


def hostile_tree(config, outside, times=1):
    """Make everything that must be passed over; return how much is strange, and messages to go."""
    old = time.time() - 100 * DAY
    victim = make_mailbox(outside, f"victim@{DOMAIN}", login=old, folders=("", ".Sent"))
    write_message(f"{victim}/cur", old, size=10**12)
    made = [(hostile_top(config, victim, old), 0)]
    for number in range(times):
        made.append(hostile_names(config, f"hostile{number:02d}", victim, old))
        made.append(hostile_cur(config, f"cur{number:02d}", victim, old))
    return tuple(map(sum, zip(*made, strict=True)))


@pytest.mark.parametrize("workers", [1, 2])
def test_run_on_a_hostile_tree_touches_nothing_outside(mail, tmp_path, workers):
    outside = tmp_path / "outside"
    strange, due_messages = hostile_tree(mail, outside)
    before = fingerprint(outside)
    done = check_against_oracle(mail, workers)
    assert done["passed_over"] == {"vanished": 0, "strange": strange, "unreadable": 0}
    assert done["removed"]["old"] == due_messages
    assert fingerprint(outside) == before


@contextlib.contextmanager
def others_at_work(boxes, now):
    """Deliver, rename and delete in some mailboxes meanwhile; give the list of new messages."""
    stop, delivered, failures = threading.Event(), [], []

    def work():
        try:
            for number in range(5_000):  # stops by itself if nobody stops it
                if stop.is_set():
                    break
                box, serial = boxes[number % len(boxes)], 100 * number
                delivered.append(write_message(box / "new", now, serial=serial, size=10**9))
                paths = [
                    write_message(box / "cur", now - 30 * DAY, serial=serial + n) for n in range(40)
                ]
                for path in paths[1:]:  # the first stays, if no run takes it
                    with contextlib.suppress(FileNotFoundError):
                        os.rename(path, f"{path}T")
                        os.unlink(f"{path}T")
        except Exception as error:  # a thread's own would be lost
            failures.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    try:
        yield delivered
    finally:
        stop.set()
        thread.join()
    assert not failures


def check_after_others(config, boxes, delivered):
    """Run once more: what is new is there, and what is old is gone."""
    sweep(config)
    assert all(os.path.exists(path) for path in delivered)
    assert [
        file for box in boxes for file in messages_of(box) if due(file, config, time.time())
    ] == []


def test_run_while_others_deliver_and_delete_loses_nothing_young(mail):
    boxes = [a_mailbox(mail, f"user{n:05d}") for n in range(20)]
    vanished, deadline = 0, time.monotonic() + 20
    with others_at_work(boxes, time.time()) as delivered:
        while not vanished and time.monotonic() < deadline:
            passed_over = sweep(mail)[0]["passed_over"]
            assert passed_over["unreadable"] == 0
            vanished += passed_over["vanished"]
    assert vanished > 0
    check_after_others(mail, boxes, delivered)


def give_to_nobody(top):
    """Give a tree to an unprivileged user and return its uid; None if we are unprivileged."""
    if os.getuid() != 0:
        return None
    for directory, _, files in os.walk(top):
        for path in (directory, *(os.path.join(directory, file) for file in files)):
            os.chown(path, 65534, 65534, follow_symlinks=False)
    return 65534


def as_nobody(work):
    """Call a function as an unprivileged user, in a process of its own; return its result."""
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            if os.getuid() == 0:
                os.setgroups([])
                os.setgid(65534)
                os.setuid(65534)
            os.write(writer, json.dumps(work()).encode())
            status = 0
        finally:
            os._exit(status)
    os.close(writer)
    with open(reader, encoding="utf-8") as pipe:
        text = pipe.read()
    assert os.waitpid(pid, 0)[1] == 0, "the unprivileged process failed"
    return json.loads(text)


def test_run_on_unreadable_directories_passes_them_over(monkeypatch):
    """Root reads everything, so this runs as nobody, in a directory that nobody may reach."""
    with tempfile.TemporaryDirectory() as work:
        os.chmod(work, 0o755)
        # The fixture's is root's alone.
        monkeypatch.setattr(plan_module, "PENDING", f"{work}/pending")
        config = settings_for(f"{work}/mail")
        now = time.time()
        for name in ("closed000", "half00000", "locked000", "plain0000", "stuck0000"):
            box = a_mailbox(config, name, login_days=200 if name == "stuck0000" else 1)
            write_message(box / "cur", now - 30 * DAY)
        top = Path(config["mailboxes_dir"])
        give_to_nobody(work)
        closed = {f"closed000@{DOMAIN}": 0, f"half00000@{DOMAIN}/cur": 0}
        closed |= {f"locked000@{DOMAIN}/cur": 0o500, f"stuck0000@{DOMAIN}/cur": 0}
        for path, mode in closed.items():
            os.chmod(top / path, mode)
        done = as_nobody(lambda: sweep(config)[0])
        # closed: its directory; half: `cur`; locked: its message; stuck: what was set aside.
        assert done["passed_over"] == {"vanished": 0, "strange": 0, "unreadable": 5}
        assert done["removed"] == {
            "old": 1, "large": 0, "over_quota": 0, "inactive": 1, "empty": 0
        }  # fmt: skip
        left = [path.name for path in top.glob(".expired-*")]
        assert len(left) == 1
        assert (top / f"locked000@{DOMAIN}" / "maildirsize").exists()


@contextlib.contextmanager
def told(what, figures):
    """Note how long something took."""
    start = time.monotonic()
    yield
    figures.append(f"{what} {time.monotonic() - start:.1f} s")


@pytest.mark.timeout(3600)
def test_run_on_a_large_hostile_tree_while_others_write_does_what_the_oracle_says():
    """Everything at once; EXPIRE_MAILBOXES=100000 makes it a million messages."""
    mailboxes, now, figures = int(os.environ.get("EXPIRE_MAILBOXES", "300")), time.time(), []
    with tempfile.TemporaryDirectory() as work:
        os.chmod(work, 0o755)
        config = settings_for(f"{work}/mail")
        top = Path(config["mailboxes_dir"])
        with told("built in", figures):
            build_tree(top, mailboxes, 10, now)
            strange, _ = hostile_tree(config, Path(work, "outside"), 1 + mailboxes // 1000)
            busy = [a_mailbox(config, f"busy{n:05d}") for n in range(2)]
            closed = a_mailbox(config, "closed000")
            write_message(closed / "cur", now - 30 * DAY)
            Path(work, "relay.json").write_text(json.dumps(config), encoding="utf-8")
            user = give_to_nobody(work)
            os.chmod(closed / "cur", 0)

        outside, before = fingerprint(f"{work}/outside"), everything(top)
        with told("oracle", figures):
            wanted = {path for path in oracle(config, now) if not path.startswith("closed")}
        with others_at_work(busy, now) as delivered:
            with told("dry run", figures):
                dry, _ = run_program(f"{work}/relay.json", "run", "--dry-run", user=user)
            with told("run", figures):
                done, memory = run_program(f"{work}/relay.json", "run", user=user, sample=True)
        after = everything(top)
        assert {path for path in before - after if not path.startswith("busy")} == wanted
        assert {path for path in after - before if not path.startswith("busy")} == set()
        assert fingerprint(f"{work}/outside") == outside
        for reason in ("large", "inactive", "empty"):  # the busy ones have none of these
            assert dry["removed"][reason] == done["removed"][reason]
        for result in (dry, done):
            assert result["passed_over"] | {"vanished": 0} == {
                "vanished": 0, "strange": strange, "unreadable": 1
            }  # fmt: skip
        assert 0 < memory < 64, f"{memory} MiB"
        check_after_others(config, busy, delivered)
        print(f"\n{mailboxes} mailboxes: {', '.join(figures)}, {memory:.0f} MiB at the peak")
        print(f"removed {done['removed']}, passed over {done['passed_over']}")


# --- limits, one by one ---------------------------------------------------------------------------


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
    # The name tells another age and another size: neither matters here.
    path = write_message(box / place, now, mtime=now - days * DAY, disk=disk, size=5)
    sweep(mail)
    assert os.path.exists(path) is not goes
    assert (box / "maildirsize").exists() is not goes


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
    """A delivery may make a removed mailbox's directory anew; nobody can log in to it."""
    left, fresh = (a_mailbox(mail, name, password=False) for name in ("orphan000", "orphan001"))
    os.utime(left, (0, time.time() - 91 * DAY))
    done, _ = sweep(mail)
    assert (left.exists(), fresh.exists()) == (False, True)
    assert done["report"]["accounts"]["all"] == 0


def test_empty_directory_goes_unless_a_login_is_making_it(mail):
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


def test_cut_never_takes_what_is_under_a_day_old(mail):
    box, now = a_mailbox(mail), time.time()
    old = write_message(box / "cur", now - DAY - 60, size=10**9)
    # Its file says that it is ancient; the name, which Dovecot wrote, says that it came just now.
    young = write_message(box / "cur", now - DAY + 60, size=10**9, mtime=0)
    done = cut_one(mail, str(box))
    assert (os.path.exists(old), os.path.exists(young)) == (False, True)
    assert done["after"] == 10**9 > kept_bytes(mail)


def test_cut_of_more_messages_than_it_holds_equals_a_plain_sort():
    messages = [((n * 7919) % 50_000, str(n), ("cur",), 10, 10) for n in range(50_000)]
    excess = 123_456
    assert choose_oldest(iter(messages), excess) == sorted(messages)[: -(-excess // 10)]


# --- others at work -------------------------------------------------------------------------------


@pytest.fixture
def before_rename(monkeypatch):
    """Return a function that sets what happens right before a mailbox is set aside."""
    rename = os.rename

    def install(happens):
        def renamed(*names, **directories):
            monkeypatch.setattr(os, "rename", rename)
            happens()
            rename(*names, **directories)

        monkeypatch.setattr(os, "rename", renamed)

    return install


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
    """Deleted and registered anew after it was opened: the old password's age says nothing."""
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
    """Its name was read while it was a directory yet."""
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


def test_run_after_an_interrupted_one_removes_what_it_set_aside(mail):
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
        sweep(config, dry_run=True)  # whatever is made once is made
        tracemalloc.start()
        sweep_mailboxes(make_expiry_plan(config, False))
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < peaks[0] + 20_000, peaks


# --- one mailbox, and what waits for it -----------------------------------------------------------


def notify(directory, name, address, token="token"):
    """Write a notification as chatmail-metadata does."""
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


def test_run_passes_over_what_is_no_notification(mail, pending, tmp_path):
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


def test_remove_takes_one_mailbox_of_any_age_and_what_waits_for_it(mail, relay_json, pending):
    box, other = a_mailbox(mail, folders=("", ".Sent")), a_mailbox(mail, "user00002")
    write_message(box / ".Sent" / "cur", time.time())
    for number, address in enumerate((box.name, other.name, box.name, f"gone@{DOMAIN}")):
        notify(pending, str(number), address)
    before = everything(other)
    assert remove_one(load_settings(relay_json), box.name) == {"removed": True, "pending": 2}
    assert os.listdir(mail["mailboxes_dir"]) == [other.name]
    assert everything(other) == before
    assert sorted(os.listdir(pending)) == ["1", "3"]
    # Nothing is left of it but what came since.
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


def test_remove_of_what_turns_into_a_link_meanwhile_is_not_followed(
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


# --- properties -----------------------------------------------------------------------------------

MESSAGE_STRATEGY = st.tuples(
    st.sampled_from(["cur", "new", "tmp", ".Sent/cur", ".Sent/new"]),
    st.integers(0, 30 * 24),  # hours since arrival
    st.integers(-48, 48),  # hours by which the file's time differs
    st.sampled_from([0, 1000, 200_000, 200_001, 3_000_000]),  # bytes on disk
    st.none() | st.integers(0, 6 * MEGABYTE),  # bytes in the name
)
MAILBOX_STRATEGY = st.tuples(st.integers(0, 100), st.lists(MESSAGE_STRATEGY, max_size=12))
PROPERTY = settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


def fill(config, mailboxes):
    """Make the mailboxes that hypothesis thought of; half an hour keeps ages off the limits."""
    now = time.time()
    for number, (login_days, messages) in enumerate(mailboxes):
        box = a_mailbox(
            config, f"user{number:05d}", login_days=login_days + 0.5, folders=("", ".Sent")
        )
        for serial, (place, hours, shift, disk, size) in enumerate(messages):
            arrival = now - hours * 3600 - 1800
            mtime = arrival + shift * 3600
            write_message(box / place, arrival, serial=serial, disk=disk, size=size, mtime=mtime)


def sized(box):
    """Return arrival and bytes counted of each message of a mailbox."""
    return {file: (int(file.name.split(".")[0]), counted(file)) for file in messages_of(box)}


def check_least(files, gone, target, now):
    """What a cut took of these files is the oldest, over a day old, and no more than needed."""
    kept = files.keys() - gone
    left = sum(files[file][1] for file in kept)
    young = {file for file, (arrival, _) in files.items() if now - arrival < DAY}
    assert not gone & young
    assert left <= target or kept == young
    if gone:
        # One less would not have done, and none that stays is older than one that went.
        youngest = max(gone, key=lambda file: (files[file][0], file.name))
        assert left + files[youngest][1] > target
        assert all(files[file][0] >= files[youngest][0] for file in kept)


@PROPERTY
@given(st.lists(MAILBOX_STRATEGY, max_size=4))
def test_cuts_of_a_run_are_the_least_that_suffice(mailboxes):
    with tempfile.TemporaryDirectory() as work:
        config = settings_for(f"{work}/mail", max_mailbox_size=10 * MEGABYTE)
        os.mkdir(config["mailboxes_dir"])
        fill(config, mailboxes)
        top, announced, now = Path(config["mailboxes_dir"]), set(), time.time()
        before = {box: sized(box) for box in top.iterdir()}
        sweep_mailboxes(
            make_expiry_plan(config, True), 1, lambda _, new: announced.update(new.announced)
        )
        sweep(config)
        reasons = {top / path: reason for reason, path in announced}
        for box, files in before.items():
            if reasons.get(box) == "inactive":
                assert not box.exists()
                continue
            past = {file for file in files if reasons.get(file) in ("old", "large")}
            within = {file: files[file] for file in files.keys() - past}
            gone = {file for file in within if reasons.get(file) == "over_quota"}
            assert set(messages_of(box)) == within.keys() - gone
            check_least(within, gone, 7 * MEGABYTE, now)


@PROPERTY
@given(st.lists(MAILBOX_STRATEGY, max_size=4))
def test_run_on_random_mailboxes_does_what_it_announced(mailboxes):
    with tempfile.TemporaryDirectory() as work:
        config = settings_for(f"{work}/mail", max_mailbox_size=10 * MEGABYTE)
        os.mkdir(config["mailboxes_dir"])
        fill(config, mailboxes)
        check_against_oracle(config)


@PROPERTY
@given(MAILBOX_STRATEGY, st.integers(0, 20 * MEGABYTE))
def test_cut_of_a_random_mailbox_is_the_least_that_suffices(mailbox, target):
    with tempfile.TemporaryDirectory() as work:
        config = settings_for(f"{work}/mail")
        fill(config, [mailbox])
        box = Path(config["mailboxes_dir"], f"user00000@{DOMAIN}")
        files, now = sized(box), time.time()
        dry = cut_one(config, box.name, target, dry_run=True)
        done = cut_one(config, box.name, target)
        kept = set(messages_of(box))
        assert done["before"] == sum(size for _, size in files.values())
        assert done["after"] == sum(files[file][1] for file in kept)
        assert done | {"dry_run": True} == dry
        check_least(files, files.keys() - kept, target, now)


# --- the report -----------------------------------------------------------------------------------


def test_report_counts_addresses_and_sizes(mail, relay_json):
    for name, days in (("ci-000001", 0), ("today0000", 0.5), ("week00000", 9), ("old000000", 160)):
        a_mailbox(mail, name, login_days=days)
    box = Path(mail["mailboxes_dir"], f"today0000@{DOMAIN}")
    for serial, disk in enumerate((1, 102_399, 102_400, 1_048_576, 10_485_760)):
        write_message(box / "cur", time.time(), serial=serial, disk=disk)
    before = everything(mail["mailboxes_dir"])
    numbers = commands.report(load_settings(relay_json))
    assert everything(mail["mailboxes_dir"]) == before
    passwords = 4 * len("{SHA512-CRYPT}$6$x")
    messages = 1 + 102_399 + 102_400 + 1_048_576 + 10_485_760
    assert numbers == {
        "accounts": {"all": 4, "ci": 1, "user": 3},
        "accounts_active": {
            "1": 1, "10": 2, "30": 2, "40": 2, "80": 2, "100": 2, "150": 2
        },
        "storage_bytes": {
            "messages": messages, "extra": passwords, "total": messages + passwords
        },
        "messages_bytes": {
            "0": messages, "102400": messages - 102_400, "524288": 11_534_336,
            "1048576": 11_534_336, "2097152": 10_485_760, "5242880": 10_485_760,
            "10485760": 10_485_760,
        },
        "messages_count": {
            "0": 5, "102400": 3, "524288": 2, "1048576": 2, "2097152": 1, "5242880": 1,
            "10485760": 1,
        },
    }  # fmt: skip


# --- the command line ----------------------------------------------------------------------------


def command(*arguments, **options):
    return subprocess.run(
        [*PROGRAM, *map(str, arguments)],
        env=ENVIRONMENT, capture_output=True, text=True, check=False, **options,
    )  # fmt: skip


def test_command_run_removes_and_names_nobody(mail, relay_json):
    box = a_mailbox(mail, login_days=100)
    other = a_mailbox(mail, "user00002")
    write_message(other / "cur", time.time() - 30 * DAY, disk=2048)
    dry = command("run", "--config", relay_json, "--dry-run")
    assert dry.returncode == 0
    assert f"would remove (inactive): '{box.name}'\n" in dry.stdout
    assert re.search(rf"would remove \(old\): '{other.name}/cur/\d+\.M", dry.stdout)
    assert box.exists()
    done = command("run", "--config", relay_json)
    assert done.stdout == (
        "removed messages: 1 old, 0 large, 0 over_quota (2.0K)\n"
        "removed 1 inactive mailboxes, 0 empty directories\n"
        "passed over: 0 vanished, 0 strange, 0 unreadable\n"
    )
    assert done.stderr == ""
    assert not box.exists()


def test_command_on_a_terminal_shows_progress(mail, relay_json):
    a_mailbox(mail)
    terminal, stderr = pty.openpty()
    try:
        subprocess.run(
            [*PROGRAM, "report", "--config", relay_json],
            env=ENVIRONMENT, stdout=subprocess.DEVNULL, stderr=stderr, check=True,
        )  # fmt: skip
        assert os.read(terminal, 1000) == b"\r1 mailboxes seen, 0 removed, 0 messages removed \r\n"
    finally:
        os.close(terminal)
        os.close(stderr)


def test_command_quota_takes_an_address_or_its_directory(mail, relay_json):
    box, now = a_mailbox(mail), time.time()
    for days in (2, 3):
        write_message(box / "cur", now - days * DAY, size=300 * MEGABYTE)
    done = command("quota", "--config", relay_json, "--json", f"{box}/")
    assert json.loads(done.stdout)["after"] == 300 * MEGABYTE
    done = command("quota", box.name, "1", "--config", relay_json)
    assert "quota: 300.0M before, 0B after\n" in done.stdout
    assert box.name not in done.stdout


def test_command_quota_as_dovecot_calls_it_prints_nothing_but_errors(mail, relay_json):
    """Dovecot logged a broken pipe of each quota warning: it had closed what was printed to."""
    box = a_mailbox(mail)
    done = command("quota", "--quiet", box.name, "--config", relay_json)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    done = command("quota", "--quiet", "nobody", "--config", relay_json)
    assert done.returncode == 1
    assert "no mailbox of this relay" in done.stderr


@pytest.mark.parametrize(
    "path",
    [
        "", ".", "..", "/", "/etc", "/etc/passwd", "victim", f"../victim@{DOMAIN}", f"@{DOMAIN}",
        f"./victim@{DOMAIN}", f"UPPER@{DOMAIN}", f"a@b@{DOMAIN}", f"a\0b@{DOMAIN}",
        f"victim@{DOMAIN}\n", "victim@elsewhere.example", f"/tmp/victim@{DOMAIN}",
        f"{{top}}/../mail/victim@{DOMAIN}", f"{{top}}/x/victim@{DOMAIN}", "{top}", "{top}/..",
        f"{{top}}//victim@{DOMAIN}/../..",
    ],
)  # fmt: skip
def test_quota_and_remove_of_what_is_no_mailbox_are_refused(mail, path):
    a_mailbox(mail, "victim")
    for refuses in (lambda path: cut_one(mail, path, 0), partial(remove_one, mail)):
        with pytest.raises(OperatorError, match="is no mailbox of this relay"):
            refuses(path.replace("{top}", mail["mailboxes_dir"]))


def test_quota_of_an_address_that_is_a_link_is_refused(mail, tmp_path):
    outside = make_mailbox(tmp_path / "outside", "x", login=0)
    Path(mail["mailboxes_dir"], f"link00000@{DOMAIN}").symlink_to(outside)
    with pytest.raises(OperatorError, match="cannot open the mailbox"):
        cut_one(mail, f"link00000@{DOMAIN}", 0)


@pytest.mark.parametrize("target", ["-1", "70%", "1e9", ""])
def test_quota_with_a_target_that_is_no_size_is_refused(mail, target):
    box = a_mailbox(mail)
    with pytest.raises(OperatorError, match="is no number of bytes"):
        cut_one(mail, box.name, target)


def test_command_without_settings_or_disk_says_what_to_do(mail, tmp_path, relay_json):
    done = command("run", "--config", tmp_path / "none.json")
    assert done.returncode == 1
    assert "cannot read the relay's settings" in done.stderr
    assert "Apply the chatmail state first" in done.stderr
    Path(tmp_path, "empty.json").write_text("{}", encoding="utf-8")
    assert (
        "lacks address_domain, delete_in"
        in command("report", "--config", tmp_path / "empty.json").stderr
    )
    shutil.rmtree(mail["mailboxes_dir"])
    assert "Is its disk mounted" in command("run", "--config", relay_json).stderr


def test_command_writes_metrics_for_prometheus(mail, relay_json, tmp_path):
    a_mailbox(mail, "ci-000001")
    for serial in (1, 2):
        old = a_mailbox(mail, f"user{serial:05d}", login_days=serial)
        write_message(old / "cur", time.time() - 30 * DAY)
        command("run", "--config", relay_json, "--prometheus", tmp_path)
        command("run", "--dry-run", "--config", relay_json, "--prometheus", tmp_path)
    sums = Path(tmp_path, "expire.prom").read_text(encoding="ascii").splitlines()
    assert "chatmail_expire_runs_total 2" in sums
    assert 'chatmail_expire_removed_total{reason="old"} 2' in sums
    assert stat.S_IMODE(Path(tmp_path, "expire.prom").stat().st_mode) == 0o644
    text = Path(tmp_path, "report.prom").read_text(encoding="ascii")
    for line in (
        'chatmail_accounts{kind="all"} 3',
        'chatmail_accounts{kind="ci"} 1',
        'chatmail_accounts_active{days="10"} 2',
        'chatmail_messages_count{min_size="0"} 0',
        'chatmail_messages_bytes{min_size="10485760"} 0',
        'chatmail_storage_bytes{kind="messages"} 0',
        "# TYPE chatmail_storage_bytes gauge",
    ):
        assert f"{line}\n" in text
    assert DOMAIN not in text
    assert sorted(path.name for path in tmp_path.glob("*.prom*")) == ["expire.prom", "report.prom"]


def test_metrics_are_what_prometheus_clients_parse(mail):
    parser = pytest.importorskip("prometheus_client.parser", reason="no python3-prometheus-client")
    numbers = sweep(mail)[0]
    text = prometheus.format_report(numbers["report"])
    text += prometheus.format_sums({}, numbers["removed"])
    families = {family.name for family in parser.text_string_to_metric_families(text)}
    assert families == {
        "chatmail_storage_bytes", "chatmail_messages_bytes", "chatmail_messages_count",
        "chatmail_accounts", "chatmail_accounts_active", "chatmail_expire_runs",
        "chatmail_expire_removed",
    }  # fmt: skip
