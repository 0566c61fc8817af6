"""Installs a program that is in no package: downloads it, checks it, then puts it in place."""

import contextlib
import hashlib
import os
import tarfile
import tempfile

from salt.exceptions import CommandExecutionError, SaltException

__virtualname__ = "chatmail_binary"

MODE = 0o755
CHUNK = 1 << 20
# Bytes. The program has about 30 MB. The limit keeps a hostile archive from filling the disk.
MAX_SIZE = 512 << 20


def __virtual__():
    return __virtualname__


def downloaded(name, source, sha256):
    """Ensure that a program is the one with a known digest.

    name: path of the program. The archive must hold one file of the same base name.
    source: URL of a tar archive, compressed or not. None if no program is known for this machine.
    sha256: digest of the program itself, in hexadecimal. None if no program is known.
    The state fails if the download fails or the program in it has another digest. The old program
    then stays. A program that is already right is not downloaded again.

    .. code-block:: yaml

        iroh relay program:
          chatmail_binary.downloaded:
            - name: /usr/local/bin/iroh-relay
            - source: https://mirror.example.org/iroh-relay-x86_64.tar.gz
            - sha256: 45c81199dbd70f8c4c30fef7f3b9727ca6e3cea8f2831333eeaf8aa71bf0fac1
    """
    ret = {"name": name, "result": True, "changes": {}, "comment": "The program is the right one."}
    with _failing(ret):
        if not (source and sha256):
            raise CommandExecutionError(
                "No program is known for this machine's architecture. "
                "Give the URL and the SHA-256 of one (iroh_binary:url and iroh_binary:sha256)."
            )
        wanted = {"sha256": sha256, "mode": f"{MODE:04o}", "owner": "0:0"}
        found = _present(name)
        changes = {
            each: {"old": found[each], "new": new}
            for each, new in wanted.items()
            if found[each] != new
        }
        if changes and __opts__["test"]:
            comment = f"The program would be downloaded from {source}."
            ret.update(result=None, changes=changes, comment=comment)
        elif changes:
            _install(name, source, sha256)
            comment = f"The program was downloaded from {source}."
            ret.update(changes=changes, comment=comment)
            if (now := _present(name)) != wanted:
                raise CommandExecutionError(f"{name} was written, found {now}, expected {wanted}")
    return ret


def _present(path):
    """Return digest, mode and owner of a file. Each of them is None if there is no file."""
    try:
        with open(path, "rb") as stream:
            status = os.fstat(stream.fileno())
            digest = hashlib.sha256()
            while chunk := stream.read(CHUNK):
                digest.update(chunk)
    except FileNotFoundError:
        return {"sha256": None, "mode": None, "owner": None}
    return {
        "sha256": digest.hexdigest(),
        "mode": f"{status.st_mode & 0o7777:04o}",
        "owner": f"{status.st_uid}:{status.st_gid}",
    }


def _install(path, source, sha256):
    """Download an archive, check the program in it and rename it into its place.

    Raises CommandExecutionError if a step fails. The old program is then as it was, and no other
    file is left.
    """
    try:
        _fetch(path, source, sha256)
    except (SaltException, OSError, tarfile.TarError, EOFError) as error:
        raise CommandExecutionError(f"{path} was left as it was. {source}: {error}") from None


def _fetch(path, source, sha256):
    """Do the work of `_install`. Raises SaltException, OSError, TarError or EOFError."""
    folder, program = os.path.split(path)
    with tempfile.TemporaryDirectory(prefix="chatmail-binary-") as scratch:
        archive = __salt__["cp.get_url"](source, os.path.join(scratch, "archive"))
        if not archive:
            raise CommandExecutionError(
                "nothing could be downloaded. Check the URL and the way to its host."
            )
        # The new file is in the same directory: a rename is atomic only within one file system.
        descriptor, new = tempfile.mkstemp(prefix=f".{program}-", dir=folder)
        try:
            with os.fdopen(descriptor, "wb") as target:
                found = _unpack(archive, program, target)
                if found != sha256:
                    raise CommandExecutionError(
                        f"the digest of {program} in it is {found}, expected is {sha256}. "
                        "Somebody changed the archive, or iroh_binary:sha256 belongs to another "
                        "version. Compare both with the release that you want."
                    )
                os.fchown(target.fileno(), 0, 0)
                os.fchmod(target.fileno(), MODE)
                target.flush()
                os.fsync(target.fileno())
            os.replace(new, path)
        except BaseException:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(new)
            raise


def _unpack(archive, program, target):
    """Write the file called `program` from a tar archive to `target` and return its SHA-256."""
    digest = hashlib.sha256()
    with tarfile.open(archive) as opened:
        for member in opened:
            if member.isfile() and os.path.basename(member.name) == program:
                break
        else:
            raise CommandExecutionError(f"expected a file {program} in this archive, found none")
        if member.size > MAX_SIZE:
            raise CommandExecutionError(
                f"{program} in it has {member.size} bytes, allowed are {MAX_SIZE}"
            )
        stream = opened.extractfile(member)
        while chunk := stream.read(CHUNK):
            digest.update(chunk)
            target.write(chunk)
    return digest.hexdigest()


@contextlib.contextmanager
def _failing(ret):
    """Turn an error into a failed state; what was changed before it stays in `changes`."""
    try:
        yield
    except (SaltException, OSError) as error:
        ret.update(result=False, comment=str(error))
