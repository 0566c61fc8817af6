"""What a pass has seen and done, in numbers."""

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
# No longer as it was seen: gone, or no longer empty.
NOT_THERE = frozenset((errno.ENOENT, errno.ESTALE, errno.ENOTEMPTY, errno.EEXIST))
# What O_NOFOLLOW and O_DIRECTORY answer for a link or a file, and unlink(2) for a directory.
NOT_OF_ITS_KIND = frozenset((errno.ELOOP, errno.ENOTDIR, errno.EISDIR))


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
            "messages_bytes": _add_up_classes(self.bytes),
            "messages_count": _add_up_classes(self.messages),
        }


def _add_up_classes(by_class):
    """Turn numbers for each size class into numbers for each class and all above it."""
    return {str(size): sum(by_class[i:]) for i, size in enumerate(SIZE_CLASSES, 1)}
