"""The operator's own lines in the configurations of a relay (docs/local.md)."""

import json
import urllib.request

import pytest
from relay.client import tls_context
from support.converging import APPLY, apply, changed, failed, not_as_expected, states
from support.local_files import PATHS

ROOT = "/srv/tests-own"
MINION = "/etc/salt/minion.d/tests-own.conf"
LINES = {
    "main.cf": "smtpd_soft_error_limit = 7\n",
    "master.cf": "127.0.0.1:2526 inet n - y - - smtpd\n  -o smtpd_tls_security_level=none\n",
    "dovecot.conf": "protocol imap {\n  imap_idle_notify_interval = 3 mins\n}\n",
    "nginx.conf": 'location = /own {\n    return 200 "{{ relay.mail_domain }}";\n}\n',
    "unbound.conf": 'server:\n    local-data: "own.internal. A 192.0.2.7"\n',
}
CONFIGURATIONS = {
    "main.cf": "chatmail postfix main configuration",
    "master.cf": "chatmail postfix services",
    "dovecot.conf": "chatmail dovecot configuration",
    "nginx.conf": "chatmail nginx configuration",
    "unbound.conf": "chatmail resolver configuration",
}
RELOADED = {
    "chatmail postfix service",
    "chatmail dovecot service",
    "chatmail nginx service",
    "chatmail resolver service",
}
# Bad files of one converge each: {file: (text, the line that the error names)}. None stands for a
# message without a line.
BAD = [
    {
        "main.cf": ("# mine\nsmtpd_nonsense = 1\n", 2),
        "dovecot.conf": ("protocol imap {\n  nonsense = 1\n}\n", 2),
        "nginx.conf": ("location = /own {\n    add_headr X-Own 1;\n}\n", 2),
        "unbound.conf": ("server:\n    nonsense: 1\n", 2),
    },
    {
        "master.cf": ("127.0.0.1:2526 inet n - y - - smtpd\n  -o smtpd_nonsense=1\n", 2),
        "dovecot.conf": ("mail_max_userip_connections = some\n", 1),
        "nginx.conf": ("location = /own {\n", None),
    },
    # Postfix itself would take both, and the relay would be an open one.
    {"main.cf": ("mynetworks = 0.0.0.0/0\n", 1)},
    {"master.cf": ("smtp inet n - y - - smtpd\n", None)},
    {"master.cf": ("127.0.0.1:2526 inet n - y - - nonsense\n", None)},
]
UNITS = "dovecot nginx unbound postfix postfix@-"
PROCESSES = f"systemctl show --property=Id,MainPID,ActiveState {UNITS}"


@pytest.fixture(scope="module")
def own(relay):
    """Return a function that makes {name: text} the operator's own files.

    After the tests of this file none is left, and all configurations must be as they were.
    """
    before = digests(relay)
    # Salt adds this root to those of the minion's other files.
    relay.run(f"cat > {MINION}", input=json.dumps({"file_roots": {"base": [ROOT]}}))

    def write(files):
        relay.run(f"rm -rf {ROOT} && mkdir -p {ROOT}/chatmail_local")
        for name, text in files.items():
            relay.run(f"cat > {ROOT}/chatmail_local/{name}", input=text)

    yield write
    relay.run(f"rm -rf {ROOT} {MINION}")
    report = apply(relay, "chatmail")
    assert failed(report) == set()
    assert digests(relay) == before


def digests(relay):
    return relay.run(["sha256sum", *PATHS.values()]).stdout


def page(relay, path):
    url = f"https://{relay.domain}{path}"
    with urllib.request.urlopen(url, timeout=10, context=tls_context()) as answer:
        return answer.read().decode()


def test_lines_take_effect_and_stay_and_go_with_their_files(relay, own):
    stock = digests(relay)
    assert relay.salt("chatmail_relay.status")["local_files"] == []
    own(LINES)
    predicted = states(relay.run(f"{APPLY} test=True --out=json"))
    assert changed(predicted) == {*CONFIGURATIONS.values(), *RELOADED}
    assert digests(relay) == stock
    report = states(relay.run(f"{APPLY} --out=json"))
    assert (failed(report), changed(report)) == (set(), changed(predicted))

    assert relay.run("postconf -h smtpd_soft_error_limit").stdout == "7\n"
    relay.wait_until(lambda: "2526" in relay.run("ss -Hltn sport = 2526").stdout)
    shown = relay.run("doveconf -f protocol=imap -h imap_idle_notify_interval").stdout
    assert shown.strip() == "3 mins"
    assert page(relay, "/own") == relay.domain
    answer = "import dns.resolver; print(*dns.resolver.resolve('own.internal.'))"
    assert relay.run(["/usr/bin/python3", "-c", answer]).stdout == "192.0.2.7\n"
    used = relay.salt("chatmail_relay.status")["local_files"]
    assert sorted(used) == sorted(f"chatmail_local/{name}" for name in LINES)

    assert not_as_expected(states(relay.run(f"{APPLY} --out=json"))) == {}
    own({})
    report = states(relay.run(f"{APPLY} --out=json"))
    assert (failed(report), changed(report)) == (set(), changed(predicted))
    assert digests(relay) == stock
    assert relay.salt("chatmail_relay.status")["local_files"] == []
    relay.wait_until(lambda: "2526" not in relay.run("ss -Hltn sport = 2526").stdout)


@pytest.mark.parametrize("bad", BAD, ids=", ".join)
def test_bad_line_is_named_and_changes_nothing(relay, own, bad):
    before = digests(relay), relay.run(PROCESSES).stdout
    own({name: text for name, (text, _) in bad.items()})
    report = apply(relay, "chatmail")
    comments = {each["__id__"]: each["comment"] for each in report.values()}
    for name, (text, number) in bad.items():
        where = f"salt://chatmail_local/{name}"
        if number:
            where += f", line {number}: {text.splitlines()[number - 1].strip()}"
        assert f"own file {where}\n" in comments[CONFIGURATIONS[name]]
    assert {CONFIGURATIONS[name] for name in bad} <= failed(report)
    assert changed(report) == set()
    assert (digests(relay), relay.run(PROCESSES).stdout) == before


def test_mistake_in_a_template_is_named_and_no_state_runs(relay, own):
    own({"main.cf": "smtpd_soft_error_limit = 7\n{{ relay.nonsense }}\n"})
    before = digests(relay)
    done = relay.run(f"{APPLY} --out=json", check=False)
    assert done.returncode != 0
    assert "chatmail_local/main.cf(2)" in done.stdout
    assert isinstance(json.loads(done.stdout)["local"], list)
    assert digests(relay) == before


def test_pages_and_settings_of_the_operator_survive(relay, own):
    """The folder of pages is the operator's, too. A converge reads it only."""
    pages = f"{ROOT}/pages"
    own({"main.cf": LINES["main.cf"]})
    relay.run(f"mkdir {pages} && echo '# Mine: {{{{ relay.mail_domain }}}}' > {pages}/index.md")
    files = relay.run(f"grep -r . {ROOT}").stdout
    settings = {"www_folder": pages, "max_message_size": 12345678}
    assert failed(apply(relay, "chatmail", **settings)) == set()
    assert not_as_expected(apply(relay, "chatmail", **settings)) == {}
    assert f"Mine: {relay.domain}" in page(relay, "/")
    shown = relay.run("postconf -h message_size_limit smtpd_soft_error_limit")
    assert shown.stdout == "12345678\n7\n"
    assert relay.run(f"grep -r . {ROOT}").stdout == files
