"""Tag lists (RFC 6376 section 3.2), one edge at a time."""

import pytest
from chatmaild.dkim import canonical

GOOD = {
    b"": {},
    b" \r\n ": {},
    b"a=b": {"a": b"b"},
    b"a=b;": {"a": b"b"},
    b"a=b; ": {"a": b"b"},
    b" a = b ;\r\n c =d": {"a": b"b", "c": b"d"},
    b"a=": {"a": b""},
    b"a=b=c": {"a": b"b=c"},
    b"a=b \t\r\n  c": {"a": b"b c"},
    b"A_1=b;a=c": {"A_1": b"b", "a": b"c"},
}


@pytest.mark.parametrize(("text", "tags"), GOOD.items())
def test_tag_list_is_read(text, tags):
    assert canonical.parse_tags(text) == tags


@pytest.mark.parametrize(
    "text",
    [b"a", b"a=b;c", b"=b", b"1=b", b"a=b;;c=d", b";", b"a=b;;", b"a b=c", b"a=b;a=c", b"_=b"],
)
def test_tag_list_that_is_broken_is_an_error(text):
    with pytest.raises(ValueError, match="broken tag list"):
        canonical.parse_tags(text)
