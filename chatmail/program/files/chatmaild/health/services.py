"""The steps about what clients ask besides mail: TLS on each port, METADATA, TURN."""

import hashlib
import imaplib
import re

from chatmaild.health import connections, stun
from chatmaild.health.running import Failed, NotAsked, State, describe
from chatmaild.metadata.entries import TURN_SECRET

ENTRIES = "/shared/vendor/deltachat/"
TURN = f"{ENTRIES}turn"
# Each port with TLS, and the protocol there.
TLS_PORTS = (
    *((25, "smtp"), (143, "imap"), (443, "https"), (443, "imap"), (443, "smtp")),
    *((465, "smtp"), (587, "smtp"), (993, "imap")),
)
# The units behind each protocol. Postfix takes no connection without the filter.
UNITS = {"https": {"nginx"}, "imap": {"dovecot"}, "smtp": {"postfix", "chatmail-filter"}}


def tls(state: State) -> str:
    """Each port shows the certificate that is in the file."""
    path = state.settings["tls_certificate"]
    wanted = connections.certificate_in(path)
    asked, other = 0, []
    for port, protocol in TLS_PORTS:
        units = UNITS[protocol] | (UNITS["https"] if port == connections.SHARED_PORT else set())
        if any(state.units.get(name) != "active" for name in units):
            continue
        asked += 1
        where = f"port {port} ({protocol})"
        try:
            found = connections.certificate_of(port, protocol, state.settings["hostname"])
        except (OSError, imaplib.IMAP4.error) as error:
            other.append(f"{where}: {describe(error)}")
            continue
        if found != wanted:
            other.append(f"{where} shows {_digest(found)}")
    if other:
        raise Failed(f"{', '.join(other)}; expected: {_digest(wanted)}, which is in {path}")
    if not asked:
        raise NotAsked("neither Dovecot, Postfix nor nginx runs (see the step units)")
    return f"{asked} listeners show the certificate in the file"


def _digest(certificate):
    return f"SHA-256 {hashlib.sha256(certificate).hexdigest()[:16]}…"


def metadata(state: State) -> str:
    """A client gets what docs/metadata.md lists."""
    settings = state.settings
    wanted = {
        "/shared/admin": bool(settings["privacy_mail"]),
        f"{ENTRIES}irohrelay": settings["iroh_relay"] != "",
        TURN: TURN_SECRET.exists(),
        f"{ENTRIES}maxsmtprecipients": True,
        f"{ENTRIES}appversions": True,
    }
    found = _ask_metadata(state, wanted)
    wrong = [
        f"{name} is {'absent' if there else 'there'}"
        for name, there in wanted.items()
        if (found[name] is not None) != there
    ]
    if wrong:
        raise Failed(f"{', '.join(wrong)}; expected: the entries that docs/metadata.md lists")
    return f"{sum(wanted.values())} entries"


def _ask_metadata(state, names):
    """Return {name: value, or None} of entries of the server (RFC 5464 section 4.2)."""
    account, _ = state.accounts()
    found = {}
    with connections.imap(993) as client:
        client.login(*account)
        for name in names:
            client.xatom("GETMETADATA", '""', f"({name})")
            found[name] = _read_value(client.untagged_responses.pop("METADATA", []), name)
    return found


def _read_value(parts, name):
    """Return the value of an entry, None for NIL. imaplib gives a literal as a pair."""
    line = b"".join(part if isinstance(part, bytes) else b"".join(part) for part in parts)
    value = line.decode("utf-8", "replace").partition(f"({name} ")[2].removesuffix(")")
    if value in ("", "NIL"):
        return None
    return re.sub(r"^\{[0-9]+\}", "", value).strip('"')


def turn(state: State) -> str:
    """The credentials of METADATA get an allocation."""
    if not TURN_SECRET.exists():
        raise NotAsked(f"{TURN_SECRET} does not exist, so clients get no TURN server")
    value = _ask_metadata(state, [TURN])[TURN]
    try:
        _host, port, user, password = (value or "").split(":")
    except ValueError:
        raise Failed(f"{TURN} has not the form host:port:user:password") from None
    try:
        stun.allocate(connections.HOST, int(port), user, password)
    except stun.Refused as error:
        raise Failed(f"coturn answered {error}; expected: an allocation") from None
    except TimeoutError:
        raise Failed(f"coturn did not answer on UDP port {port}; expected: an allocation") from None
    return "an allocation was made and given back"
