"""The rules of the contract's sections 4 to 6, on messages without any Postfix."""

import re

import pytest
from chatmaild.filter import rules
from hypothesis import given
from hypothesis import strategies as st
from support.filter_rules import ARMOR, NEEDED, OCTETS, receive, single, submit
from support.messages import RECIPIENT, SENDER, encrypted_body, fields, secure_join


def test_check_submission_takes_encrypted_message():
    assert submit(fields(), encrypted_body()) == ""
    assert receive(fields(), encrypted_body()) == ""


@pytest.mark.parametrize("step", ["vc-request", "vg-request"])
def test_check_submission_takes_secure_join_request(step):
    assert submit(*secure_join(step)) == ""
    assert receive(*secure_join(step)) == ""


def test_check_submission_of_plain_text_refuses():
    plain = fields(Content_Type=None, MIME_Version=None)
    assert submit(plain, b"Hello\r\n") == NEEDED
    assert submit(fields(Content_Type="text/plain"), b"Hello\r\n") == NEEDED
    assert receive(plain, b"Hello\r\n") == NEEDED
    assert receive(plain, b"Hello\r\n", cleartext=True) == ""


FORGED = {
    "another user": (f"<{RECIPIENT}>", f"500 Invalid FROM <{RECIPIENT}> for <{SENDER}>"),
    "a percent sign": ("<a%b@c.org>", f"500 Invalid FROM <a%b@c.org> for <{SENDER}>"),
    "the sender as a name": (
        f'"{SENDER}" <eve@example.net>',
        f"500 Invalid FROM <eve@example.net> for <{SENDER}>",
    ),
    "the sender in a comment": (
        f"eve@example.net ({SENDER})",
        f"500 Invalid FROM <eve@example.net> for <{SENDER}>",
    ),
}


@pytest.mark.parametrize(("author", "reply"), FORGED.values(), ids=FORGED)
def test_check_submission_with_forged_from_refuses(author, reply):
    assert submit(fields(From=author), encrypted_body()) == reply


AUTHORS = {
    "an address": SENDER,
    "in angles": f"<{SENDER}>",
    "with a name": f"Alice <{SENDER}>",
    "with a quoted name": f'"Alice, \\"A.\\" <b@c>; d: (e)" <{SENDER}>',
    "with a name in UTF-8": f"Älice Ö. <{SENDER}>",
    "with an encoded name": f"=?utf-8?q?eve=40example=2Enet?= <{SENDER}>",
    "in mixed case": f"<{SENDER.title()}>",
    "folded": f'"Alice"\r\n <{SENDER}>',
    "with a comment": f"{SENDER} (Mail Delivery System)",
    "with a comment before": f"(Alice) {SENDER}",
    "with dots unquoted": f"Alice B. Carol <{SENDER}>",
}


@pytest.mark.parametrize("author", AUTHORS.values(), ids=AUTHORS)
def test_from_address_reads(author):
    header = fields(From=author)
    assert rules.from_address(header).lower() == SENDER
    assert submit(header, encrypted_body()) == ""


NO_AUTHORS = {
    "nothing": "",
    "a name only": "Alice",
    "two addresses": f"{SENDER}, eve@example.net",
    "two addresses in angles": f"<{SENDER}>, <eve@example.net>",
    "two angles": f"<{SENDER}> <eve@example.net>",
    "a trailing comma": f"{SENDER},",
    "a group": f"friends: {SENDER};",
    "an empty group": "undisclosed-recipients:;",
    "an unquoted address as name": f"eve@example.net <{SENDER}>",
    "a route": f"<@example.net:{SENDER}>",
    "an encoded address": "=?utf-8?q?alice0000=40chat=2Eexample=2Eorg?=",
    "an encoded word in the address": "<=?utf-8?q?alice?=@chat.example.org@example.net>",
    "two @": "<alice@example.net@chat.example.org>",
    "an open quote": f'"Alice <{SENDER}>',
    "an open comment": f"(Alice {SENDER}",
    "an open comment after": f"{SENDER} (Alice",
    "an open comment without text": f"{SENDER} (",
    "an open comment after angles": f"<{SENDER}> (Alice \\)",
    "an open comment in an open comment": f"({SENDER} (Alice",
    "a nested comment": f"(a (b) c) {SENDER}",
    "a comment within the address": "alice0000@(evil)chat.example.org",
    "an open angle": f"<{SENDER}",
    "a space in the address": "<alice 0000@chat.example.org>",
    "a quoted local part": '<"alice0000"@chat.example.org>',
    "no local part": "<@chat.example.org>",
    "no domain": "<alice0000@>",
    "dots": "<alice..0@chat.example.org>",
    "a domain in UTF-8": "<alice0000@chät.example.org>",
    "text after": f"<{SENDER}> Alice",
    "a NUL": f"<{SENDER}>\x00",
    "too long": '"' + "x" * 5000 + f'" <{SENDER}>',
    "no address literal": "<alice@[1.2.3]>",
    "a literal with a name": "<alice@[chat.example.org]>",
}


