"""The new machine: it copies a relay from the old one, over SSH, by the key of this move."""

import re
import socket
from collections.abc import Sequence
from pathlib import Path

from chatmaild.common import atomic_files, mail_off
from chatmaild.common.errors import InvalidRequest, OperatorError
from chatmaild.inventory import places
from chatmaild.move import checking, sending
from chatmaild.move.sending import DIRECTORY, PORT, run

ROOT = "/"
CLEANER = "relay-move-cleaner"
# The name of the old machine in `known_hosts`, whichever of its addresses answers.
NAME = "chatmail-move"
# The old machine decides about names, contents, owners and modes below the paths that are asked
# for, and about no device and no program that runs with the rights of its owner.
MIRROR = (
    *("--archive", "--no-devices", "--no-specials", "--chmod=ug-s"),
    *("--relative", "--no-implied-dirs", "--delete", "--delete-missing-args"),
)
LARGEST = "1m"  # of a certificate and a configuration, which wait in memory
# rsync(1): 24 says that files vanished, as they do on a relay at work.
GOOD, VANISHED = 0, 24
# The services that read the copied files when they start.
READERS = ("chatmail-accounts", "chatmail-filter", "chatmail-transport")
# Seconds to wait for an address of the old machine.
PATIENCE = 5


def make_key(seconds: int) -> str:
    """Make the key of this move, in the place of an earlier one; return its public part.

    seconds: after this time systemd removes the key. Raises OperatorError.
    """
    sending.close()
    run("systemctl", "stop", f"{CLEANER}.timer", check=False)
    DIRECTORY.mkdir(mode=0o700)
    sending.make_key(DIRECTORY / "key")
    run(
        *("systemd-run", "--quiet", f"--unit={CLEANER}", f"--on-active={seconds}"),
        *("--collect", "/bin/rm", "-rf", str(DIRECTORY)),
    )
    return " ".join((DIRECTORY / "key.pub").read_text().split()[:2])


def forget_key() -> None:
    """End the timer that would remove the key. `sending.close` removes the key itself."""
    run("systemctl", "stop", f"{CLEANER}.timer", check=False)


def copy(settings: dict, host_key: str, addresses: Sequence[str], last: bool) -> dict:
    """Make the files of this machine the same as those of the old one; return {"files", "bytes"}.

    host_key, addresses: the old machine's. last: with the queue, and with all that is needed before
    mail is on here. Raises OperatorError on a machine where mail is not off, and when the copy
    fails; what was copied stays, and the next copy goes on there.
    """
    if mail_off.read_reason() is None:
        raise OperatorError(
            "mail is on here, so its files are newer than any copy; expected: mail off by "
            "`chatmail_move.off` on the machine to which a relay moves"
        )
    if not sending.PUBLIC_KEY.fullmatch(host_key):
        raise InvalidRequest("host_key: expected an Ed25519 key, `ssh-ed25519 AAAA…`")
    atomic_files.replace(DIRECTORY / "known_hosts", f"{NAME} {host_key}\n")
    if settings["tls_mode"] == "acme":
        for path, mode in places.CERTBOT_DIRECTORIES.items():
            Path("/", path).mkdir(mode=mode, exist_ok=True)
    paths, address = places.list_paths(settings, last), _find_reachable(addresses)
    checked = [path for path in paths if path in checking.CHECKED]
    plain = [path for path in paths if path not in checking.CHECKED]
    # A link in a mailbox would lead root, who comes by later, to another file.
    done = [_mirror(address, plain, ROOT, "--no-links")]
    if checked:
        done.append(_mirror_checked(address, checked))
    if last:
        _take_into_use()
    return {name: sum(each[name] for each in done) for name in ("files", "bytes")}


def _mirror_checked(address, paths):
    """Copy what has links or names commands, and put it in place after a look at it."""
    aside = DIRECTORY / "files"
    aside.mkdir(mode=0o700, exist_ok=True)
    done = _mirror(address, paths, f"{aside}/", f"--max-size={LARGEST}")
    for path in paths:
        checking.check(aside, path)
    run("rsync", *MIRROR, *(f"{aside}/.{path}" for path in paths), ROOT)
    return done


def _mirror(address, paths, root, *options):
    """Let rsync make these paths the same as on the old machine; return what it transferred.

    root: the directory below which they are here. options: further ones of rsync.
    """
    host = f"root@[{address}]" if ":" in address else f"root@{address}"
    first, *others = paths
    done = run(
        *("rsync", *MIRROR, "--hard-links", "--stats", f"--filter=P /{places.ACCOUNTS}/**"),
        *options,
        f"--rsh={_ssh()}",
        *(f"{host}:{first}", *(f":{path}" for path in others)),
        root,
        check=False,
    )
    if done.returncode not in (GOOD, VANISHED):
        raise OperatorError(
            f"the copy from {address} failed (rsync: {done.returncode}): "
            f"{_explain(done.stderr)}. Run this again: it goes on where it stopped"
        )
    return {
        "files": _find_number("Number of regular files transferred", done.stdout),
        "bytes": _find_number("Total transferred file size", done.stdout),
    }


def _explain(text):
    """Return the first line that rsync or ssh wrote: the cause. The later ones are its effects."""
    return (text.strip().splitlines() or ["no message"])[0]


def _find_number(label, text):
    found = re.search(rf"{label}: ([0-9,]+)", text)
    return int(found[1].replace(",", "")) if found else 0


def _ssh():
    """Return the command that connects to the old machine, with nothing of this machine's own."""
    options = {
        "IdentitiesOnly": "yes",
        "BatchMode": "yes",
        "StrictHostKeyChecking": "yes",
        "UserKnownHostsFile": DIRECTORY / "known_hosts",
        "GlobalKnownHostsFile": "none",
        "HostKeyAlias": NAME,
        "ServerAliveInterval": 15,
    }
    given = " ".join(f"-o {name}={value}" for name, value in options.items())
    return f"ssh -F none -p {PORT} -i {DIRECTORY}/key {given}"


def _find_reachable(addresses):
    """Return the first of the old machine's addresses whose port answers."""
    for address in addresses:
        try:
            found = sending.parse_ip(address)
            socket.create_connection((found, PORT), PATIENCE).close()
            return found
        except (OSError, ValueError):
            continue
    raise OperatorError(
        f"port {PORT} of the old machine ({', '.join(addresses)}) does not answer: let the new "
        "machine through its firewall"
    )


def _take_into_use():
    """Let all that runs here read the copied files, and give the queue its names."""
    # The name of a message in the queue comes from the number of its inode (postsuper(1), -s).
    run("postsuper", "-s")
    run("systemctl", "restart", *READERS)
    run("systemctl", "try-restart", "coturn")
    run("systemctl", "try-reload-or-restart", "nginx")
