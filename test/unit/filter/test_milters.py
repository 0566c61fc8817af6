"""The running filter, spoken to as Postfix does."""

import dkim
import pytest
from support import running_filter
from support.messages import RECIPIENT, SENDER, STRANGER, encrypted_body, fields
from support.milter_client import MilterClient, Rejected
from support.running_filter import verified

PLAIN = {"Content_Type": "text/plain"}


def test_submission_cleans_and_signs_what_leaves(filter_, submission):
    header = [
        (b"Received", b" from phone ([192.0.2.7])"),
        *fields(X_Mailer="Mail", User_Agent="Agent", X_Originating_IP="[192.0.2.7]"),
        (b"Received", b" from home ([192.0.2.7])"),
    ]
    outcome = submission.message(SENDER, [STRANGER], header, encrypted_body())
    assert outcome.reply == ""
    assert [name for name, _ in outcome.fields] == [
        b"DKIM-Signature", b"DKIM-Signature", b"From", b"To", b"Subject", b"Date", b"Message-ID",
        b"MIME-Version", b"Content-Type",
    ]  # fmt: skip
    assert b"\r\nSubject: [...]\r\n" in outcome.raw
    assert b"192.0.2.7" not in outcome.raw
    assert b"s=rsa;" in outcome.fields[0][1]
    assert b"s=ed;" in outcome.fields[1][1]
    assert verified(filter_, outcome.raw, 0)
    assert verified(filter_, outcome.raw, 1)


def test_submission_refuses_with_the_codes_of_the_contract(submission):
    plain = submission.message(SENDER, [STRANGER], fields(**PLAIN), b"Hello\r\n")
    assert plain.reply == "523 Encryption Needed: Invalid Unencrypted Mail"
    forged = submission.message(SENDER, [STRANGER], fields("100%eve@example.net"), b"")
    assert forged.reply == f"500 Invalid FROM <100%eve@example.net> for <{SENDER}>"
    bare = submission.message(SENDER, [STRANGER], fields(), encrypted_body() + b"\r\r\n")
    assert bare.reply == "554 5.6.0 A line must end in CR LF and nothing else"


@pytest.mark.parametrize("local_part", ["%" * 450, "a%" * 230, "%s%n" * 100, "x" * 400])
def test_refusal_that_quotes_percent_signs_is_one(submission, local_part):
    """Each % goes to Postfix twice; too long for libmilter, the refusal became 451 for ever."""
    author = f"{local_part}@example.net"
    reply = submission.message(SENDER, [STRANGER], fields(author), encrypted_body()).reply
    assert reply.startswith(f"500 Invalid FROM <{local_part[:300]}")


def test_submission_in_one_session_forgets_the_message_before(submission):
    """A message must not be judged by the parts of one that was refused or broken off."""
    sender = "again@chat.example.org"
    assert submission.message(sender, ["a@b.c"], fields(**PLAIN), b"Hello").reply.startswith("5")
    submission.mail(sender)
    submission.recipient(STRANGER)
    submission.abort()
    assert submission.message(sender, ["a@b.c"], fields(sender), encrypted_body()).reply == ""


def test_blocked_address_neither_sends_nor_receives(filter_, submission, incoming, sent):
    """Its sessions may be older than the block; its letters would be returned by a bounce."""
    password = filter_.mailboxes / RECIPIENT / "password"
    hashed = password.read_text()
    password.write_text("")
    try:
        with pytest.raises(Rejected, match=r"^550 5\.7\.1 <bobby0000@.* may not send"):
            submission.message(RECIPIENT, [STRANGER], fields(RECIPIENT), encrypted_body())
        with pytest.raises(Rejected, match=r"^550 5\.1\.1"):
            incoming.message("sent@chat.example.org", [RECIPIENT], sent.fields, sent.body)
    finally:
        password.write_text(hashed)
    with MilterClient(filter_.sockets / "submission") as client:
        again = client.message(RECIPIENT, [STRANGER], fields(RECIPIENT), encrypted_body())
    assert again.reply == ""


def test_sender_without_an_address_may_not_send(submission):
    with pytest.raises(Rejected, match=r"^550 5\.7\.1"):
        submission.message("gone00000@chat.example.org", [STRANGER], fields(), encrypted_body())


