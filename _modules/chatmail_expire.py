#!/usr/bin/python3
"""Retention: what is past its time goes, full mailboxes shrink, and a report says what is left.

One file with three callers, so it needs nothing but the standard library: Salt loads it as an
execution module, the timers and Dovecot's quota warning run `/usr/local/lib/chatmail/
chatmail_expire.py`, a copy of the very same file.

A mailbox is a directory that somebody else writes to meanwhile. So each directory is opened by its
name in the directory above, never through a symbolic link (openat(2) with O_NOFOLLOW), and a file
is looked at and removed by its name in that open directory. No path is joined and followed.

Maildir++: a mailbox holds `cur`, `new` and `tmp`, and so does each folder (a directory) in it.
"""

import contextlib
import errno
import fcntl
import itertools
import json
import math
import os
import re
import stat
import sys
import time
import typing
from bisect import bisect_left, bisect_right
from collections import Counter

# A quota warning starts this file each time: what few callers need is imported where they use it.

SETTINGS = "/etc/chatmail/relay.json"
# Where chatmail-dict keeps the notifications that wait for their next try (its notifier.py).
PENDING = "/var/lib/chatmail-dict/pending"
NEEDED_SETTINGS = (
    "address_domain",
    "delete_inactive_users_after",
    "delete_large_after",
    "delete_mails_after",
    "mailboxes_dir",
    "max_mailbox_size",
)

DAY = 86400  # seconds
LARGE_BYTES = 200_000
KEPT_PERCENT = 70  # of max_mailbox_size: what a cut leaves
YOUNG_SECONDS = DAY  # no cut takes what arrived within it
# A login that makes an address has an empty directory for a moment. It is not pulled from under it.
EMPTY_SECONDS = 60

LOCAL_PART = re.compile(r"[a-z0-9._-]+")
MESSAGE_DIRECTORIES = frozenset(("cur", "new", "tmp"))
# `<arrival>.<unique>,S=<size>,W=<size with CRLF>:2,<flags>`. Dovecot's quota counts the first `,S=`
# when only digits stand before the next `:`, `,` or the end, and the file's own size otherwise.
MESSAGE = re.compile(r"([0-9]+)\.[^,]*(?:,(?!S=)[^,]*)*(?:,S=(?:([0-9]*)(?![^:,]))?)?")
TIMED = re.compile(r"[0-9]+\.")  # the same names, for who needs no sizes: a third of the time
# A mailbox to be removed is renamed to this first. It has no `@`, so no login and no delivery
# finds it, and no address in it, so nothing tells whose it was.
ASIDE = ".expired-"
LEFT_ASIDE = re.compile(r"\.expired-[0-9a-f]{16}")

ACTIVE_DAYS = (1, 10, 30, 40, 80, 100, 150)
KIB = 1024
SIZE_CLASSES = (0, 100 * KIB, 512 * KIB, 1024 * KIB, 2048 * KIB, 5120 * KIB, 10240 * KIB)
LEAST_LARGE_CLASS = SIZE_CLASSES[1]

MESSAGE_REASONS = ("old", "large", "over_quota")
REASONS = (*MESSAGE_REASONS, "inactive", "empty")
PASSED_OVER = ("vanished", "strange", "unreadable")

# No longer as it was seen: gone, or no longer empty.
NOT_THERE = frozenset((errno.ENOENT, errno.ESTALE, errno.ENOTEMPTY, errno.EEXIST))
# What O_NOFOLLOW and O_DIRECTORY answer for a link or a file, and unlink(2) for a directory.
NOT_OF_ITS_KIND = frozenset((errno.ELOOP, errno.ENOTDIR, errno.EISDIR))
OPEN_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
# A notification holds an address and a token of 4096 characters, each escaped by a second at most.
PENDING_BYTES = 16384
PENDING_DRAFT = ".draft-"  # being written: the service drops what a crash has left of these
BATCH = 256  # mailboxes that a worker takes at once
CUT_LIST = 10_000  # messages of one mailbox held in memory before the younger are dropped


class ExpireError(Exception):
    """Something that the operator has to put right; the text says what."""


class Plan(typing.NamedTuple):
    """What one pass does. Times are Unix seconds; a default lets everything stay.

    old, large: messages last written before it go; `large` is for big files in `cur`.
    inactive: addresses not logged in since go.
    empty: empty directories unchanged since go.
    target: bytes a mailbox may keep.
    """

    mailboxes_dir: str
    pending_dir: str
    domain: str
    now: float
    old: float = -math.inf
    large: float = -math.inf
    inactive: float = -math.inf
    empty: float = -math.inf
    target: float = math.inf
    dry_run: bool = False
    announces: bool = False  # a dry run tells each name, not only how many

    @property
    def expires(self):
        """Tell whether this pass removes what is past its time."""
        return self.inactive > -math.inf and not self.dry_run


# --- Salt -----------------------------------------------------------------------------------------


