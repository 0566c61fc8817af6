"""Content-Type, transfer encodings and folded fields, one at a time."""

import pytest
from chatmaild.message import mime


def field(value: bytes, name: bytes = b"Content-Type") -> tuple[bytes, bytes]:
    return name, b" " + value


FOLDED = {
    "a fold": (b"A: b\r\n c", [(b"A", b" b\r\n c")]),
    "two folds by a tab": (b"A: b\r\n\tc\r\n\td", [(b"A", b" b\r\n\tc\r\n\td")]),
    "a fold of the second field": (b"A: b\r\nC: d\r\n e", [(b"A", b" b"), (b"C", b" d\r\n e")]),
    "a fold before another field": (b"A: b\r\n c\r\nD: e", [(b"A", b" b\r\n c"), (b"D", b" e")]),
    "no field": (b"", []),
}


@pytest.mark.parametrize(("header", "expected"), FOLDED.values(), ids=FOLDED)
def test_fold_belongs_to_the_field_before_it(header, expected):
    assert mime.parse_fields(header) == expected


def test_values_of_one_field_name_are_returned():
    fields = [(b"B", b" \tone\r\n two\t "), (b"a", b" x"), (b"C", b" y"), (b"b", b" three ")]
    assert mime.values(fields, "B") == [b"one two", b"three"]
    assert mime.values(fields, "D") == []


# A Content-Type, and its type and parameters; None if it is malformed.
TYPES = {
    "a type": (b"text/html", ("text/html", {})),
    "a type in capitals": (b"TEXT/Html", ("text/html", {})),
    "a parameter": (b"text/html; charset=utf-8", ("text/html", {"charset": b"utf-8"})),
    "a parameter in capitals": (b"a/b; CharSet=UTF-8", ("a/b", {"charset": b"UTF-8"})),
    "two parameters": (b"a/b;c=d ; e=f", ("a/b", {"c": b"d", "e": b"f"})),
    "a parameter of one letter in quotes": (b'a/b; c="d"', ("a/b", {"c": b"d"})),
    "a quoted string": (b'a/b; c="d e;f"; g=h', ("a/b", {"c": b"d e;f", "g": b"h"})),
    "an empty string": (b'a/b; c=""', ("a/b", {"c": b""})),
    "quoted pairs": (rb'a/b; c="d\"e\\f\g"', ("a/b", {"c": rb'd"e\fg'})),
    "a backslash in a token is none": (rb"a/b; c=d\e", None),
    "blanks": (b"a/b ; c = d ;", ("a/b", {"c": b"d"})),
    "semicolons": (b"a/b;;;c=d;;", ("a/b", {"c": b"d"})),
    "a parameter twice": (b"a/b; c=d; C=e", None),
    "no type": (b"; c=d", None),
    "half a type": (b"text", None),
    "half a parameter": (b"a/b; c", None),
    "an open quote": (b'a/b; c="d', None),
    "text after a quote": (b'a/b; c="d"e', None),
}


@pytest.mark.parametrize(("value", "expected"), TYPES.values(), ids=TYPES)
def test_content_type_is_a_type_and_its_parameters(value, expected):
    if expected is None:
        with pytest.raises(mime.Malformed):
            mime.content_type([field(value)])
    else:
        assert mime.content_type([field(value)]) == expected


def test_missing_content_type_is_text_and_two_are_malformed():
    assert mime.content_type([]) == ("text/plain", {})
    assert mime.content_type([field(b"text/html", b"X-Type")]) == ("text/plain", {})
    with pytest.raises(mime.Malformed, match="more than one Content-Type"):
        mime.content_type([field(b"text/html"), field(b"text/html", b"CONTENT-TYPE")])


BOUNDARIES = {
    "none": {},
    "empty": {"boundary": b""},
    "of 71 octets": {"boundary": b"x" * 71},
    "that ends in a space": {"boundary": b"x "},
    "with a letter that is not allowed": {"boundary": b"x*"},
    "and a second one, encoded": {"boundary": b"x", "boundary*": b"utf-8''y"},
    "and a second one, continued": {"boundary": b"x", "boundary*0": b"y"},
}


