"""The entries of METADATA (RFC 5464): device tokens of an address, and entries of the server.

The tokens are in `metadata.json` in the address's directory, in the form of existing relays:
{"devicetoken": {token: time of the last set}}. Older relays wrote a list of tokens without times.
"""

import base64
import hashlib
import hmac
import json
import logging
import re
from pathlib import Path

from chatmaild.common import atomic_files
from chatmaild.metadata import app_versions

# Seconds for which a token is kept.
TOKEN_AGE = 90 * 24 * 3600
# Delta Chat has the same limit. A token is one word, because one line answers all tokens.
TOKEN = re.compile(r"[!-~]{1,4096}")
# Devices of one address. A further device replaces the token that was set first.
MAX_TOKENS = 32

# The default of Postfix's smtpd_recipient_limit, which this relay does not change.
MAX_SMTP_RECIPIENTS = "1000"
TURN_SECRET = Path("/etc/chatmail/turn-secret")
TURN_PORT = 3478
# Seconds. Delta Chat asks again 12 hours before the end. With some days, a laptop that slept still
# has valid credentials.
TURN_LIFETIME = 5 * 24 * 3600

log = logging.getLogger(__name__)


def list_tokens(home: Path, now: float) -> list[str]:
    """Return the device tokens of an address, oldest first.

    home: the directory of the address. now: Unix seconds.
    """
    return list(_read(home, now))


def add_token(home: Path, token: str, now: float) -> None:
    """Keep a token for 90 days from now.

    Raises ValueError for a text that cannot be a token, and OSError.
    """
    if not TOKEN.fullmatch(token):
        raise ValueError("a device token is 1 to 4096 printable ASCII characters without blanks")
    known = _read(home, now)
    # The token moves to the end, because the tokens are in the order of their times.
    known.pop(token, None)
    known[token] = int(now)
    _write(home, dict(list(known.items())[-MAX_TOKENS:]))


def remove_token(home: Path, token: str, now: float) -> None:
    """Remove a token. Raises OSError."""
    known = _read(home, now)
    if known.pop(token, None) is not None:
        _write(home, known)


def remove_tokens(home: Path) -> None:
    """Remove all tokens. Raises OSError."""
    _write(home, {})


def _read(home, now):
    """Return {token: time} of the valid tokens, in the order in which they were set.

    A file in another form is written again in our form, so that the log has the error only once.
    Tokens from a list get the present time. A bad entry does not affect the others.
    """
    try:
        stored = json.loads((home / "metadata.json").read_text())["devicetoken"]
        if not isinstance(stored, dict | list):
            raise TypeError
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, KeyError, TypeError) as error:
        # The log line leaves out the path, which contains the address, and the content.
        log.error("a metadata.json cannot be read, its tokens are lost: %s", type(error).__name__)
        return {}
    pairs = stored.items() if isinstance(stored, dict) else [(token, int(now)) for token in stored]
    good = [(token, time) for token, time in pairs if _is_token(token) and _is_time(time)]
    # A time in the future is wrong. After a clock was set back, such a token would stay for ever.
    current = [pair for pair in good if now - TOKEN_AGE < pair[1] < now + 60]
    known = dict(sorted(current, key=lambda pair: pair[1])[-MAX_TOKENS:])
    if len(good) < len(stored):
        log.error("%d entries of a metadata.json are no tokens", len(stored) - len(good))
    if len(good) < len(stored) or isinstance(stored, list):
        _rewrite(home, known)
    return known


def _is_token(token):
    return isinstance(token, str) and TOKEN.fullmatch(token) is not None


def _is_time(time):
    return isinstance(time, int | float) and not isinstance(time, bool)


def _rewrite(home, known):
    try:
        _write(home, known)
    except OSError as error:
        log.error("a metadata.json stays as it is: %s", error.strerror)


def _write(home, known):
    atomic_files.replace(home / "metadata.json", json.dumps({"devicetoken": known}))


def find_server_entry(name: str, settings: dict, now: float) -> str | None:
    """Return the value of `/shared/vendor/deltachat/<name>`, or None without one."""
    if name == "irohrelay":
        return _find_iroh_relay(settings)
    if name == "maxsmtprecipients":
        return MAX_SMTP_RECIPIENTS
    if name == "turn":
        return _make_turn_credentials(settings["mail_domain"], now)
    if name == "appversions":
        return app_versions.read_versions()
    return None


def _find_iroh_relay(settings):
    """Return the URL of the iroh relay for clients, None if there is none."""
    if settings["iroh_relay"] is not None:
        return settings["iroh_relay"] or None
    # Delta Chat's iroh trusts the usual authorities alone, and gives up on any other certificate.
    scheme = "http" if settings["tls_mode"] == "self_signed" else "https"
    return f"{scheme}://{settings['mail_domain']}"


def _make_turn_credentials(host, now):
    """Return `host:port:user:password`, which coturn checks with `use-auth-secret`.

    https://datatracker.ietf.org/doc/html/draft-uberti-behave-turn-rest-00#section-2.2
    """
    try:
        secret = TURN_SECRET.read_bytes().strip()
    except FileNotFoundError:
        return None
    except OSError as error:
        log.error("no TURN credentials, %s: %s", TURN_SECRET, error.strerror)
        return None
    user = str(int(now) + TURN_LIFETIME)
    digest = hmac.new(secret, user.encode(), hashlib.sha1).digest()
    return f"{host}:{TURN_PORT}:{user}:{base64.b64encode(digest).decode()}"