@pytest.mark.parametrize("author", NO_AUTHORS.values(), ids=NO_AUTHORS)
def test_from_address_of_anything_else_refuses(author):
    assert submit(fields(From=author), encrypted_body()).startswith("500 Invalid FROM")
    assert receive(fields(From=author), encrypted_body()).startswith("500 Invalid FROM")


@pytest.mark.parametrize("address", ["alice@[192.0.2.1]", "alice@[IPv6:2001:db8::1]"])
def test_from_address_reads_address_literals(address):
    assert rules.from_address(fields(From=f"<{address}>")) == address


# What stands after the @, and whether it is an address literal.
LITERALS = {
    "[192.0.2.1]": True,
    "[IPv6:2001:db8::1]": True,
    "[IPV6:::1]": True,
    "[ipv6:::ffff:192.0.2.1]": True,
    "[192.0.2.15": False,
    "x192.0.2.1]": False,
    "192.0.2.1": False,
    "[192.0.2]": False,
    "[192.0.2.256]": False,
    "[IPv6:12001:db8::1]": False,
    "[IPv6:192.0.2.1]": False,
    "[IPv62001:db8::1]": False,
    "[2001:db8::1]": False,
    "[]": False,
    "[IPv6:]": False,
    "[": False,
    "]": False,
    "": False,
}


@pytest.mark.parametrize(("domain", "expected"), LITERALS.items())
def test_is_address_literal_takes_both_brackets_and_a_whole_address(domain, expected):
    """Mail of an address literal needs no signature."""
    assert rules.is_address_literal(domain) is expected


def test_two_from_at_address_literals_refuse():
    one, two = "carol@[192.0.2.1]", "carol@[IPv6:2001:db8::1]"
    for header in (
        [*fields(From=f"<{one}>"), (b"From", f" <{two}>".encode())],
        [*fields(From=f"<{one}>"), (b"FROM", f" <{one}>".encode())],
        fields(From=f"<{one}>, <{two}>"),
        fields(From=f"{one}, {one}"),
        fields(From=f"<{one}>\r\n <{one}>"),
    ):
        assert receive(header, encrypted_body()).startswith("500 Invalid FROM")


def test_check_form_with_repeated_fields_refuses():
    twice = [*fields(), (b"from", f" <{SENDER}>".encode())]
    assert submit(twice, encrypted_body()).startswith("500 Invalid FROM")
    assert submit(fields(From=None), encrypted_body()).startswith("500 Invalid FROM")
    types = [*fields(), (b"CONTENT-TYPE", b" text/plain")]
    assert submit(types, encrypted_body()) == "554 5.6.0 More than one Content-Type"
    assert receive(types, encrypted_body(), cleartext=True).startswith("554 5.6.0")


