"""A relay moves to a new machine, back, and away for good: a real master, mail all the time.

    pytest test/master/test_move.py -s             boots Debian 12 (old), Debian 13 (new, peer)

The tests follow each other: each one needs what the one before left.
"""

import contextlib
import json
import os
import re
import socket
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from master.conftest import THIS_SIDE, minion
from relay.client import encrypted, imap, new_account, smtp
from relay.conftest import enter_client
from relay.machines import lab, lab_relay
from support.mail_stream import MailStream, Waiting, stored
from support.salt_master import Fleet

TSIG_KEY = Path("/run/chatmail-lab/knot/tsig.key")
DNS = {"server": "198.51.100.53", "tsig_key_file": "/etc/chatmail-tsig.key"}
MAIL_PORTS = (25, 143, 465, 587, 993)
# No machine of the lab has this address, so mail to it waits in the queue.
DEAD, NOBODY = "_dead.example.org", "198.51.100.249"
MAILBOXES, MESSAGES = 1000, 20
# Of an idle relay. A busy machine takes longer.
WITHOUT_MAIL = 20
SECRETS = re.compile(r"PRIVATE KEY|\{SHA512-CRYPT\}|static-auth-secret=[^;\s]")
# Copies a mailbox many times, each with messages, as the user of the mail.
FILL = """
import os, pathlib, shutil, sys
home, count, messages = pathlib.Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
domain = home.name.partition("@")[2]
for number in range(count):
    copy = home.parent / f"filling{number:04}@{domain}"
    (copy / "cur").mkdir(parents=True)
    shutil.copy2(home / "password", copy / "password")
    (copy / "enforceE2EEincoming").touch()
    for message in range(messages):
        (copy / "cur" / f"1700000000.M{message}P1.relay:2,S").write_bytes(b"x" * 4000)
"""


@pytest.fixture(scope="module")
def machines(request, tmp_path_factory):
    """The old relay with a thousand mailboxes, the empty new machine, and another relay."""
    done = lab("check", check=False)
    if done.returncode != 0:
        pytest.skip(f"no lab on this machine: {done.stderr.strip()}")
    given = request.config.option.move
    names = given.split(",") if given else [f"move{os.getpid()}-{n}" for n in (1, 2, 3)]
    old, new, peer = names
    domain = f"move{os.getpid()}.signed.example"
    try:
        if not given:
            up = {"capture_output": False}
            lab("up", old, "--os", "debian-12", "--domain", domain, **up)
            lab("up", new, "--os", "debian-13", "--no-converge", **up)
            lab("up", peer, "--os", "debian-13", **up)
        enter_client()
        yield SimpleNamespace(old=lab_relay(old), new=lab_relay(new), peer=lab_relay(peer))
    finally:
        for name in [] if given else names:
            lab("down", name, check=False)


@pytest.fixture(scope="module")
def master(machines, tmp_path_factory):
    """The master of the old and the new machine, which have the same pillar."""
    old, new = machines.old, machines.new
    pillar = {part: old.run(f"cat /srv/pillar/{part}.sls").stdout for part in ("lab", "relay")}
    pillar["dns"] = json.dumps({"chatmail": {"dns": DNS}})
    pillar["top"] = json.dumps({"base": {"*": ["lab", "relay", "dns"]}})
    for machine in (old, new):
        machine.run(f"umask 077 && cat > {DNS['tsig_key_file']}", input=TSIG_KEY.read_text())
    directory = tmp_path_factory.mktemp("master")
    with (
        Fleet(directory, pillar, THIS_SIDE, [old.name, new.name]) as master,
        contextlib.ExitStack() as all_,
    ):
        for machine in (old, new):
            all_.enter_context(minion(machine, master.port))
        master.await_minions()
        assert master.run("saltutil.sync_all").returncode == 0
        yield master


@pytest.fixture(scope="module")
def bus(master, tmp_path_factory):
    """Write all events of the master into a file. Return its path."""
    path = tmp_path_factory.mktemp("bus") / "events"
    program = Path(sys.executable).with_name("salt-run")
    with open(path, "w") as output:
        listener = subprocess.Popen(
            [program, f"--config-dir={master.configuration}", "state.event", "pretty=False"],
            stdout=output,
            stderr=subprocess.STDOUT,
        )
    yield path
    listener.terminate()
    listener.wait(30)


