"""The steps about HTTPS: the pages, new addresses, the policy for MTA-STS, the iroh relay."""

import json

from chatmaild.accounts.nocreate import NOCREATE
from chatmaild.health import connections
from chatmaild.health.running import Account, Failed, NotAsked, State


def _ask(state, path, method="GET", expected=200):
    """Return the body of an answer. Raises Failed for another status."""
    status, body = connections.ask_web(state.settings["mail_domain"], path, method)
    if status != expected:
        raise Failed(f"{path} answered {status}; expected: {expected}")
    return body


def start_page(state: State) -> str:
    """There is a start page."""
    if not _ask(state, "/"):
        raise Failed("/ is empty; expected: a page")
    return "answers"


def mta_sts(state: State) -> str:
    """The policy for MTA-STS is that of the settings (RFC 8461)."""
    if state.settings["form"] != "domain":
        raise NotAsked("only a relay with a domain has a policy")
    body = _ask(state, "/.well-known/mta-sts.txt")
    if body.split() != state.settings["mta_sts_policy"].encode().split():
        raise Failed("/.well-known/mta-sts.txt is not the policy of the settings")
    return "answers"


def iroh(state: State) -> str:
    """The iroh relay of this machine answers."""
    if state.settings["iroh_relay"] is not None:
        raise NotAsked("this machine runs no iroh relay (iroh_relay in the pillar)")
    state.needs_units("nginx", "chatmail-iroh")
    _ask(state, "/generate_204", expected=204)
    return "answers"


def new_addresses(state: State) -> str:
    """With open registration a new address logs in. Otherwise the refusal has a reason."""
    domain = state.settings["mail_domain"]
    status, body = connections.ask_web(domain, "/new", "POST")
    try:
        answer = json.loads(body)
        reason = str(answer.get("reason", ""))
        account = Account(answer["email"], answer["password"]) if status == 200 else None
    except (ValueError, KeyError, AttributeError):
        raise Failed(f"/new answered {status} without the JSON that apps expect") from None
    if account:
        state.made.append(account)
        with connections.imap(993) as client:
            client.login(*account)
        return "a new address logged in"
    closed = state.settings["registration"] != "open" or NOCREATE.exists()
    if (status == 403 and closed and reason) or status == 429:
        return f"/new refuses, as the settings say: {reason}"
    raise Failed(f"/new answered {status}: {reason}; expected: a new address")
