"""What the tests of DKIM share."""

import pytest
from cryptography.hazmat.primitives.asymmetric import rsa
from support import running_filter
from support.dkim_messages import private_pem, record


@pytest.fixture(scope="module")
def keys(tmp_path_factory):
    """Two keys on disk and their DNS records by selector."""
    directory = tmp_path_factory.mktemp("keys")
    kinds = {"rsa": "rsa-sha256", "ed": "ed25519-sha256"}
    records = {
        name: running_filter.write_key(directory, name, kind) for name, kind in kinds.items()
    }
    running_filter.write_signing(directory, kinds)
    return directory, records


@pytest.fixture(scope="module")
def dkimpy_key():
    """A private key as dkimpy takes it, and its record."""
    key = rsa.generate_private_key(65537, 2048)
    return private_pem(key), record(key)
