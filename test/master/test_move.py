"""A relay moves to a new machine, back, and away for good: a real master, mail all the time.

    pytest test/master/test_move.py -s             moves from Debian 12 to Debian 13
    pytest … --releases debian-12,debian-12        moves between these releases

The tests follow each other: each one needs what the one before left.
"""

import contextlib
import json
import re
import socket
from types import SimpleNamespace

import pytest
from master.conftest import booted, check_traces, events_of, minion, write_pillar
from relay.client import encrypted, imap, new_account, smtp
from relay.machines import lab
from support.delta_chat import core, join, online_account
from support.mail_stream import Conversation, MailStream, Waiting, stored

MAIL_PORTS = (25, 143, 465, 587, 993)
# No machine of the lab has this address, so mail to it waits in the queue.
DEAD, NOBODY = "_dead.example.org", "198.51.100.249"
MAILBOXES, MESSAGES = 1000, 20
# Copies a mailbox many times, each with messages, as the user of the mail.
FILL = """
import os, pathlib, shutil, sys
home, count, messages = pathlib.Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
domain = home.name.partition("@")[2]
for number in range(count):
    copy = home.parent / f"filling{number:04}@{domain}"
    (copy / "cur").mkdir(parents=True, exist_ok=True)
    shutil.copy2(home / "password", copy / "password")
    (copy / "enforceE2EEincoming").touch()
    for message in range(messages):
        (copy / "cur" / f"1700000000.M{message}P1.relay:2,S").write_bytes(b"x" * 4000)
"""


@pytest.fixture(scope="module")
def roles(relays, fleet, boxes, request):
    """The old relay with a thousand mailboxes, the empty new machine, and another relay."""
    peer, old, *_ = relays.values()
    *_, (name, options) = boxes.items()
    with booted({name: options}, request) as found, minion(found[name], fleet.port, fleet.finger()):
        fleet.names.append(name)
        fleet.await_minions()
        yield SimpleNamespace(old=old, new=found[name], peer=peer)
        fleet.names.remove(name)


@pytest.fixture(scope="module")
def orchestrate(roles, fleet):
    """Run an orchestration. Return its last state and the exit code."""
    move = {"chatmail_move": {"from": roles.old.name, "to": roles.new.name}}

    def run(name, *arguments, given=move):
        code, states = fleet.orchestrate(name, *arguments, pillar=given)
        *_, state = sorted(states.values(), key=lambda each: each["__run_num__"])
        print(name, state["result"], state["changes"], state["comment"])
        return state, code

    return run


@pytest.fixture(scope="module")
def people(roles, tmp_path_factory):
    """Two accounts, and two Delta Chats: one each on the relay that moves and on the other one."""
    there, here = new_account(roles.old), new_account(roles.peer)
    home = f"/home/vmail/mail/{roles.old.domain}/{there.address}"
    fill = f"runuser -u vmail -- python3 - {home} {MAILBOXES} {MESSAGES}"
    roles.old.run(fill, input=FILL)
    lab("dns", "set", DEAD, "A", NOBODY)
    waits = f"nobody@{DEAD}"
    with smtp(roles.old, there) as connection:
        connection.sendmail(there.address, [waits], encrypted(there.address, waits))
    with (
        core(tmp_path_factory.mktemp("writer")) as one,
        core(tmp_path_factory.mktemp("reader")) as other,
    ):
        reader = online_account(other, roles.old, "Reader")
        writer = online_account(one, roles.peer, "Writer")
        join(writer, reader)
        count = int(addresses_of(roles.old))
        assert count > MAILBOXES
        yield SimpleNamespace(there=there, here=here, count=count, writer=writer, reader=reader)


@contextlib.contextmanager
def mail(roles, people):
    """Let mail arrive at the relay within a `with` block, which moves it. Two clients wait for it.

    Each kind is a message a second from the other relay: to an account whose client only waits, and
    from Delta Chat to Delta Chat. Fails unless both clients go on, and each message arrives once.
    """
    with (
        MailStream(roles.peer, people.here, people.there) as stream,
        Waiting(roles.old, people.there) as client,
        Conversation(people.writer, people.reader) as talk,
    ):
        roles.peer.wait_until(lambda: len(client.seen) > 2 and len(talk.received()) > 2, 180)
        yield
        forget_dns(roles.peer)
        seen, received = len(client.seen), len(talk.received())
        roles.peer.wait_until(
            lambda: len(client.seen) > seen + 2 and len(talk.received()) > received + 2, 180
        )
    assert len(client.connected) >= 2
    check_arrived("a mailbox", roles, stream.sent, lambda: stored(roles.old, people.there))
    check_arrived("Delta Chat", roles, talk.sent, lambda: [text for text, _ in talk.received()])
    print(f"longest pause: client {client.longest_pause()} s, Delta Chat {talk.longest_pause()} s")


