"""With registration by invitation, only people with an invitation get an address."""

import json
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from deltachat_rpc_client import DeltaChat, Rpc
from relay.client import Account
from support.logins import ask, mailboxes, try_imap, try_smtp

# The program is beside the interpreter, also when its environment is not activated.
CORE = Path(sys.executable).with_name("deltachat-rpc-server")


def apply(relay, **settings):
    """Apply the parts that use `registration`, with settings of the test."""
    pillar = [f"pillar={json.dumps({'chatmail': settings})}"] if settings else []
    relay.salt("state.apply", "chatmail.services,chatmail.website", *pillar)


@pytest.fixture(scope="module")
def by_invitation(relay):
    """The relay with registration by invitation."""
    apply(relay, registration="invite")
    yield relay
    apply(relay)


def invite(relay, **arguments):
    """Make an invitation like an operator; return the result and the token."""
    words = [f"{name}={value}" for name, value in arguments.items()]
    made = relay.salt("chatmail_accounts.invite", *words)
    return made, made["link"].partition("#")[2]


def test_invitation_of_three_uses_makes_three_addresses_for_ten_at_once(by_invitation):
    relay = by_invitation
    before = mailboxes(relay)
    _, token = invite(relay, uses=3, note="choir")
    with ThreadPoolExecutor(10) as pool:
        answers = list(pool.map(lambda _: ask(relay, token), range(10)))
    made = [Account(each["email"], each["password"]) for status, each in answers if status == 200]
    assert [status for status, _ in answers].count(403) == 7
    assert mailboxes(relay) - before == {account.address for account in made}
    assert len(made) == 3
    assert all(try_imap(relay, *account) and try_smtp(relay, *account) for account in made)
    status, answer = ask(relay, token)
    assert status == 403
    assert answer["reason"] == "This invitation is used up or no longer valid."


def test_login_without_an_invitation_makes_nothing(by_invitation):
    relay = by_invitation
    before = mailboxes(relay)
    domain = relay.domain
    assert not try_imap(relay, f"abcdefghi@{domain}", "a good password")
    assert not try_smtp(relay, f"abcdefghi@{domain}", "a good password")
    assert ask(relay)[0] == 403
    assert mailboxes(relay) == before


def test_delta_chat_gets_its_address_by_the_code_of_an_invitation(by_invitation, tmp_path):
    relay = by_invitation
    relay.needs_dns("Delta Chat, which gets the relay's name,")
    made, _ = invite(relay)
    with Rpc(str(tmp_path / "accounts"), str(CORE)) as rpc:
        account = DeltaChat(rpc).add_account()
        account.add_transport_from_qr(made["code"])
        account.bring_online()
        address = account.get_config("configured_addr") or account.get_config("addr")
    assert address in mailboxes(relay)


def test_revoked_invitation_makes_no_address_and_no_trace_of_a_token_is_kept(by_invitation):
    relay = by_invitation
    made, token = invite(relay, uses=5, days=1)
    assert made["id"] in relay.salt("chatmail_accounts.invites")
    assert ask(relay, token)[0] == 200
    assert relay.salt("chatmail_accounts.invites")[made["id"]]["uses"] == 4
    assert relay.salt("chatmail_accounts.revoke", made["id"]) == {"changed": True}
    assert ask(relay, token)[0] == 403
    assert relay.salt("chatmail_accounts.invites").get(made["id"]) is None
    journal = relay.run("journalctl --no-pager -o cat --since=-10min").stdout
    assert token not in journal
    not_disk = "-path /proc -prune -o -path /sys -prune -o"
    found = relay.run(f"find / {not_disk} -type f -print0 | xargs -0 grep -lF -- {token} || true")
    assert found.stdout == ""


def test_second_converge_with_invitations_changes_nothing(by_invitation):
    pillar = json.dumps({"chatmail": {"registration": "invite"}})
    states = by_invitation.salt("state.apply", "chatmail", f"pillar={pillar}", "test=True")
    unready = {name: each["comment"] for name, each in states.items() if each["result"] is None}
    assert unready == {}
