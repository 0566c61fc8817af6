"""The orchestrations of a move, with machines whose answers are played back."""

import base64
import fcntl
import importlib.util
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from support.played_back import SILENT, Fleet

ASKED = Path(__file__).resolve().parents[2] / "chatmail/fleet/asked.py"
OLD = {
    "domain": "chat.example.org",
    "form": "domain",
    "mailboxes_dir": "/home/vmail/mail/chat.example.org",
    "mail": True,
    "mail_off": None,
    "formula": "2026.11",
    "debian": 12,
    "addresses": 1000,
    "used": 5 << 30,
    "free": 20 << 30,
    "own": ["192.0.2.6"],
    "publishes": True,
}
NEW = {**OLD, "formula": None, "debian": 13, "addresses": 0, "used": 0, "own": ["192.0.2.7"]}
GONE, COMES = "this relay moved to new", "this relay comes here from old"
BACK = "this relay comes here from new"
WELL = {"result": True, "steps": []}
HOST_KEY, PUBLIC_KEY = "ssh-ed25519 HOST", "ssh-ed25519 KEY"
SAME = {"a": {"result": True, "changes": {}, "comment": "", "__id__": "chatmail fine", "name": "-"}}
WITHOUT_MAIL = ["off old", "copy new last", "publish new", "on new"]


class Machines:
    """Two machines that remember whether mail is on. `without` names a function that fails.

    missing: the records that DNS lacks.
    """

    def __init__(self, old=None, new=None, without=None):
        self.found = {"old": {**OLD, **(old or {})}, "new": {**NEW, **(new or {})}}
        self.without, self.steps, self.signs, self.missing = without, [], {}, ""

    def answers(self):
        """Return the answers as Minions takes them."""
        functions = {
            "state.apply": self._apply,
            "chatmail_accounts.count": lambda _m: {"addresses": 1000},
            "chatmail_move.admit": self._admit,
            "chatmail_move.close": lambda _m: {"changed": True},
            "chatmail_move.copy": self._copy,
            "chatmail_move.key": lambda m: sign(self.signs.get(m, m), "public_key", PUBLIC_KEY),
            "chatmail_move.off": self._off,
            "chatmail_move.on": self._on,
            "chatmail_move.publish": lambda _m: {"published": 4, "missing": self.missing},
            "chatmail_move.silent": lambda _m, **_given: WELL,
            "chatmail_move.state": lambda m: dict(self.found[m]),
            "result": False,
            "chatmail_relay.health": self._health,
        }
        return {
            name: {machine: self._note(name, machine, do) for machine in self.found}
            for name, do in functions.items()
        }

    def _note(self, name, machine, do):
        def answer(**given):
            short = given.get("mods") or name.rpartition(".")[2]
            step = f"{short} {machine}{' last' if given.get('last') else ''}"
            self.steps.append(step)
            return "it broke" if step == self.without else do(machine, **given)

        return answer

    def _apply(self, machine, mods, pillar=None):
        if mods == "chatmail.clean":
            assert pillar == {"chatmail": {"clean": {"purge": True}}}
            self.found[machine] |= {"formula": None, "addresses": 0}
        return SAME

    def _admit(self, machine, public_key, addresses):
        other = "new" if machine == "old" else "old"
        assert (public_key, addresses) == (PUBLIC_KEY, self.found[other]["own"])
        return sign(self.signs.get(machine, machine), "host_key", HOST_KEY)

    def _copy(self, machine, host_key, addresses, last=False):
        other = "new" if machine == "old" else "old"
        assert (host_key, addresses) == (HOST_KEY, self.found[other]["own"])
        assert self.found[machine]["mail_off"]
        if last:
            assert self.found[other]["mail_off"]
            self.found[machine]["addresses"] = self.found[other]["addresses"]
        return {"files": 7, "bytes": 70}

    def _health(self, _machine, offline=False):
        # DNS is looked at as soon as it has all records.
        assert offline is bool(self.missing)
        return WELL

    def _off(self, machine, reason):
        self.found[machine]["mail_off"] = reason
        return {"mail_off": reason, "changed": True, "seconds": 0.5}

    def _on(self, machine):
        self.found[machine]["mail_off"] = None
        return {"mail_off": None, "changed": True, "seconds": 0.1}

    def serving(self):
        return [name for name, each in self.found.items() if each["mail_off"] is None]


KEYS = {name: rsa.generate_private_key(65537, 2048) for name in ("old", "new", "evil")}


def sign(machine, name, value):
    """Return an answer as `chatmail_move` of a machine signs it."""
    signature = KEYS[machine].sign(
        f"chatmail_move {value}".encode(), padding.PKCS1v15(), hashes.SHA1()
    )
    return {name: value, "signature": base64.b64encode(signature).decode()}


