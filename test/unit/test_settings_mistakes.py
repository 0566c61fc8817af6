"""The messages about a wrong pillar."""

import pytest
from support.settings import TRIXIE, refused, settings


def test_all_mistakes_are_named_in_one_message():
    text = "\n".join(
        refused(
            max_mailbox_size="500X", fsync="no", nocrate=True, clean={"purge": 1}, mail_domain="x"
        )
    )
    for part in (
        "max_mailbox_size: '500X', allowed is bytes",
        "fsync: 'no', allowed is true or false",
        "nocrate: True, no such setting; did you mean nocreate?",
        "clean:purge: 1, allowed is true or false",
        "mail_domain: 'x', allowed is a full domain name",
    ):
        assert part in text


def test_international_name_is_refused_with_its_punycode():
    assert "xn--mnchen-3ya.example" in refused(mail_domain="münchen.example")[0]


def test_message_about_an_unknown_key_without_a_similar_one_has_no_value():
    """A secret under a wrong key must not come into logs with the error message."""
    (line,) = refused(turn_secrets="hunter2")
    assert line.startswith("- turn_secrets: no such setting")
    assert "hunter2" not in line


def test_nested_key_written_with_a_colon_is_refused():
    assert "did you mean clean:purge?" in refused(**{"clean:purge": True})[0]


def test_control_characters_in_a_key_do_not_break_the_message():
    """Once, a newline in the name of a key made two lines of one report."""
    assert refused(**{"a\nb": 1}) == [
        r"- 'a\nb': no such setting; pillar.example lists all of them"
    ]


def test_long_value_is_shortened_in_the_message():
    (line,) = refused(acme_email="x" * 5000)
    assert len(line) < 250


@pytest.mark.parametrize(
    ("pillar", "named"),
    [
        ({"username_min_length": 12}, "username_min_length: 12, allowed is at most"),
        ({"username_min_length": 12, "username_max_length": 10}, "username_min_length: 12"),
        ({"max_message_size": "600M"}, "max_message_size: 629145600, allowed is at most"),
        ({"www_folder": "/srv/a/b", "mailboxes_dir": "/srv/a/b"}, "mailboxes_dir: '/srv/a/b'"),
        ({"www_folder": "/srv", "mailboxes_dir": "/srv/mail/x"}, "mailboxes_dir: '/srv/mail/x'"),
        ({"www_folder": "/home/vmail"}, "mailboxes_dir: '/home/vmail/mail/chat.example.org'"),
        ({"www_folder": "/"}, "mailboxes_dir: "),
        ({"acme_challenge": "dns-01"}, "acme_challenge: dns-01 needs dns:server"),
        ({"dns": {"server": "192.0.2.1"}}, "dns:server and dns:tsig_key_file: "),
        (
            {"dns": {"server": "ns", "tsig_key_file": "/k", "hook": "a.b"}},
            "dns:server and dns:hook: ",
        ),
        ({"dkim": {"rotate_after": 90}}, "dkim:rotate_after: needs dns:server"),
        (
            {"federation": {"block": ["a.org", "b.org"], "allow": ["B.org."]}},
            "federation:block and federation:allow: ['b.org']",
        ),
        ({"federation": {"block": ["example.org"]}}, "federation:block: ['example.org']"),
        (
            {"mail_domain": "192.0.2.1", "federation": {"block": ["192.0.2.1"]}},
            "federation:block: ['[192.0.2.1]']",
        ),
        (
            {"tls_external_cert_and_key": ["/etc/chatmail/tls/fullchain.pem", "/etc/k.pem"]},
            "tls_external_cert_and_key: ",
        ),
    ],
)
def test_contradiction_is_refused(pillar, named):
    (line,) = refused(**pillar)
    assert line.startswith(f"- {named}")


def test_value_in_error_is_reported_once_and_not_as_a_contradiction_too():
    assert len(refused(username_min_length=99)) == 1


@pytest.mark.parametrize("pillar", [{}, {"chatmail": {}}, {"chatmail": {"nocreate": True}}])
def test_missing_mail_domain_is_the_only_mistake(pillar):
    with pytest.raises(settings.SettingsError, match="mail_domain: missing") as caught:
        settings.resolve(pillar, TRIXIE)
    assert str(caught.value).startswith("1 problem")


@pytest.mark.parametrize("value", [None, "chat.example.org", ["mail_domain"], 5])
def test_pillar_that_is_no_mapping_is_refused(value):
    with pytest.raises(settings.SettingsError, match=r"chatmail: .*allowed is a mapping"):
        settings.resolve({"chatmail": value}, TRIXIE)
