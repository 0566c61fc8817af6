"""Whole trees against an oracle: generated trees, hostile trees, and trees in use."""

import contextlib
import json
import os
import shutil
import tempfile
import threading
import time
from pathlib import Path

import pytest
from chatmaild.retention import plan as plan_module
from support.mailbox_tree import (
    DAY,
    DOMAIN,
    build_tree,
    make_mailbox,
    run_program,
    settings_for,
    write_message,
)
from support.retention_oracle import (
    a_mailbox,
    check_against_oracle,
    everything,
    files_of,
    fingerprint,
    is_due,
    oracle,
    sweep,
)


@pytest.mark.parametrize("workers", [1, 2])
def test_run_on_a_generated_tree_removes_what_the_oracle_says(tmp_path, workers):
    config = settings_for(tmp_path / "mail")
    build_tree(config["mailboxes_dir"], 300, 10, time.time(), seed=workers)
    done = check_against_oracle(config, workers)
    removed = done["removed"]
    assert min(removed[reason] for reason in ("old", "large", "over_quota", "inactive")) > 0


def aged_file(directory, name, when):
    """Make an empty file. Its name is bytes, which may be no text."""
    path = os.path.join(os.fsencode(directory), name)
    Path(os.fsdecode(path)).touch()
    os.utime(path, (when, when))


def hostile_top(config, victim, old):
    """Make files and links that are no mailboxes. Return the number of strange ones."""
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
    """Make a mailbox with odd names and links. Return (number of strange ones, due messages)."""
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
    due_names = [b"no time", b"-rf", b"\xff\xfe.x", b"x.1", b".nfs0001", b"...", b"\n", b"y" * 255]
    due_names += [b"1.\xff\xfe,S=7:2,", b"2.a\nb", b"99999999999999999999.future,S=1", b"3..."]
    due_names += [b"4." + b"z" * 253, b"5.\n..\n,S=\xff"]
    for odd in due_names:
        aged_file(box / "new", odd, old)
    folders = [b"...", b"..\xff\n", b"." + b"f" * 254, b".-rf *"]
    for folder in folders:
        cur = Path(os.fsdecode(os.path.join(os.fsencode(box), folder)), "cur")
        cur.mkdir(parents=True)
        aged_file(cur, b"6.in a folder", old)
    return 2 + 3 + 1 + 1, len(due_names) + len(folders)


def hostile_cur(config, name, victim, old):
    """Make three mailboxes with a `cur` that is no directory. Return as `hostile_names` does."""

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
    """Make all kinds of strange files. Return (number of strange ones, due messages)."""
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
    """Deliver, rename and delete in some mailboxes meanwhile. Yield the list of new messages."""
    stop, delivered, failures = threading.Event(), [], []

    def work():
        try:
            for number in range(5_000):  # The loop also ends without `stop`.
                if stop.is_set():
                    break
                box, serial = boxes[number % len(boxes)], 100 * number
                delivered.append(write_message(box / "new", now, serial=serial, size=10**9))
                paths = [
                    write_message(box / "cur", now - 30 * DAY, serial=serial + n) for n in range(40)
                ]
                for path in paths[1:]:  # The first message stays, unless a run removes it.
                    with contextlib.suppress(FileNotFoundError):
                        os.rename(path, f"{path}T")
                        os.unlink(f"{path}T")
        except Exception as error:  # pytest would not see an error in the thread.
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
    """Run once more. New messages are still there, and old ones are gone."""
    sweep(config)
    assert all(os.path.exists(path) for path in delivered)
    assert [
        file for box in boxes for file in files_of(box) if is_due(file, config, time.time())
    ] == []


def test_run_while_others_deliver_and_delete_loses_no_new_message(mail):
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
    """Give a tree to an unprivileged user and return its uid, None if we are not root."""
    if os.getuid() != 0:
        return None
    for directory, _, files in os.walk(top):
        for path in (directory, *(os.path.join(directory, file) for file in files)):
            os.chown(path, 65534, 65534, follow_symlinks=False)
    return 65534


def as_nobody(work):
    """Call a function as an unprivileged user, in another process. Return its result."""
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
    """Root can read everything, so this runs as the user nobody, in a directory of that user."""
    with tempfile.TemporaryDirectory() as work:
        os.chmod(work, 0o755)
        # Only root can read the directory of the fixture.
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
        # Unreadable: the directory of `closed`, `cur` of `half`, the message of `locked`, and what
        # is left of `stuck`.
        assert done["passed_over"] == {"vanished": 0, "strange": 0, "unreadable": 5}
        assert done["removed"] == {
            "old": 1, "large": 0, "over_quota": 0, "inactive": 1, "empty": 0
        }  # fmt: skip
        left = [path.name for path in top.glob(".expired-*")]
        assert len(left) == 1
        assert (top / f"locked000@{DOMAIN}" / "maildirsize").exists()


@contextlib.contextmanager
def note_time(what, figures):
    """Add a line about how long something took to `figures`."""
    start = time.monotonic()
    yield
    figures.append(f"{what} {time.monotonic() - start:.1f} s")


@pytest.mark.timeout(3600)
def test_run_on_a_large_hostile_tree_while_others_write_does_what_the_oracle_says():
    """All at once. EXPIRE_MAILBOXES=100000 makes a million messages."""
    mailboxes, now, figures = int(os.environ.get("EXPIRE_MAILBOXES", "300")), time.time(), []
    with tempfile.TemporaryDirectory() as work:
        os.chmod(work, 0o755)
        config = settings_for(f"{work}/mail")
        top = Path(config["mailboxes_dir"])
        with note_time("built in", figures):
            build_tree(top, mailboxes, 10, now)
            strange, _ = hostile_tree(config, Path(work, "outside"), 1 + mailboxes // 1000)
            busy = [a_mailbox(config, f"busy{n:05d}") for n in range(2)]
            closed = a_mailbox(config, "closed000")
            write_message(closed / "cur", now - 30 * DAY)
            Path(work, "relay.json").write_text(json.dumps(config), encoding="utf-8")
            user = give_to_nobody(work)
            os.chmod(closed / "cur", 0)

        outside, before = fingerprint(f"{work}/outside"), everything(top)
        with note_time("oracle", figures):
            wanted = {path for path in oracle(config, now) if not path.startswith("closed")}
        with others_at_work(busy, now) as delivered:
            with note_time("dry run", figures):
                dry, _ = run_program(f"{work}/relay.json", "run", "--dry-run", user=user)
            with note_time("run", figures):
                done, memory = run_program(f"{work}/relay.json", "run", user=user, sample=True)
        after = everything(top)
        assert {path for path in before - after if not path.startswith("busy")} == wanted
        assert {path for path in after - before if not path.startswith("busy")} == set()
        assert fingerprint(f"{work}/outside") == outside
        for reason in ("large", "inactive", "empty"):  # The busy mailboxes have no such messages.
            assert dry["removed"][reason] == done["removed"][reason]
        for result in (dry, done):
            assert result["passed_over"] | {"vanished": 0} == {
                "vanished": 0, "strange": strange, "unreadable": 1
            }  # fmt: skip
        assert 0 < memory < 64, f"{memory} MiB"
        check_after_others(config, busy, delivered)
        print(f"\n{mailboxes} mailboxes: {', '.join(figures)}, {memory:.0f} MiB at the peak")
        print(f"removed {done['removed']}, passed over {done['passed_over']}")
