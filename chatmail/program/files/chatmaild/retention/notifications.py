"""The notifications that wait for the devices of an address: they go with it."""

import json
import os
import stat

from chatmaild.common.atomic_files import DRAFT_PREFIX
from chatmaild.retention.mailbox import opened
from chatmaild.retention.plan import is_address

# A notification holds an address and a token of 4096 characters, each escaped by a second at most.
PENDING_BYTES = 16384


def remove_pending(directory, is_gone, tally):
    """Remove the notifications whose address `is_gone` tells to be gone; return their number.

    chatmail-metadata gives up what it finds no file for. A file of its making keeps its address for
    good, so what is read here is true of what is removed. Other files are counted and stay.
    """
    removed = 0
    try:
        with opened(None, (directory,)) as fd, os.scandir(fd) as entries:
            for entry in entries:
                # Being written; the service drops what a crash has left of these.
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
        pass  # chatmail-metadata has never run here
    except OSError as error:
        tally.pass_over(error)
    return removed


def _read_address(directory, name):
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


def has_no_mailbox(plan, root, address):
    """Tell whether nobody can log in to an address. Raises ValueError for one of another relay."""
    if not is_address(address, plan.domain):
        raise ValueError("no address of this relay")
    try:
        with opened(root, (address,)) as mailbox:
            os.stat("password", dir_fd=mailbox, follow_symlinks=False)
    except FileNotFoundError:
        return True
    return False
