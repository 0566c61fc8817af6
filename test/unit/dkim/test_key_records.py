"""Key records as the world writes them."""

import base64
import os

import pytest
from chatmaild.dkim import signing, verifying
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from support.dkim_messages import (
    DOMAIN,
    INVALID,
    by_dkimpy,
    check,
    own_signature,
    private_pem,
    record,
    signed,
)


def test_check_signatures_reads_key_records(keys):
    material = keys[1]["rsa"].partition("p=")[2]
    fields = own_signature(signing.load_keys(keys[0])[0], {})
    for good in (
        f"p={material}",
        f"k=rsa;p={material};",
        f"v=DKIM1; k=rsa; h=sha1:sha256; s=*; t=y; n=note; p={material}",
        f"v=DKIM1; s=other:email; t=s; p={material[:50]} \n {material[50:]}",
    ):
        assert check(fields, b"Hello\r\n", {"rsa": good}) == "", good
    for bad in (
        "",
        "v=DKIM1",
        "v=DKIM1; p=",
        "v=DKIM1; p=!!!!",
        f"v=DKIM1; p={material[:-40]}",
        f"v=DKIM2; p={material}",
        f"v=DKIM1; k=ed25519; p={material}",
        f"v=DKIM1; h=sha1; p={material}",
        f"v=DKIM1; s=tlsrpt; p={material}",
        f"p={material}; p={material}",
        keys[1]["ed"],
        "v=spf1 a -all",
    ):
        assert check(fields, b"Hello\r\n", {"rsa": bad}) == INVALID, bad
    subdomain = own_signature(signing.load_keys(keys[0])[0], {"i": f"@a.{DOMAIN}"})
    assert check(subdomain, b"Hello\r\n", {"rsa": f"t=s; p={material}"}) == INVALID


def pasted(material: str) -> dict[str, str]:
    """Return key records as people paste them from a zone file."""
    first, second, third = material[:60], material[60:130], material[130:]
    return {
        "quotes and blanks in p=": f'v=DKIM1; k=rsa; p={first}" "{second}"\t"{third}',
        "all in quotes": f'"v=DKIM1; k=rsa; p={material}"',
        "all in quotes and in pieces": f'"v=DKIM1; k=rsa; " "p={first}" "{second}{third}"',
        "in parentheses": f'( "v=DKIM1; k=rsa; "\n\t"p={first}"\n\t"{second}{third}" )',
        "semicolons with backslashes": f"v=DKIM1\\; k=rsa\\; p={material}\\;",
        "quotes with backslashes": f'\\"v=DKIM1; k=rsa; p={first}\\" \\"{second}{third}\\"',
        "semicolons twice": f"v=DKIM1;; k=rsa; ;p={material};;",
        "a semicolon first": f"; v=DKIM1; p={material}",
        "p= in quotes": f'v=DKIM1; k=rsa; p="{material}"',
        "line ends as letters": f"v=DKIM1; k=rsa; p={first}\xa0{second}\\{third}".encode(),
        "no padding": f"v=DKIM1; k=rsa; p={material.rstrip('=')}",
    }


def test_check_signatures_reads_key_records_pasted_from_zone_files(keys):
    """OpenDKIM and dkimpy took them; all mail of such a domain was answered 554 here."""
    for name in ("rsa", "ed"):
        material = keys[1][name].partition("p=")[2]
        fields = own_signature(
            next(k for k in signing.load_keys(keys[0]) if k.selector == name), {}
        )
        for what, text in pasted(material).items():
            records = text if isinstance(text, bytes) else text.encode("latin-1")
            if name == "ed":
                records = records.replace(b"v=DKIM1", b"v=DKIM1;k=ed25519").replace(b"k=rsa", b"n=")
            assert check(fields, b"Hello\r\n", {name: [records]}) == "", what
        for bad in ('v=DKIM1; p=""', "v=DKIM1;; p=;;", f'v=DKIM1; p="{material}"; p={material}'):
            assert check(fields, b"Hello\r\n", {name: bad}) == INVALID, bad


def test_check_signatures_takes_a_bare_rsa_key(dkimpy_key):
    """RFC 6376 asks for RSAPublicKey, the world writes SubjectPublicKeyInfo; both are taken."""
    key = rsa.generate_private_key(65537, 1024)
    bare = record(key, serialization.PublicFormat.PKCS1)
    fields = by_dkimpy((private_pem(key), bare))
    assert check(fields, b"Hello\r\n", {"other": bare}) == ""


WEAK_BITS = 768


def test_check_signatures_with_weak_key_refuses(keys):
    """RFC 8301 section 3.2. Newer OpenSSL makes no such key any more, so a number stands for it."""
    modulus = int.from_bytes(b"\xff" + os.urandom(WEAK_BITS // 8 - 2) + b"\x01", "big")
    weak = rsa.RSAPublicNumbers(65537, modulus).public_key()
    public = weak.public_bytes(
        serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    text = f"v=DKIM1; p={base64.b64encode(public).decode()}"
    signature = verifying.parse_signature(signed(keys)[0])
    with pytest.raises(verifying.Invalid, match="too short or too long"):
        verifying.parse_key(text.encode(), signature)
