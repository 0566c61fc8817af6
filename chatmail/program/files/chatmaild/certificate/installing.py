"""The installation of a certificate together with its key, and the reload of the daemons."""

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

# All daemons read the two links in this directory. `install` replaces both targets in one step.
TLS = Path("/etc/chatmail/tls")
CERTIFICATE, KEY = "fullchain.pem", "privkey.pem"
# A copy of the certificate that a take-over brought (chatmaild.adopt). While that certificate is in
# use, the relay asks the authority for one of its own only when it is due.
TAKEN_OVER = "taken-over.pem"
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
    """Return the content of the certificate in use as `read_pair` does, None without a pair."""
    try:
        return read_pair(str(TLS / CERTIFICATE), str(TLS / KEY))
    except OperatorError:
        return None


def describe_taken_over():
    """Return the content of the pair in use if a take-over brought it, None otherwise."""
    try:
        if (TLS / TAKEN_OVER).read_bytes() != (TLS / CERTIFICATE).read_bytes():
            return None
    except OSError:
        return None
    return describe_installed()


def differs(certificate, key):
    """Return whether the pair in use has another content than these two files."""
    for source, name in ((certificate, CERTIFICATE), (key, KEY)):
        try:
            if Path(source).read_bytes() != (TLS / name).read_bytes():
                return True
        except OSError:
            return True
    return False


def install(certificate, key):
    """Put a pair in use and reload the daemons, unless the pair is in use already.

    certificate, key: paths of PEM files. Returns whether something changed.
    The daemons see the old pair or the new pair, never one file of each. Raises OperatorError when
    the new pair is unusable; the old pair then stays.
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
        # The copy is checked, not the source: a program may replace the source files meanwhile.
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
    """Copy a pair into a new directory beside the one in use; return the new directory."""
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
    """Replace two plain files, such as the placeholder's, by links to the same content."""
    paths = [TLS / CERTIFICATE, TLS / KEY]
    if all(path.is_symlink() for path in paths) or not all(path.is_file() for path in paths):
        return
    _replace_link(TLS / "current", _copy_pair(*paths).name)
    for path in paths:
        _replace_link(path, f"current/{path.name}")


def _replace_link(link, target):
    """Give a link another target in one step. The link may also replace a plain file."""
    aside = link.with_name(f".{link.name}.{os.getpid()}")
    with contextlib.suppress(FileNotFoundError):
        aside.unlink()
    aside.symlink_to(target)
    aside.replace(link)


def _reload_daemons():
    """Reload the daemons that run, so that they read the new pair. No connection is dropped."""
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
