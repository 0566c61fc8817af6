"""What one pass over the mailboxes does, made from the relay's settings."""

import math
import os
import re
import time
import typing

from chatmaild.common.errors import OperatorError

# Where chatmail-metadata keeps the notifications that wait for their next try (its PENDING).
PENDING = "/var/lib/chatmail-metadata/pending"
NEEDED_SETTINGS = (
    "address_domain",
    "delete_inactive_users_after",
    "delete_large_after",
    "delete_mails_after",
    "mailboxes_dir",
    "max_mailbox_size",
)
DAY = 86400  # seconds
KEPT_PERCENT = 70  # of max_mailbox_size: what a cut leaves
# A login that makes an address has an empty directory for a moment. It is not pulled from under it.
EMPTY_SECONDS = 60
LOCAL_PART = re.compile(r"[a-z0-9._-]+")


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


def make_report_plan(settings):
    """Return a pass that only counts.

    Raises OperatorError for settings of a release that had other ones.
    """
    missing = [key for key in NEEDED_SETTINGS if key not in settings]
    if missing:
        raise OperatorError(
            f"the settings file lacks {', '.join(missing)}. Apply the chatmail state again."
        )
    return Plan(
        mailboxes_dir=settings["mailboxes_dir"].rstrip("/"),
        pending_dir=PENDING,
        domain=settings["address_domain"],
        now=time.time(),
    )


def make_expiry_plan(settings, dry_run):
    """Return a pass that removes what is past its time and cuts full mailboxes."""
    plan = make_report_plan(settings)
    return plan._replace(
        old=plan.now - settings["delete_mails_after"] * DAY,
        large=plan.now - settings["delete_large_after"] * DAY,
        inactive=plan.now - settings["delete_inactive_users_after"] * DAY,
        empty=plan.now - EMPTY_SECONDS,
        target=kept_bytes(settings),
        dry_run=dry_run,
    )


def kept_bytes(settings):
    """Return how many bytes a cut leaves."""
    return settings["max_mailbox_size"] * KEPT_PERCENT // 100


def is_address(name, domain):
    """Tell whether a directory's name is an address of this relay.

    Its length is no matter: addresses outlive a change of `username_max_length`.
    """
    local, at, rest = name.rpartition("@")
    return bool(at) and rest == domain and LOCAL_PART.fullmatch(local) is not None


def find_mailbox_name(settings, path):
    """Return the directory name of an address, given as such or as its path in mailboxes_dir."""
    path = str(path)  # Salt's command line makes a number of what looks like one
    parent, name = os.path.split(path.rstrip("/")) if path.startswith("/") else (None, path)
    wanted = settings["mailboxes_dir"].rstrip("/")
    if parent in (None, wanted) and is_address(name, settings["address_domain"]):
        return name
    raise OperatorError(
        f"{path!r} is no mailbox of this relay. Give an address at {settings['address_domain']},"
        f" or the path of its directory in {wanted}."
    )


def check_target(settings, target):
    """Return the bytes that a cut may leave. Raises OperatorError for what is no number."""
    if target is None:
        return kept_bytes(settings)
    try:
        size = int(target)
    except (TypeError, ValueError):
        size = -1
    if size < 0:
        raise OperatorError(f"the target {target!r} is no number of bytes")
    return size