@pytest.mark.parametrize("parameters", BOUNDARIES.values(), ids=BOUNDARIES)
def test_boundary_that_is_improper_is_malformed(parameters):
    boundary = parameters.get("boundary", b"")
    body = b"--%b\r\none\r\n--%b--\r\n" % (boundary, boundary)
    with pytest.raises(mime.Malformed, match="no proper boundary"):
        mime.parts(body, parameters, 3)


@pytest.mark.parametrize("boundary", [b"x", b"x" * 70, b"a b", b"0'()+_,./:=?-"])
def test_boundary_that_is_proper_divides_the_body(boundary):
    body = b"--%b\r\none\r\n--%b--\r\n" % (boundary, boundary)
    parameters = {"boundary": boundary, "boundary-more": b"y", "charset": b"z"}
    found, _ = mime.parts(body, parameters, 3)
    assert [bytes(part) for part in found] == [b"one"]


def test_line_that_goes_on_after_the_boundary_is_malformed_at_the_very_end():
    with pytest.raises(mime.Malformed, match="goes on"):
        mime.parts(b"--x\r\none\r\n--x", {"boundary": b"x"}, 3)


# A transfer encoding, the encoded octets, and the decoded octets; None if they are malformed.
ENCODINGS = {
    "none": (None, b"a=3Db\r\n", b"a=3Db\r\n"),
    "7bit": (b"7bit", b"a=3Db\r\n", b"a=3Db\r\n"),
    "8bit in capitals": (b"8BIT", b"\xff\r\n", b"\xff\r\n"),
    "binary": (b"binary", b"\0\xff", b"\0\xff"),
    "quoted-printable": (b"quoted-printable", b"a=3Db=\r\nc\r\n", b"a=bc\r\n"),
    "quoted-printable in capitals": (b"Quoted-Printable", b"=41", b"A"),
    "base64": (b"base64", b"SGVs\r\nbG8=\r\n", b"Hello"),
    "base64 in capitals": (b"BASE64", b"SGVsbG8=", b"Hello"),
    "base64 with a space": (b"base64", b"SGVs bG8=", None),
    "base64 with text after its end": (b"base64", b"SGVsbG8=SGVs", None),
    "base64 cut off": (b"base64", b"SGVsbG8", None),
    "another one": (b"x-uuencode", b"SGVsbG8=", None),
    "an empty one": (b"", b"SGVsbG8=", None),
}


@pytest.mark.parametrize(("encoding", "content", "expected"), ENCODINGS.values(), ids=ENCODINGS)
def test_transfer_encoding_of_a_leaf_is_decoded(encoding, content, expected):
    fields = [field(b"text/html")]
    if encoding is not None:
        fields.append(field(encoding, b"Content-Transfer-Encoding"))
    part = b"".join(b"%b:%b\r\n" % each for each in fields) + b"\r\n" + content
    if expected is None:
        with pytest.raises(mime.Malformed):
            mime.single(fields, content)
        with pytest.raises(mime.Malformed):
            mime.leaf(memoryview(part))
    else:
        assert mime.single(fields, content) == ("text/html", expected)
        assert mime.leaf(memoryview(part)) == ("text/html", expected)


def test_leaf_with_two_encodings_is_malformed():
    fields = [field(b"7bit", b"Content-Transfer-Encoding")] * 2
    with pytest.raises(mime.Malformed, match="more than one"):
        mime.single(fields, b"Hello")


@pytest.mark.parametrize("kind", [b"multipart/mixed; boundary=x", b"message/rfc822"])
def test_multipart_and_message_are_no_leaf(kind):
    with pytest.raises(mime.Malformed, match="parts of its own"):
        mime.single([field(kind)], b"Hello")