def run(test=None, config=SETTINGS):
    """Remove what is past its time, cut full mailboxes, and report what is left.

    test: True only counts what would go; Salt's own `test` setting when not given.
    config: path of the relay's settings.

    Returns `removed` (messages by reason `old`, `large`, `over_quota`; mailboxes: `inactive`;
    directories: `empty`), `removed_bytes` of the messages, `removed_notifications` (of addresses
    that have no mailbox any more; none when `test`), `passed_over` (entries by cause) and `report`
    (as `report` returns it, of what is left). No address is in it.

    Raises CommandExecutionError without readable settings, or while another run is under way.

    CLI Example:

    .. code-block:: bash

        salt '*' chatmail_expire.run test=True
    """
    if test is None:
        test = globals().get("__opts__", {}).get("test", False)
    with _salt_errors():
        return _sweep(_expiry_plan(_load_settings(config), bool(test)))


def quota(path, target=None, config=SETTINGS):
    """Cut one mailbox, oldest message first, down to a size.

    path: the address, or the absolute path of its directory in `mailboxes_dir`.
    target: bytes to keep at most, as Dovecot's quota counts them; 70 % of `max_mailbox_size`
        when not given. Nothing that arrived within 24 hours goes, so more may stay.
    config: path of the relay's settings.

    Returns `before` and `after` (bytes), and `removed`, `removed_bytes`, `passed_over` as `run`.

    Raises CommandExecutionError for a path that is no mailbox of this relay.

    CLI Example:

    .. code-block:: bash

        salt relay1 chatmail_expire.quota abcdefghi@chat.example.org 300000000
    """
    with _salt_errors():
        return _cut_one(_load_settings(config), path, target)


def remove(address, config=SETTINGS):
    """Remove one mailbox, whatever its age, and the notifications that wait for its devices.

    address: the address, or the absolute path of its directory in `mailboxes_dir`.
    config: path of the relay's settings.

    Returns `removed` (False if there was no such mailbox) and `pending` (notifications removed).

    Raises CommandExecutionError for what is no address of this relay or no directory.

    CLI Example:

    .. code-block:: bash

        salt relay1 chatmail_expire.remove abcdefghi@chat.example.org
    """
    with _salt_errors():
        return _remove_one(_load_settings(config), address)


def report(config=SETTINGS):
    """Count addresses and mail.

    config: path of the relay's settings.

    Returns `accounts` (`all`, `ci` for those whose name begins with `ci-`, `user` for the rest),
    `accounts_active` (of `user`, by days since the last login), `storage_bytes` (`messages`,
    `extra`, `total`: on disk), `messages_bytes` and `messages_count` (by least size in bytes).
    No address is in it, so it may go into the mine.

    Raises CommandExecutionError without readable settings.

    CLI Example:

    .. code-block:: bash

        salt '*' chatmail_expire.report
    """
    with _salt_errors():
        return _sweep(_report_plan(_load_settings(config)))["report"]


@contextlib.contextmanager
def _salt_errors():
    """Give Salt the exception that it shows as a plain sentence."""
    try:
        yield
    except ExpireError as error:
        # Here, not above: a quota warning must not wait for Salt to be imported.
        from salt.exceptions import CommandExecutionError

        raise CommandExecutionError(str(error)) from error


# --- settings -------------------------------------------------------------------------------------


def _load_settings(path):
    """Return the relay's settings as a dictionary."""
    try:
        with open(path, encoding="utf-8") as file:
            settings = json.load(file)
    except (OSError, ValueError) as error:
        raise ExpireError(
            f"cannot read the relay's settings in {path}: {error}. Apply the chatmail state first."
        ) from error
    missing = [key for key in NEEDED_SETTINGS if key not in settings]
    if missing:
        raise ExpireError(f"{path} lacks {', '.join(missing)}. Apply the chatmail state again.")
    return settings


def _report_plan(settings):
    return Plan(
        mailboxes_dir=settings["mailboxes_dir"].rstrip("/"),
        pending_dir=PENDING,
        domain=settings["address_domain"],
        now=time.time(),
    )


def _expiry_plan(settings, dry_run):
    plan = _report_plan(settings)
    return plan._replace(
        old=plan.now - settings["delete_mails_after"] * DAY,
        large=plan.now - settings["delete_large_after"] * DAY,
        inactive=plan.now - settings["delete_inactive_users_after"] * DAY,
        empty=plan.now - EMPTY_SECONDS,
        target=_kept_bytes(settings),
        dry_run=dry_run,
    )


def _kept_bytes(settings):
    return settings["max_mailbox_size"] * KEPT_PERCENT // 100


def _is_address(name, domain):
    """Tell whether a directory's name is an address of this relay.

    Its length is no matter: addresses outlive a change of `username_max_length`.
    """
    local, at, rest = name.rpartition("@")
    return bool(at) and rest == domain and LOCAL_PART.fullmatch(local) is not None


# --- one pass -------------------------------------------------------------------------------------


