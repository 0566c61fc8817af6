"""Files that are there whole or not at all."""

import os
import tempfile
from pathlib import Path

# A file that a crash left half-written begins so; nobody reads it.
DRAFT_PREFIX = ".draft-"


def replace(path: Path, text: str, times: tuple[int, int] | None = None) -> None:
    """Write a file of mode 0600 aside and rename it into place.

    times: when it was read and written last, in ns; now if not given.
    Without fsync: a power failure may leave the file that was there before.
    Raises OSError, as when the directory is gone.
    """
    with tempfile.NamedTemporaryFile(
        "w", dir=path.parent, prefix=DRAFT_PREFIX, delete=False
    ) as draft:
        try:
            draft.write(text)
            draft.flush()
            if times:
                os.utime(draft.fileno(), ns=times)
            os.rename(draft.name, path)
        except OSError:
            os.unlink(draft.name)
            raise
