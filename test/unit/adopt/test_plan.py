"""What a take-over would do, and the machines that it refuses."""

import os

import pytest
from chatmaild.adopt import machine, mailboxes, planning, problems
from chatmaild.common.errors import OperatorError

DOMAIN = "chat.example.org"
MAILBOXES = f"/home/vmail/mail/{DOMAIN}"


def listener(unit, port=25, process="master"):
    return {"port": port, "proto": "tcp", "address": "::", "process": process, "unit": unit}


def everything(root):
    return sorted((str(path), path.lstat().st_mtime_ns) for path in root.rglob("*"))


def test_plan_of_a_machine_changes_nothing_and_is_ready(old):
    before = everything(old.root)
    theirs = [listener("postfix@-.service"), listener("acmetool-redirector.service", 80)]
    planned = planning.plan({}, theirs)
    assert (planned["state"], planned["problems"]) == ("ready", [])
    assert planned["pillar"] == {"mail_domain": DOMAIN}
    assert planned["removed"] == ["/usr/local/lib/chatmaild"]
    assert planned["found"]["addresses"] == 1
    assert everything(old.root) == before
    asking = ("systemctl is-", "systemctl show", "dpkg-query", "dpkg --audit", "apt-cache")
    assert [each for each in old.commands if not each.startswith(asking)] == []


def test_plan_names_what_is_to_do(old):
    told = "\n".join(planning.plan({}, [])["to_do"])
    assert "CAA: " in told
    assert "remove the users iroh" in told


@pytest.mark.parametrize(
    ("path", "content", "sentence"),
    [
        ("/usr/sbin/policy-rc.d", "", "/usr/sbin/policy-rc.d exists: a run of cmdeploy"),
        ("/etc/chatmail/relay.json", "{}", "a relay of the formula already"),
        ("/etc/os-release", 'VERSION_ID="13"\n', "found Debian 13, expected Debian 12"),
        ("/home/vmail/passdb.sqlite", "", "passdb.sqlite exists"),
        (machine.DKIM_KEY, "no key", "expected an RSA key in PEM form"),
        (f"/var/lib/acme/live/{DOMAIN}/privkey", "no key", "certificate: "),
    ],
)
def test_half_a_machine_is_refused_by_name(old, path, content, sentence):
    old.write(path, content)
    planned = planning.plan({}, [])
    assert planned["state"] == "refused"
    [problem] = planned["problems"]
    assert sentence in problem


@pytest.mark.parametrize("unit", ["exim4.service", None, "docker@1.service"])
def test_foreign_program_on_a_port_is_refused_by_name(old, unit):
    [problem] = planning.plan({}, [listener(unit, 25, "exim4")])["problems"]
    assert problem.startswith(f"port 25/tcp is held by exim4 ({unit or 'no unit'})")


def test_stopped_mail_service_is_refused_as_a_move(old, monkeypatch):
    states = {"postfix.service": ("disabled", "inactive"), "dovecot.service": ("enabled", "active")}
    found = {unit: {"enabled": enabled, "active": a} for unit, (enabled, a) in states.items()}
    monkeypatch.setattr(machine, "unit_states", lambda units: found)
    stopped, missing = planning.plan({}, [])["problems"]
    assert stopped.startswith("postfix.service is disabled and inactive")
    assert missing.startswith("doveauth.service: found none")


def test_other_machine_is_refused_by_name(old):
    os.unlink(machine.here(machine.INI))
    with pytest.raises(OperatorError, match=r"chatmail\.ini cannot be read"):
        planning.plan({}, [])


def test_limits_of_older_versions_are_found(old):
    old.write("/etc/dovecot/dovecot.conf", "service imap {\n  process_limit = 50000\n}\n")
    old.write("/etc/postfix/master.cf", "# 5000\nsmtp inet n - y - 100 smtpd\n")
    assert machine.find_fixed_limits() == {"max_imap_connections": "50000"}


@pytest.mark.parametrize(
    ("line", "domain", "own", "expected"),
    [
        ("", DOMAIN, True, f"/var/lib/acme/live/{DOMAIN}/fullchain"),
        ("", "_x.example", True, "/etc/ssl/certs/mailserver.pem"),
        ("", "192.0.2.1", True, "/etc/ssl/certs/mailserver.pem"),
        ("", "_x.example", False, "/var/lib/acme/live/_x.example/fullchain"),
        ("/etc/a.pem /etc/b.pem", DOMAIN, True, "/etc/a.pem"),
    ],
)
def test_certificate_is_found_where_the_daemons_read_it(old, line, domain, own, expected):
    if own:
        old.write("/etc/ssl/certs/mailserver.pem")
    given = {"mail_domain": domain, "tls_external_cert_and_key": line}
    assert machine.find_certificate(given)[0] == expected


