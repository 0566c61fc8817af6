"""The command of docs/fleet.md that prints fingerprints."""

import subprocess

import pytest
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from salt.utils.crypt import pem_finger
from support.documents import finger


@pytest.mark.parametrize("end", ["\n", ""], ids=["the master's own key", "a key from a minion"])
def test_fingerprint_is_the_one_that_minions_compute(tmp_path, end):
    """`salt-key -F` of Salt 3008.3 shows another one, with which a minion refuses its master."""
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048).public_key()
    path = tmp_path / "master.pub"
    text = key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()
    path.write_text(text.rstrip() + end)
    command = ["bash", "-c", f'{finger()}\nfinger "$0"', path]
    shown = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert shown == pem_finger(str(path)) + "\n"
