"""Mail on port 443 works as on the mail ports: the daemons know the client's IP and count by it.

nginx sends Postfix and Dovecot the client's address by the PROXY protocol (contract, section 11).
The client's network in the lab has two addresses, so for the relay it is two hosts.
"""

import contextlib
import http.client
import imaplib
import resource
import select
import smtplib
import socket
import ssl
import time

import pytest
from relay.client import (
    encrypted,
    imap,
    new_account,
    new_credentials,
    sent_until_refused,
    smtp,
    tls_context,
)
from support.logins import all_at_once

HOSTS = ("198.51.100.200", "198.51.100.202")
# The listeners on the loopback interface for nginx and our own services only.
INTERNAL_PORTS = (3340, 3461, 3462, 8443, 10025, 10465, 10993)
PROXY_HEADER = b"PROXY TCP4 127.0.0.1 127.0.0.1 1111 443\r\n"
# With max_smtp_connections at 25.
SMTP_PER_IP = 5
FEW = """pillar='{"chatmail": {"max_smtp_connections": 25}}'"""
# dovecot-2.?.conf.jinja: mail_max_userip_connections
IMAP_PER_USER_AND_IP = 20


def alpn(protocol):
    """Return a TLS context that asks for a protocol by ALPN."""
    context = tls_context()
    context.set_alpn_protocols([protocol])
    return context


def smtp_from(source, relay, port=443, family=socket.AF_INET):
    """Return an SMTP session over TLS that comes from one of our addresses."""
    address = socket.getaddrinfo(relay.domain, port, family)[0][4][0]
    options = {"source_address": (source, 0), "context": alpn("smtp"), "timeout": 20}
    return smtplib.SMTP_SSL(address, port, **options)


class ImapFrom(imaplib.IMAP4_SSL):
    """An IMAP session over TLS that comes from one of our addresses."""

    def __init__(self, source, relay, port=443):
        self.source = source
        super().__init__(relay.ip, port, ssl_context=alpn("imap"), timeout=20)

    def _create_socket(self, timeout):
        plain = socket.create_connection((self.host, self.port), timeout, (self.source, 0))
        return self.ssl_context.wrap_socket(plain, server_hostname=self.host)


@pytest.fixture(scope="module")
def hosts(relay):
    """Our two addresses, which the relay sees."""
    relay.needs_lab("a client of two addresses that no router changes")
    return HOSTS


@pytest.fixture(scope="module")
def sources(relay):
    """Our two addresses or, for a machine elsewhere, twice the usual address of this machine."""
    return HOSTS if relay.in_lab else ("", "")


def mark(relay):
    """Return a time on the relay, for `log`."""
    return relay.run("date +%s.%N").stdout.strip()


def log(relay, since, tag):
    """Return the log lines of a part of Postfix since then."""
    return relay.run(f"journalctl --no-pager -o cat --since=@{since} -t {tag}").stdout


@pytest.fixture(scope="module")
def alice(relay):
    return new_account(relay)


@pytest.fixture
def few_smtp_connections(relay, hosts):
    """Allow a client five SMTP connections instead of two hundred."""
    relay.run(f"salt-call --local state.apply chatmail.postfix {FEW}")
    yield
    relay.run("salt-call --local state.apply chatmail.postfix")


def test_message_is_sent_and_fetched_through_443(relay, sources):
    alice, bob = new_account(relay), new_account(relay)
    with smtp_from(sources[0], relay) as connection:
        connection.login(*alice)
        connection.sendmail(alice.address, [bob.address], encrypted(alice.address, bob.address))

    def arrived():
        with ImapFrom(sources[1], relay) as connection:
            connection.login(*bob)
            return connection.select("INBOX")[1] == [b"1"]

    relay.wait_until(arrived)


def test_new_address_is_made_through_443(relay, sources):
    account = new_credentials(relay)
    for source in sources:
        with ImapFrom(source, relay) as connection:
            connection.login(*account)


