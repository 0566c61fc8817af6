"""The runner chatmail_fleet with a real master: mail between three relays, and what it leaves."""

import contextlib
import json

from master.conftest import check_traces, everything_on


def pairs(found, way):
    """Return {(sender, recipient): seconds or a text} of a matrix, without the unknown ones."""
    return {
        (sender, recipient): value
        for sender, entry in found.items()
        for recipient, value in entry["to"][way].items()
        if value is not None
    }


def lost(found, way):
    return {pair for pair, value in pairs(found, way).items() if isinstance(value, str)}


def mailboxes(relay):
    return relay.run("ls /home/vmail/mail/*").stdout.split()


@contextlib.contextmanager
def without_port_25(relay):
    """Close port 25 of a relay within a `with` block. /mxdeliv has a listener of its own."""
    path = "/etc/postfix/master.cf"
    relay.run(f"cp -p {path} /run/master.cf && postconf -MX smtp/inet && postfix reload")
    try:
        yield
    finally:
        relay.run(f"cp -p /run/master.cf {path} && rm /run/master.cf && postfix reload")


@contextlib.contextmanager
def off(relay):
    """Take a relay off the network within a `with` block."""
    relay.run("ip link set host0 down")
    try:
        yield
    finally:
        relay.run("ip link set host0 up && networkctl reconfigure host0")


def test_each_relay_reaches_each_by_each_way(fleet, relays):
    code, found = fleet.ask("ping", "wait=60")
    everywhere = {(a, b) for a in relays for b in relays}
    assert len(everywhere) == 9
    for way in ("mail", "https", "smtp"):
        assert lost(found, way) == set(), found
        assert set(pairs(found, way)) == everywhere
    assert code == 0
    print(fleet.run("chatmail_fleet.ping", "--out=chatmail_fleet").stdout)
    for relay in relays.values():
        assert mailboxes(relay) == []
        assert relay.run("postqueue -j").stdout == ""
        assert "relay-ping" not in relay.run("systemctl list-timers --all").stdout


def test_closed_port_25_loses_nothing_and_the_matrix_says_whose(fleet, relays):
    name = list(relays)[1]
    with without_port_25(relays[name]):
        code, found = fleet.ask("ping", "wait=60")
    assert lost(found, "mail") == lost(found, "https") == set(), found
    assert lost(found, "smtp") == {(other, name) for other in relays}
    assert code == 0
    assert all(name in entry["comment"] for entry in found.values())


def test_status_says_that_all_is_well_and_nothing_would_change(fleet, relays):
    code, found = fleet.ask("status")
    shown = {name: (entry["health"], entry["drift"]) for name, entry in found.items()}
    assert shown == {name: ([], []) for name in relays}, found
    assert all(entry["queue"] == 0 and entry["certificate"] > 14 for entry in found.values())
    assert code == 0
    print(fleet.run("chatmail_fleet.status", "--out=chatmail_fleet").stdout)


def test_versions_dns_and_keys_of_all_relays(fleet, relays, tmp_path):
    code, found = fleet.ask("versions")
    assert code == 0
    assert {entry["debian"] for entry in found.values()} == {12, 13}
    _code, found = fleet.ask("dns", f"files={tmp_path}")
    assert set(found) == set(relays)
    written = {path.name for path in tmp_path.iterdir()}
    assert written == {f"{name}.zone" for name in list(relays)[:2]}


def test_invitation_works_and_the_relay_never_saw_its_token(fleet, relays, tmp_path):
    name = list(relays)[2]
    file = tmp_path / "invitations"
    code, found = fleet.ask("invite", str(file), name, "uses=2")
    assert (code, found[name]["uses"]) == (0, 2)
    [(shown, link, _code)] = [line.split("\t") for line in file.read_text().splitlines()]
    token = link.partition("#")[2]
    assert shown == name
    url = f"https://{relays[name].domain}/new?token={token}"
    answer = relays[name].client("curl", "-sk", "-X", "POST", url).stdout
    assert json.loads(answer)["email"].endswith(f"[{relays[name].domain}]")
    relays[name].salt("chatmail_accounts.delete", json.loads(answer)["email"])
    assert token not in everything_on(fleet, relays.values())


def test_relay_that_is_off_is_exactly_its_row_and_column(fleet, relays):
    first, name, last = relays
    with off(relays[name]):
        code, found = fleet.ask("ping", "wait=60")
    assert code == 2
    present = {(a, b) for a in (first, last) for b in (first, last)}
    for way in ("mail", "https", "smtp"):
        assert set(pairs(found, way)) == present
        assert lost(found, way) == set(), found
    assert [each for each in relays if not found[each]["answered"]] == [name]
    assert "silent" in found[name]["comment"]


def test_master_and_logs_have_no_secret_and_no_address(fleet, relays):
    """It comes last, because it looks at what all others left."""
    check_traces(fleet, relays.values(), "chatmail_ping.send")
