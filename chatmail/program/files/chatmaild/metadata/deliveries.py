"""Tells of each message that Dovecot delivered.

Dovecot's `push.lua` makes an empty file for each message, whose name is `<address> <uid>`, or
`<address> <uid> own` when the address sent the message to itself. A file costs the delivery less
than a question to a service, and it waits when the service restarts.
"""

import asyncio
import contextlib
import ctypes
import logging
import os
from collections.abc import Callable, Iterator
from pathlib import Path

# inotify(7): a file that was open for writing was closed.
IN_CLOSE_WRITE = 0x08
MAX_READ = 65536

log = logging.getLogger(__name__)


@contextlib.contextmanager
def watching(directory: Path, tell: Callable[[str, bool], None]) -> Iterator[None]:
    """Call `tell` for each message, within the running event loop, until the end of the block.

    directory: an existing directory. Messages whose files are there already count, too.
    tell: a function of the address and of whether the address sent the message to itself. Its
        exceptions are logged without the address.
    Raises OSError when the kernel allows no further watch.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    # IN_NONBLOCK and IN_CLOEXEC have the values of these flags.
    descriptor = _check(libc.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC))
    loop = asyncio.get_running_loop()
    try:
        _check(libc.inotify_add_watch(descriptor, os.fsencode(directory), IN_CLOSE_WRITE))
        loop.add_reader(descriptor, _read, descriptor, directory, tell)
        _tell_all(directory, tell)
        yield
    finally:
        loop.remove_reader(descriptor)
        os.close(descriptor)


def _check(result):
    """Return the result of a C function. Raises OSError for -1."""
    if result == -1:
        code = ctypes.get_errno()
        raise OSError(code, f"inotify: {os.strerror(code)}")
    return result


def _read(descriptor, directory, tell):
    # The directory itself says what came. So nothing is missed when the queue of events overflows.
    with contextlib.suppress(BlockingIOError):
        os.read(descriptor, MAX_READ)
    _tell_all(directory, tell)


def _tell_all(directory, tell):
    for name in os.listdir(directory):
        # First the file goes, then somebody is told. So a message that comes in between counts.
        with contextlib.suppress(FileNotFoundError):
            os.unlink(directory / name)
        address, *rest = name.split(" ")
        try:
            tell(address, rest[-1:] == ["own"])
        except Exception as error:
            log.error("a delivered message woke no device: %s", type(error).__name__)