def check_arrived(where, roles, sent, arrived):
    """Fail unless each message arrived exactly once; arrived: a function that returns them."""
    roles.peer.wait_until(lambda: set(sent) <= set(arrived()), 180)
    found = arrived()
    doubled = {each for each in found if found.count(each) > 1}
    print(f"{len(sent)} messages to {where}, all arrived, {len(doubled)} doubled")
    assert doubled == set()


def scheduled_converge(master, machine):
    """Let the schedule of a minion apply the formula; return the ids of the states that changed."""
    job = {"function": "state.apply", "args": ["chatmail"], "hours": 24, "maxrunning": 1}
    before = len(scheduled_runs(master, machine))
    write_pillar(master, machine.name, minion={"schedule": {"chatmail": job}})
    refresh_pillar(master, machine)
    try:
        machine.wait_until(lambda: len(scheduled_runs(master, machine)) > before, 900)
    finally:
        write_pillar(master, machine.name, minion={})
        refresh_pillar(master, machine)
    states = scheduled_runs(master, machine)[before]
    assert isinstance(states, dict), states
    assert [each["comment"] for each in states.values() if each["result"] is False] == []
    return [each["__id__"] for each in states.values() if each["changes"]]


def scheduled_runs(master, machine):
    """Return what each run of a minion's schedule returned to the master."""
    complete, _, _ = events_of(master).rpartition("\n")
    pairs = [line.partition("\t") for line in complete.splitlines()]
    tag = re.compile(rf"salt/job/\d+/ret/{machine.name}")
    found = [json.loads(text) for name, _, text in pairs if tag.fullmatch(name)]
    return [each["return"] for each in found if each.get("schedule") == "chatmail"]


def refresh_pillar(master, *machines):
    names = ",".join(machine.name for machine in machines)
    assert master.salt("-L", names, "saltutil.refresh_pillar", "wait=True").returncode == 0


def answers(machine):
    """Return the ports for mail of a machine that answer."""
    found = []
    for port in MAIL_PORTS:
        with contextlib.suppress(OSError):
            socket.create_connection((machine.ip, port), timeout=5).close()
            found.append(port)
    return found


def forget_dns(machine):
    """Let a machine forget the addresses of others, as it does when their TTL ends."""
    machine.run("systemctl restart unbound && postqueue -f")


def publish_by_hand(comment):
    """Do what the comment of a move asks for: put the addresses into the DNS."""
    records = re.findall(r"^(\S+)\s+\d+\s+IN\s+(A|AAAA)\s+(\S+)$", comment, re.M)
    assert {kind for _, kind, _ in records} == {"A", "AAAA"}, comment
    for name, kind, value in records:
        lab("dns", "set", name, kind, value)


def addresses_of(machine):
    return machine.run("ls /home/vmail/mail/*/ | grep -c @").stdout.strip()


def without_mail(state):
    print(f"seconds without mail: {state['changes']['seconds without mail']}")


def test_dry_run_changes_nothing(roles, people, orchestrate):
    state, code = orchestrate("move", "test=True")
    assert (state["result"], code) == (None, 0), state
    assert answers(roles.old) == list(MAIL_PORTS)
    roles.new.run("test ! -e /etc/chatmail && test ! -e /etc/chatmail-mail-off")


def test_relay_moves_while_mail_arrives(roles, people, orchestrate):
    with mail(roles, people):
        state, code = orchestrate("move")
        assert (state["result"], code) == (True, 0), state
    without_mail(state)
    assert state["changes"]["addresses"] == people.count
    assert answers(roles.old) == []
    assert answers(roles.new) == list(MAIL_PORTS)


