"""The bytes of a message that is being delivered: in memory, or in a file without a name."""

import os
import tempfile
from collections.abc import Iterator

# Most messages have a few KB. 500 messages at once, as many as Postfix has processes, then need
# 125 MB of memory at most.
IN_MEMORY = 256 * 1024
CHUNK = 64 * 1024


class Message:
    """The bytes of a message. They are written once; several deliveries read them at the same time.

    directory: the directory for the file of a large message. The file has no name, so a process
        that dies leaves no file. The directory must be on a disk, not on a tmpfs.
    """

    def __init__(self, directory: str):
        self.size = 0
        self._directory = directory
        self._memory = bytearray()
        self._file = None

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def write(self, data: bytes) -> None:
        """Append bytes. Raises OSError, for example when the disk is full."""
        if self._file is None and self.size + len(data) > IN_MEMORY:
            self._file = tempfile.TemporaryFile(dir=self._directory, buffering=0)  # noqa: SIM115
            self._write_all(self._memory)
            self._memory = bytearray()
        if self._file is None:
            self._memory += data
        else:
            self._write_all(data)
        self.size += len(data)

    def _write_all(self, data: bytes) -> None:
        view = memoryview(data)
        while view:
            view = view[self._file.write(view) :]

    def chunks(self) -> Iterator[bytes]:
        """Yield the bytes from the start, in pieces of at most CHUNK bytes."""
        for offset in range(0, self.size, CHUNK):
            if self._file is None:
                yield bytes(self._memory[offset : offset + CHUNK])
            else:
                yield os.pread(self._file.fileno(), CHUNK, offset)

    def close(self) -> None:
        """Free the memory and the file."""
        if self._file is not None:
            self._file.close()
        self._memory = bytearray()
