"""The removal of complete mailboxes: unused ones, empty ones, and one that the operator names."""

import contextlib
import os

from chatmaild.common.errors import OperatorError
from chatmaild.retention.mailbox import OPEN_DIRECTORY, Mailbox, open_mailboxes_dir
from chatmaild.retention.notifications import remove_pending
from chatmaild.retention.plan import DAY, find_mailbox_name, make_report_plan
from chatmaild.retention.tally import Tally

# A mailbox is renamed before it is removed. The new name has no `@`, so no login and no delivery
# finds it. It does not contain the address.
ASIDE = ".expired-"


def visit(plan, tally, root, name):
    """Open a mailbox and do what the plan says. Changes by other programs are no error."""
    try:
        fd = os.open(name, OPEN_DIRECTORY, dir_fd=root)
        try:
            _expire_mailbox(root, Mailbox(plan, tally, name, fd))
        finally:
            os.close(fd)
    except OSError as error:
        tally.pass_over(error)


def _expire_mailbox(root, mailbox):
    """Remove a mailbox if it is unused, or else the messages in it that are due."""
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
    """Remove a complete mailbox; return False if the address was used just now.

    Renaming is one step. A login before it touches `password`: this function notices that after the
    renaming, and undoes it. A login after it finds no address and creates a new one. A delivery
    before it is removed with the mailbox. A delivery after it fails, because the directory does not
    exist.
    """
    mailbox.announce("inactive")
    if not mailbox.plan.dry_run:
        aside = _set_aside(root, mailbox.name)
        moved = os.stat(aside, dir_fd=root, follow_symlinks=False)
        # It may be another mailbox now, if the address was deleted and created again meanwhile.
        is_same = os.path.samestat(moved, os.fstat(mailbox.fd))
        if not is_same or mailbox.last_login()[0] >= mailbox.plan.inactive:
            os.rename(aside, mailbox.name, src_dir_fd=root, dst_dir_fd=root)
            return False
        remove_tree(root, aside, mailbox.tally)
    mailbox.tally.removed["inactive"] += 1
    return True


def remove_one(settings, address):
    """Remove the mailbox and the notifications of an address.

    Returns {"removed": whether the mailbox existed, "pending": the number of notifications}.
    """
    plan, tally = make_report_plan(settings), Tally()
    name = find_mailbox_name(settings, address)
    with open_mailboxes_dir(plan) as root:
        try:
            # This refuses a link and a file.
            os.close(os.open(name, OPEN_DIRECTORY, dir_fd=root))
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
    """Rename a mailbox, so that no login and no delivery finds it; return the new name."""
    aside = ASIDE + os.urandom(8).hex()
    os.rename(name, aside, src_dir_fd=root, dst_dir_fd=root)
    return aside


def remove_tree(root, name, tally):
    """Remove a directory that was set aside. A rest is counted, and the next run removes it."""
    import shutil  # Few runs need this module, and loading it takes time.

    # rmtree() uses directory descriptors, as this package does. It stops in a tree that is too
    # deep.
    with contextlib.suppress(RecursionError):
        shutil.rmtree(name, ignore_errors=True, dir_fd=root)
    with contextlib.suppress(FileNotFoundError):
        os.stat(name, dir_fd=root, follow_symlinks=False)
        tally.passed_over["unreadable"] += 1


def _remove_empty(root, mailbox):
    mailbox.announce("empty")
    if not mailbox.plan.dry_run:
        os.rmdir(mailbox.name, dir_fd=root)  # This fails if the directory is not empty any more.
    mailbox.tally.removed["empty"] += 1
