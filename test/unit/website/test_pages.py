"""The content of the pages and of the well-known files of a relay."""

import re
import xml.etree.ElementTree as ElementTree

import pytest
from support.website import CONTACTS, PAGES, build, pages, words


def test_info_page_has_the_limits_of_the_relay():
    info = words(
        pages(
            max_message_size="12M",
            max_mailbox_size="2G",
            delete_mails_after=1,
            delete_large_after=3,
            delete_inactive_users_after=45,
            max_user_send_per_minute=70,
            username_min_length=6,
            username_max_length=12,
            password_min_length=11,
        )["info.html"]
    )
    for expected in (
        "up to 12 MB",
        "up to 2 GB",
        "Messages deleted after 1 day ",
        "deleted after 3 days",
        "deleted after 45 days",
        "70 messages a minute",
        "6 to 12 characters",
        "11 characters or more",
    ):
        assert expected in info


def test_privacy_page_names_contacts_as_they_were_written():
    privacy = pages(**CONTACTS)["privacy.html"]
    assert "Ada & Co <relay> Example Street 1 12345 Town" in words(privacy)
    assert privacy.count("<br>") == 2
    assert 'href="mailto:privacy@example.org"' in privacy
    assert "Dr. Data_Guard" in words(privacy)
    assert "State *Authority*" in words(privacy)


def test_privacy_page_without_contacts_says_so():
    built = pages()
    assert "have not published their names" in words(built["privacy.html"])
    assert "have not published a mail address" in words(built["info.html"])
    assert "mailto:" not in "".join(built[name] for name in PAGES)
    assert "None" not in words(built["privacy.html"])


@pytest.mark.parametrize(
    "hostile", ["<script>alert(1)</script>", "{{ 7 * 7 }}", "# _a_ `b` [c](d)"]
)
def test_setting_with_markup_stays_text(hostile):
    assert hostile in words(pages(privacy_postal=hostile)["privacy.html"])


def test_underscore_of_a_test_domain_starts_no_emphasis():
    built = pages("_chat.example.org")
    assert "Chat privately with _chat.example.org" in words(built["index.html"])
    assert "<em>" not in "".join(built[name] for name in PAGES)


def test_pages_load_nothing_from_other_hosts_and_have_no_inline_script():
    for name, page in {**pages(), **pages("_chat.example.org")}.items():
        if name.endswith(".html"):
            for tag in re.findall(r"<(?:img|link|script)\b[^>]*>", page):
                assert re.search(r'(?:src|href)="/[^/]', tag), tag
            assert "style=" not in page
            assert not re.search(r"<script[^>]*>[^<]", page)
            assert not re.search(r"\son\w+=", page)
        if name.endswith(".css"):
            assert "url(" not in page
            assert "@import" not in page


@pytest.mark.parametrize(
    ("mail_domain", "invited"),
    [("chat.example.org", True), ("_chat.example.org", False), ("13.12.23.42", False)],
)
def test_invitation_by_certificate_is_ready_made_or_fetched(mail_domain, invited):
    built = pages(mail_domain)
    assert ("invite.svg" in built) is invited
    assert (f'href="DCACCOUNT:https://{mail_domain}/new"' in built["index.html"]) is invited
    assert ('src="/invite.js"' in built["index.html"]) is not invited


def test_pages_of_a_closed_relay_have_no_invitation():
    built = pages(nocreate=True)
    assert "No new addresses at the moment" in words(built["index.html"])
    assert "DCACCOUNT:" not in built["index.html"]
    assert "no new addresses at the moment" in words(built["info.html"])


@pytest.mark.parametrize("mail_domain", ["chat.example.org", "_chat.example.org", "13.12.23.42"])
def test_pages_of_a_relay_with_invitations_have_no_code(mail_domain):
    """The relay would refuse a code without a token. Without JavaScript the page explains that."""
    built = pages(mail_domain, registration="invite")
    index = built["index.html"]
    assert "invite.svg" not in built
    assert 'href="DCACCOUNT' not in index
    assert ('data-account="DCACCOUNT:' in index) is not mail_domain.startswith(("_", "13"))
    assert "New addresses are by invitation. To show yours" in words(index)
    assert "Open the link of your invitation" in words(index)
    assert "Scan this code" not in words(index)
    assert "New addresses are by invitation" in words(built["info.html"])


def test_build_twice_gives_the_same_bytes():
    assert pages(**CONTACTS) == pages(**CONTACTS)


@pytest.mark.parametrize(
    ("count", "expected"),
    [
        (31457280, "30 MB"),
        (500 * 2**20, "500 MB"),
        (1000 * 2**20, "1000 MB"),
        (2**30, "1 GB"),
        (3 * 2**29, "1.5 GB"),
        (2**19, "0.5 MB"),
    ],
)
def test_size_reads_as_people_write_it(count, expected):
    assert build.size(count) == expected


# The two well-known files.


@pytest.mark.parametrize("mail_domain", ["chat.example.org", "_chat.example.org"])
def test_mta_sts_policy_names_the_mx_and_ends_lines_by_crlf(mail_domain):
    assert pages(mail_domain)[".well-known/mta-sts.txt"] == (
        f"version: STSv1\r\nmode: enforce\r\nmx: {mail_domain}\r\nmax_age: 2419200\r\n"
    )


def test_relay_without_a_domain_has_no_mta_sts_policy():
    assert ".well-known/mta-sts.txt" not in pages("13.12.23.42")


@pytest.mark.parametrize("mail_domain", ["chat.example.org", "_chat.example.org", "13.12.23.42"])
def test_autoconfig_lists_every_port_of_the_relay(mail_domain):
    config = ElementTree.fromstring(
        pages(mail_domain)[".well-known/autoconfig/mail/config-v1.1.xml"]
    )
    assert config.findtext("emailProvider/domain") == mail_domain
    servers = [
        (server.get("type"), int(server.findtext("port")), server.findtext("socketType"))
        for server in config.iterfind("emailProvider/*[@type]")
    ]
    assert servers == [
        ("imap", 993, "SSL"),
        ("imap", 143, "STARTTLS"),
        ("imap", 443, "SSL"),
        ("smtp", 465, "SSL"),
        ("smtp", 587, "STARTTLS"),
        ("smtp", 443, "SSL"),
    ]
    for server in config.iterfind("emailProvider/*[@type]"):
        assert server.findtext("hostname") == mail_domain
        assert server.findtext("username") == "%EMAILADDRESS%"
        assert server.findtext("authentication") == "password-cleartext"
