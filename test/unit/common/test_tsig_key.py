"""The file of a TSIG key, as several tools write it."""

import base64

import dns.name
import pytest
from chatmaild.common.errors import OperatorError
from chatmaild.common.tsig_key import read_tsig_key
from support import dnsservers


@pytest.mark.parametrize(
    "text",
    [
        'key "relay" {\n\talgorithm hmac-sha256;\n\tsecret "%s";\n};\n',
        "key relay { algorithm HMAC-SHA512; secret %s; };",
        'key "relay." {\n secret "%s";\n algorithm "hmac-sha256"; };',
    ],
)
def test_key_file_of_any_tool_is_read(tmp_path, text):
    path = dnsservers.key_file(tmp_path)
    path.write_text(text % dnsservers.SECRET)
    key = read_tsig_key(path)
    assert dns.name.from_text(key.name) == dns.name.from_text("relay")
    assert base64.b64decode(key.secret) == base64.b64decode(dnsservers.SECRET)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "holds no TSIG key"),
        ("key x { algorithm hmac-sha256; };", "holds no TSIG key"),
        (f'key x {{ secret "{dnsservers.SECRET}"; }};', "holds no TSIG key"),
        (f'key x {{ algorithm hmac-sha256; secret "{dnsservers.SECRET}!"; }};', "holds no TSIG"),
    ],
)
def test_message_about_a_broken_key_file_has_no_secret(tmp_path, text, message):
    path = dnsservers.key_file(tmp_path)
    path.write_text(text)
    with pytest.raises(OperatorError, match=message) as raised:
        read_tsig_key(path)
    assert dnsservers.SECRET[:8] not in str(raised.value)
    assert raised.value.__cause__ is None


def test_key_file_that_others_may_read_is_refused(tmp_path):
    path = dnsservers.key_file(tmp_path)
    path.chmod(0o644)
    with pytest.raises(OperatorError, match="chmod 0600"):
        read_tsig_key(path)
    path.unlink()
    with pytest.raises(OperatorError, match="cannot be read"):
        read_tsig_key(path)