class Tally:
    """What a pass has seen and done, in numbers. Batches are added up."""

    def __init__(self):
        self.removed = Counter()  # by REASONS
        self.removed_bytes = 0
        self.removed_notifications = 0
        self.passed_over = Counter()  # by PASSED_OVER
        self.mailboxes = 0
        self.machines = 0  # addresses whose name begins with `ci-`
        self.users = [0] * (len(ACTIVE_DAYS) + 1)  # the others, by index in ACTIVE_DAYS
        self.extra_bytes = 0
        # Messages and their bytes, by index + 1 in SIZE_CLASSES.
        self.messages = [0] * (len(SIZE_CLASSES) + 1)
        self.bytes = [0] * (len(SIZE_CLASSES) + 1)
        self.announced = []  # (reason, path in mailboxes_dir), in a dry run only

    def add(self, other):
        """Add another batch's numbers to these; its announcements are the caller's to print."""
        for counter in ("removed", "passed_over"):
            getattr(self, counter).update(getattr(other, counter))
        for number in ("removed_bytes", "mailboxes", "machines", "extra_bytes"):
            setattr(self, number, getattr(self, number) + getattr(other, number))
        for numbers in ("users", "messages", "bytes"):
            sums = map(sum, zip(getattr(self, numbers), getattr(other, numbers), strict=True))
            setattr(self, numbers, list(sums))

    def pass_over(self, error):
        """Count an entry that could not be opened, read or removed."""
        if error.errno in NOT_THERE:
            self.passed_over["vanished"] += 1
        elif error.errno in NOT_OF_ITS_KIND:
            self.passed_over["strange"] += 1
        else:
            self.passed_over["unreadable"] += 1

    def count_messages(self, number, size):
        """Count 1 message of `size` bytes on disk; -1 takes it out of the numbers again."""
        index = bisect_right(SIZE_CLASSES, size)
        self.messages[index] += number
        self.bytes[index] += number * size

    def login(self, name, days):
        """Count an address that logged in `days` ago last."""
        if name.startswith("ci-"):
            self.machines += 1
        else:
            self.users[bisect_left(ACTIVE_DAYS, days)] += 1

    def as_dict(self):
        """Return the numbers as `run` documents them."""
        return {
            "removed": {reason: self.removed[reason] for reason in REASONS},
            "removed_bytes": self.removed_bytes,
            "removed_notifications": self.removed_notifications,
            "passed_over": {cause: self.passed_over[cause] for cause in PASSED_OVER},
            "report": self._report(),
        }

    def _report(self):
        total = sum(self.bytes)
        users = sum(self.users)
        # Keys are text: JSON, which the mine and the command line speak, has no others.
        return {
            "accounts": {"all": users + self.machines, "ci": self.machines, "user": users},
            "accounts_active": {
                str(days): sum(self.users[:i]) for i, days in enumerate(ACTIVE_DAYS, 1)
            },
            "storage_bytes": {
                "messages": total,
                "extra": self.extra_bytes,
                "total": total + self.extra_bytes,
            },
            "messages_bytes": _at_least(self.bytes),
            "messages_count": _at_least(self.messages),
        }


def _at_least(by_class):
    """Turn numbers for each size class into numbers for each class and all above it."""
    return {str(size): sum(by_class[i:]) for i, size in enumerate(SIZE_CLASSES, 1)}


