"""The DNS module gives the records the public addresses of the machine."""

import os
import random

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from salt.exceptions import CommandExecutionError
from support.generated import PUBLIC_ADDRESSES

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="keys of root need root")

# The generated cases of a test share one fixture, and each sets all that it reads.
GENERATED = settings(
    max_examples=40,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
PRIVATE = ["127.0.0.1", "10.1.2.3", "192.168.0.9", "172.20.0.1", "100.64.0.1", "::1", "fe80::1"]


@GENERATED
@given(
    public=PUBLIC_ADDRESSES, private=st.lists(st.sampled_from(PRIVATE)), disable_ipv6=st.booleans()
)
def test_addresses_are_the_public_ones_of_the_machine(own, public, private, disable_ipv6):
    """Several addresses, IPv6 alone, and private ones among them."""
    found = public + private
    random.Random(len(found)).shuffle(found)
    own.relay["dns"]["addresses"] = None
    own.relay["disable_ipv6"] = disable_ipv6
    own.salt["network.ip_addrs"] = lambda: [a for a in found if ":" not in a]
    own.salt["network.ip_addrs6"] = lambda: [a for a in found if ":" in a]
    wanted = {a for a in public if not (disable_ipv6 and ":" in a)}
    if wanted:
        assert {r["value"] for r in own.dns.records() if r["type"] in ("A", "AAAA")} == wanted
    else:
        with pytest.raises(CommandExecutionError, match="set chatmail:dns:addresses"):
            own.dns.records()
