"""The removal of messages from one mailbox: old messages, and the oldest ones of a full mailbox.

Other programs write to the mailbox at the same time. So each directory is opened by its name in the
directory above, never through a symbolic link (openat(2) with O_NOFOLLOW). A file is examined and
removed by its name in its open directory. No function follows a longer path.

In Maildir++, a mailbox contains `cur`, `new` and `tmp`. A folder is a directory in the mailbox that
contains them too.
"""

import contextlib
import math
import os
import re
import stat

from chatmaild.common.errors import OperatorError
from chatmaild.retention.plan import DAY
from chatmaild.retention.tally import LEAST_LARGE_CLASS, NOT_THERE

LARGE_BYTES = 200_000
YOUNG_SECONDS = DAY  # a cut does not remove messages that are younger
MESSAGE_DIRECTORIES = frozenset(("cur", "new", "tmp"))
# `<arrival>.<unique>,S=<size>,W=<size with CRLF>:2,<flags>`. Dovecot's quota counts the first `,S=`
# when only digits stand before the next `:`, `,` or the end, and the file's own size otherwise.
MESSAGE = re.compile(r"([0-9]+)\.[^,]*(?:,(?!S=)[^,]*)*(?:,S=(?:([0-9]*)(?![^:,]))?)?")
# The same names, for a scan that needs no sizes. It takes a third of the time.
TIMED = re.compile(r"[0-9]+\.")
OPEN_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
CUT_LIST = 10_000  # messages of one mailbox in memory, before the younger ones are dropped