def test_submission_over_the_rate_defers_recipients(own_filter):
    own_filter.start()
    sender = "hasty@chat.example.org"
    many = [f"user{number}@example.net" for number in range(100)]
    with MilterClient(own_filter.sockets / "submission") as client:
        for _ in range(10):
            assert client.message(sender, many, fields(sender), encrypted_body()).reply == ""
        client.mail(sender.upper())
        for recipient in many[:3]:
            with pytest.raises(Rejected, match=r"^450 4\.7\.1: Too much mail from <HASTY@CHAT\."):
                client.recipient(recipient)
        client.abort()
    with MilterClient(own_filter.sockets / "submission") as client:
        client.mail(sender)
        with pytest.raises(Rejected, match=r"^450 4\.7\.1: Too much mail from <hasty@chat\."):
            client.recipient(STRANGER)
        client.abort()
        client.message("other@chat.example.org", many, fields("other@chat.example.org"), b"")


def test_submission_with_huge_header_refuses(submission):
    many = [*fields(), *[(b"X", b" y")] * 2000]
    assert submission.message(SENDER, [STRANGER], many, encrypted_body()).reply.startswith("552")
    long = [*fields(), *[(b"X", b" y" * 20_000)] * 20]
    assert submission.message(SENDER, [STRANGER], long, encrypted_body()).reply.startswith("552")


def test_incoming_takes_what_another_relay_signed(incoming, sent):
    taken = incoming.message("sent@chat.example.org", [RECIPIENT.upper()], sent.fields, sent.body)
    assert taken == sent


def test_incoming_takes_away_a_foreign_envelope_sender(incoming, sent):
    taken = incoming.message("srs=x@forwarder.example", [RECIPIENT], sent.fields, sent.body)
    assert (taken.reply, taken.sender) == ("", "")
    null = incoming.message("", [RECIPIENT], sent.fields, sent.body)
    assert (null.reply, null.sender) == ("", "")


@pytest.mark.parametrize(
    "recipient",
    [
        "nobody000@chat.example.org",
        "bobby0000+x@chat.example.org",
        "bobby0000@example.net",
        "../bobby0000@chat.example.org",
        "bobby0000",
        "postmaster",
        "",
        "@chat.example.org",
        "x" * 300 + "@chat.example.org",
        '"bobby0000"@chat.example.org',
    ],
)
def test_incoming_for_no_address_here_refuses(incoming, recipient):
    incoming.mail(STRANGER)
    with pytest.raises(Rejected) as rejected:
        incoming.recipient(recipient)
    assert str(rejected.value) == f"550 5.1.1 <{recipient}>: no such address here"
    incoming.abort()


def test_incoming_without_valid_signature_refuses(filter_, incoming, sent):
    def reply(header, body=sent.body):
        return incoming.message(STRANGER, [RECIPIENT], header, body).reply

    assert reply(fields()) == "554 5.7.1 No DKIM signature found"
    assert reply(sent.fields, sent.body + b"x\r\n") == "554 5.7.1 No valid DKIM signature found"
    changed = [(n, b" again" if n == b"Subject" else v) for n, v in sent.fields]
    assert reply(changed) == "554 5.7.1 No valid DKIM signature found"
    zone = dict(filter_.zone)
    try:
        filter_.publish(**dict.fromkeys(zone))
        assert reply(sent.fields) == "451 4.7.1 DKIM key lookup failed, try again later"
    finally:
        filter_.publish(**zone)
    assert reply(sent.fields) == ""


def test_incoming_from_address_literal_needs_no_signature(incoming):
    header = fields("relay@[192.0.2.99]")
    assert incoming.message("relay@[192.0.2.99]", [RECIPIENT], header, encrypted_body()).reply == ""


