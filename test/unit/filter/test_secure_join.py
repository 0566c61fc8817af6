"""What counts as a Secure-Join request."""

import base64

import pytest
from support.filter_rules import NEEDED, SECURE_JOIN, receive, single, submit
from support.messages import fields


def join(text=SECURE_JOIN, kind="text/plain", after="", **header):
    """Return header and body of something like a Secure-Join request."""
    values = {"Secure_Join": "vc-request", "Content_Type": 'multipart/mixed; boundary="=_edge"'}
    body = f"--=_edge\r\nContent-Type: {kind}\r\n\r\n{text}\r\n{after}--=_edge--\r\n"
    return fields(**(values | header)), body.encode()


JOINS = {
    "no header of the part": (
        join()[0],
        f"--=_edge\r\n\r\n{SECURE_JOIN}\r\n--=_edge--\r\n".encode(),
    ),
    "the other step in the text": join("secure-join: vg-request"),
    "in capitals and with space": join("\r\n SECURE-JOIN: VC-REQUEST \r\n"),
    "multipart/alternative": join(Content_Type='multipart/alternative; boundary="=_edge"'),
    "base64": join(
        f"{base64.b64encode(SECURE_JOIN.encode()).decode()}",
        "text/plain\r\nContent-Transfer-Encoding: base64",
    ),
}

# What Delta Chat 2.59 writes.
SINGLE_JOINS = {
    "as Delta Chat writes it": single(),
    "the group's": single("Secure-Join: vg-request", Secure_Join="vg-request"),
    "7bit": single(Content_Transfer_Encoding="7bit"),
    "without a charset": single(Content_Type="text/plain"),
    "flowed": single(
        Content_Type='text/plain; charset="utf-8"; format=flowed; delsp=no',
        Content_Transfer_Encoding="quoted-printable",
    ),
    "base64": single(
        base64.b64encode(SECURE_JOIN.encode()).decode(), Content_Transfer_Encoding="base64"
    ),
}

NO_JOINS = {
    "no header": join(Secure_Join=None),
    "another step": join(Secure_Join="vc-auth-required"),
    "another text": join("Hello"),
    "text after": join(SECURE_JOIN + "\r\nHello"),
    "another step in the text": join("secure-join: vc-auth-required"),
    "another type": join(kind="text/html"),
    "a second part": join(after="--=_edge\r\nContent-Type: text/plain\r\n\r\nHello\r\n"),
    "a single text and more": single(SECURE_JOIN + "\r\nHello"),
    "a single text and text before": single("Hello\r\n" + SECURE_JOIN),
    "a single other text": single("Hello"),
    "a single other step": single("secure-join: vc-auth-required"),
    "a single text without the header": single(Secure_Join=None),
    "a single text with another step in the header": single(Secure_Join="vg-auth-required"),
    "a single text/html": single(Content_Type="text/html"),
    "a single message/rfc822": single(Content_Type="message/rfc822"),
    "a single text/plain in two types": single(Content_Type="text/plain, text/html"),
    "a single text with two encodings": (
        [*single(Content_Transfer_Encoding="7bit")[0], (b"content-transfer-encoding", b" base64")],
        single()[1],
    ),
    "a single text in an unknown encoding": single(Content_Transfer_Encoding="x-uuencode"),
    "a single text that is no base64": single(Content_Transfer_Encoding="base64"),
    "a single text of many blank lines": single(SECURE_JOIN + "\r\n" * 1000),
    "no text at all": single(""),
    "two headers": ([*join()[0], (b"secure-join", b" vc-request")], join()[1]),
    "a nested multipart": join(kind='multipart/mixed; boundary="inner"'),
    "no closing boundary": (join()[0], join()[1].replace(b"--=_edge--", b"")),
}


@pytest.mark.parametrize("message", JOINS.values(), ids=JOINS)
def test_is_securejoin_reads(message):
    assert submit(*message) == ""
    assert receive(*message) == ""


@pytest.mark.parametrize("message", SINGLE_JOINS.values(), ids=SINGLE_JOINS)
def test_is_securejoin_reads_a_single_text(message):
    """Delta Chat 2.59 sends no multipart there: its users could verify nobody through us."""
    assert submit(*message) == ""
    assert receive(*message) == ""


@pytest.mark.parametrize("message", NO_JOINS.values(), ids=NO_JOINS)
def test_is_securejoin_of_anything_else_refuses(message):
    assert submit(*message) == NEEDED
    assert receive(*message) == NEEDED


def test_is_securejoin_with_text_around_the_part_is_for_others_only():
    """Ours send no clear text anywhere."""
    header, body = join()
    for around in (b"Hello\r\n" + body, body + b"Hello\r\n"):
        assert submit(header, around) == NEEDED
        assert receive(header, around) == ""
