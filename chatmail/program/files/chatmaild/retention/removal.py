"""Whole mailboxes that go: those that nobody uses, empty ones, and one that the operator names."""

import contextlib
import os

from chatmaild.common.errors import OperatorError
from chatmaild.retention.mailbox import OPEN_DIRECTORY, Mailbox, open_mailboxes_dir
from chatmaild.retention.notifications import remove_pending
from chatmaild.retention.plan import DAY, find_mailbox_name, make_report_plan
from chatmaild.retention.tally import Tally

# A mailbox to be removed is renamed to this first. It has no `@`, so no login and no delivery
# finds it, and no address in it, so nothing tells whose it was.
ASIDE = ".expired-"


def visit(plan, tally, root, name):
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
        remove_tree(root, aside, mailbox.tally)
    mailbox.tally.removed["inactive"] += 1
    return True


def remove_one(settings, address):
    """Remove the mailbox of an address and every trace of it; return what `remove` documents."""
    plan, tally = make_report_plan(settings), Tally()
    name = find_mailbox_name(settings, address)
    with open_mailboxes_dir(plan) as root:
        try:
            os.close(os.open(name, OPEN_DIRECTORY, dir_fd=root))  # no link, no file
            aside = _set_aside(root, name)
        except FileNotFoundError:
            aside = None
        except OSError as error:
            raise OperatorError(f"cannot remove the mailbox {name!r}: {error.strerror}") from error
        if aside:
            remove_tree(root, aside, tally)
    pending = remove_pending(plan.pending_dir, lambda other: other == name, tally)
    return {"removed": aside is not None, "pending": pending}


def _set_aside(root, name):
    """Rename a mailbox in one step to what no login and no delivery finds; return the new name."""
    aside = ASIDE + os.urandom(8).hex()
    os.rename(name, aside, src_dir_fd=root, dst_dir_fd=root)
    return aside


def remove_tree(root, name, tally):
    """Remove a directory that was set aside. What resists is counted and left to the next run."""
    import shutil  # what few runs need, and much to load

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
