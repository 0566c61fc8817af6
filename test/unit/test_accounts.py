"""The accounts service: creation on disk, and its answers over HTTP."""

import asyncio
import json
import logging
import os
import stat
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from urllib.parse import quote

import pytest
from aiohttp.test_utils import TestClient, TestServer
from chatmaild import accounts
from passlib.hash import sha512_crypt

ADDRESS, PASSWORD = "abcdefghi@_chat.example.org", "pässwort %&+/\"'"


@pytest.fixture
def relay(tmp_path, monkeypatch):
    """Settings of a self-signed relay whose limits are never reached."""
    monkeypatch.setattr(accounts, "NOCREATE", tmp_path / "nocreate")
    mailboxes = tmp_path / "mail"
    mailboxes.mkdir()
    return {
        "mail_domain": "_chat.example.org",
        "address_domain": "_chat.example.org",
        "form": "test",
        "tls_mode": "self_signed",
        "mailboxes_dir": str(mailboxes),
        "username_min_length": 9,
        "username_max_length": 9,
        "password_min_length": 9,
        "max_load_1m": 10**6,
        "min_available_memory": 0,
        "min_free_disk_space": 0,
    }


def ask(relay, *requests):
    """Return [(status, headers, text)] of requests (method, path, headers) to the service."""

    async def exchange():
        async with TestClient(TestServer(accounts.application(relay))) as client:
            return [await one(client, *request) for request in requests]

    async def one(client, method, path, headers=None):
        answer = await client.request(method, path, headers=headers, allow_redirects=False)
        return answer.status, answer.headers, await answer.text()

    return asyncio.run(exchange())


def creation(address=ADDRESS, password=PASSWORD):
    """Return the request that Dovecot's Lua makes."""
    return "POST", "/create", {"X-Address": address, "X-Password": quote(password, safe="")}


def stored_hash(relay, address=ADDRESS):
    scheme, _, hashed = Path(relay["mailboxes_dir"], address, "password").read_text().partition("}")
    assert scheme == "{SHA512-CRYPT"
    return hashed


def create_from_a_process_of_its_own(mailboxes, number):
    return accounts.create(Path(mailboxes), ADDRESS, f"password of process {number}")


# On disk.


def test_created_address_has_a_hash_that_dovecot_makes_itself_and_asks_for_encryption(relay):
    assert accounts.create(relay["mailboxes_dir"], ADDRESS, PASSWORD)

    home = Path(relay["mailboxes_dir"], ADDRESS)
    assert sorted(each.name for each in home.iterdir()) == ["enforceE2EEincoming", "password"]
    assert stat.S_IMODE(home.stat().st_mode) == 0o710
    assert stat.S_IMODE((home / "password").stat().st_mode) == 0o600
    assert (home / "enforceE2EEincoming").read_bytes() == b""
    hashed = stored_hash(relay)
    assert hashed.startswith("$6$")
    assert "rounds=" not in hashed  # the cost of `doveadm pw`
    assert sha512_crypt.verify(PASSWORD, hashed)


def test_ten_processes_racing_for_an_address_make_one(relay):
    with ProcessPoolExecutor(10) as pool:
        mailboxes = [relay["mailboxes_dir"]] * 10
        created = list(pool.map(create_from_a_process_of_its_own, mailboxes, range(10)))
    assert created.count(True) == 1
    winner = created.index(True)
    assert sha512_crypt.verify(f"password of process {winner}", stored_hash(relay))
    assert sorted(os.listdir(Path(relay["mailboxes_dir"], ADDRESS))) == [
        "enforceE2EEincoming",
        "password",
    ]


def test_directory_without_password_becomes_the_address(relay):
    """A crash between the two steps, or mail restored without its password, locks nobody out."""
    Path(relay["mailboxes_dir"], ADDRESS, "cur").mkdir(parents=True)
    assert accounts.create(relay["mailboxes_dir"], ADDRESS, PASSWORD)
    assert sha512_crypt.verify(PASSWORD, stored_hash(relay))


@pytest.mark.parametrize("content", ["", "{SHA512-CRYPT}$6$old"])
def test_existing_password_file_is_never_replaced(relay, content):
    """An empty file blocks an address: creating it again would unblock it for anybody."""
    password = Path(relay["mailboxes_dir"], ADDRESS, "password")
    password.parent.mkdir()
    password.write_text(content)
    assert not accounts.create(relay["mailboxes_dir"], ADDRESS, PASSWORD)
    assert password.read_text() == content