def test_mailboxes_are_counted_without_an_address(old):
    for name in (f"Upper@{DOMAIN}", f"a+b@{DOMAIN}", f"plain@{DOMAIN}"):
        old.write(f"{MAILBOXES}/{name}/password", "{SHA512-CRYPT}$6$x")
    old.write(f"{MAILBOXES}/plain@{DOMAIN}/password", "cleartext")
    old.write(f"{MAILBOXES}/plain@{DOMAIN}/20261126-1.in", "")
    old.write(f"{MAILBOXES}/plain@{DOMAIN}/metadata.json", '{"devicetoken": ["a"]}')
    old.write(f"{MAILBOXES}/blocked00@{DOMAIN}/password", "")
    old.write(f"{MAILBOXES}/pending_notifications/{'a' * 32}", f"plain@{DOMAIN}\n1\ntoken")
    old.write(f"{MAILBOXES}/pending_notifications/{'b' * 32}.tmp", f"plain@{DOMAIN}\n1\ntoken")
    machine.here(f"{MAILBOXES}/nobody@{DOMAIN}/cur").mkdir(parents=True)
    assert mailboxes.count(MAILBOXES, DOMAIN) == {
        "addresses": 5,
        "without_password": 1,
        "unusable": 2,
        "foreign_hashes": 1,
        "unprotected": 4,
        "old_tokens": 1,
        "raw_logs": 1,
        "notifications": 1,
    }


def test_program_that_asks_a_question_gets_no_answer_and_keeps_configuration_files():
    """Dovecot's package asked again and again what to do with dovecot.conf, and `undo` hung."""
    told = machine.run("sh", "-c", 'read line; echo "$? $UCF_FORCE_CONFFOLD $DEBIAN_FRONTEND"')
    assert told == "1 1 noninteractive\n"


def test_machine_without_space_is_refused_by_name(old, monkeypatch):
    monkeypatch.setattr(problems, "NEEDED_BYTES", 1 << 60)
    planned = planning.plan({}, [])
    [problem] = planned["problems"]
    assert problem.startswith("disk: /var has ")
    assert f"expected {1 << 40} MB" in problem


def test_link_and_pipe_in_the_mailboxes_are_not_followed(old, tmp_path):
    """The user vmail may put anything there; a pipe made `plan` wait for ever."""
    secret = old.write("/root/secret", "a\n17\nsecret")
    directory = machine.here("/root").stat().st_mode
    pending = machine.here(f"{MAILBOXES}/pending_notifications")
    pending.mkdir()
    (pending / ("a" * 32)).symlink_to(secret)
    machine.here(f"{MAILBOXES}/link@{DOMAIN}").symlink_to(machine.here("/root"))
    for name, file in (("pipe", "password"), ("metapipe", "metadata.json")):
        home = machine.here(f"{MAILBOXES}/{name}@{DOMAIN}")
        home.mkdir()
        os.mkfifo(home / file)
    old.write(f"{MAILBOXES}/metapipe@{DOMAIN}/password", "{SHA512-CRYPT}$6$x")
    found = mailboxes.count(MAILBOXES, DOMAIN)
    assert (found["addresses"], found["without_password"], found["notifications"]) == (2, 1, 0)
    mailboxes.open_for_filter(MAILBOXES)
    mailboxes.move_notifications(MAILBOXES, (os.getuid(), os.getgid()))
    assert machine.here("/root").stat().st_mode == directory
    assert list(machine.here(mailboxes.OUR_PENDING).iterdir()) == []
    assert secret.exists()


def test_directory_of_pending_notifications_that_is_a_link_is_not_followed(old):
    old.write("/root/secret", "a\n17\nsecret")
    machine.here(f"{MAILBOXES}/pending_notifications").symlink_to(machine.here("/root"))
    assert mailboxes.count(MAILBOXES, DOMAIN)["notifications"] == 0


def test_mailbox_without_a_password_is_open_for_the_filter(old):
    home = machine.here(f"{MAILBOXES}/later0001@{DOMAIN}")
    home.mkdir(mode=0o700)
    mailboxes.open_for_filter(MAILBOXES)
    assert oct(home.stat().st_mode)[-3:] == "710"
