"""Dovecot's dict protocol as tables of requests and replies, in pieces of every size."""

import pytest
from chatmaild.metadata import dict_protocol
from chatmaild.metadata.dict_protocol import Conversation, ProtocolError, Refused, escape, unescape
from hypothesis import given
from hypothesis import strategies as st

HELLO_2_3 = "H3\t2\t0\t\tmetadata\n"
HELLO_2_4 = "H4\t0\t0\t\tmetadata\n"
USER = "abcdefghi@_chat.example.org"


class Store:
    """A store of values by (user, key). It refuses keys that begin with `refused`."""

    def __init__(self):
        self.values = {(USER, "shared/known"): "value", (USER, "shared/odd"): "a\tb\nc\x01d\0e\rf"}

    def lookup(self, user, key):
        if key.startswith("refused"):
            raise Refused("no\tsuch entry")
        return self.values.get((user, key))

    def change(self, user, key, value):
        if key.startswith("refused"):
            raise Refused("no such entry")
        self.values[user, key] = value


GOOD = {
    "greeting of 2.3 has no reply": (HELLO_2_3, ""),
    "greeting of 2.4 has no reply": (HELLO_2_4, ""),
    "lookup": (f"{HELLO_2_3}Lshared/known\t{USER}\n", "Ovalue\n"),
    "lookup of nothing": (f"{HELLO_2_4}Lshared/none\t{USER}\n", "N\n"),
    "lookup of another user's": (f"{HELLO_2_4}Lshared/known\tother@_chat.example.org\n", "N\n"),
    "lookup that is refused": (f"{HELLO_2_4}Lrefused\t{USER}\n", "Fno\x01tsuch entry\n"),
    "value with separators": (
        f"{HELLO_2_4}Lshared/odd\t{USER}\n",
        "Oa\x01tb\x01nc\x011d\x010e\x01rf\n",
    ),
    "iteration finds nothing": (f"{HELLO_2_3}I9\t0\tpriv/guid/\t{USER}\n", "\n"),
    "transaction of 2.3": (
        f"{HELLO_2_3}B1\t{USER}\nS1\tpriv/new\tset\nC1\nLpriv/new\t{USER}\n",
        "O1\nOset\n",
    ),
    "transaction of 2.4 names an expiry": (
        f"{HELLO_2_4}B1\t{USER}\t0\nS1\tpriv/new\tset\nC1\nLpriv/new\t{USER}\n",
        "O1\nOset\n",
    ),
    "set value with separators": (
        f"{HELLO_2_4}B1\t{USER}\t0\nS1\tpriv/new\ta\x01tb\nC1\nLpriv/new\t{USER}\n",
        "O1\nOa\x01tb\n",
    ),
    "empty value": (
        f"{HELLO_2_4}B1\t{USER}\t0\nS1\tpriv/new\t\nC1\nLpriv/new\t{USER}\n",
        "O1\nO\n",
    ),
    "removal": (
        f"{HELLO_2_4}B1\t{USER}\t0\nU1\tshared/known\nC1\nLshared/known\t{USER}\n",
        "O1\nN\n",
    ),
    "change that is refused": (
        f"{HELLO_2_4}B7\t{USER}\t0\nS7\trefused\tsecret\nC7\n",
        "F7\tno such entry\n",
    ),
    "rollback changes nothing": (
        f"{HELLO_2_4}B1\t{USER}\t0\nS1\tpriv/new\tset\nR1\nLpriv/new\t{USER}\n",
        "N\n",
    ),
    "two transactions at once": (
        f"{HELLO_2_4}B1\t{USER}\t0\nB2\t{USER}\t0\nS2\tp\t2\nS1\tp\t1\nC2\nC1\nLp\t{USER}\n",
        "O2\nO1\nO1\n",
    ),
}

BAD = {
    "no greeting": f"Lshared/known\t{USER}\n",
    "version that does not exist yet": "H5\t0\t0\t\tmetadata\n",
    "second greeting": HELLO_2_4 * 2,
    "empty line": f"{HELLO_2_4}\n",
    "unknown command": f"{HELLO_2_4}Zshared/known\t{USER}\n",
    "increment, which nothing here has": f"{HELLO_2_4}B1\t{USER}\t0\nA1\tpriv/new\t1\n",
    "lookup without user": f"{HELLO_2_4}Lshared/known\n",
    "set without value": f"{HELLO_2_4}B1\t{USER}\t0\nS1\tpriv/new\n",
    "set outside of a transaction": f"{HELLO_2_4}S1\tpriv/new\tset\n",
    "commit twice": f"{HELLO_2_4}B1\t{USER}\t0\nC1\nC1\n",
    "rollback of nothing": f"{HELLO_2_4}R1\n",
    "line without end": HELLO_2_4 + "L" + "x" * dict_protocol.MAX_LINE,
    "line too long": HELLO_2_4 + "L" + "x" * dict_protocol.MAX_LINE + f"\t{USER}\n",
    "too many transactions": HELLO_2_4
    + "".join(f"B{number}\t{USER}\t0\n" for number in range(dict_protocol.MAX_TRANSACTIONS + 1)),
    "too many changes": f"{HELLO_2_4}B1\t{USER}\t0\n"
    + "S1\tpriv/new\tset\n" * (dict_protocol.MAX_CHANGES + 1),
}


def answers(sent, size):
    """Return the answer to these characters if they come in pieces of this size."""
    store = Store()
    conversation = Conversation(store.lookup, store.change)
    data = sent.encode("latin-1")
    pieces = [data[start : start + size] for start in range(0, len(data), size)]
    return b"".join(map(conversation.receive, pieces)).decode("latin-1")


@pytest.mark.parametrize(("sent", "expected"), GOOD.values(), ids=GOOD)
def test_request_is_answered_the_same_in_pieces_of_every_size(sent, expected):
    for size in range(1, len(sent) + 1):
        assert answers(sent, size) == expected, f"in pieces of {size} bytes"


@pytest.mark.parametrize("sent", BAD.values(), ids=BAD)
@pytest.mark.parametrize("size", [1, 7, 4096, 1 << 20])
def test_client_with_another_protocol_is_refused(sent, size):
    if len(sent) > 60000 and size < 4096:
        size = 1000  # pieces of one byte would take minutes there
    with pytest.raises(ProtocolError) as error:
        answers(sent, size)
    assert USER not in str(error.value)


def test_longest_allowed_line_is_accepted():
    line = "L" + "x" * (dict_protocol.MAX_LINE - len(f"L\t{USER}") - 1) + f"\t{USER}\n"
    assert answers(HELLO_2_4 + line, 4096) == "N\n"


def test_bytes_that_are_no_text_come_back_unchanged():
    value = bytes(set(range(256)) - {0, 1, 9, 10, 13}).decode("latin-1")
    sent = f"{HELLO_2_4}B1\t{USER}\t0\nS1\tpriv/new\t{value}\nC1\nLpriv/new\t{USER}\n"
    assert answers(sent, 100) == f"O1\nO{value}\n"


@given(st.text(st.characters(max_codepoint=255)))
def test_escaping_is_undone_and_leaves_no_separator(text):
    assert unescape(escape(text)) == text
    assert not set(escape(text)) & set("\0\t\r\n")


@given(st.binary(max_size=300))
def test_any_bytes_are_answered_or_refused_and_nothing_else(data):
    store = Store()
    conversation = Conversation(store.lookup, store.change)
    conversation.receive(HELLO_2_4.encode())
    try:
        replies = conversation.receive(data)
    except ProtocolError:
        return
    assert replies == b"" or replies.endswith(b"\n")
