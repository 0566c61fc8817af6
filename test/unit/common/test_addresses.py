"""Admissible addresses and passwords (contract, section 3)."""

import pytest
from chatmaild.common.addresses import (
    MAX_ADDRESS,
    MAX_PASSWORD_BYTES,
    inadmissible,
    is_address,
    new_credentials,
)
from hypothesis import given
from hypothesis import strategies as st

RELAY = {
    "address_domain": "chat.example.org",
    "username_min_length": 9,
    "username_max_length": 12,
    "password_min_length": 9,
}
PASSWORD = "correct horse"


@pytest.mark.parametrize("local_part", ["abcdefghi", "a.b-c_d.e", "123456789012", "-_-_-_-_-"])
def test_address_good(local_part):
    assert inadmissible(f"{local_part}@chat.example.org", PASSWORD, RELAY) is None


@pytest.mark.parametrize(
    ("address", "reason"),
    [
        ("", "not an address"),
        ("abcdefghi", "not an address"),
        ("@chat.example.org", "not an address"),
        ("abcdefghi@", "not an address"),
        ("abcdefghi@example.org", "not an address"),
        ("abcdefghi@sub.chat.example.org", "not an address"),
        ("abcdefghi@chat.example.org.", "not an address"),
        ("abcdefghi@CHAT.example.org", "not an address"),
        ("abcdefghi@chat.example.org\n", "not an address"),
        ("abcdefghi@x@chat.example.org", "not an address"),
        ("abcdefghi@chat.example.org@chat.example.org", "not an address"),
        ("Abcdefghi@chat.example.org", "not an address"),
        ("abcdefghi+x@chat.example.org", "not an address"),
        ("abcdef ghi@chat.example.org", "not an address"),
        ("abcdefghö@chat.example.org", "not an address"),
        ("abcdefgh\u0661@chat.example.org", "not an address"),
        ("abc/defghi@chat.example.org", "not an address"),
        ("../../tmp/x@chat.example.org", "not an address"),
        ("abc..defghi@chat.example.org", "not an address"),
        ("abcdefghi\0@chat.example.org", "not an address"),
        (".abcdefghi@chat.example.org", "dot"),
        ("abcdefghi.@chat.example.org", "dot"),
        ("abcdefgh@chat.example.org", "9 to 12"),
        ("abcdefghijklm@chat.example.org", "9 to 12"),
    ],
)
def test_address_bad(address, reason):
    assert reason in inadmissible(address, PASSWORD, RELAY)


@pytest.mark.parametrize("password", ["123456789", "pässwörter", "x" * MAX_PASSWORD_BYTES])
def test_password_good(password):
    assert inadmissible("abcdefghi@chat.example.org", password, RELAY) is None


@pytest.mark.parametrize(
    ("password", "reason"),
    [
        ("", "at least 9"),
        ("12345678", "at least 9"),
        ("ä" * 8, "at least 9"),  # the limit counts characters, not bytes
        ("x" * (MAX_PASSWORD_BYTES + 1), "at most 511"),
        ("ä" * 256, "at most 511"),  # the other limit counts bytes, as crypt(3) does
        ("12345678\x009", "none of them zero"),
    ],
)
def test_password_bad(password, reason):
    refusal = inadmissible("abcdefghi@chat.example.org", password, RELAY)
    assert reason in refusal
    assert password not in refusal or not password


def test_existing_address_stays_valid_after_a_change_of_the_length_limits():
    assert is_address("ab@chat.example.org", "chat.example.org")


def test_address_at_an_ip_literal_is_an_address_only_on_that_relay():
    assert is_address("abcdefghi@[192.0.2.1]", "[192.0.2.1]")
    assert not is_address("abcdefghi@192.0.2.1", "[192.0.2.1]")


def test_address_longer_than_a_file_name_is_no_address():
    domain = ".".join(["d" * 63] * 3) + ".org"
    longest = "a" * (MAX_ADDRESS - len(domain) - 1) + "@" + domain
    assert is_address(longest, domain)
    assert not is_address("a" + longest, domain)


@given(st.text(alphabet="ab./\\@\0 A-_\n", max_size=12), st.sampled_from(["", "@d.org"]))
def test_address_is_always_one_component_of_a_path(name, suffix):
    name += suffix
    if is_address(name, "d.org"):
        assert "/" not in name
        assert "\0" not in name
        assert name not in (".", "..")
        assert name == name.lower()
        assert name.count("@") == 1


@given(st.integers(1, 64), st.integers(0, 63), st.integers(8, 128))
def test_new_credentials_are_admissible_under_every_setting(shortest, more, password_length):
    relay = {
        "address_domain": "_t.example.org",
        "username_min_length": shortest,
        "username_max_length": min(64, shortest + more),
        "password_min_length": password_length,
    }
    assert inadmissible(*new_credentials(relay), relay) is None


def test_new_credentials_are_too_long_to_guess_and_never_the_same():
    drawn = {new_credentials(RELAY) for _ in range(1000)}
    assert len({address for address, _ in drawn}) == 1000
    assert all(len(address) == 9 + len("@chat.example.org") for address, _ in drawn)
    assert all(len(password) == 12 and password.isalnum() for _, password in drawn)