@pytest.mark.parametrize("family", [socket.AF_INET, socket.AF_INET6])
def test_postfix_knows_the_client_behind_443(relay, alice, hosts, family):
    since = mark(relay)
    sources = hosts if family == socket.AF_INET else ("2001:db8:25::200",)
    for source in sources:
        with smtp_from(source, relay, family=family) as connection:
            connection.login(*alice)
    lines = log(relay, since, "postfix/alpn/smtpd")
    for source in sources:
        assert f"connect from unknown[{source}]" in lines
    assert "127.0.0.1" not in lines


@pytest.mark.usefixtures("hosts")
@pytest.mark.parametrize("source", HOSTS)
def test_postfix_knows_who_delivers_by_https(relay, alice, source):
    """Postfix also ignores a false claim of the other side."""
    since = mark(relay)
    sender = "someone@[198.51.100.7]"
    headers = {"X-Mail-From": sender, "X-Mail-To": alice.address, "X-Real-IP": "127.0.0.1"}
    connection = http.client.HTTPSConnection(
        relay.ip, 443, context=tls_context(), source_address=(source, 0), timeout=20
    )
    with contextlib.closing(connection):
        connection.request("POST", "/mxdeliv", encrypted(sender, alice.address), headers)
        assert connection.getresponse().status == 200
    assert f"client=unknown[{source}]" in log(relay, since, "postfix/mxdeliv/smtpd")


@pytest.fixture
def many_descriptors():
    """Let this process hold more connections than the usual 1024."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_client_with_too_many_connections_to_443_stands_alone(relay, many_descriptors):
    """A client may have 1000 connections. Silent ones are closed after 10 s (nginx.conf.jinja)."""
    poll = select.poll()
    with contextlib.ExitStack() as stack:
        for _ in range(1010):
            plain = socket.create_connection((relay.ip, 443), 20, (HOSTS[0], 0))
            poll.register(stack.enter_context(plain), select.POLLIN)
        relay.wait_until(lambda: len(poll.poll(0)) >= 10, 5)
        with contextlib.closing(post_from(HOSTS[1], relay, [("Content-Length", "0")])) as other:
            assert other.getresponse().status == 400
        with pytest.raises((ConnectionError, ssl.SSLError)):
            post_from(HOSTS[0], relay, [])
        relay.wait_until(lambda: len(poll.poll(0)) == 1010, 20)


def post_from(source, relay, headers, body=b""):
    """Begin a POST to /mxdeliv from one of our addresses; return its connection."""
    connection = http.client.HTTPSConnection(
        relay.ip, context=tls_context(), timeout=20, source_address=(source, 0)
    )
    connection.putrequest("POST", "/mxdeliv")
    for name, value in headers:
        connection.putheader(name, value)
    connection.endheaders(body)
    return connection


def test_client_with_too_many_messages_at_once_stands_alone(relay, alice):
    """Its endless uploads do not keep others out, and nginx stores none of them."""
    headers = [("X-Mail-To", alice.address), ("Content-Length", "1000000")]
    with contextlib.ExitStack() as stack:

        def begin(source):
            return stack.enter_context(contextlib.closing(post_from(source, relay, headers, b"x")))

        # gateway.PER_CLIENT is 50. The limit in nginx.conf.jinja is 60.
        waiting = [begin(HOSTS[0]) for _ in range(70)]
        # They may arrive in another order.
        answers = [connection.getresponse() for connection in waiting[55:]]
        assert {answer.status for answer in answers} == {503}
        assert any(b"451 4.3.2 too many messages at once" in answer.read() for answer in answers)
        spooled = relay.run("find /var/lib/nginx -type f -size +0").stdout
        assert spooled == ""
        nobody = [("X-Mail-To", f"nobody@{relay.domain}"), ("Content-Length", "0")]
        with contextlib.closing(post_from(HOSTS[1], relay, nobody)) as other:
            assert other.getresponse().status == 400


@pytest.mark.parametrize("port", [443, 465])
@pytest.mark.usefixtures("few_smtp_connections")
def test_client_with_too_many_smtp_connections_stands_alone(relay, hosts, port):
    with contextlib.ExitStack() as stack:
        for _ in range(SMTP_PER_IP):
            stack.enter_context(smtp_from(hosts[0], relay, port))
        with pytest.raises(smtplib.SMTPConnectError) as refused:
            smtp_from(hosts[0], relay, port)
        assert refused.value.smtp_code == 421
        assert f"too many connections from {hosts[0]}".encode() in refused.value.smtp_error
        assert smtp_from(hosts[1], relay, port).quit()[0] == 221


def test_client_with_too_many_imap_connections_stands_alone(relay, alice, hosts):
    """Connections of a user are counted by IP, those on 443 and 993 together."""
    with contextlib.ExitStack() as stack:
        for _ in range(IMAP_PER_USER_AND_IP):
            stack.enter_context(ImapFrom(hosts[0], relay)).login(*alice)
        for port in (443, 993):
            connection = ImapFrom(hosts[0], relay, port)
            with pytest.raises(imaplib.IMAP4.error, match="Maximum number of connections"):
                connection.login(*alice)
            connection.shutdown()
        with ImapFrom(hosts[1], relay) as connection:
            connection.login(*alice)


def test_rate_of_a_sender_is_the_same_on_all_ports(relay, alice, sources):
    """Ten messages at once, and one each second. All ports and hosts share these tokens."""
    eve = new_account(relay)
    message = encrypted(eve.address, alice.address)
    began, total = time.monotonic(), 0
    for source, port in ((sources[0], 443), (sources[1], 443), (sources[1], 465)):
        with smtp_from(source, relay, port) as connection:
            connection.login(*eve)
            taken, reply = sent_until_refused(connection, eve.address, [alice.address], message)
        assert reply[0] == 450
        total += taken
    assert 10 <= total <= 10 + (time.monotonic() - began)


@pytest.mark.parametrize("port", [443, 993])
def test_failed_logins_do_not_slow_down_others_behind_the_address(relay, alice, sources, port):
    """Dovecot's penalty would delay each further login from this address by up to 17 s."""

    def fail():
        with (
            ImapFrom(sources[0], relay, port) as connection,
            contextlib.suppress(imaplib.IMAP4.error),
        ):
            connection.login(alice.address, "not the password")

    all_at_once(fail, [()] * 8)
    started = time.monotonic()
    with ImapFrom(sources[0], relay, port) as connection:
        connection.login(*alice)
    assert time.monotonic() - started < 2