@pytest.fixture
def fleet(tmp_path, monkeypatch):
    made = Fleet(tmp_path, monkeypatch)
    made.opts["cachedir"] = str(tmp_path)
    made.opts["pki_dir"] = str(tmp_path / "pki")
    (tmp_path / "pki/minions").mkdir(parents=True)
    form = serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    for name, key in KEYS.items():
        (tmp_path / "pki/minions" / name).write_bytes(key.public_key().public_bytes(*form))
    return made


def run(fleet, machines, state="moved", back=False, **named):
    source, target = ("new", "old") if back else ("old", "new")
    machines.steps = []
    given = {"name": "move", "source": source, "target": target, **named}
    return fleet.state(state, machines.answers(), module="chatmail_move", **given)


def test_relay_moves_with_the_fewest_steps_without_mail(fleet):
    machines = Machines()
    found = run(fleet, machines)
    assert found["result"] is True, found["comment"]
    assert found["changes"]["addresses"] == 1000
    assert found["changes"]["seconds without mail"] >= 0
    assert machines.serving() == ["new"]
    steps = machines.steps
    start = steps.index("off old")
    assert steps[start : start + 4] == WITHOUT_MAIL
    # Mail is off at the new one before it is converged, and both keys end.
    assert steps.index("off new") < steps.index("chatmail new") < steps.index("copy new") < start
    assert steps[start + 4 : start + 6] == ["close old", "close new"]
    assert steps[-4:] == ["chatmail new", "chatmail old", "health new", "silent new"]


def test_dry_run_only_looks(fleet):
    machines = Machines()
    found = run(fleet, machines, test=True)
    assert (found["result"], found["changes"]) == (None, {"new": "would get the relay of old"})
    assert {step.split()[0] for step in machines.steps} == {"chatmail.modules", "state"}


def test_finished_move_changes_nothing(fleet):
    machines = Machines(old={"mail_off": GONE}, new={"formula": "2026.11", "addresses": 1000})
    for test in (True, False):
        found = run(fleet, machines, test=test)
        assert (found["result"], found["changes"]) == (True, {})
        assert not {"off old", "off new", "on new", "copy new"} & set(machines.steps)


@pytest.mark.parametrize(
    "step",
    [
        *("chatmail.move new", "off new", "chatmail new", "key new", "admit old", "copy new"),
        *("off old", "copy new last", "publish new", "on new", "health new", "silent new"),
    ],
)
def test_move_that_stopped_anywhere_goes_on(fleet, step):
    machines = Machines(without=step)
    found = run(fleet, machines)
    assert found["result"] is False
    assert f"{step.split()[1]}: " in found["comment"]
    assert "it broke" in found["comment"]
    assert ("Mail is off on old and new" in found["comment"]) is (step in WITHOUT_MAIL)
    if "key new" in machines.steps:
        assert {"close old", "close new"} <= set(machines.steps)
    machines.without = None
    assert run(fleet, machines)["result"] is True
    assert machines.serving() == ["new"]


def test_silent_machine_stops_the_move(fleet):
    machines = Machines()
    answers = machines.answers()
    answers["chatmail_move.state"]["old"] = SILENT
    given = {"name": "move", "source": "old", "target": "new"}
    found = fleet.state("moved", answers, module="chatmail_move", **given)
    assert found["result"] is False
    assert "old: checks: silent" in found["comment"]


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ({}, {"domain": "other.example.org"}, "domain: chat.example.org in the pillar of old"),
        ({}, {"mailboxes_dir": "/srv/mail"}, "mailboxes_dir: /home/vmail/mail/chat.example.org in"),
        ({"form": "ip"}, {}, "is an address of old and cannot move"),
        ({"formula": None}, {}, "old is no relay"),
        ({}, {"mail": False}, "mail: false in the pillar of new"),
        ({"mail_off": "it is closed"}, {}, "old: mail is off (it is closed)"),
        ({}, {"addresses": 3}, "new has 3 addresses, which a move would delete"),
        ({}, {"mail_off": "it is closed"}, "new: mail is off (it is closed)"),
        ({}, {"mail_off": "this relay comes here from other"}, "from other); expected: on"),
        ({}, {"free": 5 << 30}, "new: 5368709120 bytes are free; expected: 6442450944"),
    ],
)
def test_what_speaks_against_a_move_is_said_before_anything_changes(fleet, old, new, says):
    machines = Machines(old, new)
    found = run(fleet, machines)
    assert found["result"] is False
    assert says in found["comment"]
    assert found["comment"].endswith("Nothing was changed.")
    assert {step.split()[0] for step in machines.steps} == {"chatmail.modules", "state"}


