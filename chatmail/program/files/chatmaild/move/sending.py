"""The old machine: an SSH server that lives for one move and lets one key read the relay's files.

It is a process of its own, beside a server of the operator's, whose configuration and keys stay as
they are. It has its own host key and its own port. systemd ends it at a fixed time and removes its
files then, whatever happens.
"""

import functools
import re
import shlex
import shutil
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path

from chatmaild.common import atomic_files, programs
from chatmaild.common.errors import InvalidRequest, OperatorError

DIRECTORY = Path("/run/chatmail-move")
# The hardening of the relay's own units goes by the prefix chatmail-, and would forbid a login.
UNIT = "relay-move.service"
PORT = 2222
PROGRAM = (
    "/usr/bin/env PYTHONPATH=/usr/local/lib/chatmail PYTHONDONTWRITEBYTECODE=1 "
    "/usr/bin/python3 -m chatmaild.move"
)
PUBLIC_KEY = re.compile(r"ssh-ed25519 [A-Za-z0-9+/]{68}")
# What `receiving` asks rsync for: a list of files with links, owners, times and sparse blocks, and
# then the version's own capabilities.
SHORT_OPTIONS = re.compile(r"-[lHogDtpRr]+e\.[A-Za-z]*")
LONG_OPTIONS = {"--delete-missing-args", "--no-implied-dirs"}
# Only this state installs OpenSSH and rsync.
run = functools.partial(programs.run, state="chatmail.move")

# sshd_config(5). PAM decides about a root without a password, as it does for Debian's own server.
# A stranger with a few connections must not take all the places of those that have not logged in.
CONFIGURATION = f"""\
Port {PORT}
HostKey {DIRECTORY}/host_key
AuthorizedKeysFile {DIRECTORY}/authorized_keys
PidFile none
AllowUsers root
PermitRootLogin forced-commands-only
PasswordAuthentication no
KbdInteractiveAuthentication no
UsePAM yes
DisableForwarding yes
PermitTTY no
PermitUserRC no
LoginGraceTime 20
PerSourceMaxStartups 5
LogLevel ERROR
"""


def admit(public_key: str, addresses: Sequence[str], seconds: int) -> dict:
    """Start the server, in the place of an earlier one; return {"host_key", "port", "until"}.

    public_key: the new machine's, in one line. addresses: the IP addresses from which it may come.
    seconds: after this time the server ends. Raises InvalidRequest for another form of them, and
    OperatorError when the server does not start.
    """
    line = _authorise(public_key, addresses, datetime.now(UTC) + timedelta(seconds=seconds))
    close()
    DIRECTORY.mkdir(mode=0o700)
    make_key(DIRECTORY / "host_key")
    atomic_files.replace(DIRECTORY / "authorized_keys", line)
    atomic_files.replace(DIRECTORY / "sshd_config", CONFIGURATION)
    # sshd demands this empty directory. It stays, because the operator's server may use it, too.
    Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)
    properties = [
        f"RuntimeMaxSec={seconds}",
        "Type=notify",
        f"ExecStopPost=/bin/rm -rf {DIRECTORY}",
    ]
    run(
        *("systemd-run", "--quiet", "--collect", f"--unit={UNIT}"),
        *(f"--property={each}" for each in properties),
        *("/usr/sbin/sshd", "-D", "-e", "-f", str(DIRECTORY / "sshd_config")),
    )
    host_key = (DIRECTORY / "host_key.pub").read_text().split()[:2]
    return {"host_key": " ".join(host_key), "port": PORT}


def _authorise(public_key, addresses, until):
    """Return the line of authorized_keys (sshd(8)) that lets a key do one thing for a while."""
    key = " ".join(str(public_key).split()[:2])
    if not PUBLIC_KEY.fullmatch(key):
        raise InvalidRequest("public_key: expected an Ed25519 key, `ssh-ed25519 AAAA…`")
    try:
        allowed = ",".join(parse_ip(each) for each in addresses)
    except ValueError as error:
        raise InvalidRequest(f"addresses: {error}; expected: a list of IP addresses") from None
    if not allowed:
        raise InvalidRequest("addresses: an empty list; expected: those of the new machine")
    options = f'restrict,from="{allowed}",expiry-time="{until:%Y%m%d%H%M%S}Z",command="{PROGRAM}"'
    return f"{options} {key} chatmail-move\n"


def parse_ip(text: str) -> str:
    """Return an IP address that another machine named. Raises ValueError.

    An address with a zone (RFC 4007 section 11) is refused: `ip_address` takes any text after the
    %, also quotation marks and line ends, which would be options and keys in authorized_keys.
    """
    if "%" in str(text):
        raise ValueError("an address with a zone (%)")
    return str(ip_address(text))


def make_key(path: Path) -> None:
    """Make an Ed25519 key without a passphrase, and `<path>.pub` beside it."""
    run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "chatmail-move", "-f", str(path))


def allowed_command(line: str, paths: Sequence[str]) -> list[str]:
    """Return the program and its arguments for what an SSH client asks.

    paths: what it may read. Raises OperatorError for anything but rsync that sends these paths.
    """
    words = shlex.split(line)
    start, options, _, wanted = _split(words)
    good = (
        start == ["rsync", "--server", "--sender"]
        and options
        and SHORT_OPTIONS.fullmatch(options[0])
        and set(options[1:]) <= LONG_OPTIONS
        and wanted
        and set(wanted) <= set(paths)
    )
    if not good:
        raise OperatorError("this key reads the files of a relay that moves, and nothing else")
    return words


def _split(words):
    """Split the arguments of rsync's server: `rsync --server --sender OPTIONS . PATHS`."""
    end = words.index(".") if "." in words else len(words)
    return words[:3], words[3:end], words[end : end + 1], words[end + 1 :]


def close() -> bool:
    """End the server, and remove the keys of both roles; return whether there was something."""
    found = DIRECTORY.exists()
    run("systemctl", "stop", UNIT, check=False)
    shutil.rmtree(DIRECTORY, ignore_errors=True)
    return found
