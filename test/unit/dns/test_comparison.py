"""The comparison of records goes by their meaning, not by their text."""

import dns.rdata
import pytest
from chatmaild.dns import comparison
from chatmaild.dns.records import list_records
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from support.dnsservers import text_of

KEY = "MIIBIjANBgkqhkiG9w0BAQEFAAOCAQ8AMIIBCgKCAQEA1arFHsuWB9"

# Each row: type, expected value, found value.

GOOD = [
    ("TXT", f"v=DKIM1;k=rsa;s=email;t=s;p={KEY}", f"v=DKIM1; k=rsa; p={KEY}"),
    ("TXT", f"v=DKIM1;k=rsa;s=email;t=s;p={KEY}", f"p={KEY}"),  # v and k have defaults
    ("TXT", f"v=DKIM1;k=rsa;s=email;t=s;p={KEY}", f"K=RSA ;P = {KEY[:9]} {KEY[9:]} ; n=note;"),
    ("TXT", f"v=DKIM1;k=rsa;s=email;t=s;p={KEY}", f"v=DKIM1;h=sha1:sha256;s=*;t=s;p={KEY}"),
    ("TXT", "v=DMARC1;p=reject;adkim=s;aspf=s", "v=DMARC1; p=Reject; aspf=s; adkim=s"),
    (
        "TXT",
        "v=DMARC1;p=reject;adkim=s;aspf=s",
        "v=DMARC1;p=reject;adkim=s;aspf=s;pct=100;rua=mailto:a@example.org",
    ),
    ("TXT", "v=STSv1; id=abc", "v=STSv1;id=abc;"),
    ("TXT", "v=spf1 a ~all", "V=SPF1 +A -ALL"),
    ("TXT", "v=spf1 a ~all", "v=spf1 ip4:192.0.2.1 mx ?all"),
    ("TXT", "dkim=discardable", "DKIM = discardable"),
    ("MX", "10 chat.example.org.", "5 CHAT.Example.Org."),
    ("SRV", "0 1 587 chat.example.org.", "10 0 587 Chat.example.org."),
    ("CAA", '0 issue "ca.example;accounturi=x"', '128 issue "CA.example; accounturi = x"'),
    ("CAA", '0 issue "c.example;a=1;b=2"', '0 ISSUE "c.example; b=2; a=1"'),
]
WRONG = [
    ("TXT", f"v=DKIM1;k=rsa;p={KEY}", "v=DKIM1;k=rsa;p="),  # revoked
    ("TXT", f"v=DKIM1;k=rsa;p={KEY}", f"v=DKIM1;k=rsa;p={KEY.lower()}"),
    ("TXT", f"v=DKIM1;k=rsa;p={KEY}", f"v=DKIM1;k=ed25519;p={KEY}"),
    ("TXT", f"v=DKIM1;k=rsa;p={KEY}", f"v=DKIM2;k=rsa;p={KEY}"),
    ("TXT", f"v=DKIM1;k=rsa;p={KEY}", f"v=DKIM1;t=y;k=rsa;p={KEY}"),  # only a test
    ("TXT", f"v=DKIM1;k=rsa;p={KEY}", f"v=DKIM1;s=tlsrpt;k=rsa;p={KEY}"),  # not for mail
    ("TXT", f"v=DKIM1;k=rsa;p={KEY}", f"v=DKIM1;h=sha1;k=rsa;p={KEY}"),
    ("TXT", "v=DMARC1;p=reject;adkim=s;aspf=s", "v=DMARC1;p=none;adkim=s;aspf=s"),
    ("TXT", "v=DMARC1;p=reject;adkim=s;aspf=s", "v=DMARC1;p=reject;aspf=s"),
    ("TXT", "v=DMARC1;p=reject;adkim=s;aspf=s", "v=DMARC1;p=reject;adkim=s;aspf=s;pct=5"),
    ("TXT", "v=STSv1; id=abc", "v=STSv1; id=ABC"),
    ("TXT", "v=spf1 a ~all", "v=spf1 -all"),
    ("TXT", "v=spf1 a ~all", "v=spf1 -all a"),  # nothing after `all` counts
    ("TXT", "v=spf1 a ~all", "v=spf1 -a ~all"),
    ("TXT", "dkim=discardable", "dkim=unknown"),
    ("MX", "10 chat.example.org.", "10 chat.example.org.example.org."),
    ("SRV", "0 1 587 chat.example.org.", "0 1 588 chat.example.org."),
    ("SRV", "0 1 587 chat.example.org.", "0 1 587 ."),
    ("CAA", '0 issue "ca.example;accounturi=x"', '0 issue "ca.example"'),
    ("CAA", '0 issue "ca.example;accounturi=x"', '0 issue ";"'),
    ("A", "192.0.2.1", "192.0.2.2"),
]


@pytest.mark.parametrize(("rdtype", "wanted", "found"), GOOD)
def test_value_of_the_same_meaning_is_right(rdtype, wanted, found):
    assert comparison.judge(rdtype, [wanted], [found]) == "ok"


@pytest.mark.parametrize(("rdtype", "wanted", "found"), WRONG)
def test_value_of_another_meaning_is_wrong(rdtype, wanted, found):
    assert comparison.judge(rdtype, [wanted], [found]) == "wrong"


def test_second_value_of_one_kind_is_wrong():
    """Two policies of a kind count as none. A second MX or address sends mail elsewhere."""
    for rdtype, wanted, other in (
        ("TXT", "v=spf1 a ~all", "v=spf1 mx ~all"),
        ("MX", "10 chat.example.org.", "20 mx.example.net."),
        ("A", "192.0.2.1", "192.0.2.2"),
        ("CAA", '0 issue "ca.example;accounturi=x"', '0 issue "ca.example"'),
    ):
        assert comparison.judge(rdtype, [wanted], [wanted, other]) == "wrong"


# The tests below use all records of a relay.


def cased(draw_flips, name):
    return "".join(c.upper() if flip else c for c, flip in zip(name, draw_flips, strict=False))


@hypothesis_settings(
    max_examples=15,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(data=st.data())
def test_same_record_in_any_chunking_case_and_order_is_right(settings, data):
    """Panels of DNS providers split a value, change its case, and drop or add final dots."""
    for group in comparison.make_groups(settings, list_records(settings), None):
        if not group.wanted or group.type == "CNAME":
            continue
        found = [disguised(data, group.type, value) for value in group.wanted]
        found = data.draw(st.permutations(found))
        assert comparison.judge(group.type, group.wanted, found) == "ok", (group, found)


def disguised(data, rdtype, value):
    """Return a value as DNS has it after somebody has typed it in another way."""
    if rdtype == "TXT":
        octets, chunks = value.encode(), []
        while octets:
            size = data.draw(st.integers(1, min(255, len(octets))))
            chunks.append(octets[:size])
            octets = octets[size:]
        text = " ".join('"' + chunk.decode() + '"' for chunk in chunks)
    else:
        flips = data.draw(st.lists(st.booleans(), min_size=len(value), max_size=len(value)))
        host = value if rdtype in ("A", "CAA") else cased(flips, value)
        dot = "" if rdtype in ("A", "AAAA", "CAA") else "."
        text = host.rstrip(".") + dot if rdtype != "CAA" else host
    rdata = dns.rdata.from_text("IN", rdtype, text, relativize=False)
    wire = rdata.to_wire()
    back = dns.rdata.from_wire("IN", rdtype, wire, 0, len(wire))
    return text_of(back)
