"""The throwaway address that receives the messages of one run of ping, and what arrived there.

Its name before the @ is the token of the run, the same one on all relays. So each relay knows the
addresses of the others, and no address passes the master.
"""

import re
import secrets
import subprocess
import time

from chatmaild.accounts import mailboxes
from chatmaild.accounts.sessions import acting_as
from chatmaild.common.errors import InvalidRequest, OperatorError
from chatmaild.health import throwaway
from chatmaild.health.machine import ask_program
from chatmaild.health.running import Account, Failed, State

# 36^16 tokens, so nobody can send to the address by chance.
TOKEN = re.compile(r"[a-z0-9]{16}")
# A master that dies in the middle closes nothing. Then the relay itself removes the address.
LIFETIME = "30min"
# The hardening of the relay's own units goes by the prefix chatmail-, and would forbid the removal.
UNIT = "relay-ping-"
PROGRAM = "/usr/local/lib/chatmail"
# Seconds between two looks into the mailbox.
PAUSE = 0.3
# The ways of a message: as a user sends it, and straight to the other relay.
WAYS = ("mail", "https", "smtp")
MESSAGE_ID = re.compile(rf"<({'|'.join(WAYS)})\.([a-z0-9]+)@")
# The name of a file in a Maildir begins with the time of the delivery.
DELIVERED = re.compile(r"(\d+)\.M(\d+)P")


def address(settings: dict, token: str) -> str:
    """Return the address of a run on this relay. Raises InvalidRequest for another token."""
    if not isinstance(token, str) or not TOKEN.fullmatch(token):
        raise InvalidRequest("token: expected 16 characters of a-z and 0-9")
    return f"{token}@{settings['address_domain']}"


def open_(settings: dict, token: str) -> dict:
    """Make the address; return {"domain": the part after the @}."""
    name = address(settings, token)
    if not settings["mail"]:
        raise OperatorError("mail: false in the pillar stops mail on this relay; expected: true")
    with acting_as(throwaway.MAIL_USER):
        # Nobody logs in to it.
        made = mailboxes.create(settings["mailboxes_dir"], name, secrets.token_hex(16))
    if not made:
        raise OperatorError("this token has an address already; expected: a new token")
    _remove_later(token)
    return {"domain": settings["address_domain"]}


def _remove_later(token):
    subprocess.run(
        [
            *("systemd-run", "--quiet", "--collect", f"--on-active={LIFETIME}"),
            *(f"--unit={UNIT}{token}", f"--setenv=PYTHONPATH={PROGRAM}"),
            *("/usr/bin/python3", "-B", "-m", "chatmaild.ping", token),
        ],
        capture_output=True,
        check=False,
    )


def seen(
    settings: dict, token: str, count: int, domains: list[str], wait: float
) -> dict[str, dict[str, float]]:
    """Wait until messages have arrived; return {domain of the sender: {way: Unix seconds}}.

    count: the number of messages to wait for. domains: those of the senders; other messages do not
        count, so that no relay ends the waiting for those of the others.
    wait: the longest time in seconds.
    """
    name, deadline = address(settings, token), time.monotonic() + wait
    while True:
        found = {d: ways for d, ways in _read(name, token).items() if d in domains}
        if sum(map(len, found.values())) >= count or time.monotonic() > deadline:
            return found
        time.sleep(PAUSE)


def _read(name, token):
    fields = "guid hdr.from hdr.message-id"
    try:
        shown = ask_program("doveadm", "-f", "tab", "fetch", "-u", name, fields, "mailbox", "INBOX")
    except Failed as error:
        raise OperatorError(str(error).replace(name, "<address>")) from None
    return parse(shown, token)


def parse(shown: str, token: str) -> dict[str, dict[str, float]]:
    """Return the arrivals from the output of doveadm. Messages of other runs do not count."""
    found: dict[str, dict[str, float]] = {}
    for line in shown.splitlines()[1:]:
        guid, sender, identifier = (*line.split("\t"), "", "")[:3]
        marked, delivered = MESSAGE_ID.match(identifier), DELIVERED.match(guid)
        if marked and delivered and marked[2] == token:
            domain = sender.rpartition("@")[2].rstrip(">")
            at = int(delivered[1]) + int(delivered[2]) / 1e6
            found.setdefault(domain, {})[marked[1]] = at
    return found


def close(settings: dict, token: str) -> bool:
    """Remove the address and all that belongs to it; return whether nothing of it is left."""
    state = State(settings, offline=True)
    state.made.append(Account(address(settings, token), secrets.token_hex(16)))
    subprocess.run(["systemctl", "stop", f"{UNIT}{token}.timer"], capture_output=True, check=False)
    try:
        throwaway.remove(state)
    except Failed as error:
        raise OperatorError(state.hide(str(error))) from None
    return True
