"""Device tokens on disk, entries of the server, and the day of the last login."""

import base64
import hashlib
import hmac
import json
import os
import stat

import pytest
from chatmaild.metadata import entries, last_login

NOW = 1_800_000_000.5
DAY = 24 * 3600


@pytest.fixture
def home(tmp_path):
    """Return the directory of an address."""
    (tmp_path / "password").write_text("{SHA512-CRYPT}x")
    return tmp_path


def test_each_set_adds_a_token(home):
    assert entries.list_tokens(home, NOW) == []
    for token in ("b", "a", "c"):
        entries.add_token(home, token, NOW)
    assert entries.list_tokens(home, NOW) == ["b", "a", "c"]
    entries.add_token(home, "b", NOW)
    assert entries.list_tokens(home, NOW) == ["a", "c", "b"]


def test_token_that_is_set_again_counts_once_and_from_the_new_time(home):
    entries.add_token(home, "token", NOW)
    entries.add_token(home, "token", NOW + 80 * DAY)
    assert entries.list_tokens(home, NOW + 100 * DAY) == ["token"]
    assert entries.list_tokens(home, NOW + 171 * DAY) == []


def test_token_ends_after_90_days_and_the_next_set_removes_it_from_the_file(home):
    entries.add_token(home, "old", NOW)
    assert entries.list_tokens(home, NOW + 90 * DAY - 2) == ["old"]
    assert entries.list_tokens(home, NOW + 90 * DAY) == []
    entries.add_token(home, "new", NOW + 90 * DAY)
    assert "old" not in (home / "metadata.json").read_text()


def test_token_from_the_future_is_not_kept_for_ever(home):
    entries.add_token(home, "token", NOW + DAY)
    assert entries.list_tokens(home, NOW) == []


def test_file_has_the_format_of_existing_relays_and_is_private(home):
    entries.add_token(home, "token", NOW)
    path = home / "metadata.json"
    assert json.loads(path.read_text()) == {"devicetoken": {"token": 1_800_000_000}}
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert sorted(each.name for each in home.iterdir()) == ["metadata.json", "password"]


@pytest.mark.parametrize("token", ["", "two words", "new\nline", "ümlaut", "x" * 4097, "nul\0"])
def test_text_that_cannot_be_a_token_is_refused_and_not_shown(home, token):
    with pytest.raises(ValueError, match="printable ASCII") as error:
        entries.add_token(home, token, NOW)
    assert not token or token not in str(error.value)
    assert not (home / "metadata.json").exists()


def test_token_as_long_as_clients_send_is_kept(home):
    entries.add_token(home, "x" * 4096, NOW)
    assert entries.list_tokens(home, NOW) == ["x" * 4096]


def test_one_token_too_many_takes_the_place_of_the_oldest(home):
    for number in range(entries.MAX_TOKENS + 1):
        entries.add_token(home, f"token{number}", NOW + number)
    kept = entries.list_tokens(home, NOW + 100)
    assert (len(kept), kept[0]) == (entries.MAX_TOKENS, "token1")


def test_remove_removes_one_token_and_the_others_stay(home):
    entries.add_token(home, "one", NOW)
    entries.add_token(home, "two", NOW)
    entries.remove_token(home, "one", NOW)
    entries.remove_token(home, "unknown", NOW)
    assert entries.list_tokens(home, NOW) == ["two"]
    entries.remove_tokens(home)
    assert entries.list_tokens(home, NOW) == []


@pytest.mark.parametrize(
    "content",
    ["", "{", "[]", "null", '{"devicetoken": "t"}', '{"devicetoken": null}', "{}", "\xff"],
)
def test_broken_file_is_logged_without_its_content_and_the_next_set_replaces_it(
    home, content, caplog
):
    (home / "metadata.json").write_bytes(content.encode("latin-1"))
    assert entries.list_tokens(home, NOW) == []
    assert "cannot be read" in caplog.text
    assert str(home) not in caplog.text
    entries.add_token(home, "token", NOW)
    assert entries.list_tokens(home, NOW) == ["token"]


def test_tokens_without_times_of_older_relays_count_from_now_on(home):
    """Once, the file of such a relay could not be read, and no device was woken any more."""
    (home / "metadata.json").write_text('{"devicetoken": ["old", "two words", 7, "older"]}')
    assert entries.list_tokens(home, NOW) == ["old", "older"]
    stored = json.loads((home / "metadata.json").read_text())
    assert stored == {"devicetoken": {"old": int(NOW), "older": int(NOW)}}
    assert entries.list_tokens(home, NOW + 91 * DAY) == []


