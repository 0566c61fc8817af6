"""The removal of the notifications that wait for the devices of a removed address."""

import json
import os
import stat

from chatmaild.common.atomic_files import DRAFT_PREFIX
from chatmaild.retention.mailbox import opened
from chatmaild.retention.plan import is_address

# A notification has an address and a token of 4096 characters. JSON may need two bytes for a
# character.
PENDING_BYTES = 16384


def remove_pending(directory, is_gone, tally):
    """Remove the notifications of addresses that do not exist; return their number.

    is_gone: a function of an address.
    chatmail-accounts gives up a notification without a file. It never changes the address in a
    file, so the file that is removed has the address that was read. Other files are counted and
    stay.
    """
    removed = 0
    try:
        with opened(None, (directory,)) as fd, os.scandir(fd) as entries:
            for entry in entries:
                # The service is writing this file. If a crash left it, the service removes it.
                if entry.name.startswith(DRAFT_PREFIX):
                    continue
                try:
                    if is_gone(_read_address(fd, entry.name)):
                        os.unlink(entry.name, dir_fd=fd)
                        removed += 1
                except OSError as error:
                    tally.pass_over(error)
                except (ValueError, KeyError, TypeError, RecursionError):
                    tally.passed_over["strange"] += 1
    except FileNotFoundError:
        pass  # chatmail-accounts has never run here.
    except OSError as error:
        tally.pass_over(error)
    return removed


def _read_address(directory, name):
    """Return the address in the file of a notification.

    Raises ValueError, KeyError, TypeError or RecursionError for another file.
    """
    # Without O_NONBLOCK, opening a pipe would wait for a writer.
    fd = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=directory)
    try:
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            raise ValueError("no file")
        text = os.read(fd, PENDING_BYTES + 1)
    finally:
        os.close(fd)
    if len(text) > PENDING_BYTES:
        raise ValueError("too long for a notification")
    address = json.loads(text)["address"]
    if not isinstance(address, str):
        raise ValueError("no address")
    return address


def has_no_mailbox(plan, root, address):
    """Return whether an address has no password file, so that it does not exist.

    Raises ValueError for an address of another relay.
    """
    if not is_address(address, plan.domain):
        raise ValueError("no address of this relay")
    try:
        with opened(root, (address,)) as mailbox:
            os.stat("password", dir_fd=mailbox, follow_symlinks=False)
    except FileNotFoundError:
        return True
    return False
