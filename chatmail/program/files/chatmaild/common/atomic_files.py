"""Atomic files: a reader sees the old content or the new content, never a part of it."""

import contextlib
import os

# The names of files that are being written begin like this. A crash may leave one, which no
# program reads.
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
    """Write a file under a draft name, and rename it in one step.

    mode: the permissions. owner: the numbers of user and group, by default those of this process.
    times: the access time and the modification time in ns, by default now.
    durable: write to the disk before returning, so that the new file survives a power failure.
        Without it, the old file may be there again after a power failure.
    exclusive: keep an existing file, and raise FileExistsError.
    Raises OSError, for example when the directory does not exist.
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
    """Write the entries of a directory to the disk (fsync(2))."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
