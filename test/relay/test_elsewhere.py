"""A part of these tests, run as by `kitchen verify`: over ssh, without root, lab or DNS.

The shared relay of the session is the other machine. It gets an ssh server and a user with sudo,
and both are removed afterwards.
"""

import itertools
import shutil
import subprocess
import tempfile
from pathlib import Path
from types import SimpleNamespace
from xml.etree import ElementTree

import pytest

CHECKOUT = Path(__file__).parents[2]
USER = "elsewhere"
INSTALL = f"""
set -e
export DEBIAN_FRONTEND=noninteractive
apt-get -q update
apt-get -q --yes --no-install-recommends install openssh-server sudo
useradd --create-home --shell /bin/bash {USER}
echo '{USER} ALL=(ALL) NOPASSWD: ALL' > /etc/sudoers.d/{USER}
install -D -o {USER} /dev/stdin /home/{USER}/.ssh/authorized_keys
"""
# A login leaves processes in the user's slice. Debian's sudo must know that root can log in.
REMOVE = f"""
systemctl stop user-$(id -u {USER}).slice
userdel --remove {USER}
rm /etc/sudoers.d/{USER}
SUDO_FORCE_REMOVE=yes DEBIAN_FRONTEND=noninteractive apt-get -q --yes purge"""
# These files must not change. `passwd-` and the like are left out: useradd's copies of old files.
FOUND = """
dpkg-query --show
ss -Hltn | awk '{ print $4 }'
getent passwd | cut -d : -f 1
find /etc /home -xdev -path /home/vmail -prune -o ! -name '*-' -print
systemctl is-system-running
"""
# The host key of a new machine is not known yet.
NEW_MACHINE = "-o StrictHostKeyChecking=no -o UserKnownHostsFile=/dev/null -o LogLevel=ERROR"
# A mount namespace has the checkout in a place that all users can read, and a DNS without answers.
ENTER = 'mount --bind "$1" /mnt && mount --bind "$2" /etc/resolv.conf && cd /mnt && shift 2 && "$@"'

PASS = """
test_certificates.py::test_shared_port_speaks_no_protocol_below_the_contracts
test_chat.py::test_two_accounts_join_each_other_and_exchange_texts_and_a_large_file
test_converge.py::test_bad_pillar_is_refused_by_name_and_changes_nothing
test_converge.py::test_settings_are_shown_to_the_operator
test_idle.py::test_compression_is_not_offered_by_default
test_idle.py::test_idling_clients_hibernate
test_login.py::test_created_address_asks_for_encryption_and_is_read_by_nobody_else
test_login.py::test_first_login_creates_the_second_works_and_a_wrong_password_fails
test_metadata.py::test_each_device_adds_its_token_and_all_are_answered
test_proxied.py::test_message_is_sent_and_fetched_through_443
test_realtime.py::test_client_learns_its_address_by_stun
test_realtime.py::test_secret_is_read_by_those_two_who_need_it_and_shown_to_nobody
test_rules.py::test_arrived_message_tells_nothing_about_its_sender
test_rules.py::test_cleartext_from_a_client_is_refused
test_rules.py::test_unsigned_mail_from_elsewhere_is_refused
test_website.py::test_path_is_served_as_what_it_is
"""
PASSES = 35  # with their parameters
SKIP = {
    "test_certificates.py::test_second_converge_finds_nothing_to_do": "a machine of its own",
    "test_lab.py::test_machine_without_rights_is_told_so": "needs the lab",
    "test_metadata.py::test_delta_chat_reads_the_turn_credentials": "asks the DNS",
    "test_metadata.py::test_no_token_is_in_the_journal": "a notification service",
    "test_proxied.py::test_postfix_knows_who_delivers_by_https": "a client of two addresses",
    "test_resilience.py::test_reboot_brings_everything_back": "its power switch",
    "test_rules.py::test_held_message_is_anonymous_and_signed": "its DNS",
}


