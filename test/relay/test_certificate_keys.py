"""Renewed certificates keep their key, and one function changes it."""

import hashlib
import json
import ssl

from cryptography import x509
from cryptography.hazmat.primitives import serialization
from relay.handshakes import connect, context
from support.converging import apply, failed, ids, not_as_expected

DAEMONS = (443, 993, 465, 25)
RENEWAL = "/etc/letsencrypt/renewal/chatmail.conf"
RENEW = "certbot renew --quiet --no-random-sleep-on-renew --force-renewal"
PART = "chatmail"


def served(relay, port=443):
    """Return (serial number, digest of the key) of the certificate on a port."""
    with connect(relay, port, context(verify=False)) as connection:
        found = x509.load_der_x509_certificate(connection.getpeercert(binary_form=True))
    form = serialization.PublicFormat.SubjectPublicKeyInfo
    key = found.public_key().public_bytes(serialization.Encoding.DER, form)
    return found.serial_number, hashlib.sha256(key).hexdigest()


def served_by_all(relay):
    """Return the serial numbers and the digests of keys that the three daemons serve."""
    pairs = [served(relay, port) for port in DAEMONS]
    return {serial for serial, _ in pairs}, {key for _, key in pairs}


def renewed(relay, before):
    """Wait until all daemons serve another certificate; return the digests of their keys."""
    relay.wait_until(lambda: not before & served_by_all(relay)[0], 15)
    return served_by_all(relay)[1]


def test_renewal_by_certbot_keeps_the_key(domain_box):
    """Delta Chat accepts an expired certificate with a known key. certbot runs as by its timer."""
    before, keys = served_by_all(domain_box)
    domain_box.run(RENEW)
    assert renewed(domain_box, before) == keys


def test_certificate_of_another_authority_keeps_the_key(domain_box):
    before, keys = served_by_all(domain_box)
    # A certificate is due, because the last one seems to be from another authority.
    domain_box.run(f"sed -i 's,^server = .*,server = https://old.example/dir,' {RENEWAL}")
    assert failed(apply(domain_box, PART)) == set()
    assert renewed(domain_box, before) == keys


def test_new_key_is_in_use_and_kept_from_then_on(domain_box):
    before, keys = served_by_all(domain_box)
    shown = domain_box.salt("chatmail_certificate.new_key")
    assert domain_box.domain in shown["names"]
    new = renewed(domain_box, before)
    assert len(new) == 1
    assert not new & keys
    assert domain_box.salt("chatmail_relay.certificate")["key_sha256"] in new
    assert not_as_expected(apply(domain_box, PART)) == {}
    before, _ = served_by_all(domain_box)
    domain_box.run(RENEW)
    assert renewed(domain_box, before) == new


def test_certificate_of_an_older_release_keeps_its_key_from_now_on(domain_box):
    domain_box.run(f"sed -i '/^reuse_key/d' {RENEWAL}")
    assert ids(apply(domain_box, PART, test=True), changes) == {"chatmail certbot keeps the key"}
    assert ids(apply(domain_box, PART), changes) == {"chatmail certbot keeps the key"}
    assert not_as_expected(apply(domain_box, PART)) == {}
    before, keys = served_by_all(domain_box)
    domain_box.run(RENEW)
    assert renewed(domain_box, before) == keys


def changes(state):
    return bool(state["changes"])


def test_self_signed_relay_gets_a_new_key_and_keeps_it(relay):
    relay.needs_lab("a self-signed certificate")
    before, keys = served_by_all(relay)
    shown = relay.salt("chatmail_certificate.new_key")
    assert sorted(shown["names"]) == shown["names"]
    assert "PRIVATE" not in json.dumps(shown)
    new = renewed(relay, before)
    assert not new & keys
    assert not_as_expected(apply(relay, "chatmail")) == {}
    assert served_by_all(relay)[1] == new
    # The names are as before, because Delta Chat checks them.
    pem = ssl.get_server_certificate((relay.ip, 993), timeout=10)
    names = x509.load_pem_x509_certificate(pem.encode()).extensions
    found = names.get_extension_for_class(x509.SubjectAlternativeName).value
    assert sorted(found.get_values_for_type(x509.DNSName)) == shown["names"]