def test_new_machine_has_keys_passwords_and_owners_of_the_old_one(roles):
    wanted = "/etc/chatmail/dkim /etc/chatmail/tls /etc/chatmail/turn-secret"
    wanted += " /etc/letsencrypt/accounts /etc/letsencrypt/archive /etc/letsencrypt/renewal"
    listed = f"find {wanted} -printf '%p %y %l %u %g %m\n' | sort"
    digests = f"find {wanted} /home/vmail/mail/*/filling* -type f | sort | xargs sha256sum"
    owners = "find /home/vmail/mail/*/filling* -printf '%p %u %g %m %TY-%Tm-%Td\n' | sort"
    for command in (listed, digests, owners):
        shown = [machine.run(command).stdout for machine in (roles.old, roles.new)]
        assert shown[0] == shown[1]
        assert shown[0].count("\n") > 10


def test_mail_that_waits_has_moved_once(roles):
    shown = roles.new.run("postqueue -j").stdout.splitlines()
    waiting = [each["address"] for line in shown for each in json.loads(line)["recipients"]]
    assert waiting == [f"nobody@{DEAD}"]


def test_keys_of_the_move_are_gone(roles):
    for machine in (roles.old, roles.new):
        machine.run("test ! -e /run/chatmail-move && ! systemctl is-active relay-move")
        assert "relay-move" not in machine.run("systemctl list-timers --all").stdout
        machine.run("! systemctl is-active ssh.service")


def test_scheduled_converge_on_the_old_machine_changes_nothing(roles, fleet):
    assert scheduled_converge(fleet, roles.old) == []
    assert answers(roles.old) == []
    shown = roles.old.salt("chatmail_relay.status")
    assert shown["mail_off"] == f"this relay moved to {roles.new.name}"


def test_move_that_is_finished_changes_nothing(roles, orchestrate):
    state, code = orchestrate("move")
    assert (state["result"], code, state["changes"]) == (True, 0, {}), state


def test_undo_brings_all_mail_back(roles, people, orchestrate):
    with mail(roles, people):
        state, code = orchestrate("move_undo")
        assert (state["result"], code) == (True, 0), state
    without_mail(state)
    assert answers(roles.new) == []
    assert answers(roles.old) == list(MAIL_PORTS)


def test_relay_moves_for_good_where_records_are_published_by_hand(
    roles, people, orchestrate, fleet
):
    """The second run of the same command finishes, because it finds the records in the DNS."""
    state, code = orchestrate("move_purge")
    assert (state["result"], code) == (False, 1)
    assert addresses_of(roles.old) == str(people.count)
    write_pillar(fleet, roles.old.name, relay={})
    refresh_pillar(fleet, roles.old, roles.new)
    with mail(roles, people):
        state, code = orchestrate("move")
        assert (state["result"], code) == (True, 0), state
        publish_by_hand(state["comment"])
        again, code = orchestrate("move")
        assert (again["result"], code, again["changes"]) == (True, 0, {}), again
        assert "by hand" not in again["comment"]
    without_mail(state)
    assert scheduled_converge(fleet, roles.old) == []
    assert answers(roles.old) == []


def test_old_machine_is_purged(roles, people, orchestrate, fleet):
    state, code = orchestrate("move_purge")
    assert (state["result"], code) == (True, 0), state
    roles.old.run("test ! -e /home/vmail && test ! -e /etc/chatmail")
    scheduled_converge(fleet, roles.old)
    assert answers(roles.old) == []
    imap(roles.new, people.there).logout()


def test_certificates_are_renewed_when_they_are_due(roles, orchestrate):
    plan = {"canaries": [], "waves": [[roles.new.name]]}
    state, code = orchestrate("renew", given={"chatmail_fleet": plan})
    assert (state["result"], code) == (True, 0), state


def test_relay_is_closed_in_two_steps(roles, people, orchestrate):
    drain = {"relays": [roles.new.name]}
    state, code = orchestrate("drain", given={"chatmail_drain": drain})
    assert (state["result"], code) == (True, 0), state
    roles.new.run("test -e /etc/chatmail-nocreate")
    imap(roles.new, people.there).logout()
    state, code = orchestrate("drain", given={"chatmail_drain": {**drain, "mail": "off"}})
    assert (state["result"], code) == (True, 0), state
    assert answers(roles.new) == []


def test_master_and_logs_have_no_secret_and_no_address(fleet, roles):
    """It comes last, because it looks at what all others left."""
    check_traces(fleet, vars(roles).values(), "chatmail_move.copy")