def test_incoming_bounce_has_an_empty_envelope_sender_and_a_message_of_ours(incoming):
    """`From: mailer-daemon@[…]` with a report of any kind let anybody send cleartext."""
    author = "mailer-daemon@[192.0.2.99]"
    kind = "multipart/report; report-type=delivery-status; boundary=x"
    header = fields(author, Auto_Submitted="auto-replied", Content_Type=kind)

    def reply(returned, sender=""):
        part = f"--x\r\nContent-Type: message/rfc822\r\n\r\nFrom: <{returned}>\r\n--x--\r\n"
        return incoming.message(sender, [RECIPIENT], header, part.encode()).reply

    assert reply(RECIPIENT) == ""
    assert reply(RECIPIENT, author) == "523 Encryption Needed: Invalid Unencrypted Mail"
    assert reply(STRANGER) == "523 Encryption Needed: Invalid Unencrypted Mail"


def test_incoming_cleartext_is_for_those_who_want_it(filter_, incoming):
    header = fields("relay@[192.0.2.99]", **PLAIN)
    clear = "clear0000@chat.example.org"
    needed = "523 Encryption Needed: Invalid Unencrypted Mail"
    assert incoming.message(STRANGER, [clear], header, b"Hello\r\n").reply == ""
    assert incoming.message(STRANGER, [RECIPIENT], header, b"Hello\r\n").reply == needed
    assert incoming.message(STRANGER, [clear, RECIPIENT], header, b"Hello\r\n").reply == needed
    # Encryption is asked for first: its refusal tells the sender what to do.
    assert incoming.message(STRANGER, [RECIPIENT], fields(**PLAIN), b"Hello").reply == needed


DEAD = ["nobody000@chat.example.org", "nobody001@chat.example.org"]
LITERAL = "relay@[192.0.2.99]"


@pytest.fixture
def mxdeliv(filter_):
    with MilterClient(filter_.sockets / "mxdeliv") as client:
        yield client


def test_mxdeliv_with_a_dead_recipient_takes_it_for_the_others(mxdeliv, sent):
    """Where port 25 is blocked, nobody of a group got it. The dead one's bounce is Postfix's."""
    recipients = [DEAD[0], RECIPIENT.upper(), DEAD[1]]
    taken = mxdeliv.message("sent@chat.example.org", recipients, sent.fields, sent.body)
    assert (taken.reply, taken.sender, taken.removed) == ("", "sent@chat.example.org", ())


@pytest.mark.parametrize("sender", ["", "forwarder@example.net"])
def test_mxdeliv_bounces_to_nobody_but_the_verified_author(mxdeliv, sent, sender):
    taken = mxdeliv.message(sender, [*DEAD, RECIPIENT], sent.fields, sent.body)
    assert (taken.reply, taken.sender, taken.removed) == ("", "", tuple(DEAD))


def test_mxdeliv_bounces_nothing_to_an_address_literal(mxdeliv):
    """Nothing vouches for it: a forged From would send the bounce to a third party."""
    header, body = fields(LITERAL), encrypted_body()
    taken = mxdeliv.message(LITERAL, [*DEAD, RECIPIENT], header, body)
    assert (taken.reply, taken.removed) == ("", tuple(DEAD))


def test_mxdeliv_without_a_live_recipient_refuses(mxdeliv, sent):
    taken = mxdeliv.message("sent@chat.example.org", DEAD, sent.fields, sent.body)
    assert taken.reply == f"550 5.1.1 <{DEAD[0]}>: no such address here"


def test_mxdeliv_checks_the_message_as_port_25_does(mxdeliv, sent):
    reply = mxdeliv.message(STRANGER, [RECIPIENT, *DEAD], fields(), sent.body).reply
    assert reply == "554 5.7.1 No DKIM signature found"
    header = fields(LITERAL, **PLAIN)
    clear = "clear0000@chat.example.org"
    assert mxdeliv.message(STRANGER, [clear, *DEAD], header, b"Hello\r\n").reply == ""
    refused = mxdeliv.message(STRANGER, [clear, RECIPIENT], header, b"Hello\r\n").reply
    assert refused == "523 Encryption Needed: Invalid Unencrypted Mail"


def test_mxdeliv_of_a_message_knows_nothing_of_the_one_before(mxdeliv, sent):
    args = sent.fields, sent.body
    assert mxdeliv.message("sent@chat.example.org", [*DEAD, RECIPIENT], *args).removed == ()
    assert mxdeliv.message("", [*DEAD, RECIPIENT], *args).removed == tuple(DEAD)


