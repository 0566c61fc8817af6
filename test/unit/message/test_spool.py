"""A message on its way: in memory if it is small, otherwise in a file without a name."""

import os

import pytest
from chatmaild.message import spool
from chatmaild.message.spool import Message


def names(directory) -> list[str]:
    """Return the names of the open files in a directory, as the kernel shows them."""
    links = [f"/proc/self/fd/{fd}" for fd in os.listdir("/proc/self/fd")]
    targets = [os.readlink(link) for link in links if os.path.islink(link)]
    return [target for target in targets if target.startswith(str(directory))]


@pytest.mark.parametrize(
    ("sizes", "files"),
    [
        ([], 0),
        ([0], 0),
        ([spool.IN_MEMORY], 0),
        ([spool.IN_MEMORY + 1], 1),
        ([spool.IN_MEMORY - 1, 1], 0),
        ([spool.IN_MEMORY, 1], 1),
        ([1, spool.IN_MEMORY, 1, 100_000], 1),
        ([100_000] * 5, 1),
    ],
)
def test_message_of_more_than_256_kb_goes_to_a_file(tmp_path, sizes, files):
    assert spool.IN_MEMORY == 256 * 1024
    octets = [bytes([65 + index]) * size for index, size in enumerate(sizes)]
    with Message(str(tmp_path)) as message:
        assert (message.size, list(message.chunks())) == (0, [])
        for data in octets:
            message.write(data)
        assert message.size == sum(sizes)
        for _ in range(2):  # several deliveries read it
            assert b"".join(message.chunks()) == b"".join(octets)
        assert len(names(tmp_path)) == files
        assert len(message._memory) == (0 if files else sum(sizes))
        assert list(tmp_path.iterdir()) == []
    assert names(tmp_path) == []
    assert len(message._memory) == 0


@pytest.mark.parametrize("size", [1, 65_535, 65_536, 65_537, 131_072, 300_000])
def test_chunks_have_64_kb_but_for_the_last(tmp_path, size):
    with Message(str(tmp_path)) as message:
        message.write(b"x" * size)
        lengths = [len(chunk) for chunk in message.chunks()]
    assert all(length == 65_536 for length in lengths[:-1])
    assert 0 < lengths[-1] <= 65_536
    assert sum(lengths) == size


def test_disk_that_takes_a_part_gets_the_rest(tmp_path, monkeypatch):
    class Slow:
        def __init__(self, **options):
            assert options == {"dir": str(tmp_path), "buffering": 0}
            self.octets = b""
            self.closed = False

        def write(self, data):
            self.octets += bytes(data[:1000])
            return min(1000, len(data))

        def close(self):
            self.closed = True

    monkeypatch.setattr(spool.tempfile, "TemporaryFile", Slow)
    message = Message(str(tmp_path))
    data = os.urandom(spool.IN_MEMORY + 1)
    message.write(data[:300])
    message.write(data[300:])
    file = message._file
    assert file.octets == data
    message.close()
    assert file.closed
