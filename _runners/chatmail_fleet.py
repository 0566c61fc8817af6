"""Ask all relays of a master: their state, mail between them, DNS, keys, invitations, versions.

Each function shows a table, and all of its result with `--out json`: `data` has an entry for each
relay, {"result", "answered", "comment", …}. The exit code (`retcode`) is 0 when all is well, 1 when
something is wrong on a relay, and 2 when a relay was silent. Answers of the others are shown.

tgt: a compound target, or a list of minions. By default it is `chatmail_fleet:relays` in the pillar
    of the master itself, else every minion whose pillar has `chatmail:mail_domain`.
at_once: the number of relays that work at the same time; by default `chatmail_fleet:at_once`, or 10

No result has a secret or an address. Needs `salt-run saltutil.sync_all`.
"""

import hashlib
import os
import secrets
import string
import sys
from pathlib import Path

import salt.utils.event
import salt.utils.minions
from salt.exceptions import SaltInvocationError

__virtualname__ = "chatmail_fleet"

RELAYS = "I@chatmail:mail_domain:*"
AT_ONCE = 10
TOKEN_LETTERS = string.ascii_lowercase + string.digits
LINKS = ("link", "code")
LONGEST_LINK = 500
# What the runner itself says about a relay; nothing of these names comes from an answer.
OWN = {"answered", "file", "to"}


def __virtual__():
    if "chatmail_asking.ask" not in __utils__:
        return False, "chatmail_fleet needs _utils/chatmail_asking.py: `salt-run saltutil.sync_all`"
    return __virtualname__


def status(tgt=None, at_once=None, drift=True):
    """Check every relay, and show its version, health, certificate, DNS, queue, disk and drift.

    drift: False leaves out `state.apply chatmail test=True`, whose states that would change
        something are the drift. A canary is compared with `canary_saltenv` of the pillar.
    `chatmail_overview.status` describes the entries.

    CLI Example:

    .. code-block:: bash

        salt-run chatmail_fleet.status
        salt-run chatmail_fleet.status 'relay1*' drift=False --out json
    """
    fleet = _pillar()
    saltenv = fleet.get("canary_saltenv")
    canary = {relay: {"saltenv": saltenv} for relay in fleet.get("canaries") or () if saltenv}
    relays, at_once = _fleet(tgt, at_once)
    given = {relay: {"drift": drift, **canary.get(relay, {})} for relay in relays}
    return _ask("chatmail_overview.status", relays, at_once, given.get)


def versions(tgt=None, at_once=None):
    """Show the versions of the formula, Salt, Debian and the main packages on every relay.

    CLI Example:

    .. code-block:: bash

        salt-run chatmail_fleet.versions
    """
    return _ask("chatmail_overview.versions", *_fleet(tgt, at_once))


def dns(tgt=None, at_once=None, files=None, publish=False):
    """Compare DNS with the records that every relay needs.

    files: a directory on the master, which gets the records of each relay as <minion id>.zone.
    publish: True publishes what is missing or wrong, where the pillar of a relay has a way.
    An entry has `domain`, `wrong` (records, each with what is wrong) and `published` (changes).

    CLI Example:

    .. code-block:: bash

        salt-run chatmail_fleet.dns
        salt-run chatmail_fleet.dns files=/srv/zones
        salt-run chatmail_fleet.dns publish=True
    """
    if files:
        Path(files).mkdir(parents=True, exist_ok=True)
    given = {"zone": bool(files), "publish": bool(publish)}
    found = _ask("chatmail_overview.dns", *_fleet(tgt, at_once), lambda _relay: given)
    for relay, each in found["data"].items():
        zone = each.pop("zone", None)
        if files and isinstance(zone, str):
            # A name that the relay chooses could be that of another relay's file.
            path = Path(files, f"{relay}.zone")
            path.write_text(zone)
            each["file"] = str(path)
    return found


def rotate(tgt=None, at_once=None, wait=300, force=False):
    """Rotate the DKIM keys of every relay, as `chatmail_dkim.rotate` does. It can be called again.

    wait: seconds to wait for the name servers. force: begin although the last keys are in DNS.
    An entry has `step`, `signing` and `publish` (records for publishing by hand).

    CLI Example:

    .. code-block:: bash

        salt-run chatmail_fleet.rotate 'relay1' wait=60
    """
    given = {"wait": wait, "force": force}
    return _ask("chatmail_dkim.rotate", *_fleet(tgt, at_once), lambda _relay: given)