def test_failed_write_leaves_no_password_file(relay, monkeypatch):
    def full(_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(accounts.os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        accounts.create(relay["mailboxes_dir"], ADDRESS, PASSWORD)
    assert os.listdir(Path(relay["mailboxes_dir"], ADDRESS)) == ["enforceE2EEincoming"]


# Over HTTP.


def test_create_answers_created_then_exists_for_whatever_password(relay):
    answers = ask(relay, creation(), creation(), creation(password="another password"))
    assert [status for status, _, _ in answers] == [201, 200, 200]
    assert sha512_crypt.verify(PASSWORD, stored_hash(relay))


def test_concurrent_requests_for_one_address_make_one(relay):
    async def exchange():
        async with TestClient(TestServer(accounts.application(relay))) as client:
            requests = [creation(password=f"password number {number}") for number in range(10)]
            return await asyncio.gather(*(client.request(m, p, headers=h) for m, p, h in requests))

    statuses = [answer.status for answer in asyncio.run(exchange())]
    assert sorted(statuses) == [200] * 9 + [201]
    assert sha512_crypt.verify(f"password number {statuses.index(201)}", stored_hash(relay))


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"X-Address": ADDRESS},
        {"X-Address": ADDRESS, "X-Password": "12345678"},
        {"X-Address": ADDRESS, "X-Password": "not%20UTF-8%FF"},
        {"X-Address": "abcdefghi@example.org", "X-Password": "123456789"},
        {"X-Address": "../../abcd@_chat.example.org", "X-Password": "123456789"},
    ],
)
def test_inadmissible_is_refused_and_leaves_nothing(relay, headers):
    [(status, _, reason)] = ask(relay, ("POST", "/create", headers))
    assert status == 403
    assert reason
    assert os.listdir(relay["mailboxes_dir"]) == []


def test_nocreate_refuses_new_addresses_until_it_is_removed(relay):
    accounts.NOCREATE.touch()
    assert ask(relay, creation())[0][0] == 403
    accounts.NOCREATE.unlink()
    assert ask(relay, creation())[0][0] == 201


@pytest.mark.parametrize(
    ("setting", "limit"),
    [("max_load_1m", -1), ("min_available_memory", 1 << 60), ("min_free_disk_space", 1 << 60)],
)
def test_exceeded_limit_refuses_and_logs_which_value_and_limit(relay, caplog, setting, limit):
    relay[setting] = limit
    caplog.set_level(logging.DEBUG)
    [(status, _, _)] = ask(relay, creation())
    assert status == 503
    assert os.listdir(relay["mailboxes_dir"]) == []
    [line] = [each for each in caplog.messages if each.startswith("registration rejected: ")]
    which, value, shown_limit = line.removeprefix("registration rejected: ").split(", ")
    assert (which, shown_limit) == (setting, str(limit))
    assert float(value) >= 0


def test_disk_error_is_temporary_and_logged_without_address_or_password(relay, caplog):
    os.rmdir(relay["mailboxes_dir"])
    caplog.set_level(logging.DEBUG)
    [(status, _, _)] = ask(relay, creation())
    assert status == 503
    assert "No such file" in caplog.text
    assert ADDRESS not in caplog.text
    assert PASSWORD not in caplog.text


def test_nothing_is_logged_about_whom(relay, caplog):
    caplog.set_level(logging.INFO)
    ask(relay, creation(), creation(), ("POST", "/new"))
    assert "abcdefghi" not in caplog.text


# /new


@pytest.mark.parametrize("path", ["/new", "/cgi-bin/newemail.py"])
@pytest.mark.parametrize("method", ["GET", "POST"])
def test_new_on_a_self_signed_relay_gives_credentials_that_the_first_login_makes_real(
    relay, method, path
):
    first, second = ask(relay, (method, path), (method, path))
    answer = json.loads(first[2])
    assert first[0] == 200
    assert first[1]["Content-Type"].startswith("application/json")
    assert first[1]["Cache-Control"] == "no-store"
    assert sorted(answer) == ["dclogin_url", "email", "password"]
    assert answer["email"] != json.loads(second[2])["email"]
    assert os.listdir(relay["mailboxes_dir"]) == []
    assert ask(relay, creation(answer["email"], answer["password"]))[0][0] == 201


@pytest.mark.parametrize("path", ["/new", "/cgi-bin/newemail.py"])
def test_new_with_a_real_certificate_gives_no_link_and_sends_get_to_the_app(relay, path):
    relay.update(form="domain", tls_mode="acme", mail_domain="chat.example.org")
    post, get = ask(relay, ("POST", path), ("GET", path))
    assert post[0] == 200
    assert sorted(json.loads(post[2])) == ["email", "password"]
    assert get[0] == 301
    assert get[1]["Location"] == "dcaccount:https://chat.example.org/new"


def test_login_link_of_a_test_domain(relay):
    assert accounts.dclogin_url(relay, ADDRESS, "p&w") == f"dclogin:{ADDRESS}?p=p%26w&v=1&ic=3"


def test_login_link_of_an_ip_relay_names_its_servers(relay):
    relay.update(form="ip", mail_domain="192.0.2.1", address_domain="[192.0.2.1]")
    link = accounts.dclogin_url(relay, "abcdefghi@[192.0.2.1]", "pw")
    assert link == "dclogin:abcdefghi@[192.0.2.1]?p=pw&v=1&ih=192.0.2.1&sh=192.0.2.1&ic=3"


def test_methods_and_paths_of_others_are_not_answered(relay):
    answers = ask(relay, ("GET", "/create"), ("PUT", "/new"), ("GET", "/"))
    assert [status for status, _, _ in answers] == [405, 405, 404]