@pytest.mark.parametrize("junk", [b"\n", b"\r", b"\r\r\n", b"\n\r\n", b"\n\n", b"a\rb", b"\r\n.\n"])
def test_check_form_with_bare_line_end_refuses(junk):
    refusal = "554 5.6.0 A line must end in CR LF and nothing else"
    body = encrypted_body()
    for position in (0, len(body) // 2, len(body)):
        assert submit(fields(), body[:position] + junk + body[position:]) == refusal
    assert receive(fields(To="x" + junk.decode()), body, cleartext=True) == refusal


@pytest.mark.parametrize("step", [1, 2, 3, 7])
def test_has_bare_line_end_at_every_cut(monkeypatch, step):
    monkeypatch.setattr(rules, "LINE_END_STEP", step)
    for text in (b"", b"a", b"a\r\nb", b"\r\n\r\n", b"ab\r\n" * 9):
        assert not rules.has_bare_line_end(text)
    for text in (b"\r", b"\n", b"\r\n\r", b"a\r\n\nb", b"\r\r\n", b"ab\r\n" * 9 + b"\n"):
        assert rules.has_bare_line_end(text)


def test_checks_tell_what_a_message_is():
    """Metrics count it, and the author is whose signature is asked for."""

    def kind(message, cleartext=False):
        return rules.check_incoming("", [RECIPIENT], *message, lambda: cleartext)

    author = "MAILER-DAEMON@classic.example.net"
    assert kind((fields(), encrypted_body())) == (SENDER, "encrypted")
    assert kind(secure_join()) == kind(single()) == (SENDER, "secure-join")
    assert kind(bounce()) == (author, "bounce")
    plain = fields(Content_Type="text/plain"), b"Hello\r\n"
    assert kind(plain, cleartext=True) == (SENDER, "cleartext")
    assert rules.check_submission(SENDER, fields(), encrypted_body()) == "encrypted"
    assert rules.check_submission(SENDER, *secure_join()) == "secure-join"


def bounce(**header):
    values = {
        "From": "MAILER-DAEMON@classic.example.net (Mail Delivery System)",
        "Auto_Submitted": "auto-replied",
        "Content_Type": "multipart/report; report-type=delivery-status; boundary=x",
    }
    return fields(**(values | header)), b"--x\r\n\r\nUndelivered\r\n--x--\r\n"


def test_check_incoming_takes_bounce():
    assert receive(*bounce()) == ""
    sent = submit(*bounce(From="mailer-daemon@chat.example.org"), "mailer-daemon@chat.example.org")
    assert sent == NEEDED


@pytest.mark.parametrize(
    "header",
    [
        {"From": "carol@classic.example.net"},
        {"From": "not-mailer-daemon@classic.example.net"},
        {"Auto_Submitted": None},
        {"Auto_Submitted": ""},
        {"Content_Type": "text/plain"},
        {"Content_Type": "multipart/mixed; boundary=x"},
        {"Content_Type": "multipart/report; boundary=x"},
        {"Content_Type": "multipart/report; report-type=disposition-notification; boundary=x"},
        {"Content_Type": "multipart/report; report-type=feedback-report; boundary=x"},
        {"Content_Type": 'multipart/report; report-type="delivery-status x"; boundary=x'},
        {"Content_Type": "multipart/mixed; report-type=delivery-status; boundary=x"},
    ],
)
def test_check_incoming_of_half_a_bounce_refuses(header):
    assert receive(*bounce(**header)) == NEEDED


def test_check_incoming_of_a_bounce_with_an_envelope_sender_refuses():
    """Anybody could send cleartext from mailer-daemon@[1.2.3.4]; a bounce is never answered."""
    forged = bounce(From="mailer-daemon@[192.0.2.7]")
    assert receive(*forged) == ""
    assert receive(*forged, sender="mailer-daemon@[192.0.2.7]") == NEEDED
    assert receive(*forged, sender="eve@example.net") == NEEDED


def report(returned: bytes, kind: bytes = b"message/rfc822") -> tuple[list, bytes]:
    """Return header and body of a bounce that has something in its last part."""
    body = (
        b"--x\r\n\r\nYour message came not through.\r\n"
        b"--x\r\nContent-Type: message/delivery-status\r\n\r\nAction: failed\r\n"
        b"--x\r\nContent-Type: %b\r\n\r\n%b\r\n--x--\r\n"
    ) % (kind, returned)
    return bounce()[0], body


BOBS = f"Received: by relay\r\nFrom: <{RECIPIENT.title()}>\r\nSubject: [...]\r\n".encode()
EVES = b"Received: by relay\r\nFrom: <eve@example.net>\r\nSubject: [...]\r\n"
HEADERS = b"text/rfc822-headers; charset=us-ascii"

# What a bounce returns, and whether it may be one of a message of ours.
RETURNED = {
    "our message": (report(BOBS + b"\r\nHello"), True),
    "our message's header": (report(BOBS, HEADERS), True),
    "an internationalized message": (report(BOBS + b"\r\nHello", b"message/global"), True),
    "a header that is cut off": (report(b"Received: by relay\r\nSubj", HEADERS), True),
    "a header without a From": (report(b"Received: by relay\r\n", HEADERS), True),
    "nothing that can be read": (report(b"\xff\xfe\r\n"), True),
    "a body that is not closed": (report(b"--x--\r\nmore"), True),
    "our message with an attachment": (report(BOBS + b"\r\n" + b"x" * 100_000), True),
    "another's message": (report(EVES + b"\r\nHello"), False),
    "another's header": (report(EVES, HEADERS), False),
    "another's header of another kind": (report(EVES, b"Message/Global-Headers"), False),
    "another's message after ours": (
        report(BOBS + b"\r\n--x\r\nContent-Type: message/rfc822\r\n\r\n" + EVES),
        False,
    ),
}


@pytest.mark.parametrize(("message", "taken"), RETURNED.values(), ids=RETURNED)
def test_check_incoming_takes_bounces_of_our_messages(message, taken):
    """Cleartext came in as the bounce of a message that nobody here had written."""
    assert receive(*message) == ("" if taken else NEEDED)


def test_check_incoming_asks_about_cleartext_only_when_it_matters():
    """The answer costs a look at the disk for each recipient."""
    rules.check_incoming("", [RECIPIENT], fields(), encrypted_body(), pytest.fail)
    assert receive(fields(Content_Type="text/plain"), b"Hello", cleartext=True) == ""


def test_cleaned_removes_what_tells_about_the_sender():
    header = [
        (b"Received", b" from [192.0.2.7]"),
        *fields(X_Mailer="Mail 1.0", User_Agent="Agent", X_Originating_IP="192.0.2.7"),
        (b"RECEIVED", b" from home"),
        (b"subject", b" again"),
    ]
    kept, changes = rules.clean_fields(header)
    assert [name for name, _ in kept] == [
        b"From", b"To", b"Subject", b"Date", b"Message-ID", b"MIME-Version", b"Content-Type",
    ]  # fmt: skip
    assert dict(kept)[b"Subject"] == b" [...]"
    assert changes == [
        (b"subject", 2, None),
        (b"RECEIVED", 2, None),
        (b"X-Originating-IP", 1, None),
        (b"User-Agent", 1, None),
        (b"X-Mailer", 1, None),
        (b"Subject", 1, b" [...]"),
        (b"Received", 1, None),
    ]


field_values = st.binary(max_size=120).filter(lambda value: b"\0" not in value)
pieces = st.sampled_from(
    [
        *(
            b"--=_edge",
            b"--",
            b"\r\n",
            b"\n",
            b"\r",
            b":",
            b";",
            b'"',
            b"(",
            b"<",
            b"@",
            b" ",
            b"=",
        ),
        *(OCTETS, b"Content-Type: ", b"text/plain", b"multipart/encrypted", b"boundary==_edge"),
        *(b",", ARMOR, SENDER.encode(), b"\\", b"\xff", b"Version: 1", b"Secure-Join: vc-request"),
    ]
)
scraps = st.lists(pieces, max_size=20).map(b"".join)
names = st.sampled_from([b"From", b"Content-Type", b"Secure-Join", b"Subject", b"Auto-Submitted"])


@given(st.lists(st.tuples(names, scraps | field_values), max_size=6), scraps | field_values)
def test_rules_raise_nothing_but_refusals(header, body):
    replies = submit(header, body), receive(header, body), receive(header, body, True)
    assert all(reply == "" or re.match(r"[45]\d\d ", reply) for reply in replies)
    rules.clean_fields(header)


@given(st.binary(max_size=10), st.integers(0, len(encrypted_body())))
def test_rules_read_damaged_messages_without_errors(junk, position):
    body = encrypted_body()
    assert submit(fields(), body[:position] + junk + body[position:])[:4] in ("", "523 ", "554 ")
    assert submit(fields(), body[:position] + junk)[:4] in ("", "523 ", "554 ")