@pytest.fixture(scope="module")
def home():
    """The home of an unprivileged user, with a key pair. The user owns nothing else."""
    with tempfile.TemporaryDirectory() as directory:
        subprocess.run(
            ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", f"{directory}/key"], check=True
        )
        Path(directory, "resolv.conf").write_text("nameserver 127.0.0.1\n")
        for path in (directory, f"{directory}/key"):
            shutil.chown(path, "nobody", "nogroup")
        yield Path(directory)


@pytest.fixture(scope="module")
def machine(relay, home):
    """The relay with an ssh server, which is removed afterwards."""
    relay.needs_lab("a relay that may get an ssh server")
    before = relay.run(FOUND).stdout.splitlines()
    names = "dpkg-query --show --showformat='${Package}\\n'"
    packages = relay.run(names).stdout.split()
    try:
        relay.run(INSTALL, input=(home / "key.pub").read_text())
        yield relay
    finally:
        added = set(relay.run(names).stdout.split()) - set(packages)
        relay.run(f"{REMOVE} {' '.join(added)}")
        assert set(relay.run(FOUND).stdout.splitlines()) == set(before)


def verify(machine, home, *options):
    """Run pytest against the machine as an unprivileged user; return its CompletedProcess."""
    environment = {"HOME": home, "PATH": "/usr/bin:/bin", "LANG": "C.UTF-8", "CI": "true"}
    command = ["unshare", "--mount", "sh", "-c", ENTER, "sh", CHECKOUT, home / "resolv.conf"]
    command += ["setpriv", "--reuid=nobody", "--regid=nogroup", "--clear-groups"]
    command += ["env", "-i", *(f"{name}={value}" for name, value in environment.items())]
    command += ["PYTHONDONTWRITEBYTECODE=1", ".venv/bin/python", "-m", "pytest"]
    command += ["-p", "no:cacheprovider", f"--basetemp={home}/tmp"]
    command += [f"--hosts=ssh://{USER}@{machine.ip}", f"--ssh-identity-file={home}/key"]
    return subprocess.run(
        [*command, *options], capture_output=True, text=True, timeout=240, check=False
    )


def outcomes(report):
    """Return {test: outcomes} of a JUnit report: "passed", or the reason of another outcome."""
    found = {}
    for case in ElementTree.parse(report).iter("testcase"):
        file = case.get("classname").rpartition(".")[2]
        test = case.get("name").partition("[")[0]
        reasons = [
            each.get("message") for each in case if each.tag in ("skipped", "failure", "error")
        ]
        found.setdefault(f"{file}.py::{test}", []).append(reasons[0] if reasons else "passed")
    return found


@pytest.fixture(scope="module")
def run(machine, home):
    """The result of a run of the tests above."""
    chosen = [f"test/relay/{name}" for name in [*PASS.split(), *SKIP]]
    report = f"--junit-xml={home}/report.xml"
    done = verify(machine, home, "--sudo", f"--ssh-extra-args={NEW_MACHINE}", report, *chosen)
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
    return SimpleNamespace(output=done.stdout, outcomes=outcomes(home / "report.xml"))


def test_tests_pass_on_a_machine_elsewhere(run):
    passed = {name: each for name, each in run.outcomes.items() if name not in SKIP}
    assert set(passed) == set(PASS.split())
    assert list(itertools.chain(*passed.values())) == ["passed"] * PASSES


@pytest.mark.parametrize("name", SKIP)
def test_test_that_needs_more_is_skipped_with_the_reason_in_print(run, name):
    assert run.outcomes[name]
    assert [reason for reason in run.outcomes[name] if SKIP[name] not in reason] == []
    assert any(SKIP[name] in line for line in run.output.splitlines() if line.startswith("SKIPPED"))


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (["--sudo"], "Host key verification failed"),
        ([f"--ssh-extra-args={NEW_MACHINE}"], "Permission denied"),
    ],
    ids=["unknown host key", "no sudo"],
)
def test_machine_that_cannot_be_tested_is_named_once(machine, home, options, reason):
    done = verify(machine, home, *options, "test/relay/test_login.py")
    assert done.returncode == 1
    assert done.stdout.count(reason) == 1
    assert f"{machine.ip} is no relay that can be reached" in done.stdout
