"""A relay that is administered by salt-ssh, so it needs neither a minion nor Salt.

The shared relay of the session gets an ssh server, which is removed afterwards.
"""

import json
import subprocess

import pytest
from relay.client import imap, new_account
from support.converging import not_as_expected
from support.salt_master import SaltSsh, pillar_files

INSTALL = "DEBIAN_FRONTEND=noninteractive apt-get -q --yes --no-install-recommends install"
PURGE = "DEBIAN_FRONTEND=noninteractive apt-get -q --yes --auto-remove purge"
PACKAGES = ["openssh-server", "python3-psutil"]


@pytest.fixture(scope="module")
def packages(relay):
    """Return those of the packages that the machine has already."""
    relay.needs_lab("a key of root's")
    shown = relay.run(
        f"dpkg-query --show --showformat '${{Package}}\\n' {' '.join(PACKAGES)}", check=False
    )
    return shown.stdout.split()


@pytest.fixture(scope="module")
def salt_ssh(relay, packages, tmp_path_factory):
    """salt-ssh with a key that root of the relay accepts."""
    directory = tmp_path_factory.mktemp("salt-ssh")
    key = directory / "key"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", key], check=True)
    public = key.with_suffix(".pub").read_text()
    relay.run("apt-get -q update && " + INSTALL + " openssh-server")
    relay.run("install -D -m 0600 /dev/stdin /root/.ssh/authorized_keys", input=public)
    try:
        yield SaltSsh(directory, pillar_files(relay), relay.ip, key)
    finally:
        relay.run("rm -rf /root/.ssh /var/tmp/.root_*_salt")
        if new := [each for each in PACKAGES if each not in packages]:
            relay.run(f"{PURGE} {' '.join(new)}")


@pytest.fixture(scope="module")
def psutil(relay, salt_ssh):
    """Install the only library that our modules need and Debian's Python lacks."""
    relay.run(f"{INSTALL} python3-psutil")


def test_missing_library_is_named_with_its_package(salt_ssh, packages):
    if "python3-psutil" in packages:
        pytest.skip("the machine has it")
    done = salt_ssh.run("chatmail_relay.status")
    assert "python3-psutil" in done.stdout + done.stderr


def test_function_answers_what_it_answers_on_the_machine(relay, salt_ssh, psutil):
    """salt-ssh sends a function neither the formula nor the pillar."""
    settings = json.loads(relay.run("cat /etc/chatmail/relay.json").stdout)
    assert salt_ssh.call("chatmail_relay.settings") == settings
    status = salt_ssh.call("chatmail_relay.status")
    assert status["domain"] == relay.domain
    assert relay.domain in status["certificate"]["names"]
    records = salt_ssh.call("chatmail_dns.records")
    assert (f"{relay.domain}.", "MX") in {(each["name"], each["type"]) for each in records}


def test_converged_relay_needs_no_change(salt_ssh, psutil):
    """salt-ssh refuses a requisite that names a file without states. chatmail.dns may have none."""
    report = salt_ssh.call("state.apply", "chatmail,chatmail.dns.verified", "test=True")
    assert not_as_expected(report) == {}


def test_part_is_applied(relay, salt_ssh, psutil):
    missing = "/usr/local/lib/chatmail/chatmaild/dns/rdata.py", "/var/www/chatmail/index.html"
    relay.run(["rm", *missing])
    report = salt_ssh.call("state.apply", "chatmail.program,chatmail.website")
    assert [each["comment"] for each in report.values() if each["result"] is not True] == []
    relay.run(["ls", *missing])


def test_lines_of_the_operator_are_in_the_configuration(salt_ssh, psutil):
    """salt-ssh sends only files that the states name, so no template could ask for these lines."""
    own = salt_ssh.configuration.parent / "roots/chatmail_local"
    own.mkdir()
    (own / "nginx.conf").write_text("location = /own { return 204; }\n")
    report = salt_ssh.call("state.apply", "chatmail.nginx", "test=True")
    diffs = {each["__id__"]: each["changes"].get("diff", "") for each in report.values()}
    assert "+        location = /own { return 204; }\n" in diffs["chatmail nginx configuration"]
    (own / "nginx.conf").unlink()
    assert not_as_expected(salt_ssh.call("state.apply", "chatmail.nginx", "test=True")) == {}


def test_mail_goes_off_for_good_and_comes_back(relay, salt_ssh, psutil):
    """An operator without a master closes a relay, and opens it again."""
    reason = "closed by salt-ssh"
    try:
        assert salt_ssh.call("chatmail_move.off", reason)["mail_off"] == reason
        assert salt_ssh.call("chatmail_move.state")["mail_off"] == reason
        assert relay.run("postfix status", check=False).returncode != 0
    finally:
        done = salt_ssh.call("chatmail_move.on")
    assert (done["mail_off"], done["changed"]) == (None, True)
    imap(relay, new_account(relay)).logout()
    assert salt_ssh.call("chatmail_overview.status", "drift=False")["health"] == []
