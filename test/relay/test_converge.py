"""The checks, the kept files and the output of a converge. test_lifecycle.py has the first one."""

import json

import pytest
from relay.client import smtp
from support.converging import APPLY, changing, not_as_expected, states


@pytest.mark.parametrize(
    ("pillar", "named"),
    [
        ({"max_mailbox_sice": "1G"}, ["max_mailbox_sice", "max_mailbox_size"]),
        (
            {"username_min_length": 12, "max_load_1m": "much"},
            ["username_min_length", "max_load_1m", "much"],
        ),
    ],
)
def test_bad_pillar_is_refused_by_name_and_changes_nothing(relay, pillar, named):
    before = relay.run(
        "find /etc /usr/local /var/www -newer /etc/chatmail/relay.json | sort"
    ).stdout
    override = json.dumps({"chatmail": {"mail_domain": relay.domain, **pillar}})
    refused = relay.run(f"{APPLY} pillar='{override}'", check=False)
    assert refused.returncode != 0
    assert [word for word in named if word not in refused.stdout + refused.stderr] == []
    assert (
        relay.run("find /etc /usr/local /var/www -newer /etc/chatmail/relay.json | sort").stdout
        == before
    )


def test_pillar_raise_on_missing_breaks_nothing(relay):
    relay.run("echo 'pillar_raise_on_missing: True' > /etc/salt/minion.d/raise.conf")
    try:
        assert not_as_expected(states(relay.run(f"{APPLY} test=True --out=json"))) == {}
    finally:
        relay.run("rm /etc/salt/minion.d/raise.conf")


def test_originals_of_replaced_files_are_kept_once(relay):
    for path in ("/etc/nginx/nginx.conf", "/etc/postfix/main.cf", "/etc/dovecot/dovecot.conf"):
        kept = relay.run(f"cat /var/backups/chatmail{path}").stdout
        assert "Managed by the chatmail formula" not in kept
        assert "Managed by the chatmail formula" in relay.run(f"cat {path}").stdout


def test_foreign_program_on_a_needed_port_fails_the_run_and_nothing_changes(relay):
    """A foreign program that listens on 587 would receive the mail of our clients."""
    relay.run("systemctl stop postfix")
    relay.run("systemd-run --unit=squatter python3 -m http.server 587")
    try:
        relay.run("timeout 10 sh -c 'until ss -Hltn sport = 587 | grep -q 587; do sleep 0.1; done'")
        refused = relay.run(f"{APPLY} --out=json", check=False)
        applied = {state["__id__"]: state for state in states(refused).values()}
    finally:
        relay.run("systemctl stop squatter; systemctl start postfix")
    assert refused.returncode != 0
    found = applied["chatmail ports of the relay are free"]["comment"]
    assert "587/tcp" in found
    assert "python3" in found
    assert {name for name, state in applied.items() if state["changes"]} == set()


def test_settings_are_shown_to_the_operator(relay):
    shown = relay.salt("chatmail_relay.settings")
    assert shown["mail_domain"] == relay.domain
    # It depends on which Salt asks, and only states read it.
    del shown["salt_site_packages"]
    assert shown == json.loads(relay.run("cat /etc/chatmail/relay.json").stdout)


def test_postfix_that_an_interrupted_converge_left_stopped_is_started(relay):
    """On Debian 12, postfix.service is active without the instance that is Postfix."""
    release_12 = 'VERSION_ID="12"' in relay.run("cat /etc/os-release").stdout
    relay.run(f"systemctl stop {'postfix@-' if release_12 else 'postfix'}")
    with pytest.raises(ConnectionRefusedError):
        smtp(relay)
    assert len(changing(relay.run(f"{APPLY} --out=json"))) == 1
    smtp(relay).quit()
