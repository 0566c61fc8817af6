"""States that run alone, in another environment, and beside other formulas; and time zones."""

import json

import pytest
from support.converging import APPLY, not_as_expected, states

# Each of these is applied alone. No other test does that.
ALONE = (
    "chatmail.certificate.account",
    "chatmail.certificate.acme",
    "chatmail.certificate.external",
    "chatmail.dkim",
    "chatmail.modules",
    "chatmail.services.renamed",
)
# Another configuration of Salt: the environment base has another formula, prod has ours.
ELSEWHERE = "/run/salt-elsewhere"
CONFIGURE = f"""
mkdir -p {ELSEWHERE}/base/_modules
cd {ELSEWHERE}
cp /etc/salt/minion_id .
echo 'other formula: {{test.nop: []}}' > base/other.sls
printf 'def word():\\n    return "else"\\n' > base/_modules/somebody.py
cat > minion <<END
file_client: local
pillar_roots:
  base: [/srv/pillar]
file_roots:
  base: [{ELSEWHERE}/base]
  prod: [/srv/formulas/chatmail]
cachedir: {ELSEWHERE}/cache
extension_modules: {ELSEWHERE}/cache/extmods
END
"""
SALT = f"salt-call --local --config-dir={ELSEWHERE} --out=json"
# The unit of Postfix itself runs nothing on Debian 12.
UNITS = "chatmail-accounts chatmail-filter chatmail-transport coturn dovecot nginx"
CONFIGURED = f"""
for unit in {UNITS} $(systemctl list-units --plain --no-legend --state=running 'postfix*' \\
        | awk '{{print $1}}'); do
    echo $unit $(systemctl show --value --property=Environment $unit | tr ' ' '\\n' | grep ^TZ=)
done
"""
# Dovecot and nginx overwrite their environment with their title, so they are left out here.
PROCESSES = """
for name in turnserver qmgr; do
    echo $name $(tr '\\0' '\\n' < /proc/$(pgrep -n -x $name)/environ | grep ^TZ=)
done
pid=$(systemctl show --value --property=MainPID chatmail-filter)
echo chatmail-filter $(tr '\\0' '\\n' < /proc/$pid/environ | grep ^TZ=)
"""


@pytest.mark.parametrize("sls", ALONE)
def test_sls_applies_alone_and_finds_a_relay_as_it_should_be(relay, sls):
    applied = states(relay.run(f"salt-call --local --out=json state.apply {sls}"))
    assert applied
    assert not_as_expected(applied) == {}


@pytest.fixture
def elsewhere(relay):
    """The formula in the environment prod, and on a minion that has never synced a module."""
    relay.run(CONFIGURE)
    yield relay
    relay.run(f"rm -r {ELSEWHERE}")


def test_formula_in_another_environment_finds_the_relay_as_it_should_be(elsewhere):
    """Once, the run ended with a traceback, and the modules of base were removed."""
    assert elsewhere.run(f"{SALT} saltutil.sync_modules")
    for test in ("True", "False"):
        applied = states(elsewhere.run(f"{SALT} state.apply chatmail saltenv=prod test={test}"))
        assert not_as_expected(applied) == {}
    result = json.loads(elsewhere.run(f"{SALT} somebody.word").stdout)
    assert result == {"local": "else"}
    # The functions read the settings of the machine, so they need no environment.
    checked = json.loads(elsewhere.run(f"{SALT} chatmail_dns.records").stdout)["local"]
    assert f"{elsewhere.domain}." in {record["name"] for record in checked}
    missing = elsewhere.run(f"{SALT} chatmail_relay.settings", check=False)
    assert missing.returncode != 0
    assert "salt://chatmail/settings.py is not in the environment base" in (
        missing.stdout + missing.stderr
    )


def test_other_formula_runs_while_a_foreign_program_is_in_our_way(elsewhere):
    """Once, the check of the ports ended the whole run, with the states of other formulas."""
    both = f"s|base: .{ELSEWHERE}/base|&, /srv/formulas/chatmail|"
    elsewhere.run(["sed", "-i", both, f"{ELSEWHERE}/minion"])
    elsewhere.run("systemctl stop postfix")
    elsewhere.run("systemd-run --unit=squatter python3 -m http.server 587")
    try:
        elsewhere.run(
            "timeout 10 sh -c 'until ss -Hltn sport = 587 | grep -q 587; do sleep 0.1; done'"
        )
        done = elsewhere.run(f"{SALT} state.apply chatmail,other", check=False)
        applied = {tag.split("_|-")[1]: each for tag, each in states(done).items()}
    finally:
        elsewhere.run("systemctl stop squatter; systemctl start postfix")
    assert applied.pop("other formula")["result"] is True
    assert applied.pop("chatmail modules and states are of this release")["result"] is True
    assert "587/tcp" in applied["chatmail ports of the relay are free"]["comment"]
    assert {name for name, each in applied.items() if each["result"] is not False} == set()
    assert {name for name, each in applied.items() if each["changes"]} == set()


def test_refusal_of_postfix_reaches_the_operator(relay):
    """Once, the message was lost when postconf failed, as it does for such a line."""
    relay.run("cp /etc/postfix/main.cf /run/main.cf && echo 'no equals sign' >> /run/main.cf")
    check = "/usr/local/lib/chatmail/check-postfix main.cf /run/main.cf"
    try:
        refused = relay.run(check, check=False)
    finally:
        relay.run("rm /run/main.cf")
    assert refused.returncode != 0
    assert "no equals sign" in refused.stderr


def test_services_look_up_the_time_zone_once(relay):
    """Their units set TZ. Once, it was in /etc/environment, which is only for logins."""
    found = relay.run(CONFIGURED + PROCESSES).stdout.splitlines()
    assert len(found) == len(UNITS.split()) + 1 + 3
    assert [line for line in found if not line.endswith(" TZ=:/etc/localtime")] == []
    assert "TZ=" not in relay.run("cat /etc/environment").stdout


def test_state_of_the_relay_is_as_it_was(relay):
    """All tests of this file have run before this one."""
    assert not_as_expected(states(relay.run(f"{APPLY} --out=json"))) == {}
