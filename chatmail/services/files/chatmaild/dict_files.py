"""Small files that are there whole or not at all."""

import os
import tempfile
from pathlib import Path

# A file that a crash left half-written begins so; nobody reads it.
DRAFT_PREFIX = ".draft-"


def replace(path: Path, text: str) -> None:
    """Write a file of mode 0600 aside and rename it into place.

    Without fsync: what is kept so can be lost in a power failure and comes again by itself.
    Raises OSError, as when the directory is gone.
    """
    with tempfile.NamedTemporaryFile(
        "w", dir=path.parent, prefix=DRAFT_PREFIX, delete=False
    ) as draft:
        try:
            draft.write(text)
            draft.flush()
            os.rename(draft.name, path)
        except OSError:
            os.unlink(draft.name)
            raise
