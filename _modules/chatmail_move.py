"""Mail off for good on this machine, and the steps by which a relay moves to another machine.

The orchestrations in `chatmail/fleet/` call most of these functions; an operator calls `off`, `on`
and `state`. The package `chatmaild.move` does the work. Two machines copy straight from each other,
by a key that lives for one move: its public part, the public host key and IP addresses are all
that passes a master.
"""

import os
import socket
import subprocess

from salt.exceptions import CommandExecutionError, SaltInvocationError

__virtualname__ = "chatmail_move"

# Seconds after which the keys of a move end by themselves, also when its master is gone.
LIFETIME = 6 * 3600
MAIL_OFF = "/etc/chatmail-mail-off"
MAIL_PORTS = (25, 143, 465, 587, 993)


def __virtual__():
    return __virtualname__


def state():
    """Return what a move must know about this machine, also when it is no relay yet.

    A dictionary: `domain`, `form`, `mailboxes_dir` and `mail` (as the pillar has them), `mail_off`
    (the reason why mail is off for good, or None), `formula` (the release that converged it, or
    None), `debian`, `addresses` (their number), `used` and `free` (bytes of the mailboxes and of
    their disk), `own` (IP addresses, with those of `dns:addresses`) and `publishes` (whether the
    pillar has a way to publish DNS records). Raises CommandExecutionError for a wrong pillar.

    CLI Example:

    .. code-block:: bash

        salt-call chatmail_move.state
    """
    relay = __salt__["chatmail_relay.settings"]()
    mailboxes = relay["mailboxes_dir"]
    own = __salt__["network.ip_addrs"]() + __salt__["network.ip_addrs6"]()
    own = [each for each in own if not each.startswith("fe80:")]
    converged = __salt__["file.file_exists"]("/etc/chatmail/relay.json")
    return {
        "domain": relay["mail_domain"],
        "form": relay["form"],
        "mailboxes_dir": mailboxes,
        "mail": (__pillar__.get("chatmail") or {}).get("mail", True),
        "mail_off": _read_reason(),
        "formula": __salt__["chatmail_program.settings"]()["formula"] if converged else None,
        "debian": relay["debian_release"],
        "addresses": _count(mailboxes, relay["address_domain"]),
        "used": _measure(mailboxes),
        "free": _find_free(mailboxes),
        "own": sorted({*own, *(relay["dns"]["addresses"] or [])}),
        "publishes": bool(relay["dns"]["server"] or relay["dns"]["hook"]),
    }


def off(reason):
    """Stop Postfix and Dovecot, and keep them off whatever the pillar says, also over a converge.

    reason: why, in one line; `chatmail_relay.status` shows it. It has no address and no secret.
    Postfix first closes its ports and finishes deliveries that have begun. While mail is off, a
    converge publishes no DNS record, rotates no key and orders no certificate here. The file
    /etc/chatmail-mail-off keeps the reason. Returns {"mail_off": the reason, "changed", "seconds"
    since the ports closed}. Raises SaltInvocationError for another reason, and
    CommandExecutionError when something does not stop.

    CLI Example:

    .. code-block:: bash

        salt-call chatmail_move.off 'the relay closes in May'
    """
    text = str(reason).strip()
    if not text or not text.isprintable() or len(text) > 200:
        raise SaltInvocationError(f"reason: {text!r}; expected: one line of 1 to 200 characters")
    return _ask("off", settings={}, reason=text)


def on():
    """Undo `off`: allow mail on this machine again, and start Dovecot and Postfix.

    The next converge brings back all the rest. Returns {"mail_off": None, "changed", "seconds"
    since both run}. Raises CommandExecutionError when something does not start. Never call it on a
    machine whose relay moved away: `chatmail.fleet.move_undo` brings such a relay back.

    CLI Example:

    .. code-block:: bash

        salt-call chatmail_move.on
    """
    return _ask("on", settings={})


def key():
    """Make a key for one move on the machine that gets the relay; return its public half.

    systemd removes the key after six hours, if `close` did not. Returns {"public_key",
    "signature": by the key of this minion}.

    CLI Example:

    .. code-block:: bash

        salt new chatmail_move.key
    """
    return _signed("public_key", _ask("key", settings={}, seconds=LIFETIME))


