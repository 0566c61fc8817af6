"""The hash of a password, read by another implementation."""

import concurrent.futures
import re

import pytest
from chatmaild.accounts import password_hash
from passlib.hash import sha512_crypt


@pytest.mark.parametrize("password", ["123456789", "pässwort %&+/\"'$6$", "x" * 511, "ä" * 255])
def test_hash_is_of_the_password_with_a_salt_of_its_own(password):
    first, second = password_hash.sha512_crypt(password), password_hash.sha512_crypt(password)
    assert sha512_crypt.verify(password, first)
    assert not sha512_crypt.verify(password[:-1], first)
    # No rounds in it means 5000 (crypt(5)).
    assert re.fullmatch(r"\$6\$[./0-9A-Za-z]{16}\$[./0-9A-Za-z]{86}", first)
    assert first.split("$")[2] != second.split("$")[2]


def test_threads_do_not_disturb_each_other():
    passwords = [f"password {number}" for number in range(200)]
    with concurrent.futures.ThreadPoolExecutor(8) as threads:
        hashes = list(threads.map(password_hash.sha512_crypt, passwords))
    assert all(map(sha512_crypt.verify, passwords, hashes))


def test_password_that_the_library_refuses_is_an_error():
    with pytest.raises(OSError, match="crypt"):
        password_hash.sha512_crypt("x" * 512)
