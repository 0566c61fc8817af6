"""The first login creates an address. After that it needs this password (contract, section 3)."""

import imaplib

import pytest
from relay.client import new_account, new_credentials, tls_context
from support.logins import all_at_once, mailboxes, mailboxes_dir, try_imap, try_smtp

PASSWORD = "a good password"
# Characters of file systems, and characters that no address has. {} becomes our domain.
INADMISSIBLE = [
    "abcdefgh@{}",  # too short
    "abcdefghij@{}",  # too long
    "abcdefghi@example.org",  # not ours
    "abcdefghi",
    "abcdefghi@{}@example.org",
    "abcdefghi@{}@{}",
    "Abcdefghi@{}",
    "abcdefgh+@{}",
    "abcdefgh!@{}",
    "abc..defg@{}",
    ".abcdefgh@{}",
    "abc/defgh@{}",
    "../../../../tmp/abcdefghi@{}",
    "/tmp/abcdefghi@{}",
    "a" * 300 + "@{}",
    "abcdefghi@" + "a" * 1000,
]


@pytest.mark.parametrize("first", [try_imap, try_smtp])
def test_first_login_creates_the_second_works_and_a_wrong_password_fails(relay, first):
    account = new_credentials(relay)
    assert account.address not in mailboxes(relay)
    assert first(relay, *account)
    assert account.address in mailboxes(relay)
    assert try_imap(relay, *account)
    assert try_smtp(relay, *account)
    assert not try_imap(relay, account.address, "not the password")
    assert not try_smtp(relay, account.address, "not the password")


@pytest.mark.parametrize("attempt", [try_imap, try_smtp])
def test_inadmissible_login_is_refused_and_leaves_nothing(relay, attempt):
    before = mailboxes(relay)
    logins = [
        (relay, name.replace("{}", new_credentials(relay).address.partition("@")[2]), PASSWORD)
        for name in INADMISSIBLE
    ]
    logins.append((relay, new_credentials(relay).address, "8 signs."))
    logins.append((relay, new_credentials(relay).address, "x" * 512))
    results = all_at_once(attempt, logins)
    assert [login for login, entered in zip(logins, results, strict=True) if entered] == []
    assert mailboxes(relay) == before
    assert relay.run("find /tmp /home /var/tmp -name 'abcdefghi*'").stdout == ""


def test_password_of_any_characters_is_taken_as_it_is(relay):
    account = new_credentials(relay)
    password = "pässwörd %41 &+\"'\\:☃"
    assert try_imap(relay, account.address, password)
    assert try_imap(relay, account.address, password)
    assert not try_imap(relay, account.address, password.replace("%41", "A"))


def test_ten_concurrent_first_logins_make_one_address_with_one_password(relay):
    address = new_credentials(relay).address
    passwords = [f"password number {number}" for number in range(10)]
    entered = all_at_once(try_imap, [(relay, address, password) for password in passwords])
    assert entered.count(True) == 1
    winner = passwords[entered.index(True)]
    home = f"{mailboxes_dir(relay)}/{address}"
    assert relay.run(["find", home, "-name", "password*"]).stdout.split() == [f"{home}/password"]
    again = all_at_once(try_imap, [(relay, address, password) for password in passwords])
    assert [password for password, ok in zip(passwords, again, strict=True) if ok] == [winner]


def test_created_address_asks_for_encryption_and_is_read_by_nobody_else(relay):
    account = new_account(relay)
    home = f"{mailboxes_dir(relay)}/{account.address}"
    stat = "stat -c '%n %a %U %G %s'"
    listing = relay.run(f"cd '{home}' && {stat} . password enforceE2EEincoming").stdout.split("\n")
    assert listing[0].startswith(". 710 vmail vmail ")
    assert listing[1].startswith("password 600 vmail vmail ")
    assert listing[2].endswith(" vmail vmail 0")
    assert relay.run(f"head -c 17 '{home}/password'").stdout == "{SHA512-CRYPT}$6$"


@pytest.mark.parametrize(
    "block", ["truncate --size=0 password", "chown root: password", "echo plain > password"]
)
def test_blocked_address_stays_blocked(relay, block):
    """An empty or unreadable file must not count as missing, or anybody could take the address."""
    account = new_account(relay)
    home = f"{mailboxes_dir(relay)}/{account.address}"
    relay.run(f"cd '{home}' && cp -a password kept && {block}")
    blocked = relay.run(f"cat '{home}/password'").stdout
    logins = [(relay, account.address, password) for password in (account.password, "plain")]
    assert all_at_once(try_imap, logins) == [False, False]
    assert not try_smtp(relay, *account)
    assert relay.run(f"cat '{home}/password'").stdout == blocked
    relay.run(f"cd '{home}' && mv kept password")
    assert try_imap(relay, *account)


def test_nocreate_stops_new_addresses_and_no_others(relay):
    old, new = new_account(relay), new_credentials(relay)
    relay.run("touch /etc/chatmail-nocreate")
    try:
        assert not try_imap(relay, *new)
        assert new.address not in mailboxes(relay)
        assert try_imap(relay, *old)
    finally:
        relay.run("rm /etc/chatmail-nocreate")
    assert try_imap(relay, *new)


def test_existing_addresses_log_in_while_the_accounts_service_is_down(relay):
    account = new_account(relay)
    relay.run("systemctl stop chatmail-accounts")
    try:
        assert try_imap(relay, *account)
        assert try_smtp(relay, *account)
    finally:
        relay.run("systemctl start chatmail-accounts")


def test_no_log_keeps_a_password_or_the_clients_ip_beside_an_imap_login(relay):
    """Dovecot's session ids contain the client's IP in base64, so the log must not have them."""
    account = new_credentials(relay)
    since = relay.run("date +%s.%N").stdout.strip()
    assert try_imap(relay, *account)
    assert not try_imap(relay, account.address, "a secret that is wrong")
    through_nginx = tls_context()
    through_nginx.set_alpn_protocols(["imap"])
    with imaplib.IMAP4_SSL(relay.domain, 443, ssl_context=through_nginx, timeout=20) as connection:
        connection.login(*account)
        client = connection.sock.getsockname()[0]
    units = "-u dovecot -u chatmail-accounts -u nginx"
    log = relay.run(f"journalctl --no-pager -o cat --since=@{since} {units}").stdout
    assert "imap-login" in log
    for secret in (account.password, "a secret that is wrong", client, "session=<"):
        assert secret not in log
    assert account.address not in log