def test_undo_copies_back_what_arrived_meanwhile(fleet):
    machines = Machines(old={"mail_off": GONE}, new={"formula": "2026.11", "addresses": 1001})
    found = run(fleet, machines, back=True)
    assert found["result"] is True, found["comment"]
    assert machines.serving() == ["old"]
    assert machines.found["old"]["addresses"] == 1001
    assert "copy old last" in machines.steps


def test_undo_of_a_move_that_stopped_without_mail_takes_no_copy(fleet):
    """The new machine never served, so its copy may lack what the old one has."""
    machines = Machines(old={"mail_off": GONE}, new={"mail_off": COMES, "formula": "2026.11"})
    found = run(fleet, machines, back=True)
    assert found["result"] is True, found["comment"]
    assert machines.serving() == ["old"]
    assert not any(step.startswith("copy") for step in machines.steps)


def test_undo_that_stopped_goes_on_in_its_direction(fleet):
    machines = Machines(
        old={"mail_off": BACK},
        new={"mail_off": "this relay moved to old", "formula": "2026.11", "addresses": 1001},
    )
    assert run(fleet, machines, back=True)["result"] is True
    assert machines.found["old"]["addresses"] == 1001


def test_records_are_shown_where_the_pillar_has_no_way_to_publish(fleet):
    machines = Machines({"publishes": False}, {"publishes": False})
    machines.missing = "@ A 192.0.2.7"
    found = run(fleet, machines)
    assert found["result"] is True
    assert "Publish these records by hand" in found["comment"]
    assert found["comment"].endswith("@ A 192.0.2.7")
    assert machines.steps.index("publish new") > machines.steps.index("on new")
    machines.missing = ""
    found = run(fleet, machines)
    assert (found["result"], found["changes"]) == (True, {}), found["comment"]
    assert "by hand" not in found["comment"]


def test_two_moves_never_meet(fleet, tmp_path):
    with open(tmp_path / "chatmail_move.lock", "w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        found = run(fleet, Machines())
    assert found["comment"] == "another move runs on this master: wait for it"


def test_purge_takes_only_a_machine_whose_relay_moved(fleet):
    machines = Machines(new={"formula": "2026.11", "addresses": 1000})
    found = run(fleet, machines, state="purged")
    assert found["result"] is False
    assert "expected: a finished move from old to new" in found["comment"]
    assert "chatmail.clean old" not in machines.steps
    machines.found["old"]["mail_off"] = GONE
    assert run(fleet, machines, state="purged", test=True)["result"] is None
    assert "chatmail.clean old" not in machines.steps
    assert run(fleet, machines, state="purged")["changes"] == {"old": "purged"}
    assert run(fleet, machines, state="purged")["changes"] == {}
    # A rerun of the move leaves the empty machine alone.
    assert run(fleet, machines)["result"] is True
    assert "chatmail old" not in machines.steps


def asked(pillar):
    specification = importlib.util.spec_from_file_location("asked", ASKED)
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    module.__pillar__ = pillar
    return module.run()


def test_machines_come_from_the_pillar_of_the_command_line():
    move = {"from": "old", "to": "new"}
    assert asked({"chatmail_move": move}) == {"move": move}
    drain = {"relays": ["r1"], "mail": "off"}
    assert asked({"chatmail_drain": drain}) == {"drain": {"relays": ["r1"], "mail": False}}
    assert asked({"chatmail_drain": {"relays": ["r1"]}})["drain"]["mail"] is True


@pytest.mark.parametrize(
    ("pillar", "error"),
    [
        ({}, "no machine is named"),
        ({"chatmail_move": {"from": "old"}}, "expected: from and to"),
        ({"chatmail_move": {"from": "old", "to": ""}}, "expected: from and to"),
        ({"chatmail_move": {"from": "old", "to": "old"}}, "'old' twice"),
        ({"chatmail_drain": {"relays": "r1"}}, "relays, a list of minion ids"),
        ({"chatmail_drain": {"relays": ["r1"], "mail": "of"}}, "mail, on or off"),
        ({"chatmail_drain": {"relays": ["r1"], "off": True}}, "relays, a list"),
    ],
)
def test_wrong_pillar_of_a_run_says_what_is_expected(pillar, error):
    assert error in asked(pillar)["error"]


@pytest.mark.parametrize(("machine", "named"), [("new", "public_key"), ("old", "host_key")])
def test_key_that_another_minion_sent_is_refused(fleet, machine, named):
    """Once, any minion of the master could answer first and so get all of a relay that moves."""
    machines = Machines()
    machines.signs = {machine: "evil"}
    found = run(fleet, machines)
    assert found["result"] is False
    assert f"{machine}: {named}: expected a signature by the key in " in found["comment"]
    assert machines.serving() == ["old"]
    assert not {"copy new", "off old"} & set(machines.steps)
    assert machines.steps[-2:] == ["close old", "close new"]
