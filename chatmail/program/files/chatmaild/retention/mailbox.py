"""One mailbox, open while it is looked at: what is past its time goes, a full one shrinks.

A mailbox is a directory that somebody else writes to meanwhile. So each directory is opened by its
name in the directory above, never through a symbolic link (openat(2) with O_NOFOLLOW), and a file
is looked at and removed by its name in that open directory. No path is joined and followed.

Maildir++: a mailbox holds `cur`, `new` and `tmp`, and so does each folder (a directory) in it.
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
YOUNG_SECONDS = DAY  # no cut takes what arrived within it
MESSAGE_DIRECTORIES = frozenset(("cur", "new", "tmp"))
# `<arrival>.<unique>,S=<size>,W=<size with CRLF>:2,<flags>`. Dovecot's quota counts the first `,S=`
# when only digits stand before the next `:`, `,` or the end, and the file's own size otherwise.
MESSAGE = re.compile(r"([0-9]+)\.[^,]*(?:,(?!S=)[^,]*)*(?:,S=(?:([0-9]*)(?![^:,]))?)?")
TIMED = re.compile(r"[0-9]+\.")  # the same names, for who needs no sizes: a third of the time
OPEN_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
CUT_LIST = 10_000  # messages of one mailbox held in memory before the younger are dropped


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
        for _, name, place, counted, size in choose_oldest(self._cuttable(), excess):
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
        """Remove what is past its time, count the rest. This loop is nearly all of a run's work.

        A file of any name goes by its age: nothing of Dovecot's own lies here, and what another
        program left would stay for ever. Only what is named like a message counts as one.
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
            with contextlib.suppress(OSError), opened(self.fd, place) as directory:
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
                        counted = _count_bytes(match, status)
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
def open_mailboxes_dir(plan):
    """Open the directory of all mailboxes; the operator may have made this one a link."""
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
    """Open the directory that the names in `place` lead to, one step at a time."""
    fd = os.open(place[0], OPEN_DIRECTORY, dir_fd=directory)
    try:
        for name in place[1:]:
            above, fd = fd, os.open(name, OPEN_DIRECTORY, dir_fd=fd)
            os.close(above)
        yield fd
    finally:
        os.close(fd)


def _count_bytes(match, status):
    """Return a message's size as Dovecot's quota counts it."""
    counted = match[2]
    return status.st_size if counted is None else int(counted or 0)


def choose_oldest(messages, excess):
    """Return the fewest oldest messages that make up `excess` bytes, the oldest first.

    messages: tuples that begin with arrival and name, and have the bytes counted at index 3.
    However many there are, about twice as many as needed are held.
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