@pytest.fixture(scope="module")
def orchestrate(machines, master, bus):
    """Run an orchestration. Return its last state and the exit code."""
    move = {"chatmail_move": {"from": machines.old.name, "to": machines.new.name}}

    def run(name, *arguments, given=move):
        pillar = json.dumps(given)
        program = Path(sys.executable).with_name("salt-run")
        done = subprocess.run(
            [
                *(program, f"--config-dir={master.configuration}", "--out=json"),
                *("state.orchestrate", f"chatmail.fleet.{name}", f"pillar={pillar}", *arguments),
            ],
            capture_output=True,
            text=True,
            timeout=3600,
            check=False,
        )
        try:
            [states] = json.loads(done.stdout)["data"].values()
            *_, state = sorted(states.values(), key=lambda each: each["__run_num__"])
        except (ValueError, KeyError, AttributeError):
            raise AssertionError(f"no answer:\n{done.stdout}{done.stderr}") from None
        print(name, state["result"], state["changes"], state["comment"])
        return state, done.returncode

    return run


@pytest.fixture(scope="module")
def people(machines, master):
    """Two accounts: one on the relay that moves, and one on the other relay."""
    converge(master, machines.old)
    there, here = new_account(machines.old), new_account(machines.peer)
    home = f"/home/vmail/mail/{machines.old.domain}/{there.address}"
    fill = f"runuser -u vmail -- python3 - {home} {MAILBOXES} {MESSAGES}"
    machines.old.run(fill, input=FILL)
    lab("dns", "set", DEAD, "A", NOBODY)
    waits = f"nobody@{DEAD}"
    with smtp(machines.old, there) as connection:
        connection.sendmail(there.address, [waits], encrypted(there.address, waits))
    count = int(addresses_of(machines.old))
    assert count > MAILBOXES
    return SimpleNamespace(there=there, here=here, count=count)


def converge(master, machine):
    """Apply the formula as a schedule does. Return the ids of the states that changed something."""
    done = subprocess.run(
        [
            *(Path(sys.executable).with_name("salt"), f"--config-dir={master.configuration}"),
            *("--static", "--out=json", "--timeout=1200", machine.name, "state.apply", "chatmail"),
        ],
        capture_output=True,
        text=True,
        timeout=1500,
        check=False,
    )
    states = json.loads(done.stdout)[machine.name]
    assert isinstance(states, dict), states
    assert [each["comment"] for each in states.values() if each["result"] is False] == []
    return [each["__id__"] for each in states.values() if each["changes"]]


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


def addresses_of(machine):
    return machine.run("ls /home/vmail/mail/*/ | grep -c @").stdout.strip()


def check_all_arrived(machines, people, stream):
    """Fail unless each message of the stream is in the mailbox exactly once."""
    machine = machines.peer
    forget_dns(machine)
    machine.wait_until(lambda: set(stream.sent) <= set(stored(machines.old, people.there)), 180)
    found = stored(machines.old, people.there)
    doubled = {each for each in found if found.count(each) > 1}
    print(f"{len(stream.sent)} messages sent, all arrived, {len(doubled)} doubled")
    assert doubled == set()


def test_dry_run_changes_nothing(machines, people, orchestrate):
    state, code = orchestrate("move", "test=True")
    assert (state["result"], code) == (None, 0), state
    assert answers(machines.old) == list(MAIL_PORTS)
    machines.new.run("test ! -e /etc/chatmail && test ! -e /etc/chatmail-mail-off")


def test_relay_moves_while_mail_arrives(machines, people, orchestrate):
    with (
        MailStream(machines.peer, people.here, people.there) as stream,
        Waiting(machines.old, people.there) as client,
    ):
        machines.old.wait_until(lambda: len(client.seen) > 2, 60)
        state, code = orchestrate("move")
        assert (state["result"], code) == (True, 0), state
        [changes] = [state["changes"]]
        before = len(client.seen)
        forget_dns(machines.peer)
        machines.new.wait_until(lambda: len(client.seen) > before + 2, 180)
    print(f"seconds without mail: {changes['seconds without mail']}")
    assert changes["addresses"] == people.count
    assert answers(machines.old) == []
    assert answers(machines.new) == list(MAIL_PORTS)
    assert len(client.connected) >= 2
    check_all_arrived(machines, people, stream)