class Mailbox:
    """One open mailbox.

    Other programs may remove, rename or add entries at any time. The methods count that in the
    tally and go on.

    plan: what to remove. tally: the counters. name: the address. fd: the open directory.
    """

    def __init__(self, plan, tally, name, fd):
        self.plan = plan
        self.tally = tally
        self.name = name
        self.fd = fd
        self.places = []  # the message directories, each as a tuple of names from the mailbox on
        self.is_empty = True
        self.is_cut = plan.target < math.inf
        self.quota_bytes = 0  # the bytes that stay, when the plan cuts mailboxes
        self.changed = False
        self.password = None  # the status of the password file, after last_login()

    def scan(self):
        """Look at every entry once. Remove the messages that are due, and count the others."""
        try:
            self._scan_folder(self.fd, ())
        except OSError as error:
            self.tally.pass_over(error)

    def cut(self):
        """Remove the oldest messages until the others have at most `target` bytes."""
        excess = self.quota_bytes - self.plan.target
        if excess <= 0:
            return
        for _, name, place, counted, size in choose_oldest(self._list_cuttable(), excess):
            try:
                with opened(self.fd, place) as directory:
                    gone = self._remove(directory, place, name, "over_quota", size)
            except OSError as error:
                self.tally.pass_over(error)
                continue
            if gone:
                self.quota_bytes -= counted
                self.tally.count_messages(-1, size)

    def finish(self):
        """Remove Dovecot's file of quota sums if it is wrong now. Dovecot makes a new one."""
        if not self.changed:
            return
        try:
            os.unlink("maildirsize", dir_fd=self.fd)
        except FileNotFoundError:
            pass
        except OSError as error:
            self.tally.pass_over(error)

    def last_login(self):
        """Return the time of the last login in Unix seconds, and whether there is a password.

        Without a password, the last change of the directory counts, because a later login would
        have made a password. When `password` is not a file, nothing is known. Then the result is
        infinity, so that the mailbox stays.
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
        """Note an entry that a dry run would remove."""
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
                        tally.extra_bytes += self._count_extra_bytes(entry, place)
                    elif name in MESSAGE_DIRECTORIES:
                        self._descend(folder, (*place, name), self._scan_messages)
                    elif place:
                        tally.passed_over["strange"] += 1  # Maildir++ has no folders in folders.
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

    def _count_extra_bytes(self, entry, place):
        """Return the size in bytes of a file that is not a message."""
        if entry.name == "password" and not place and self.password:
            status = self.password  # This saves a second system call.
        else:
            status = entry.stat(follow_symlinks=False)
        if stat.S_ISREG(status.st_mode):
            return status.st_size
        self.tally.passed_over["strange"] += 1
        return 0

    def _scan_messages(self, directory, place):
        """Remove the messages that are due, and count the others.

        A run spends nearly all of its time in this loop. An old file with any name is removed:
        Dovecot keeps no other files here, and files of other programs would stay for ever. Only a
        file with the name of a message counts as a message.
        """
        self.places.append(place)
        tally, old, is_cut = self.tally, self.plan.old, self.is_cut
        parsed = (MESSAGE if is_cut else TIMED).match
        small = small_bytes = quota_bytes = 0
        with os.scandir(directory) as entries:
            for entry in entries:
                if not entry.is_file(follow_symlinks=False):
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
                match = parsed(entry.name)
                if match is None:
                    tally.passed_over["strange"] += 1
                    continue
                if size < LEAST_LARGE_CLASS:  # Nearly all are; they are added up below.
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
        """Remove a message if it is due; return whether it is due."""
        reason = self._find_reason(status, place)
        if reason:
            self._remove(directory, place, entry.name, reason, status.st_size)
        return reason is not None

    def _find_reason(self, status, place):
        """Return the reason to remove a message, or None when it is not due."""
        if status.st_mtime < self.plan.old:
            return "old"
        if (
            status.st_mtime < self.plan.large
            and status.st_size > LARGE_BYTES
            and place[-1] == "cur"
        ):
            return "large"
        return None

    def _list_cuttable(self):
        """Yield the messages that a cut may remove.

        They are tuples: (arrival, name, place, bytes in the quota, bytes on disk). This reads the
        mailbox a second time. Few mailboxes are too full, so that costs less than to keep the
        messages of every mailbox in memory.
        """
        young = self.plan.now - YOUNG_SECONDS
        for place in self.places:
            with contextlib.suppress(OSError), opened(self.fd, place) as directory:
                yield from self._list_cuttable_in(directory, place, young)

    def _list_cuttable_in(self, directory, place, young):
        with os.scandir(directory) as entries:
            for entry in entries:
                match = MESSAGE.match(entry.name)
                # The scan has counted the entries that are passed over.
                with contextlib.suppress(OSError):
                    if match is None or not entry.is_file(follow_symlinks=False):
                        continue
                    status = entry.stat(follow_symlinks=False)
                    arrival = int(match[1])
                    if arrival <= young and not self._find_reason(status, place):
                        counted = _count_bytes(match, status)
                        yield arrival, entry.name, place, counted, status.st_size

    def _remove(self, directory, place, name, reason, size):
        """Remove a message from its open directory; return whether it does not exist any more."""
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
def open_mailboxes_dir(plan):
    """Open the directory of all mailboxes. Only this directory may be a symbolic link."""
    try:
        fd = os.open(plan.mailboxes_dir, OPEN_DIRECTORY & ~os.O_NOFOLLOW)
    except OSError as error:
        raise OperatorError(
            f"cannot open mailboxes_dir {plan.mailboxes_dir}: {error.strerror}. Is its disk"
            " mounted, and does it belong to vmail?"
        ) from error
    try:
        yield fd
    finally:
        os.close(fd)


@contextlib.contextmanager
def opened(directory, place):
    """Open a directory below `directory`. `place` has the names of each step."""
    fd = os.open(place[0], OPEN_DIRECTORY, dir_fd=directory)
    try:
        for name in place[1:]:
            above, fd = fd, os.open(name, OPEN_DIRECTORY, dir_fd=fd)
            os.close(above)
        yield fd
    finally:
        os.close(fd)


def _count_bytes(match, status):
    """Return the size of a message in bytes as Dovecot's quota counts it."""
    counted = match[2]
    return status.st_size if counted is None else int(counted or 0)


def choose_oldest(messages, excess):
    """Return the smallest number of oldest messages with at least `excess` bytes, oldest first.

    messages: tuples that begin with arrival and name, with the bytes in the quota at index 3.
    Only about twice as many tuples as needed are in memory at a time.
    """
    chosen, limit = [], CUT_LIST
    for message in messages:
        chosen.append(message)
        if len(chosen) >= limit:
            chosen = _take_first_bytes(chosen, excess)
            limit = max(CUT_LIST, 2 * len(chosen))
    return _take_first_bytes(chosen, excess)


def _take_first_bytes(messages, excess):
    messages.sort()
    total = 0
    for index, message in enumerate(messages):
        if total >= excess:
            return messages[:index]
        total += message[3]
    return messages
