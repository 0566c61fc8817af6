"""The parsers of chatmail-transport: tables, split reads, every seam."""

import random

import pytest
from chatmaild.transport import smtp_protocol
from hypothesis import given
from hypothesis import strategies as st

LINES = st.lists(
    st.sampled_from([b"", b".", b"..", b"...x", b"text", b".\r", b"\r", b"\n.", b"\0\xff"])
)


def cut(data, seed):
    """Cut octets into pieces at random places."""
    rng = random.Random(seed)
    pieces = []
    while data:
        size = rng.choice((1, 1, 2, 3, 5, 17))
        pieces.append(data[:size])
        data = data[size:]
    return pieces


def read_data(pieces):
    reader = smtp_protocol.DataReader()
    message = b""
    for index, piece in enumerate(pieces):
        octets, rest = reader.feed(piece)
        message += octets
        if rest is not None:
            return message, rest + b"".join(pieces[index + 1 :])
    return message, None


@given(lines=LINES, seed=st.integers(0, 1000))
def test_stuffed_message_read_back_is_identical_at_every_seam(lines, seed):
    message = b"".join(line + b"\r\n" for line in lines)
    stuffed = b"".join(smtp_protocol.stuff(cut(message, seed)))
    assert b"\r\n.\r\n" not in b"\r\n" + stuffed
    assert read_data(cut(stuffed + b".\r\nQUIT\r\n", seed + 1)) == (message, b"QUIT\r\n")


def test_message_without_last_line_end_gains_one():
    assert b"".join(smtp_protocol.stuff([b"a\r\n.b"])) == b"a\r\n..b\r\n"
    assert b"".join(smtp_protocol.stuff([])) == b""


@pytest.mark.parametrize(
    "false_end",
    [b"\n.\n", b"\n.\r\n", b"\r\n.\n", b"\r.\r", b"\r.\r\n", b"\r\n.\r", b"\r\n\x00.\r\n"],
)
def test_false_end_of_data_does_not_end_the_message(false_end):
    """SMTP smuggling (CVE-2023-51764): only CR LF . CR LF ends a message."""
    for pieces in ([b"a" + false_end + b"MAIL FROM:<x>\r\n"], cut(b"a" + false_end + b"b\r\n", 1)):
        assert read_data(pieces)[1] is None


@pytest.mark.parametrize(
    ("message", "bare"),
    [
        (b"", False),
        (b"a\r\nb\r\n", False),
        (b"a\r\n\r\n", False),
        (b"a", False),
        (b"a\nb\r\n", True),
        (b"a\rb\r\n", True),
        (b"a\r\r\n", True),
        (b"\n", True),
        (b"a\r\n\n", True),
        (b"a\r", True),
        # As many CR as LF, but not in pairs.
        (b"a\n\rb\r\n", True),
    ],
)
def test_bare_line_end_is_found_at_every_seam(message, bare):
    assert smtp_protocol.has_bare_line_end([message]) is bare
    assert smtp_protocol.has_bare_line_end(message[i : i + 1] for i in range(len(message))) is bare


@pytest.mark.parametrize(
    ("octets", "replies"),
    [
        (b"250 ok\r\n", [(250, ("ok",))]),
        (b"250\r\n", [(250, ("",))]),
        (b"250-a\r\n250-b c\r\n250 d\r\n", [(250, ("a", "b c", "d"))]),
        (b"220 x\r\n354 go\r\n", [(220, ("x",)), (354, ("go",))]),
        (b"550 5.1.1 \xc3\xa4\r\n", [(550, ("5.1.1 \ufffd\ufffd",))]),
        (b"250-unfinished\r\n", []),
    ],
)
def test_replies_are_read_at_every_buffer_size(octets, replies):
    for size in (1, 2, 3, 7, len(octets)):
        reader = smtp_protocol.ReplyReader()
        found = []
        for start in range(0, len(octets), size):
            found += reader.feed(octets[start : start + size], len(replies))
        assert [tuple(reply) for reply in found] == replies
        assert reader.empty is bool(replies)


@pytest.mark.parametrize(
    "octets",
    [
        b"hello\r\n",
        b"99 x\r\n",
        b"199 x\r\n",
        b"250_x\r\n",
        b"\r\n",
        b"2" * 5000,
        b"250-x\r\n" * 300,
        b"250-" + b"x" * 4093 + b"\r\n",
        (b"250-" + b"x" * 4000 + b"\r\n") * 5,
        b"250 a\r\n250 b\r\n250 c\r\n",
    ],
)
def test_what_is_no_reply_is_an_error(octets):
    with pytest.raises(smtp_protocol.ProtocolError):
        smtp_protocol.ReplyReader().feed(octets, 2)


def test_replies_up_to_each_limit_are_read():
    line = b"250-" + b"x" * (smtp_protocol.MAX_REPLY_LINE - 5) + b"\r\n"
    for octets in (
        line + b"250 ok\r\n",
        b"250-x\r\n" * (smtp_protocol.MAX_REPLY_LINES - 1) + b"250 ok\r\n",
        (line[:1000] + b"\r\n") * 16 + b"250 ok\r\n",
    ):
        [reply] = smtp_protocol.ReplyReader().feed(octets, 1)
        assert reply.lines[-1] == "ok"


