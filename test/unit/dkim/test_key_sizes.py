"""RSA keys of the smallest and the largest size, to one bit (RFC 8301 section 3.2)."""

import base64

import pytest
from chatmaild.dkim import verifying
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

FIELD = b"v=1;a=rsa-sha256;d=chat.example.org;s=x;h=from;bh=AA;b=AA"


@pytest.mark.parametrize(
    ("bits", "good"), [(1023, False), (1024, True), (1025, True), (8191, True), (8193, False)]
)
def test_rsa_key_has_1024_to_8192_bits_and_not_one_less_or_more(bits, good):
    public = rsa.RSAPublicNumbers(65537, (1 << bits - 1) + 1).public_key()
    der = public.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    signature = verifying.parse_signature((b"DKIM-Signature", FIELD))
    record = b"p=" + base64.b64encode(der)
    if good:
        assert verifying.parse_key(record, signature).key_size == bits
    else:
        with pytest.raises(verifying.Invalid, match="too short or too long"):
            verifying.parse_key(record, signature)
