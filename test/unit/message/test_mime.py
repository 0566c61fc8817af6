"""Parts and headers, one edge case at a time. The tests of the filter have whole messages."""

import pytest
from chatmaild.message import mime

BOUNDARY = {"boundary": b"=_edge"}


def read(body: bytes, most: int = 3) -> list[bytes]:
    return [bytes(part) for part in mime.parts(body, BOUNDARY, most)[0]]


ONE = b"--=_edge\r\none\r\n--=_edge--\r\n"
TWO = b"--=_edge\r\none\r\n--=_edge\r\ntwo\r\n--=_edge--\r\n"

BODIES = {
    "a part": (ONE, [b"one"]),
    "two parts": (TWO, [b"one", b"two"]),
    "an empty part": (b"--=_edge\r\n\r\n--=_edge--\r\n", [b""]),
    "a part without even a line": (b"--=_edge\r\n--=_edge--\r\n", [b""]),
    "lines within": (ONE.replace(b"one", b"\r\none\r\n\r\n"), [b"\r\none\r\n\r\n"]),
    "what looks like the boundary within a line": (
        ONE.replace(b"one", b"one --=_edge--"),
        [b"one --=_edge--"],
    ),
    "blanks after the delimiters": (
        b"--=_edge \t\r\none\r\n--=_edge\t\r\ntwo\r\n--=_edge-- \r\n",
        [b"one", b"two"],
    ),
    "no line end at the end": (TWO.removesuffix(b"\r\n"), [b"one", b"two"]),
    "no part": (b"--=_edge--\r\n", []),
    "no part and no line end": (b"--=_edge--", []),
}


@pytest.mark.parametrize(("body", "expected"), BODIES.values(), ids=BODIES)
def test_parts_are_the_text_between_the_delimiters(body, expected):
    assert read(body) == expected
    assert read(b"\r\n" + body) == expected


BROKEN = {
    "nothing": b"",
    "no delimiter": b"one\r\n",
    "a delimiter and the end": b"--=_edge",
    "a delimiter and no more": b"--=_edge\r\n",
    "a part and the end": b"--=_edge\r\none",
    "a first delimiter that goes on": ONE.replace(b"--=_edge\r\n", b"--=_edge x\r\n", 1),
    "a second delimiter that goes on": TWO.replace(b"\r\ntwo", b" x\r\ntwo"),
    "a word that begins like the boundary": TWO.replace(b"\r\ntwo", b"wise\r\ntwo"),
    "a last delimiter that goes on": TWO.replace(b"--=_edge--", b"--=_edge--x"),
    "a last delimiter with one dash": TWO.replace(b"--=_edge--", b"--=_edge-"),
    "a last delimiter that is cut off": TWO.removesuffix(b"--\r\n"),
    "an open body after what looks like its end": b"123456789--\r\n--=_edge\r\none\r\n",
    "bare LF around the delimiters": TWO.replace(b"\r\n", b"\n"),
}


@pytest.mark.parametrize("body", BROKEN.values(), ids=BROKEN)
def test_parts_that_could_be_read_in_two_ways_are_malformed(body):
    with pytest.raises(mime.Malformed):
        read(body)


def test_more_parts_than_allowed_are_malformed():
    assert len(read(TWO, most=2)) == 2
    with pytest.raises(mime.Malformed, match="more than 1 parts"):
        read(TWO, most=1)
    with pytest.raises(mime.Malformed, match="more than 0 parts"):
        read(ONE, most=0)


def test_parts_come_with_the_text_around_them():
    found, around = mime.parts(b"before\r\n" + ONE + b"after\r\n", BOUNDARY, 1)
    assert [bytes(part) for part in found] == [b"one"]
    assert around.split() == [b"before", b"after"]
    assert mime.parts(ONE, BOUNDARY, 1)[1].strip() == b""
    assert mime.parts(ONE.removesuffix(b"\r\n"), BOUNDARY, 1)[1] == b""


# A part, its header, and the text after it; None if it is malformed.
PARTS = {
    "a header and text": (b"A: b\r\n\r\ntext", ([(b"A", b" b")], b"text")),
    "two fields and lines": (
        b"A: b\r\nC: d\r\n\r\n\r\ntext\r\n",
        ([(b"A", b" b"), (b"C", b" d")], b"\r\ntext\r\n"),
    ),
    "no header": (b"\r\ntext", ([], b"text")),
    "no header and no text": (b"\r\n", ([], b"")),
    "no text": (b"A: b\r\n\r\n", ([(b"A", b" b")], b"")),
    "a folded field": (b"A: b\r\n c\r\n\r\nt", ([(b"A", b" b\r\n c")], b"t")),
    "a header that does not end": (b"A: b\r\n", None),
    "a header without a line end": (b"A: b", None),
    "nothing": (b"", None),
    "a field without a name": (b": b\r\n\r\ntext", None),
    "a name with a space": (b"A : b\r\n\r\ntext", None),
    "a fold without a field": (b" b\r\n\r\ntext", None),
    "a line that is no field": (b"A: b\r\ntext\r\n\r\ntext", None),
}


@pytest.mark.parametrize(("part", "expected"), PARTS.values(), ids=PARTS)
def test_divided_ends_the_header_at_the_first_empty_line(part, expected):
    if expected is None:
        with pytest.raises(mime.Malformed):
            mime.divided(memoryview(part))
        return
    fields, content = mime.divided(memoryview(part))
    assert (fields, bytes(content)) == expected


def test_divided_looks_no_further_than_its_limit():
    fits = b"A: ".ljust(mime.MAX_PART_HEADER - 4, b"x") + b"\r\n\r\ntext"
    assert bytes(mime.divided(memoryview(fits))[1]) == b"text"
    with pytest.raises(mime.Malformed, match="does not end"):
        mime.divided(memoryview(b"x" + fits))