class Mailbox:
    """One mailbox, open while it is looked at.

    Every method may find that others have removed, renamed or added something: that is counted in
    the tally, and the rest goes on.
    """

    def __init__(self, plan, tally, name, fd):
        self.plan = plan
        self.tally = tally
        self.name = name
        self.fd = fd
        self.places = []  # the message directories, each as the names that lead to it
        self.is_empty = True
        self.is_cut = plan.target < math.inf
        self.quota_bytes = 0  # of what stays, if it may be cut
        self.changed = False
        self.password = None  # its status, once last_login() has looked

    def scan(self):
        """Look at every entry once: messages past their time go, the others are counted."""
        try:
            self._scan_folder(self.fd, ())
        except OSError as error:
            self.tally.pass_over(error)

    def cut(self):
        """Remove the oldest messages until the rest is within the target."""
        excess = self.quota_bytes - self.plan.target
        if excess <= 0:
            return
        for _, name, place, counted, size in _oldest(self._cuttable(), excess):
            try:
                with _opened(self.fd, place) as directory:
                    gone = self._remove(directory, place, name, "over_quota", size)
            except OSError as error:
                self.tally.pass_over(error)
                continue
            if gone:
                self.quota_bytes -= counted
                self.tally.count_messages(-1, size)

    def finish(self):
        """Drop Dovecot's quota sums if they are no longer true; it makes them anew."""
        if not self.changed:
            return
        try:
            os.unlink("maildirsize", dir_fd=self.fd)
        except FileNotFoundError:
            pass
        except OSError as error:
            self.tally.pass_over(error)

    def last_login(self):
        """Return when the address was used last, and whether it has a password.

        Without one nobody can have logged in since the directory changed last: a login would have
        made the password. Something else of that name proves nothing: that is "just now".
        """
        try:
            status = os.stat("password", dir_fd=self.fd, follow_symlinks=False)
        except FileNotFoundError:
            return os.fstat(self.fd).st_mtime, False
        self.password = status
        if not stat.S_ISREG(status.st_mode):
            return math.inf, False
        return status.st_mtime, True

    def announce(self, reason, *place):
        """Say in a dry run what would go."""
        if self.plan.announces:
            self.tally.announced.append((reason, "/".join((self.name, *place))))

    def _scan_folder(self, folder, place):
        tally = self.tally
        with os.scandir(folder) as entries:
            for entry in entries:
                self.is_empty = False
                name = entry.name
                try:
                    if not entry.is_dir(follow_symlinks=False):
                        tally.extra_bytes += self._extra_bytes(entry, place)
                    elif name in MESSAGE_DIRECTORIES:
                        self._descend(folder, (*place, name), self._scan_messages)
                    elif place:
                        tally.passed_over["strange"] += 1  # Maildir++ folders do not nest
                    else:
                        self._descend(folder, (name,), self._scan_folder)
                except OSError as error:
                    tally.pass_over(error)

    def _descend(self, parent, place, visit):
        fd = os.open(place[-1], OPEN_DIRECTORY, dir_fd=parent)
        try:
            visit(fd, place)
        finally:
            os.close(fd)

    def _extra_bytes(self, entry, place):
        """Return the size of a file that is no message."""
        if entry.name == "password" and not place and self.password:
            status = self.password  # one look at it is enough
        else:
            status = entry.stat(follow_symlinks=False)
        if stat.S_ISREG(status.st_mode):
            return status.st_size
        self.tally.passed_over["strange"] += 1
        return 0

    def _scan_messages(self, directory, place):
        """Remove what is past its time, count the rest. This loop is nearly all of a run's work."""
        self.places.append(place)
        tally, old, is_cut = self.tally, self.plan.old, self.is_cut
        parsed = (MESSAGE if is_cut else TIMED).match
        small = small_bytes = quota_bytes = 0
        with os.scandir(directory) as entries:
            for entry in entries:
                match = parsed(entry.name)
                if match is None or not entry.is_file(follow_symlinks=False):
                    tally.passed_over["strange"] += 1
                    continue
                try:
                    status = entry.stat(follow_symlinks=False)
                except OSError as error:
                    tally.pass_over(error)
                    continue
                size = status.st_size
                may_be_due = status.st_mtime < old or size > LARGE_BYTES
                if may_be_due and self._expire(entry, status, directory, place):
                    continue
                if size < LEAST_LARGE_CLASS:  # nearly all are: they are added up below
                    small += 1
                    small_bytes += size
                else:
                    tally.count_messages(1, size)
                if is_cut:
                    counted = match[2]
                    quota_bytes += size if counted is None else int(counted or 0)
        tally.messages[1] += small
        tally.bytes[1] += small_bytes
        self.quota_bytes += quota_bytes

    def _expire(self, entry, status, directory, place):
        """Remove a message that is past its time; return False if it is not."""
        reason = self._due(status, place)
        if reason:
            self._remove(directory, place, entry.name, reason, status.st_size)
        return reason is not None

    def _due(self, status, place):
        """Return why a message is past its time, or None."""
        if status.st_mtime < self.plan.old:
            return "old"
        if (
            status.st_mtime < self.plan.large
            and status.st_size > LARGE_BYTES
            and place[-1] == "cur"
        ):
            return "large"
        return None

    def _cuttable(self):
        """Yield (arrival, name, place, bytes counted, bytes on disk) of what a cut may take.

        This looks at the mailbox a second time, which costs less than holding every mailbox's
        messages in memory for the few that are too full.
        """
        young = self.plan.now - YOUNG_SECONDS
        for place in self.places:
            with contextlib.suppress(OSError), _opened(self.fd, place) as directory:
                yield from self._cuttable_in(directory, place, young)

    def _cuttable_in(self, directory, place, young):
        with os.scandir(directory) as entries:
            for entry in entries:
                match = MESSAGE.match(entry.name)
                # The first look has counted what is passed over.
                with contextlib.suppress(OSError):
                    if match is None or not entry.is_file(follow_symlinks=False):
                        continue
                    status = entry.stat(follow_symlinks=False)
                    arrival = int(match[1])
                    if arrival <= young and not self._due(status, place):
                        counted = _counted_bytes(match, status)
                        yield arrival, entry.name, place, counted, status.st_size

    def _remove(self, directory, place, name, reason, size):
        """Remove a message from its open directory; return whether it is gone."""
        self.announce(reason, *place, name)
        if not self.plan.dry_run:
            try:
                os.unlink(name, dir_fd=directory)
            except OSError as error:
                self.tally.pass_over(error)
                return error.errno in NOT_THERE
            self.changed = True
        self.tally.removed[reason] += 1
        self.tally.removed_bytes += size
        return True


@contextlib.contextmanager
def _opened(directory, place):
    """Open the directory that the names in `place` lead to, one step at a time."""
    fd = os.open(place[0], OPEN_DIRECTORY, dir_fd=directory)
    try:
        for name in place[1:]:
            above, fd = fd, os.open(name, OPEN_DIRECTORY, dir_fd=fd)
            os.close(above)
        yield fd
    finally:
        os.close(fd)


