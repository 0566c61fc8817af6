"""Files that are there whole or not at all."""

import contextlib
import os

# A file that a crash left half-written begins so; nobody reads it.
DRAFT_PREFIX = ".draft-"


def replace(
    path: str | os.PathLike,
    content: str | bytes,
    *,
    mode: int = 0o600,
    owner: tuple[int, int] | None = None,
    times: tuple[int, int] | None = None,
    durable: bool = False,
    exclusive: bool = False,
) -> None:
    """Write a file aside and give it its name in one step.

    mode, owner: permissions, and the numbers of user and group, this process's own if not given.
    times: when it was read and written last, in ns; now if not given.
    durable: a power failure leaves the old file or the new one, whole. Otherwise the old one may
        come back.
    exclusive: a file that is there already stays, and FileExistsError is raised.
    Raises OSError, as when the directory is gone.
    """
    directory = os.path.dirname(path) or "."
    draft = os.path.join(directory, DRAFT_PREFIX + os.urandom(8).hex())
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        with open(descriptor, "wb") as file:
            os.fchmod(descriptor, mode)
            if owner:
                os.fchown(descriptor, *owner)
            file.write(content.encode() if isinstance(content, str) else content)
            file.flush()
            if times:
                os.utime(descriptor, ns=times)
            if durable:
                os.fsync(descriptor)
        if exclusive:
            os.link(draft, path)
        else:
            os.replace(draft, path)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(draft)
        raise
    if exclusive:
        os.unlink(draft)
    if durable:
        sync_directory(directory)


def sync_directory(path: str | os.PathLike) -> None:
    """Write a directory's entries to the disk."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