def test_bad_entry_leaves_the_others_valid_and_is_logged_once(home, caplog):
    """Once, one entry without a proper time made all tokens of the address useless."""
    bad = {"text": "x", "null": None, "true": True, "list": [1], "two words": NOW, "": NOW}
    content = {"devicetoken": bad | {"b": NOW - 5, "c": NOW - 9.5, "past": 0} | {"a": int(NOW)}}
    (home / "metadata.json").write_text(json.dumps(content))
    assert entries.list_tokens(home, NOW) == ["c", "b", "a"]
    assert "6 entries" in caplog.text
    assert "two words" not in caplog.text
    caplog.clear()
    assert entries.list_tokens(home, NOW) == ["c", "b", "a"]
    assert caplog.text == ""


def test_tokens_above_the_limit_of_an_address_are_ignored(home):
    """A relay without this limit has left them. Each would cost a request for every message."""
    many = {f"token{number}": NOW - number for number in range(1000)}
    (home / "metadata.json").write_text(json.dumps({"devicetoken": many}))
    assert entries.list_tokens(home, NOW) == [f"token{number}" for number in range(31, -1, -1)]


def test_file_that_cannot_be_rewritten_is_still_read(home, monkeypatch, caplog):
    (home / "metadata.json").write_text('{"devicetoken": ["old"]}')
    full = OSError(28, "No space left on device")
    monkeypatch.setattr(entries.atomic_files, "replace", lambda *_: (_ for _ in ()).throw(full))
    assert entries.list_tokens(home, NOW) == ["old"]
    assert "No space left" in caplog.text


def test_address_without_directory_gets_none(tmp_path):
    with pytest.raises(FileNotFoundError):
        entries.add_token(tmp_path / "nobody", "token", NOW)
    assert entries.list_tokens(tmp_path / "nobody", NOW) == []
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("setting", "tls_mode", "answer"),
    [
        (None, "acme", "https://chat.example.org"),
        (None, "external", "https://chat.example.org"),
        # iroh takes no self-signed certificate.
        (None, "self_signed", "http://chat.example.org"),
        ("https://iroh.example", "self_signed", "https://iroh.example"),
        ("", "self_signed", None),
    ],
)
def test_iroh_relay_is_our_own_or_another_one_or_absent(setting, tls_mode, answer):
    relay = {"mail_domain": "chat.example.org", "iroh_relay": setting, "tls_mode": tls_mode}
    assert entries.find_server_entry("irohrelay", relay, NOW) == answer


def test_other_entries_are_absent():
    assert entries.find_server_entry("anything", {}, NOW) is None
    assert entries.find_server_entry("maxsmtprecipients", {}, NOW) == "1000"


def test_turn_credentials_have_an_end_and_a_proof_by_the_secret(tmp_path, monkeypatch):
    secret = tmp_path / "turn-secret"
    monkeypatch.setattr(entries, "TURN_SECRET", secret)
    relay = {"mail_domain": "13.12.23.42"}
    assert entries.find_server_entry("turn", relay, NOW) is None
    secret.write_text("topsecret\n")
    host, port, user, password = entries.find_server_entry("turn", relay, NOW).split(":")
    assert (host, port) == ("13.12.23.42", "3478")
    # Delta Chat asks for new ones half a day before the end.
    assert DAY < int(user) - NOW <= 7 * DAY
    expected = hmac.digest(b"topsecret", user.encode(), hashlib.sha1)
    assert base64.b64decode(password) == expected


def test_last_login_is_the_day_and_nothing_finer(home):
    today = int(NOW) // DAY * DAY
    for made in (NOW, NOW - 5 * DAY, today + DAY):
        os.utime(home / "password", (made, made))
        last_login.touch(home, NOW)
        assert (home / "password").stat().st_mtime == today


def test_second_login_of_a_day_changes_no_file(home):
    last_login.touch(home, NOW)
    before = (home / "password").stat().st_ctime_ns
    last_login.touch(home, NOW + 60)
    assert (home / "password").stat().st_ctime_ns == before
    last_login.touch(home, NOW + DAY)
    assert (home / "password").stat().st_ctime_ns != before