def invite(file, tgt=None, at_once=None, uses=1, days=7, note=""):
    """Make an invitation on every relay, and write the links into a file on the master.

    file: the path of a new file, which only root reads: relay, link and code on each line.
    uses, days, note: as `chatmail_accounts.invite` takes them. The note stays in the job cache.
    The master makes the tokens, and a relay gets the digest of its token only. So no token is in an
    event or in the job cache. An entry has `id`, `uses` and `until`.

    CLI Example:

    .. code-block:: bash

        salt-run chatmail_fleet.invite /root/invitations.txt uses=5 note=spring
    """
    tokens = {}

    def arguments(relay):
        tokens[relay] = secrets.token_urlsafe(16)
        digest = hashlib.sha256(tokens[relay].encode()).hexdigest()
        return {"uses": uses, "days": days, "note": note, "digest": digest}

    try:
        descriptor = os.open(file, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600)
    except OSError as error:
        raise SaltInvocationError(f"file: {file}: {error.strerror}; expected: a new file") from None
    with open(descriptor, "w") as output:
        found = _ask("chatmail_accounts.invite", *_fleet(tgt, at_once), arguments)
        for relay, each in found["data"].items():
            shown = [each.pop(name, None) for name in LINKS]
            if each["result"] and all(map(_is_link, shown)):
                links = [link.replace("{token}", tokens[relay]) for link in shown]
                output.write("\t".join([relay, *links]) + "\n")
            elif each["result"]:
                each.update(result=False, comment="expected a link and a code with {token} in them")
    return _result(found["data"])


def _is_link(text):
    """Return whether a text is one word, so that no relay writes a line for another one."""
    good = isinstance(text, str) and text.isprintable() and len(text.split()) == 1
    return good and "{token}" in text and len(text) <= LONGEST_LINK


def ping(tgt=None, at_once=None, wait=30):
    """Send an encrypted message from every relay to every relay, by each way, and time it.

    wait: the longest time in seconds that a message may take.
    An entry has `to`: {way: {relay: seconds, the reason why a message was lost, or None}}. None
    means that one of the two relays did not take part. The ways are `mail` (as a user sends it),
    `https` and `smtp` (straight to the other relay). A loss by `mail` is a fault; the others only
    show the way that mail can take.

    CLI Example:

    .. code-block:: bash

        salt-run chatmail_fleet.ping
        salt-run chatmail_fleet.ping 'L@relay1,relay2' wait=60 --out json
    """
    relays, at_once = _fleet(tgt, at_once)
    token = "".join(secrets.choice(TOKEN_LETTERS) for _ in range(16))

    def step(name, those, arguments):
        given = {relay: {"token": token, **arguments(relay)} for relay in those}
        answers = _ask(f"chatmail_ping.{name}", those, at_once, given.get)["data"]
        return __utils__["chatmail_pairs.check"](name, answers, domains)

    domains = {}
    opened = step("open", relays, lambda _relay: {})
    domains = {relay: each["domain"] for relay, each in opened.items() if each["result"]}
    to = {"domains": list(domains.values()), "wait": wait}
    try:
        sent = step("send", domains, lambda _relay: to)
        expected = __utils__["chatmail_pairs.expected"](domains, sent)
        seen = step("seen", domains, lambda relay: {"count": expected[relay], **to})
    finally:
        closed = step("close", domains, lambda _relay: {})
    return _result(__utils__["chatmail_pairs.join"](opened, sent, seen, closed))


def _fleet(tgt, at_once):
    """Return the ids of the relays, sorted, and how many of them work at the same time."""
    fleet = _pillar()
    tgt = fleet.get("relays", RELAYS) if tgt is None else tgt
    if not isinstance(tgt, list):
        tgt = salt.utils.minions.CkMinions(__opts__).check_minions(tgt, "compound")["minions"]
    return sorted(tgt), int(at_once or fleet.get("at_once") or AT_ONCE)


def _pillar():
    """Return `chatmail_fleet` of the pillar of the master itself."""
    # A pillar may be chosen by grains. The master has few of them, but it has an id.
    grains = {**(__opts__.get("grains") or {}), "id": __opts__["id"]}
    return __salt__["pillar.show_pillar"](__opts__["id"], **grains).get("chatmail_fleet") or {}


def _ask(function, relays, at_once, arguments=None):
    """Call a function on the relays; return what the runner shows.

    arguments: a function that returns the keyword arguments for a relay.
    """
    answers = __utils__["chatmail_asking.ask"](
        list(relays),
        function,
        arguments,
        at_once=at_once,
        told=lambda done, *answer: _tell(function, done, len(relays), *answer),
        tag=salt.utils.event.tagify([__jid__, "progress"], "run"),
    )
    for answer in answers.values():
        found = answer.pop("answer", None)
        if isinstance(found, dict):
            found = {name: value for name, value in found.items() if name not in OWN}
            answer.update({**found, "result": found.get("result", True) is True})
    return _result(answers)


def _result(relays):
    """Return the results for Salt, with the exit code and the name of the outputter."""
    silent = any(not each["answered"] for each in relays.values())
    wrong = any(not each["result"] for each in relays.values())
    code = 2 if silent else 1 if wrong or not relays else 0
    return {"data": relays, "outputter": "chatmail_fleet", "retcode": code}


def _tell(function, done, total, relay, answer):
    """Show somebody who waits at a terminal how far the work is."""
    if sys.stderr.isatty():
        mark = "answered" if answer["answered"] else "silent"
        sys.stderr.write(f"{function} {done}/{total} {relay} {mark}\n")
