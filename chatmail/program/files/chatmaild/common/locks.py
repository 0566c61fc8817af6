"""Work that only one process at a time may do on this machine."""

import contextlib
import fcntl
from collections.abc import Iterator
from pathlib import Path

from chatmaild.common.errors import OperatorError


@contextlib.contextmanager
def alone(path: str | Path, otherwise: str) -> Iterator[None]:
    """Hold a lock within a `with` block. The kernel releases it when the process ends.

    path: the file of the lock. otherwise: the text of the OperatorError that is raised while
    another process holds the lock.
    """
    with open(path, "w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise OperatorError(otherwise) from None
        yield