@pytest.mark.parametrize("port", INTERNAL_PORTS)
def test_internal_port_is_closed_to_the_world(relay, port):
    for *_, address in socket.getaddrinfo(relay.domain, port, type=socket.SOCK_STREAM):
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(address[:2], timeout=10)


@pytest.mark.parametrize("port", [443, 465, 993])
def test_client_that_claims_another_address_is_not_heard(relay, port):
    """Only nginx speaks the PROXY protocol to Postfix and Dovecot."""
    since = mark(relay)
    with socket.create_connection((relay.domain, port), timeout=10) as plain:
        plain.sendall(PROXY_HEADER)
        with pytest.raises((ssl.SSLError, ConnectionError, TimeoutError)):
            alpn("imap" if port == 993 else "smtp").wrap_socket(plain)
    assert "127.0.0.1" not in log(relay, since, "postfix/alpn/smtpd")


@pytest.mark.parametrize("command", [PROXY_HEADER.decode().strip(), "XCLIENT ADDR=127.0.0.1"])
@pytest.mark.parametrize("port", [25, 443])
def test_smtp_client_cannot_say_that_it_is_another(relay, sources, port, command):
    with smtp_from(sources[0], relay) if port == 443 else smtp(relay, port=25) as connection:
        connection.ehlo()
        assert not connection.has_extn("xclient")
        assert connection.docmd(command)[0] // 100 == 5


# --- SMTP smuggling (CVE-2023-51764): one message must not become two -----------------------------