def _counted_bytes(match, status):
    """Return a message's size as Dovecot's quota counts it."""
    counted = match[2]
    return status.st_size if counted is None else int(counted or 0)


def _oldest(messages, excess):
    """Return the fewest oldest messages that make up `excess` bytes, the oldest first.

    messages: tuples that begin with arrival and name, and have the bytes counted at index 3.
    However many there are, about twice as many as needed are held.
    """
    chosen, limit = [], CUT_LIST
    for message in messages:
        chosen.append(message)
        if len(chosen) >= limit:
            chosen = _first_bytes(chosen, excess)
            limit = max(CUT_LIST, 2 * len(chosen))
    return _first_bytes(chosen, excess)


def _first_bytes(messages, excess):
    messages.sort()
    total = 0
    for index, message in enumerate(messages):
        if total >= excess:
            return messages[:index]
        total += message[3]
    return messages


def _visit(plan, tally, root, name):
    """Open a mailbox and do what the plan says; whatever happens to it meanwhile is no error."""
    try:
        fd = os.open(name, OPEN_DIRECTORY, dir_fd=root)
        try:
            _expire_mailbox(root, Mailbox(plan, tally, name, fd))
        finally:
            os.close(fd)
    except OSError as error:
        tally.pass_over(error)


def _expire_mailbox(root, mailbox):
    """Remove a mailbox if nobody uses it, else what is past its time in it."""
    plan, tally = mailbox.plan, mailbox.tally
    last_login, has_password = mailbox.last_login()
    if last_login < plan.inactive and _remove_mailbox(root, mailbox):
        return
    mailbox.scan()
    if mailbox.is_empty and last_login < plan.empty:
        _remove_empty(root, mailbox)
        return
    tally.mailboxes += 1
    if has_password:
        tally.login(mailbox.name, (plan.now - last_login) / DAY)
    mailbox.cut()
    mailbox.finish()


def _remove_mailbox(root, mailbox):
    """Remove a whole mailbox; return False if somebody used it just now.

    Renaming is one step: a login before it touches `password`, which is seen afterwards and undoes
    it; a login after it finds no such address and makes a new one. A delivery either lands in the
    mailbox before, and goes with it, or fails for want of the directory.
    """
    mailbox.announce("inactive")
    if not mailbox.plan.dry_run:
        aside = _set_aside(root, mailbox.name)
        moved = os.stat(aside, dir_fd=root, follow_symlinks=False)
        # It may also be another one by now: deleted and made anew since it was opened.
        is_same = os.path.samestat(moved, os.fstat(mailbox.fd))
        if not is_same or mailbox.last_login()[0] >= mailbox.plan.inactive:
            os.rename(aside, mailbox.name, src_dir_fd=root, dst_dir_fd=root)
            return False
        _remove_tree(root, aside, mailbox.tally)
    mailbox.tally.removed["inactive"] += 1
    return True


def _remove_one(settings, address):
    """Remove the mailbox of an address and every trace of it; return what `remove` documents."""
    name = _mailbox_name(settings, address)
    plan, tally = _report_plan(settings), Tally()
    with _mailboxes_dir(plan) as root:
        try:
            os.close(os.open(name, OPEN_DIRECTORY, dir_fd=root))  # no link, no file
            aside = _set_aside(root, name)
        except FileNotFoundError:
            aside = None
        except OSError as error:
            raise ExpireError(f"cannot remove the mailbox {name!r}: {error.strerror}") from error
        if aside:
            _remove_tree(root, aside, tally)
    pending = _remove_pending(plan.pending_dir, lambda other: other == name, tally)
    return {"removed": aside is not None, "pending": pending}


def _set_aside(root, name):
    """Rename a mailbox in one step to what no login and no delivery finds; return the new name."""
    aside = ASIDE + os.urandom(8).hex()
    os.rename(name, aside, src_dir_fd=root, dst_dir_fd=root)
    return aside


def _remove_tree(root, name, tally):
    """Remove a directory that was set aside. What resists is counted and left to the next run."""
    import shutil

    # Of the standard library's making, by directory descriptors too; too deep a tree makes it stop.
    with contextlib.suppress(RecursionError):
        shutil.rmtree(name, ignore_errors=True, dir_fd=root)
    with contextlib.suppress(FileNotFoundError):
        os.stat(name, dir_fd=root, follow_symlinks=False)
        tally.passed_over["unreadable"] += 1


def _remove_empty(root, mailbox):
    mailbox.announce("empty")
    if not mailbox.plan.dry_run:
        os.rmdir(mailbox.name, dir_fd=root)  # fails if anything has come into it
    mailbox.tally.removed["empty"] += 1


# --- notifications --------------------------------------------------------------------------------


