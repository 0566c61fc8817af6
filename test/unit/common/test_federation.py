"""The domains with which the relay exchanges mail."""

import pytest
from chatmaild.common.federation import Federation


def refuses(domain, block=(), allow=(), own="chat.example.com"):
    lists = {"block": list(block), "allow": list(allow)}
    return Federation({"address_domain": own, "federation": lists}).refuses(domain)


# LIST names these domains, and the names below them.
NAMED = [
    "example.org",
    "EXAMPLE.Org",
    "example.org.",
    "sub.example.org",
    "a.b.example.org",
    "_test.example.org",
    "example.net",
    "net",
    "[192.0.2.5]",
]
NOT_NAMED = [
    "notexample.org",
    "example.org.example",
    "org",
    "xample.org",
    "example.internet",
    "[192.0.2.50]",
    "[1.192.0.2.5]",
    "[IPv6:2001:db8::1]",
    "192.0.2.5",
    "",
]
LIST = ("example.org", "net", "[192.0.2.5]")


@pytest.mark.parametrize("domain", NAMED)
def test_domain_in_a_list_is_blocked_by_one_and_allowed_by_the_other(domain):
    assert refuses(domain, block=LIST)
    assert not refuses(domain, allow=LIST)


@pytest.mark.parametrize("domain", NOT_NAMED)
def test_domain_in_no_list_is_allowed_by_one_and_blocked_by_the_other(domain):
    assert not refuses(domain, block=LIST)
    assert refuses(domain, allow=LIST)


@pytest.mark.parametrize("domain", [*NAMED, *NOT_NAMED])
def test_domain_without_lists_is_never_refused(domain):
    assert not refuses(domain)


@pytest.mark.parametrize("own", ["chat.example.com", "_chat.example.com", "[192.0.2.9]"])
def test_own_domain_is_never_refused(own):
    assert not refuses(own, allow=["example.org"], own=own)
    assert not refuses(own.upper(), block=["com", own], own=own)


def test_domain_in_both_lists_is_blocked():
    assert refuses("sub.example.org", block=["sub.example.org"], allow=["example.org"])
    assert refuses("sub.example.org", block=["example.org"], allow=["sub.example.org"])
    assert not refuses("other.example.org", block=["sub.example.org"], allow=["example.org"])
