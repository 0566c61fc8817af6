"""The archive: a tar stream that age encrypts and decrypts. No part of it is on disk in clear text.

`age --decrypt -i KEY ARCHIVE | tar -t` lists the members without this program. `backup.json` comes
first and `end.json` last, so a stream that breaks off between two members is noticed, too.
https://age-encryption.org/v1
"""

import contextlib
import hashlib
import io
import json
import os
import subprocess
import tarfile
from collections.abc import Callable, Iterator
from typing import BinaryIO

from chatmaild.common.errors import OperatorError

# The release that changes the members counts this up.
FORMAT = 1
HEAD, END = "backup.json", "end.json"
# Every encrypted file begins with this line.
AGE_INTRO = b"age-encryption.org/v1\n"
# Bytes of a member that is read into memory.
MAX_MEMBER = 1 << 20
CHUNK = 1 << 16
# Bytes of a header that is more than a block. tarfile reads it into memory, whatever its size is.
MAX_HEADER = 1 << 16
LONG_HEADERS = (
    *(tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.SOLARIS_XHDTYPE),
    *(tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK),
)


class _Member(tarfile.TarInfo):
    """A member whose header is refused before it is in memory, when it is too large."""

    def _proc_member(self, archive):
        # The comments of tarfile name this method as the one to override. Newer security updates of
        # Python no longer call `frombuf` for each header.
        if self.size < 0 or (self.type in LONG_HEADERS and self.size > MAX_HEADER):
            raise tarfile.ReadError(f"it has a header of {self.size} bytes")
        return super()._proc_member(archive)


def encrypt(file: BinaryIO, recipients: list[str], fill: Callable) -> None:
    """Write an archive.

    file: where the encrypted bytes go. recipients: public keys, as age takes them.
    fill: a function that calls `put(name, content, size=None, mtime=0)` for each member. content
        is bytes, or a file with `size` bytes.
    Raises OperatorError with age's own words, and the errors of `fill`.
    """
    command = ["age", "--encrypt"]
    for each in recipients:
        command += ["--recipient", each]
    with _running(command, stdin=subprocess.PIPE, stdout=file) as process:
        count = 0
        with tarfile.open(fileobj=process.stdin, mode="w|", format=tarfile.PAX_FORMAT) as tar:

            def put(name, content, size=None, mtime=0):
                nonlocal count
                member = tarfile.TarInfo(name)
                member.mode, member.mtime = 0o600, mtime
                member.size = len(content) if size is None else size
                tar.addfile(member, io.BytesIO(content) if size is None else content)
                # Otherwise tarfile remembers every member.
                tar.members.clear()
                count += 1

            fill(put)
            put(END, to_json({"members": count}))
        process.stdin.close()


@contextlib.contextmanager
def decrypted(file: BinaryIO, identity_file: str) -> Iterator[Iterator[tuple]]:
    """Yield an iterator over the members of an archive, each a TarInfo with a file to read from.

    file: the archive, without a buffer. identity_file: the path of a private key.
    When the `with` block has read to the end, the archive is complete and unchanged: age checks
    each piece of 64 KiB before it writes the piece, and knows the last one. Raises OperatorError,
    also for what the block reads from a member.
    """
    file.seek(0)
    command = ["age", "--decrypt", "--identity", str(identity_file)]
    with _running(command, stdin=file, stdout=subprocess.PIPE) as process:
        try:
            yield _members(process.stdout)
            _drain(process.stdout)
        except tarfile.TarError as error:
            # When age has refused the archive, its own words come first.
            _drain(process.stdout)
            _check(process)
            raise OperatorError(f"what is encrypted is not a whole backup: {error}") from None


def _members(stream):
    count, end = 0, None
    with tarfile.open(fileobj=stream, mode="r|", tarinfo=_Member) as tar:
        while (member := tar.next()) is not None:
            tar.members.clear()
            if end is not None or not member.isreg() or member.issparse():
                raise OperatorError(
                    f"the member {member.name!r} is not a plain file before {END}, "
                    "and a backup has nothing else"
                )
            if member.name == END:
                end = from_json(member, tar.extractfile(member))
                continue
            count += 1
            yield member, tar.extractfile(member)
    if end != {"members": count}:
        raise tarfile.ReadError(f"it breaks off after {count} members")


def read_all(member: tarfile.TarInfo, content: BinaryIO) -> bytes:
    """Return the content of a small member. Raises OperatorError for a large one."""
    if member.size > MAX_MEMBER:
        raise OperatorError(
            f"the member {member.name!r} has {member.size} bytes, expected at most {MAX_MEMBER}"
        )
    return content.read()


def from_json(member: tarfile.TarInfo, content: BinaryIO) -> dict:
    """Return the object in a small member. Raises OperatorError without one."""
    try:
        found = json.loads(read_all(member, content))
    except ValueError:
        found = None
    if not isinstance(found, dict):
        raise OperatorError(f"the member {member.name!r} is not a JSON object")
    return found


def to_json(value: dict) -> bytes:
    """Return a JSON object as the content of a member."""
    return json.dumps(value, indent=1).encode() + b"\n"


@contextlib.contextmanager
def _running(command, **streams):
    """Run age for the time of a `with` block; raise OperatorError when it fails."""
    try:
        # Without a terminal age cannot ask for a passphrase, which would hold up a schedule.
        process = subprocess.Popen(
            command, stderr=subprocess.PIPE, start_new_session=True, **streams
        )
    except FileNotFoundError:
        raise OperatorError(
            "the program age is missing: set chatmail:backup_recipients in the pillar and run "
            "`salt-call state.apply chatmail`, or `apt install age`"
        ) from None
    try:
        yield process
        _check(process)
    except BrokenPipeError:
        _check(process)
        raise
    finally:
        process.kill()
        for stream in (process.stdin, process.stdout, process.stderr):
            if stream is not None:
                with contextlib.suppress(BrokenPipeError):
                    stream.close()
        process.wait()


def _check(process):
    """Raise OperatorError when age ends with a failure."""
    words = process.stderr.read(4096).decode(errors="replace")
    if process.wait() != 0:
        lines = [line for line in words.splitlines() if line.startswith("age: error:")]
        shown = lines[0].removeprefix("age: error: ") if lines else words.strip()
        raise OperatorError(f"age says: {shown[:300]}")


def _drain(stream):
    while stream.read(CHUNK):
        pass


def sha256_of(file: BinaryIO) -> str:
    """Return the SHA-256 of a whole file, in hexadecimal."""
    file.seek(0)
    digest = hashlib.sha256()
    while piece := os.read(file.fileno(), CHUNK):
        digest.update(piece)
    return digest.hexdigest()