def test_new_machine_has_keys_passwords_and_owners_of_the_old_one(machines):
    wanted = "/etc/chatmail/dkim /etc/chatmail/tls /etc/chatmail/turn-secret"
    wanted += " /etc/letsencrypt/accounts /etc/letsencrypt/archive /etc/letsencrypt/renewal"
    listed = f"find {wanted} -printf '%p %y %l %u %g %m\n' | sort"
    digests = f"find {wanted} /home/vmail/mail/*/filling* -type f | sort | xargs sha256sum"
    owners = "find /home/vmail/mail/*/filling* -printf '%p %u %g %m %TY-%Tm-%Td\n' | sort"
    for command in (listed, digests, owners):
        shown = [machine.run(command).stdout for machine in (machines.old, machines.new)]
        assert shown[0] == shown[1]
        assert shown[0].count("\n") > 10


def test_mail_that_waits_has_moved_once(machines):
    shown = machines.new.run("postqueue -j").stdout.splitlines()
    waiting = [each["address"] for line in shown for each in json.loads(line)["recipients"]]
    assert waiting == [f"nobody@{DEAD}"]


def test_keys_of_the_move_are_gone(machines):
    for machine in (machines.old, machines.new):
        machine.run("test ! -e /run/chatmail-move && ! systemctl is-active relay-move")
        assert "relay-move" not in machine.run("systemctl list-timers --all").stdout
        machine.run("! systemctl is-active ssh.service")


def test_converge_on_the_old_machine_changes_nothing(machines, master):
    assert converge(master, machines.old) == []
    assert answers(machines.old) == []
    shown = machines.old.salt("chatmail_relay.status")
    assert shown["mail_off"] == f"this relay moved to {machines.new.name}"


def test_move_that_is_finished_changes_nothing(machines, orchestrate):
    state, code = orchestrate("move")
    assert (state["result"], code, state["changes"]) == (True, 0, {}), state


def test_undo_brings_all_mail_back(machines, people, orchestrate):
    with MailStream(machines.peer, people.here, people.there) as stream:
        machines.new.wait_until(lambda: len(stream.sent) > 5, 60)
        state, code = orchestrate("move_undo")
        assert (state["result"], code) == (True, 0), state
    print(f"seconds without mail: {state['changes']['seconds without mail']}")
    assert answers(machines.new) == []
    assert answers(machines.old) == list(MAIL_PORTS)
    check_all_arrived(machines, people, stream)


def test_relay_moves_for_good(machines, people, orchestrate, master):
    state, code = orchestrate("move_purge")
    assert (state["result"], code) == (False, 1)
    assert addresses_of(machines.old) == str(people.count)
    with MailStream(machines.peer, people.here, people.there) as stream:
        state, code = orchestrate("move")
        assert (state["result"], code) == (True, 0), state
    print(f"seconds without mail: {state['changes']['seconds without mail']}")
    check_all_arrived(machines, people, stream)
    state, code = orchestrate("move_purge")
    assert (state["result"], code) == (True, 0), state
    machines.old.run("test ! -e /home/vmail && test ! -e /etc/chatmail")
    converge(master, machines.old)
    assert answers(machines.old) == []
    imap(machines.new, people.there).logout()


def test_certificates_are_renewed_when_they_are_due(machines, orchestrate):
    state, code = orchestrate("renew", given={"chatmail_fleet": {"waves": [[machines.new.name]]}})
    assert (state["result"], code) == (True, 0), state


def test_relay_is_closed_in_two_steps(machines, people, orchestrate):
    drain = {"relays": [machines.new.name]}
    state, code = orchestrate("drain", given={"chatmail_drain": drain})
    assert (state["result"], code) == (True, 0), state
    machines.new.run("test -e /etc/chatmail-nocreate")
    imap(machines.new, people.there).logout()
    state, code = orchestrate("drain", given={"chatmail_drain": {**drain, "mail": "off"}})
    assert (state["result"], code) == (True, 0), state
    assert answers(machines.new) == []


def test_master_and_logs_have_no_secret_and_no_address(machines, master, bus):
    """It comes last, because it looks at what all others left."""
    directory = master.configuration.parent
    kept = [path for path in directory.rglob("*") if path.is_file() and "pki" not in path.parts]
    ours = [path for path in kept if not {"roots", "pillar", "extmods"} & set(path.parts)]
    texts = [path.read_bytes().decode("latin-1") for path in ours]
    both = (machines.old, machines.new)
    texts += [each.run("cat /run/fleet-minion/minion.log").stdout for each in both]
    texts.append(bus.read_text())
    address = re.compile(rf"[A-Za-z0-9._+-]+@{re.escape(machines.old.domain)}")
    assert "chatmail_move.copy" in texts[-1]
    for text in texts:
        assert sorted(set(address.findall(text))) == []
        assert sorted(set(SECRETS.findall(text))) == []