@pytest.fixture(scope="module")
def choosy(tmp_path_factory):
    """A session of port 25 of a relay that blocks a domain."""
    lists = {"block": ["example.net", "[192.0.2.99]"], "allow": []}
    filter_ = running_filter.Filter(tmp_path_factory.mktemp("choosy"), federation=lists)
    filter_.add_mailbox(RECIPIENT)
    filter_.publish(**dict.fromkeys(filter_.zone))  # whoever looks a key up is told "later"
    filter_.start()
    with MilterClient(filter_.sockets / "incoming") as client:
        yield client
    assert filter_.stop() == 0


@pytest.mark.parametrize(
    ("author", "header", "body"),
    [
        (STRANGER, {}, encrypted_body()),
        ("x@EXAMPLE.net", {}, encrypted_body()),
        ("x@[192.0.2.99]", {}, encrypted_body()),
        (STRANGER, PLAIN, b"Hello\r\n"),
        (
            "MAILER-DAEMON@example.net",
            {"Content_Type": "multipart/report; boundary=x", "Auto_Submitted": "auto-replied"},
            b"--x\r\n\r\nSorry\r\n--x--\r\n",
        ),
    ],
    ids=["encrypted", "upper-case", "literal", "cleartext", "bounce"],
)
def test_incoming_from_a_blocked_domain_refuses_whatever_it_is(choosy, author, header, body):
    """Also before encryption is asked for: that would send the sender the wrong way."""
    domain = author.rpartition("@")[2].lower()
    reply = choosy.message("a@elsewhere.example", [RECIPIENT], fields(author, **header), body).reply
    assert reply == f"554 5.7.1 This relay takes no mail from {domain}"


def test_incoming_from_other_domains_goes_on_to_dkim(choosy, sent):
    assert choosy.message(SENDER, [RECIPIENT], sent.fields, sent.body).reply.startswith("451 4.7.1")
    header = fields("x@[192.0.2.98]")
    assert choosy.message(STRANGER, [RECIPIENT], header, encrypted_body()).reply == ""


def test_incoming_keeps_the_space_of_simple_canonicalization(filter_, tmp_path):
    """Without header_leading_space the milter sees other bytes than the sender signed."""
    selector = "simple"
    record = running_filter.write_key(tmp_path, selector, "rsa-sha256")
    filter_.publish(**{f"{selector}._domainkey.classic.example.net.": [record]})
    header = [(b"X-Folded", b"  a \r\n\t b"), *fields(STRANGER), (b"X-Tight", b"c")]
    raw = b"".join(b"%b:%b\r\n" % field for field in header) + b"\r\n" + encrypted_body()
    signature = dkim.sign(
        raw, selector.encode(), b"classic.example.net", (tmp_path / "simple.pem").read_bytes(),
        canonicalize=(b"simple", b"simple"), include_headers=[b"from", b"x-folded", b"x-tight"],
    ).partition(b":")[2].removesuffix(b"\r\n")  # fmt: skip
    with MilterClient(filter_.sockets / "incoming") as client:
        header.insert(0, (b"DKIM-Signature", signature))
        assert client.message(STRANGER, [RECIPIENT], header, encrypted_body()).reply == ""


def test_sign_signs_a_bounce_and_checks_nothing(filter_):
    header = fields(
        "MAILER-DAEMON@chat.example.org", Content_Type="multipart/report; boundary=x",
        Auto_Submitted="auto-replied", Received="by chat.example.org",
    )  # fmt: skip
    with MilterClient(filter_.sockets / "sign") as client:
        outcome = client.message("", [STRANGER], header, b"--x\r\n\r\nSorry\r\n--x--\r\n")
    assert outcome.reply == ""
    assert outcome.fields[2:] == header
    assert verified(filter_, outcome.raw, 0)
    assert verified(filter_, outcome.raw, 1)


def test_filter_logs_reasons_and_nothing_about_messages(filter_, submission):
    submission.message(SENDER, [STRANGER], fields(**PLAIN), b"secret text\r\n")
    log = filter_.logged()
    assert "refused: unencrypted\n" in log
    for private in ("@", "secret", "Subject", "192.0.2"):
        assert private not in log
