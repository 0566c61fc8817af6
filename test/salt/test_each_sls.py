"""Every .sls of the formula, compiled alone for every kind of relay, as Salt compiles it."""

import logging

import pytest
from support import compiling

DNS = {"server": "ns1.example.org", "tsig_key_file": "/etc/chatmail/tsig.key"}
EXTERNAL = {"tls_external_cert_and_key": ["/etc/ssl/relay.pem", "/etc/ssl/private/relay.key"]}
# Each form of mail domain with each of its TLS modes, and the settings that add or remove states.
# Each relay is compiled for one of the two releases.
RELAYS = {
    "domain, ACME": (13, {"mail_domain": "chat.example.org"}),
    "domain, ACME by DNS, all optional parts": (
        12,
        {
            "mail_domain": "chat.example.org",
            "acme_challenge": "dns-01",
            "dns": DNS,
            "dkim": {"rotate_after": 90},
            "metrics_address": "127.0.0.1:9999",
            "registration": "closed",
            "backup_recipients": ["age1ql3z7hjy54pw3hyww5ayyfg7zqgvc7w3j2elw8zmrj2kg5sfn9aqmcac8p"],
            "clean": {"purge": True},
        },
    ),
    "domain, operator's certificate": (13, {"mail_domain": "chat.example.org", **EXTERNAL}),
    "test domain": (12, {"mail_domain": "_chat.example.org"}),
    "test domain, operator's certificate, no optional parts": (
        12,
        {"mail_domain": "_chat.example.org", "mail": False, "iroh_relay": "", **EXTERNAL},
    ),
    "address": (13, {"mail_domain": "13.12.23.42"}),
    "address, operator's certificate": (
        12,
        {"mail_domain": "13.12.23.42", "dns": {"hook": "my_dns.apply"}, **EXTERNAL},
    ),
}


@pytest.fixture(scope="module", params=RELAYS.values(), ids=RELAYS)
def compiled(request):
    """Return compile(sls) for a kind of relay. It compiles each .sls only once."""
    release, chatmail = request.param
    done = {}
    # Salt's thousands of debug lines would hide the message of a failure.
    logging.disable(logging.CRITICAL)
    with compiling.compiler(chatmail, release) as compile_sls:

        def once(sls):
            if sls not in done:
                done[sls] = compile_sls(sls)
            return done[sls]

        yield once
    logging.disable(logging.NOTSET)


@pytest.mark.parametrize("sls", compiling.sls_names())
def test_sls_compiles_alone(compiled, sls):
    """The .sls renders, and each of its requisites names a state, so `state.apply` can begin.

    An .sls without any state would make salt-call end with exit code 1.
    """
    assert compiled(sls)


@pytest.mark.parametrize("sls", compiling.sls_names())
def test_id_begins_with_a_word_of_our_own(compiled, sls):
    """If another formula has the same id, a highstate fails before its first state."""
    ids = {state["__id__"] for state in compiled(sls)}
    assert {each for each in ids if not each.startswith(("chatmail ", "chatmail-"))} == set()


def test_states_of_the_relay_and_no_others_wait_for_free_ports(compiled):
    """Once, the check stopped a whole highstate, with the states of other formulas."""
    states = {state["__id__"]: state for state in compiled("chatmail")}
    del states["chatmail modules and states are of this release"]
    check = states.pop("chatmail ports of the relay are free")
    assert not check.get("failhard")
    requisite = {"chatmail_relay": check["__id__"]}
    assert {name for name, each in states.items() if requisite not in each["require"]} == set()


def test_clean_removes_no_package(compiled):
    """Once, clean removed the package of certbot, but the machine may have other certificates."""
    assert [each["name"] for each in compiled("chatmail.clean") if each["state"] == "pkg"] == []


def test_renewal_configuration_that_clean_moves_away_comes_back_with_the_relay():
    """Without that file, certbot's timer asks for no renewal, which would fail without nginx."""
    with compiling.compiler({"mail_domain": "chat.example.org"}) as compile_sls:
        aside, back = (
            {
                (each["source"], each["name"])
                for each in compile_sls(sls)
                if each["state"] == "file" and "letsencrypt/renewal" in each.get("source", "")
            }
            for sls in ("chatmail.certificate.clean", "chatmail.certificate.acme")
        )
    assert len(aside) == 1
    assert back == {(name, source) for source, name in aside}


@pytest.mark.parametrize("sls", compiling.sls_names())
def test_states_of_our_own_come_with_the_check_that_they_are_current(compiled, sls):
    """Without it, the first `state.apply` of this .sls would not find them."""
    states = compiled(sls)
    own = {each["__id__"] for each in states if each["state"].startswith("chatmail_")}
    checks = [each for each in states if each["__sls__"] == "chatmail.modules"]
    assert not own or checks


@pytest.mark.parametrize("sls", compiling.sls_names())
def test_condition_of_a_state_does_not_make_salt_load_all_its_modules(compiled, sls):
    """For `onlyif` and its like, Salt looks for a function that no state module has.

    It loads 400 files in search of it, which doubled the time of a converge without a change. What
    removes the relay may do so.
    """
    conditions = {"onlyif", "unless", "creates"}
    found = {each["__id__"] for each in compiled(sls) if conditions & set(each)}
    assert sls.endswith("clean") or found == set()


def test_units_of_the_relay_start_after_all_packages(compiled):
    """Once, a path unit ran its program when apt installed Dovecot, before the program existed."""
    states = [each for each in compiled("chatmail") if each["state"].startswith("chatmail_")]
    packages = [each["state"] for each in states].index("chatmail_package")
    early = {each["name"] for each in states[:packages] if each["fun"] in ("running", "reloaded")}
    assert early == {"systemd-journald"}
