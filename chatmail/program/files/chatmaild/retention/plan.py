"""The plan of one pass over the mailboxes, made from the relay's settings."""

import math
import os
import re
import time
import typing

from chatmaild.common.errors import OperatorError

# The directory of chatmail-accounts for notifications that wait (metadata/service.py, PENDING).
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
KEPT_PERCENT = 70  # of max_mailbox_size; a cut leaves this much
# A login that creates an address makes an empty directory first. That one must not be removed.
EMPTY_SECONDS = 60
LOCAL_PART = re.compile(r"[a-z0-9._-]+")


class Plan(typing.NamedTuple):
    """What one pass does. Times are Unix seconds. The defaults remove nothing.

    old: messages that were written before this time are removed.
    large: large messages in `cur` that were written before this time are removed.
    inactive: addresses whose last login was before this time are removed.
    empty: empty directories that changed before this time are removed.
    target: the bytes that a mailbox may keep.
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
    announces: bool = False  # whether a dry run collects names, not only numbers

    @property
    def expires(self):
        """Whether this pass removes anything by age."""
        return self.inactive > -math.inf and not self.dry_run


def make_report_plan(settings):
    """Return the plan of a pass that only counts.

    Raises OperatorError when a setting is missing, as in the file of another release.
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
    """Return the plan of a pass that removes old mail and addresses, and cuts full mailboxes."""
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
    """Return the number of bytes that a cut leaves."""
    return settings["max_mailbox_size"] * KEPT_PERCENT // 100


def is_address(name, domain):
    """Return whether the name of a directory is an address of this relay.

    The length does not count, because addresses stay when `username_max_length` changes.
    """
    local, at, rest = name.rpartition("@")
    return bool(at) and rest == domain and LOCAL_PART.fullmatch(local) is not None


def find_mailbox_name(settings, path):
    """Return the name of a mailbox's directory.

    path: an address, or the path of its directory in mailboxes_dir. Raises OperatorError.
    """
    path = str(path)  # Salt's command line turns some texts into numbers.
    parent, name = os.path.split(path.rstrip("/")) if path.startswith("/") else (None, path)
    wanted = settings["mailboxes_dir"].rstrip("/")
    if parent in (None, wanted) and is_address(name, settings["address_domain"]):
        return name
    raise OperatorError(
        f"{path!r} is no mailbox of this relay. Give an address at {settings['address_domain']},"
        f" or the path of its directory in {wanted}."
    )


def check_target(settings, target):
    """Return the number of bytes that a cut may leave.

    target: a number, or None for the default. Raises OperatorError when it is not a number.
    """
    if target is None:
        return kept_bytes(settings)
    try:
        size = int(target)
    except (TypeError, ValueError):
        size = -1
    if size < 0:
        raise OperatorError(f"the target {target!r} is no number of bytes")
    return size