# Some server treated each of these as the end of a message.
ENDS = (
    b"\n.\n",
    b"\n.\r\n",
    b"\r\n.\n",
    b"\r.\r\n",
    b"\r\n.\r",
    b"\r.\r",
    b"\n.\r",
    b"\r.\n",
    b"\r\r\n.\r\r\n",
    b"\r\n\0.\r\n",
    b"\r\n.\0\r\n",
    b"\r\n.\r\r\n",
)
QUIET = 1.0  # seconds without an answer: the server waits for the rest of a message


def replies(connection):
    """Return the codes of all replies up to the one to QUIT or the end of the connection."""
    codes = []
    with contextlib.suppress(smtplib.SMTPServerDisconnected, OSError):
        while not codes or codes[-1] not in (221, 421):
            codes.append(connection.getreply()[0])
    return codes


def smuggle(connection, sender, recipient, end):
    """Send a message that contains another one after `end`.

    Return whether the server answered to `end`, and the codes of its later replies.
    """
    connection.ehlo_or_helo_if_needed()
    for command in (f"MAIL FROM:<{sender}>", f"RCPT TO:<{recipient}>"):
        assert connection.docmd(command)[0] == 250
    assert connection.docmd("DATA")[0] == 354
    outer = encrypted(sender, recipient, Message_ID="<outer@localhost>").removesuffix(b"\r\n")
    inner = encrypted(sender, recipient, Message_ID="<inner@localhost>")
    connection.send(outer + end)
    connection.sock.settimeout(QUIET)
    try:
        answered = bool(connection.sock.recv(1))
    except TimeoutError:
        answered = False
    connection.sock.settimeout(20)
    envelope = f"MAIL FROM:<{sender}>\r\nRCPT TO:<{recipient}>\r\nDATA\r\n".encode()
    connection.send(envelope + inner + b"\r\n.\r\nQUIT\r\n")
    return answered, replies(connection)


def session(relay, port, source=""):
    """Return a connection that may send to our addresses, and its sender."""
    if port == 25:
        return smtp(relay, port=25), "someone@[198.51.100.7]"
    account = new_account(relay)
    connection = smtp_from(source, relay) if port == 443 else smtp(relay, port=port)
    connection.login(*account)
    return connection, account.address


def attempt(relay, port, source, recipient, end):
    """Try to smuggle a message in on a port; return the result of `smuggle`."""
    connection, sender = session(relay, port, source)
    try:
        return smuggle(connection, sender, recipient, end)
    finally:
        connection.close()


@pytest.mark.parametrize("port", [25, 465, 587, 443])
def test_no_second_message_is_smuggled_in(relay, sources, port):
    bob = new_account(relay)
    results = all_at_once(attempt, [(relay, port, sources[0], bob.address, end) for end in ENDS])
    for end, (answered, codes) in zip(ENDS, results, strict=True):
        assert not answered, end
        assert len(codes) == 2, (end, codes)
        assert codes[0] in (250, 523, 550), (end, codes)
    accepted = sum(codes[0] == 250 for _, codes in results)
    stored = relay.wait_until(lambda: inbox(relay, bob, accepted))
    for message in stored:
        assert b"\nMessage-ID: <inner@localhost>" not in message.partition(b"\r\n\r\n")[0]
        # A message that leaves this relay must not smuggle another one into other servers either.
        assert b"\r" not in message.replace(b"\r\n", b"")


def inbox(relay, account, number):
    """Return the messages in the INBOX if their number is right, else None."""
    with imap(relay, account) as connection:
        found = int(connection.select("INBOX", readonly=True)[1][0])
        if found != number:
            return None
        each = range(1, found + 1)
        return [connection.fetch(str(one), "(BODY[])")[1][0][1] for one in each] or [b""]


def test_end_of_a_message_is_answered_at_once(relay, alice):
    """Without this, the test above could not fail."""
    connection, sender = session(relay, 465)
    answered, _ = smuggle(connection, sender, alice.address, b"\r\n.\r\n")
    assert answered
    connection.close()
