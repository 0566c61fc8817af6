"""Things that an account, or a program of another user on the machine, must not be able to do."""

import pytest
from relay.client import imap, new_account

CONNECT = "import socket; socket.socket(socket.AF_UNIX).connect('{}')"
SOCKETS = [
    "/var/spool/postfix/private/dovecot-lmtp",
    "/var/spool/postfix/private/auth",
    "/var/spool/postfix/chatmail/sign",
    "/var/spool/postfix/chatmail-transport/lmtp",
    "/var/spool/postfix/public/cleanup",
    "/run/chatmail-metadata/dict",
    "/run/unbound.ctl",
]


@pytest.fixture(scope="module")
def settings(relay):
    return relay.salt("chatmail_relay.settings")


@pytest.mark.parametrize("user", ["nobody", "www-data", "chatmail-transport"])
def test_no_other_user_delivers_past_the_filter(relay, user):
    """Dovecot's stock socket accepts an unencrypted message with any From from every user."""
    program = f'runuser -u {user} -- python3 -c "{CONNECT.format("/run/dovecot/lmtp")}"'
    error = relay.run(program, check=False).stderr
    assert "PermissionError" in error or "FileNotFoundError" in error, error


@pytest.mark.parametrize("path", SOCKETS)
def test_user_without_rights_reaches_no_socket_of_the_mail(relay, path):
    relay.run(f"test -S {path}")
    program = f'runuser -u nobody -- python3 -c "{CONNECT.format(path)}"'
    assert "PermissionError" in relay.run(program, check=False).stderr


def test_mailbox_takes_no_more_messages_than_it_has_kilobytes(relay, settings):
    """Once, an account could append 10000 messages of one octet in 18 s: 10 KB of its 500 MB."""
    account = new_account(relay)
    connection = imap(relay, account)
    connection.append("INBOX", None, None, b"x\r\n")
    quota = connection.getquotaroot("INBOX")[1][1][0].decode()
    limit = int(quota.rpartition("MESSAGE ")[2].strip(")").split()[1])
    storage = int(quota.partition("STORAGE ")[2].partition(")")[0].split()[1])
    assert limit == storage
    # Dovecot takes the number of messages from this file (Maildir++).
    home = f"{settings['mailboxes_dir']}/{account.address}"
    connection.logout()
    relay.run(f"printf '%s\\n%s\\n' {storage * 1024}S,{limit}C '100 {limit}' > {home}/maildirsize")
    connection = imap(relay, account)
    code, answer = connection.append("INBOX", None, None, b"x\r\n")
    assert (code, b"OVERQUOTA" in answer[0]) == ("NO", True), answer


def test_mailbox_takes_a_thousand_folders_at_most(relay, settings):
    if settings["dovecot_version"] == "2.3":
        pytest.skip("Dovecot 2.3 cannot limit folders")
    connection = imap(relay, new_account(relay))
    for start in range(0, 1100, 50):
        names = range(start, start + 50)
        connection.send(b"".join(b"x%d CREATE f%d\r\n" % (n, n) for n in names))
        answers = [connection.readline() for _ in names]
    assert b"NO [LIMIT]" in answers[-1], answers[-1]


def test_mail_of_users_leaves_disk_space_for_mail_that_arrives(relay, settings):
    """An account can send 60 messages of 30 MB a minute. Postfix keeps them for two days.

    By default, Postfix refuses all mail when there is no space for 1.5 messages.
    """
    for service in ("submission", "submissions", "127.0.0.1:10465"):
        [line] = relay.run(f"postconf -P {service}/inet/queue_minfree").stdout.splitlines()
        assert int(line.partition(" = ")[2]) == 10 * settings["max_message_size"]
    assert relay.run("postconf -h queue_minfree").stdout.strip() == "0"


def test_network_that_one_machine_can_fill_counts_as_one_client(relay, settings):
    if settings["debian_release"] == 12:
        pytest.skip("Postfix 3.7 counts addresses only")
    assert relay.run("postconf -h smtpd_client_ipv6_prefix_length").stdout.strip() == "64"