def _remove_pending(directory, is_gone, tally):
    """Remove the notifications whose address `is_gone` tells to be gone; return their number.

    chatmail-dict gives up what it finds no file for. A file of its making keeps its address for
    good, so what is read here is true of what is removed. Other files are counted and stay.
    """
    removed = 0
    try:
        with _opened(None, (directory,)) as fd, os.scandir(fd) as entries:
            for entry in entries:
                if entry.name.startswith(PENDING_DRAFT):
                    continue
                try:
                    if is_gone(_pending_address(fd, entry.name)):
                        os.unlink(entry.name, dir_fd=fd)
                        removed += 1
                except OSError as error:
                    tally.pass_over(error)
                except (ValueError, KeyError, TypeError, RecursionError):
                    tally.passed_over["strange"] += 1
    except FileNotFoundError:
        pass  # chatmail-dict has never run here
    except OSError as error:
        tally.pass_over(error)
    return removed


def _pending_address(directory, name):
    """Return the address in a notification's file. Raises ValueError or its like for another."""
    # A pipe must not hold this up: without O_NONBLOCK, opening one waits for a writer.
    fd = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=directory)
    try:
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            raise ValueError("no file")
        text = os.read(fd, PENDING_BYTES + 1)
    finally:
        os.close(fd)
    if len(text) > PENDING_BYTES:
        raise ValueError("longer than any notification")
    address = json.loads(text)["address"]
    if not isinstance(address, str):
        raise ValueError("no address")
    return address


def _has_no_mailbox(plan, root, address):
    """Tell whether nobody can log in to an address. Raises ValueError for one of another relay."""
    if not _is_address(address, plan.domain):
        raise ValueError("no address of this relay")
    try:
        with _opened(root, (address,)) as mailbox:
            os.stat("password", dir_fd=mailbox, follow_symlinks=False)
    except FileNotFoundError:
        return True
    return False


# --- all mailboxes --------------------------------------------------------------------------------


def _sweep(plan, workers=1, watch=None):
    """Go once over all mailboxes; return what `run` documents.

    workers: processes that share the work.
    watch: called with the sums so far and the newest batch's Tally.
    """
    plan, total = plan._replace(announces=plan.dry_run and watch is not None), Tally()
    with _mailboxes_dir(plan) as root:
        if plan.expires:
            _lock(root, plan)
        batches = _batches(_names(plan, root, total))
        for tally in _tallies(plan, batches, workers):
            total.add(tally)
            if watch:
                watch(total, tally)
        if plan.expires:
            _remove_leftovers(root, total)
            total.removed_notifications = _remove_pending(
                plan.pending_dir, lambda address: _has_no_mailbox(plan, root, address), total
            )
    return {"dry_run": plan.dry_run, **total.as_dict()}


@contextlib.contextmanager
def _mailboxes_dir(plan):
    """Open the directory of all mailboxes; the operator may have made this one a link."""
    try:
        fd = os.open(plan.mailboxes_dir, OPEN_DIRECTORY & ~os.O_NOFOLLOW)
    except OSError as error:
        raise ExpireError(
            f"cannot open mailboxes_dir {plan.mailboxes_dir}: {error.strerror}. Is its disk"
            " mounted, and does it belong to vmail?"
        ) from error
    try:
        yield fd
    finally:
        os.close(fd)