def admit(public_key, addresses):
    """Let the key of a move read the files of this relay, and nothing else, from some addresses.

    public_key: what `key` returned on the other machine. addresses: that machine's IP addresses.
    An SSH server of its own listens on port 2222, and ends after six hours if `close` did not end
    it. Returns {"host_key", "port", "signature"}. Raises SaltInvocationError for another form of
    the arguments, and CommandExecutionError when the server does not start.

    CLI Example:

    .. code-block:: bash

        salt old chatmail_move.admit 'ssh-ed25519 AAAA…' addresses='[192.0.2.7]'
    """
    given = {"public_key": public_key, "addresses": addresses}
    return _signed("host_key", _ask("admit", settings={}, seconds=LIFETIME, **given))


def copy(host_key, addresses, last=False):
    """Make the relay's files on this machine the same as on the old one, which may be at work.

    host_key: what `admit` returned there. addresses: the IP addresses of the old machine.
    last: True when mail is off there: this copy has the queue, too, and is taken into use.
    Mailboxes, keys, certificates, tokens and invitations here are replaced. Returns {"files",
    "bytes"}, which were transferred. Raises CommandExecutionError where mail is not off by `off`,
    and when the copy fails. It can be called again.

    CLI Example:

    .. code-block:: bash

        salt new chatmail_move.copy 'ssh-ed25519 AAAA…' addresses='[192.0.2.6]'
    """
    return _ask("copy", host_key=host_key, addresses=addresses, last=bool(last))


def publish():
    """Publish the DNS records of this machine where the pillar has a way, else look for them.

    Returns {"published": the number of changes, "missing": all records, for publishing by hand,
    when the pillar has no way and no name server has all required ones; else an empty text}.
    Raises CommandExecutionError as `chatmail_dns.publish` does.

    CLI Example:

    .. code-block:: bash

        salt-call chatmail_move.publish
    """
    dns = __salt__["chatmail_program.settings"]()["dns"]
    if dns["server"] or dns["hook"]:
        return {"published": len(__salt__["chatmail_dns.publish"]()), "missing": ""}
    try:
        complete = __salt__["chatmail_dns.check"]()["result"]
    except CommandExecutionError:
        complete = False  # No name server answers for the domain.
    return {"published": 0, "missing": "" if complete else __salt__["chatmail_dns.zone"]()}


def close():
    """Remove the keys of a move from this machine, and end its SSH server.

    Returns {"changed": False when there was nothing}.

    CLI Example:

    .. code-block:: bash

        salt 'old,new' chatmail_move.close
    """
    return _ask("close", settings={})


def silent(addresses):
    """Return whether none of these IP addresses answers on a port for mail.

    addresses: those of another machine. Returns {"result", "comment": the ports that answer}.

    CLI Example:

    .. code-block:: bash

        salt new chatmail_move.silent addresses='[192.0.2.6]'
    """
    pairs = [(each, port) for each in addresses for port in MAIL_PORTS]
    found = [f"{each} port {port} answers" for each, port in pairs if _is_open(each, port)]
    return {"result": not found, "comment": ", ".join(found) or "no port for mail answers"}


def _is_open(address, port):
    try:
        socket.create_connection((address, port), timeout=3).close()
    except OSError:
        return False
    return True


def _read_reason():
    """Return the reason in the file that keeps mail off, None without the file."""
    try:
        with open(MAIL_OFF, encoding="utf-8") as file:
            return file.read().strip() or "no reason given"
    except FileNotFoundError:
        return None


def _count(directory, domain):
    """Return how many addresses have a mailbox."""
    try:
        return sum(name.endswith(f"@{domain}") for name in os.listdir(directory))
    except FileNotFoundError:
        return 0


def _measure(directory):
    """Return the bytes on disk below a directory, 0 when it is not there."""
    done = subprocess.run(
        ["du", "--summarize", "--block-size=1", directory],
        capture_output=True,
        text=True,
        check=False,
    )
    return int(done.stdout.split()[0]) if done.stdout else 0


def _find_free(directory):
    """Return the free bytes of the disk that has a directory, or will have it."""
    while not os.path.exists(directory):
        directory = os.path.dirname(directory)
    found = os.statvfs(directory)
    return found.f_bavail * found.f_frsize


def _signed(name, found):
    signature = __salt__["chatmail_identity.sign"](f"chatmail_move {found[name]}")
    return {**found, "signature": signature}


def _ask(command, settings=None, **arguments):
    return __salt__["chatmail_program.call"]("move", command, arguments, settings)