def continued(count, octets):
    """Return so many lines of so many octets, and the last one of a reply."""
    return (b"250-" + b"x" * (octets - 4) + b"\r\n") * count + b"250 ok\r\n"


def read_replies(octets, size):
    """Return the replies in these octets, of which so many come at a time."""
    reader = smtp_protocol.ReplyReader()
    pieces = [octets[start : start + size] for start in range(0, len(octets), size)]
    return [reply for piece in pieces for reply in reader.feed(piece, 1)]


@pytest.mark.parametrize(
    ("good", "bad"),
    [
        # 200 lines, the last one among them.
        (continued(199, 5), continued(200, 5)),
        # 4096 octets of a line, CR LF not counted.
        (continued(1, 4096), continued(1, 4097)),
        # 16384 octets of a reply: 15 lines of 1024 are 15360, the two last 1018 and 6.
        (
            continued(15, 1024)[:-8] + continued(1, 1018),
            continued(15, 1024)[:-8] + continued(1, 1019),
        ),
    ],
    ids=["lines", "octets of a line", "octets"],
)
def test_reply_at_its_limit_is_read_and_no_longer_one(good, bad):
    for size in (1, 700, len(good)):
        assert len(read_replies(good, size)) == 1
        with pytest.raises(smtp_protocol.ProtocolError):
            read_replies(bad, size)


def test_endless_line_is_an_error_before_its_end():
    """Octet by octet, as one that never ends would come."""
    reader = smtp_protocol.ReplyReader()
    assert reader.feed(b"2" * 4096, 1) == []
    with pytest.raises(smtp_protocol.ProtocolError, match="more than 4096 octets"):
        reader.feed(b"2", 1)


@pytest.mark.parametrize(
    ("code", "temporary", "delivered"),
    [
        (200, False, True),
        (250, False, True),
        (299, False, True),
        (300, False, False),
        (354, False, False),
        (399, False, False),
        (400, True, False),
        (421, True, False),
        (499, True, False),
        (500, False, False),
        (556, False, False),
    ],
)
def test_answer_is_temporary_if_and_only_if_it_is_a_4xx(code, temporary, delivered):
    answer = smtp_protocol.Answer(code, "x")
    assert (answer.temporary, answer.delivered) == (temporary, delivered)


def test_many_long_replies_in_a_row_are_read():
    """The limit is on one reply, not on all of them."""
    octets = ((b"250-" + b"x" * 900 + b"\r\n") * 15 + b"250 ok\r\n") * 3
    assert len(smtp_protocol.ReplyReader().feed(octets, 3)) == 3


@pytest.mark.parametrize(
    ("argument", "expected"),
    [
        ("FROM:<a@b.example> SIZE=5 BODY=8BITMIME", ("a@b.example", "SIZE=5 BODY=8BITMIME")),
        ("FROM:<>", ("", "")),
        ("from: <a@b>", ("a@b", "")),
        ("TO:<a@[1.2.3.4]>", ("a@[1.2.3.4]", "")),
        ("TO:<a@[IPv6:2001:db8::1]>", ("a@[IPv6:2001:db8::1]", "")),
        ("TO:<a@_chat.example>", ("a@_chat.example", "")),
        (r'TO:<"a b> \"@c"@b>', (r'"a b> \"@c"@b', "")),
    ],
)
def test_path_good(argument, expected):
    assert smtp_protocol.parse_path(argument) == expected


@pytest.mark.parametrize(
    ("argument", "reason"),
    [
        ("a@b", "no brackets"),
        ("TO:<a>", "no domain"),
        ("TO:<a@b> RCPT\r\nTO:<c@d>", "a line end"),
        ("TO:<a@b>x", "no space before parameters"),
        ("TO:<a b@c>", "a bare space"),
        ("TO:<a@b@c>", "two @"),
        ("TO:<a>@b>", "a bracket within"),
        ("TO:<\xe4@b>", "not ASCII"),
        ("TO:<@x:a@b>", "a source route, which Postfix strips"),
    ],
)
def test_path_bad(argument, reason):
    with pytest.raises(smtp_protocol.ProtocolError):
        smtp_protocol.parse_path(argument)


@pytest.mark.parametrize(
    ("code", "text", "line"),
    [
        (250, "2.0.0 queued", "250 2.0.0 mx said: 250 queued"),
        (550, "no such user", "550 5.0.0 mx said: 550 no such user"),
        # A status of another class would contradict the code.
        (550, "2.0.0 fine", "550 5.0.0 mx said: 550 2.0.0 fine"),
        (451, "4.7.1 \x1b[0m\xe4", "451 4.7.1 mx said: 451 ?[0m?"),
        (451, "x" * 600, "451 " + ("4.0.0 mx said: 451 " + "x" * 600)[:480]),
    ],
)
def test_answer_passes_a_reply_on_safely(code, text, line):
    assert smtp_protocol.answer_from(smtp_protocol.Reply(code, (text,)), "mx").line() == line
