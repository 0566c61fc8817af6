"""The time that is left for DNS, to less than a second."""

import base64

import pytest
from chatmaild.common.refusals import Refusal
from chatmaild.dkim import canonical, verifying


@pytest.mark.parametrize(
    ("left", "asked", "code"), [(0.5, [0.5], "554"), (0.0, [], "451"), (-0.5, [], "451")]
)
def test_dns_is_asked_while_any_time_is_left(monkeypatch, left, asked, code):
    times = iter([1000.0, 1000.0 + verifying.DNS_SECONDS - left])
    monkeypatch.setattr(verifying.time, "monotonic", lambda: next(times))
    digest = base64.b64encode(canonical.body_hash(b"", False)[0])
    field = b"v=1;a=rsa-sha256;d=example.org;s=x;h=from;b=AA;bh=" + digest
    told = []

    def lookup(name, seconds):
        told.append(seconds)
        return []

    with pytest.raises(Refusal) as refused:
        verifying.check_signatures([(b"DKIM-Signature", field)], b"", "example.org", lookup)
    assert (told, refused.value.code) == (asked, code)
