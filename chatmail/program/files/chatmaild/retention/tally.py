"""The numbers of a pass over the mailboxes."""

import errno
from bisect import bisect_left, bisect_right
from collections import Counter

ACTIVE_DAYS = (1, 10, 30, 40, 80, 100, 150)
KIB = 1024
SIZE_CLASSES = (0, 100 * KIB, 512 * KIB, 1024 * KIB, 2048 * KIB, 5120 * KIB, 10240 * KIB)
LEAST_LARGE_CLASS = SIZE_CLASSES[1]
MESSAGE_REASONS = ("old", "large", "over_quota")
REASONS = (*MESSAGE_REASONS, "inactive", "empty")
PASSED_OVER = ("vanished", "strange", "unreadable")
# The errors for an entry that has changed meanwhile: it is gone, or not empty any more.
NOT_THERE = frozenset((errno.ENOENT, errno.ESTALE, errno.ENOTEMPTY, errno.EEXIST))
# The errors for an entry of another kind: a link or a file that was opened as a directory, or a
# directory for unlink(2).
NOT_OF_ITS_KIND = frozenset((errno.ELOOP, errno.ENOTDIR, errno.EISDIR))


class Tally:
    """The numbers of a pass, or of a batch of mailboxes."""

    def __init__(self):
        self.removed = Counter()  # by reason (REASONS)
        self.removed_bytes = 0
        self.removed_notifications = 0
        self.passed_over = Counter()  # by cause (PASSED_OVER)
        self.mailboxes = 0
        self.machines = 0  # addresses whose name begins with `ci-`
        self.users = [0] * (len(ACTIVE_DAYS) + 1)  # other addresses, by index in ACTIVE_DAYS
        self.extra_bytes = 0
        # Messages and their bytes, by index + 1 in SIZE_CLASSES.
        self.messages = [0] * (len(SIZE_CLASSES) + 1)
        self.bytes = [0] * (len(SIZE_CLASSES) + 1)
        self.announced = []  # (reason, path in mailboxes_dir), in a dry run only

    def add(self, other):
        """Add the numbers of another batch. The announcements are not added."""
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
        """Count a message. number: 1, or -1 to take it back. size: its bytes on disk."""
        index = bisect_right(SIZE_CLASSES, size)
        self.messages[index] += number
        self.bytes[index] += number * size

    def login(self, name, days):
        """Count an address. days: the number of days since its last login."""
        if name.startswith("ci-"):
            self.machines += 1
        else:
            self.users[bisect_left(ACTIVE_DAYS, days)] += 1

    def as_dict(self):
        """Return the numbers in the form that `chatmail_expire.run` describes."""
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
        # The keys are texts, because JSON has no other keys. The mine and the command line use it.
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
            "messages_bytes": _add_up_classes(self.bytes),
            "messages_count": _add_up_classes(self.messages),
        }


def _add_up_classes(by_class):
    """Return for each size class the sum of its number and those of the larger classes."""
    return {str(size): sum(by_class[i:]) for i, size in enumerate(SIZE_CLASSES, 1)}