def _lock(root, plan):
    """Keep a second run from taking what this one has set aside."""
    try:
        fcntl.flock(root, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise ExpireError(
            f"another run is at work in {plan.mailboxes_dir}. Wait until it has ended."
        ) from error


def _names(plan, root, tally):
    """Yield the mailboxes' names; count what is none."""
    with os.scandir(root) as entries:
        for entry in entries:
            if _is_address(entry.name, plan.domain) and entry.is_dir(follow_symlinks=False):
                yield entry.name
            elif not LEFT_ASIDE.fullmatch(entry.name):
                tally.passed_over["strange"] += 1


def _batches(names):
    while batch := list(itertools.islice(names, BATCH)):
        yield batch


def _tallies(plan, batches, workers):
    """Yield the Tally of each batch, as they come."""
    if workers == 1:
        yield from (_sweep_batch(plan, batch) for batch in batches)
        return
    # Here, not above: a quota warning needs none of it. Forked workers share this one's memory.
    from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
    from multiprocessing import get_context

    with ProcessPoolExecutor(workers, mp_context=get_context("fork")) as pool:
        waiting = set()
        for batch in batches:
            waiting.add(pool.submit(_sweep_batch, plan, batch))
            if len(waiting) > 2 * workers:
                done, waiting = wait(waiting, return_when=FIRST_COMPLETED)
                yield from (future.result() for future in done)
        yield from (future.result() for future in waiting)


def _sweep_batch(plan, names):
    """Do what the plan says in some mailboxes; return their Tally."""
    tally = Tally()
    with _mailboxes_dir(plan) as root:
        for name in names:
            _visit(plan, tally, root, name)
    return tally


def _remove_leftovers(root, tally):
    """Remove what an interrupted run has set aside."""
    with os.scandir(root) as entries:
        for entry in entries:
            if LEFT_ASIDE.fullmatch(entry.name) and entry.is_dir(follow_symlinks=False):
                _remove_tree(root, entry.name, tally)


# --- one mailbox ----------------------------------------------------------------------------------


def _cut_one(settings, path, target=None, dry_run=False, watch=None):
    """Cut one mailbox; return what `quota` documents."""
    name = _mailbox_name(settings, path)
    plan = _report_plan(settings)._replace(
        target=_target_bytes(settings, target),
        dry_run=dry_run,
        announces=dry_run and watch is not None,
    )
    tally = Tally()
    with _mailboxes_dir(plan) as root:
        try:
            fd = os.open(name, OPEN_DIRECTORY, dir_fd=root)
        except OSError as error:
            raise ExpireError(f"cannot open the mailbox {path!r}: {error.strerror}") from error
        try:
            mailbox = Mailbox(plan, tally, name, fd)
            mailbox.scan()
            before = mailbox.quota_bytes
            mailbox.cut()
            mailbox.finish()
        finally:
            os.close(fd)
    if watch:
        watch(tally, tally)
    result = {"dry_run": dry_run, "before": before, "after": mailbox.quota_bytes}
    shared = ("removed", "removed_bytes", "passed_over")
    return result | {key: value for key, value in tally.as_dict().items() if key in shared}


def _mailbox_name(settings, path):
    """Return the directory name of an address, given as such or as its path in mailboxes_dir."""
    path = str(path)  # Salt's command line makes a number of what looks like one
    parent, name = os.path.split(path.rstrip("/")) if path.startswith("/") else (None, path)
    wanted = settings["mailboxes_dir"].rstrip("/")
    if parent in (None, wanted) and _is_address(name, settings["address_domain"]):
        return name
    raise ExpireError(
        f"{path!r} is no mailbox of this relay. Give an address at {settings['address_domain']},"
        f" or the path of its directory in {wanted}."
    )


def _target_bytes(settings, target):
    if target is None:
        return _kept_bytes(settings)
    try:
        size = int(target)
    except (TypeError, ValueError):
        size = -1
    if size < 0:
        raise ExpireError(f"the target {target!r} is no number of bytes")
    return size


# --- the command line -----------------------------------------------------------------------------


def _main(arguments=None):
    """Run a command of the command line; return the exit status."""
    options = _parser().parse_args(arguments)
    watch = _watch(options)
    try:
        settings = _load_settings(options.config)
        if options.command == "quota":
            result = _cut_one(settings, options.path, options.target, options.dry_run, watch)
        elif options.command == "run":
            result = _sweep(_expiry_plan(settings, options.dry_run), _workers(), watch)
        else:
            result = _sweep(_report_plan(settings), _workers(), watch)["report"]
        if sys.stderr.isatty():
            print(file=sys.stderr)  # ends the progress line
        if options.prometheus and not options.dry_run:
            _write_metrics(options.prometheus, options.command, result)
    except ExpireError as error:
        print(f"chatmail_expire: {error}", file=sys.stderr)
        return 1
    if not options.quiet:
        print(json.dumps(result) if options.json else _text(options.command, result))
    return 0


def _parser():
    import argparse

    parser = argparse.ArgumentParser(
        prog="chatmail_expire.py", description="Expire mail, cut full mailboxes, report."
    )
    shared = argparse.ArgumentParser(add_help=False)
    shared.add_argument("--config", default=SETTINGS, help="the relay's settings (%(default)s)")
    shared.add_argument("--json", action="store_true", help="print the numbers as JSON")
    dry = argparse.ArgumentParser(add_help=False)
    dry.add_argument("--dry-run", action="store_true", help="remove nothing, list what would go")
    metrics = argparse.ArgumentParser(add_help=False)
    metrics.add_argument(
        "--prometheus", metavar="DIRECTORY", help="also write the numbers for Prometheus there"
    )
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("run", parents=[shared, dry, metrics], help="the daily run")
    cut = commands.add_parser("quota", parents=[shared, dry], help="cut one mailbox")
    cut.add_argument("path", help="an address, or its directory in mailboxes_dir")
    cut.add_argument("target", nargs="?", help="bytes to keep (70 %% of max_mailbox_size)")
    # Dovecot does not wait for what a quota warning prints, and logs a broken pipe.
    cut.add_argument("--quiet", action="store_true", help="print nothing but errors")
    commands.add_parser("report", parents=[shared, metrics], help="count addresses and mail")
    parser.set_defaults(dry_run=False, prometheus=None, quiet=False)
    return parser


def _workers():
    """Return how many processes share a sweep: it waits for the kernel, so one for each CPU."""
    return min(4, len(os.sched_getaffinity(0)))


def _watch(options):
    """Return a function that prints what a dry run would remove, and a terminal's progress line.

    None if neither is wanted: a dry run then need not gather names.
    """
    progress = sys.stderr.isatty()
    if options.json and not progress:
        return None

    def watch(total, newest):
        if not options.json:
            for reason, path in newest.announced:
                # A name may hold line ends or control characters; one line is one entry.
                print(f"would remove ({reason}): {path!a}")
        if progress:
            messages = sum(total.removed[reason] for reason in MESSAGE_REASONS)
            print(
                f"\r{total.mailboxes} mailboxes seen, {total.removed['inactive']} removed,"
                f" {messages} messages removed ",
                end="",
                file=sys.stderr,
                flush=True,
            )

    return watch


def _text(command, result):
    """Return a command's result as sentences; a service's journal keeps them."""
    if command == "report":
        return _report_text(result)
    would = "would remove" if result["dry_run"] else "removed"
    removed, passed = result["removed"], result["passed_over"]
    messages = ", ".join(f"{removed[reason]} {reason}" for reason in MESSAGE_REASONS)
    lines = [f"{would} messages: {messages} ({_size(result['removed_bytes'])})"]
    if command == "run":
        lines.append(
            f"{would} {removed['inactive']} inactive mailboxes,"
            f" {removed['empty']} empty directories"
        )
        if result["removed_notifications"]:
            lines.append(
                f"removed {result['removed_notifications']} notifications of lost addresses"
            )
    else:
        lines.append(f"quota: {_size(result['before'])} before, {_size(result['after'])} after")
    lines.append("passed over: " + ", ".join(f"{passed[cause]} {cause}" for cause in PASSED_OVER))
    return "\n".join(lines)


def _report_text(numbers):
    accounts, storage = numbers["accounts"], numbers["storage_bytes"]
    lines = [f"addresses: {accounts['all']} ({accounts['ci']} of them ci-)"]
    lines += [
        f"  active within {days} days: {number}"
        for days, number in numbers["accounts_active"].items()
    ]
    lines.append(
        f"storage: {_size(storage['total'])}"
        f" (messages {_size(storage['messages'])}, other files {_size(storage['extra'])})"
    )
    lines += [
        f"  messages of {_size(int(size))} or more: {number}"
        f" ({_size(numbers['messages_bytes'][size])})"
        for size, number in numbers["messages_count"].items()
    ]
    return "\n".join(lines)


def _size(number):
    """Return a number of bytes for people, in powers of 1024 as the settings have them."""
    for unit in ("B", "K", "M", "G"):
        if number < KIB or unit == "G":
            break
        number /= KIB
    return f"{number:.0f}{unit}" if unit == "B" else f"{number:.1f}{unit}"


# --- Prometheus -----------------------------------------------------------------------------------


def _write_metrics(directory, command, result):
    """Write `report.prom`, and after a run `expire.prom`, in Prometheus's text format."""
    numbers = result["report"] if command == "run" else result
    try:
        _replace(os.path.join(directory, "report.prom"), _report_metrics(numbers))
        if command == "run":
            path = os.path.join(directory, "expire.prom")
            _replace(path, _expire_metrics(_read_metrics(path), result["removed"]))
    except OSError as error:
        raise ExpireError(f"cannot write the metrics to {directory}: {error}") from error


def _report_metrics(numbers):
    """Return the report's numbers under the names that relays' dashboards use."""
    gauges = (
        ("storage_bytes", "kind", "Bytes on disk of messages and of the mailboxes' other files."),
        ("messages_bytes", "min_size", "Bytes of the messages of at least that many bytes."),
        ("messages_count", "min_size", "Messages of at least that many bytes."),
        ("accounts", "kind", "Addresses: all, those of tests (ci-), and the others."),
        ("accounts_active", "days", "Addresses but ci- that logged in within that many days."),
    )
    lines = []
    for name, label, text in gauges:
        lines += [f"# HELP chatmail_{name} {text}", f"# TYPE chatmail_{name} gauge"]
        lines += [
            f'chatmail_{name}{{{label}="{value}"}} {number}'
            for value, number in numbers[name].items()
        ]
    return "\n".join(lines) + "\n"


def _expire_metrics(before, removed):
    """Return the sums over all runs: those before this one, and what this one removed."""
    lines = ["# HELP chatmail_expire_runs_total Runs of the daily expiry."]
    lines.append("# TYPE chatmail_expire_runs_total counter")
    lines.append(f"chatmail_expire_runs_total {before.get('chatmail_expire_runs_total', 0) + 1}")
    lines.append("# HELP chatmail_expire_removed_total What expiry removed, by reason.")
    lines.append("# TYPE chatmail_expire_removed_total counter")
    for reason, number in removed.items():
        series = f'chatmail_expire_removed_total{{reason="{reason}"}}'
        lines.append(f"{series} {before.get(series, 0) + number}")
    return "\n".join(lines) + "\n"


def _read_metrics(path):
    """Return the numbers of a file of ours by series; none if there is no file yet."""
    with contextlib.suppress(FileNotFoundError), open(path, encoding="ascii") as file:
        lines = [line.split() for line in file if not line.startswith("#")]
        return {line[0]: int(line[1]) for line in lines if len(line) == 2}
    return {}


def _replace(path, text):
    """Write a file in one step, so that no reader sees half of it; everybody may read it."""
    aside = f"{path}.{os.getpid()}"
    with open(aside, "w", encoding="ascii") as file:
        os.fchmod(file.fileno(), 0o644)
        file.write(text)
    os.replace(aside, path)


if __name__ == "__main__":
    sys.exit(_main())
