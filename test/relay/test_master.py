"""A relay with a real Salt master, which runs on this side of the lab's network.

The shared relay of the session gets a second minion for this file. The other tests use its first
Salt without a master.
"""

import json

import pytest
from support.converging import apply, failed, not_as_expected
from support.salt_master import Master, pillar_files

# The address of this host in the lab (test/lab/network.py).
THIS_SIDE = "198.51.100.200"
MINION = "/run/tests-minion"
CHECK = "chatmail resolver finds the Salt master"
# A second resolver on the relay, in place of the provider's. Only this one knows the name.
PROVIDER = f"""
server:
    interface: 127.0.0.2
    chroot: ""
    username: ""
    pidfile: ""
    do-daemonize: no
    use-syslog: no
    local-zone: "inside.example." static
    local-data: "salt.inside.example. A {THIS_SIDE}"
"""


class Minion:
    """A minion on a relay that knows its master by a name."""

    def __init__(self, relay, name, port):
        configuration = {
            "id": "relay",
            "master": name,
            "master_port": port,
            "root_dir": MINION,
            "pki_dir": f"{MINION}/pki",
            "acceptance_wait_time": 1,
            "auth_timeout": 5,
        }
        relay.run(f"mkdir -p {MINION} && cat > {MINION}/minion", input=json.dumps(configuration))
        relay.run(f"systemd-run --unit=tests-minion salt-minion --config-dir={MINION}")
        self.relay = relay

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.relay.run(f"systemctl stop tests-minion; rm -r {MINION}")


@pytest.fixture(scope="module")
def master(relay, tmp_path_factory):
    """A master with the formula and the relay's pillar."""
    relay.needs_lab("a master that it can reach")
    with Master(tmp_path_factory.mktemp("master"), pillar_files(relay), THIS_SIDE) as running:
        yield running


@pytest.fixture
def resolv_conf(relay):
    """Return a function that writes resolv.conf. Afterwards the file is as before."""
    before = relay.run("cat /etc/resolv.conf").stdout
    yield lambda text: relay.run("cat > /etc/resolv.conf", input=text)
    relay.run("cat > /etc/resolv.conf", input=before)
    assert failed(apply(relay, "chatmail.resolver")) == set()


def test_master_finds_a_converged_relay_with_nothing_to_do(relay, master, resolv_conf):
    """The minion finds the master by a search domain, and still does after the converge."""
    name = f"salt-{relay.name}"
    relay.dns_set(f"{name}.plain.example", "A", THIS_SIDE)
    resolv_conf("nameserver 127.0.0.1\nsearch plain.example\n")
    try:
        with Minion(relay, name, master.port):
            master.await_minion()
            assert failed(master.call("state.apply", "chatmail.resolver")) == set()
            assert not_as_expected(master.call("state.apply", "chatmail", "test=True")) == {}
            assert master.call("chatmail_relay.status")["domain"] == relay.domain
            settings = json.loads(relay.run("cat /etc/chatmail/relay.json").stdout)
            found = master.call("chatmail_relay.settings")
            assert {key: found[key] for key in settings} == settings
        assert "search plain.example\n" in relay.run("cat /etc/resolv.conf").stdout
        assert THIS_SIDE in relay.run(f"getent hosts {name}").stdout
    finally:
        relay.dns_del(f"{name}.plain.example")


def test_relay_that_would_lose_its_master_keeps_its_resolv_conf(relay, master, resolv_conf):
    """The relay's resolver asks public DNS, which does not have the provider's own names."""
    provider = "tests-provider"
    relay.run(f"cat > /run/{provider}.conf", input=PROVIDER)
    relay.run(f"systemd-run --unit={provider} unbound -d -c /run/{provider}.conf")
    given = "nameserver 127.0.0.2\nsearch inside.example\n"
    resolv_conf(given)
    try:
        relay.wait_until(lambda: relay.run("getent hosts salt", check=False).returncode == 0)
        with Minion(relay, "salt", master.port):
            master.await_minion()
            for test in ("test=True", "test=False"):
                report = master.call("state.apply", "chatmail", test)
                refused = {each["__id__"]: each["comment"] for each in report.values()}[CHECK]
                assert "does not find the Salt master of this minion: salt." in refused
                assert relay.run("cat /etc/resolv.conf").stdout == given
                # Only the states that need the new resolv.conf fail.
                waiting = {
                    each["__id__"]
                    for each in report.values()
                    if each["comment"].startswith("One or more requisite failed")
                }
                assert failed(report) - waiting == {CHECK}
                assert "chatmail resolv.conf names our resolver" in waiting
    finally:
        relay.run(f"systemctl stop {provider}; rm /run/{provider}.conf")


def test_lines_of_the_operator_come_from_the_master(relay, master):
    """The minion keeps a copy of each file that it has read, also when the master's is gone."""
    own = master.configuration.parent / "roots/chatmail_local"
    own.mkdir()
    with Minion(relay, THIS_SIDE, master.port):
        master.await_minion()
        (own / "nginx.conf").write_text("location = /own { return 204; }\n")
        report = master.call("state.apply", "chatmail.nginx", "test=True")
        diffs = {each["__id__"]: each["changes"].get("diff", "") for each in report.values()}
        assert "+        location = /own { return 204; }\n" in diffs["chatmail nginx configuration"]
        (own / "nginx.conf").unlink()
        assert not_as_expected(master.call("state.apply", "chatmail.nginx", "test=True")) == {}
