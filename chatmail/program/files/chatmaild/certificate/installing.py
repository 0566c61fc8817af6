"""A certificate and its key are put in use together, and the daemons read them."""

import contextlib
import fcntl
import os
import shutil
import subprocess
import tempfile
from pathlib import Path

from chatmaild.certificate.summary import read_pair
from chatmaild.common import atomic_files
from chatmaild.common.errors import OperatorError

# What all daemons read: two links to a pair, which changes as a whole (see `install`).
TLS = Path("/etc/chatmail/tls")
CERTIFICATE, KEY = "fullchain.pem", "privkey.pem"
DAEMONS = ("nginx", "dovecot", "postfix")


@contextlib.contextmanager
def locked(directory):
    """Let one process at a time change the pair in a directory, which exists; others wait.

    A converge, certbot's hook and the unit that watches the operator's files may meet.
    """
    handle = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


def describe_installed():
    """Return what the certificate in use says, as `read_pair` does, None without a usable pair."""
    try:
        return read_pair(str(TLS / CERTIFICATE), str(TLS / KEY))
    except OperatorError:
        return None


def differs(certificate, key):
    """Tell whether another pair than this one is in use."""
    for source, name in ((certificate, CERTIFICATE), (key, KEY)):
        try:
            if Path(source).read_bytes() != (TLS / name).read_bytes():
                return True
        except OSError:
            return True
    return False


def install(certificate, key):
    """Put a pair in use and reload the daemons, unless it is in use already.

    certificate, key: paths of PEM files. Returns whether something changed.
    The daemons see the old pair or the new one and never one file of each. Raises
    OperatorError when the pair is unusable, and the old one stays.
    """
    TLS.mkdir(mode=0o755, parents=True, exist_ok=True)
    with locked(TLS):
        if not differs(certificate, key):
            return False
        _swap(certificate, key)
    _reload_daemons()
    return True


def _swap(certificate, key):
    """Replace the pair in use as a whole."""
    fresh = _copy_pair(certificate, key)
    try:
        # The copy: what is in use is what was looked at, whatever happens to the files.
        read_pair(str(fresh / CERTIFICATE), str(fresh / KEY))
        _put_behind_links()
        _replace_link(TLS / "current", fresh.name)
    except BaseException:
        shutil.rmtree(fresh)
        raise
    for name in (CERTIFICATE, KEY):
        _replace_link(TLS / name, f"current/{name}")
    for old in TLS.glob("pair-*"):
        if old.name != os.readlink(TLS / "current"):
            shutil.rmtree(old)


def _copy_pair(certificate, key):
    """Copy a pair into a directory of its own beside the one in use; return the directory."""
    directory = Path(tempfile.mkdtemp(prefix="pair-", dir=TLS))
    directory.chmod(0o755)
    for source, name, mode in ((certificate, CERTIFICATE, 0o644), (key, KEY, 0o640)):
        try:
            content = Path(source).read_bytes()
        except OSError as error:
            shutil.rmtree(directory)
            raise OperatorError(f"{source} cannot be read: {error.strerror}") from None
        atomic_files.replace(directory / name, content, mode=mode, durable=True)
    return directory


def _put_behind_links():
    """Turn two plain files, such as the placeholder's, into links to the same content."""
    paths = [TLS / CERTIFICATE, TLS / KEY]
    if all(path.is_symlink() for path in paths) or not all(path.is_file() for path in paths):
        return
    _replace_link(TLS / "current", _copy_pair(*paths).name)
    for path in paths:
        _replace_link(path, f"current/{path.name}")


def _replace_link(link, target):
    """Point a link elsewhere, or put it in a file's place, in one step."""
    aside = link.with_name(f".{link.name}.{os.getpid()}")
    with contextlib.suppress(FileNotFoundError):
        aside.unlink()
    aside.symlink_to(target)
    aside.replace(link)


def _reload_daemons():
    """Have the daemons that run read the pair; a reload drops no connection."""
    failed = []
    for daemon in DAEMONS:
        if subprocess.run(["systemctl", "is-active", "--quiet", daemon], check=False).returncode:
            continue
        done = subprocess.run(["systemctl", "reload", daemon], check=False, capture_output=True)
        if done.returncode != 0:
            failed.append(daemon)
    if failed:
        raise OperatorError(
            f"the new certificate is in place, but {', '.join(failed)} did not reload; "
            f"see: systemctl status {' '.join(failed)}"
        )
