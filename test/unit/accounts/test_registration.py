"""The accounts service: its answers over HTTP."""

import asyncio
import json
import logging
import os
import time
from pathlib import Path
from types import SimpleNamespace
from urllib.parse import quote

import pytest
from chatmaild.accounts import invitations, limits, registration
from passlib.hash import sha512_crypt
from support.running_server import client_of

ADDRESS, PASSWORD = "abcdefghi@_chat.example.org", "pässwort %&+/\"'"


@pytest.fixture
def relay(tmp_path, monkeypatch):
    """Return the settings of a self-signed relay with limits that no test reaches."""
    monkeypatch.setattr(registration, "NOCREATE", tmp_path / "nocreate")
    monkeypatch.setattr(invitations, "DIRECTORY", tmp_path / "invitations")
    mailboxes = tmp_path / "mail"
    mailboxes.mkdir()
    return {
        "mail_domain": "_chat.example.org",
        "address_domain": "_chat.example.org",
        "form": "test",
        "tls_mode": "self_signed",
        "registration": "open",
        "max_registrations_per_hour": 100,
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
        async with client_of(registration.server(relay)) as client:
            return [await one(client, *request) for request in requests]

    async def one(client, method, path, headers=None):
        answer = await client.request(method, path, headers=headers, allow_redirects=False)
        return answer.status, answer.headers, await answer.text()

    return asyncio.run(exchange())


def ask_together(relay, *requests):
    """Return [(status, JSON)] of requests that are sent at the same time."""

    async def one(client, method, path, headers=None):
        answer = await client.request(method, path, headers=headers)
        return answer.status, await answer.json()

    async def exchange():
        async with client_of(registration.server(relay)) as client:
            return await asyncio.gather(*(one(client, *request) for request in requests))

    return asyncio.run(exchange())


def logged(caplog):
    """Return the log of the service without the access log of the test's server."""
    return [
        record.getMessage() for record in caplog.records if record.name == registration.__name__
    ]


def creation(address=ADDRESS, password=PASSWORD):
    """Return the request that Dovecot's Lua makes."""
    return "POST", "/create", {"X-Address": address, "X-Password": quote(password, safe="")}


def stored_hash(relay, address=ADDRESS):
    scheme, _, hashed = Path(relay["mailboxes_dir"], address, "password").read_text().partition("}")
    assert scheme == "{SHA512-CRYPT"
    return hashed


# Over HTTP.


def test_create_answers_created_then_exists_for_any_password(relay):
    answers = ask(relay, creation(), creation(), creation(password="another password"))
    assert [status for status, _, _ in answers] == [201, 200, 200]
    assert sha512_crypt.verify(PASSWORD, stored_hash(relay))


def test_concurrent_requests_for_one_address_make_one(relay):
    async def exchange():
        async with client_of(registration.server(relay)) as client:
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
def test_inadmissible_address_or_password_is_refused_and_leaves_nothing(relay, headers):
    [(status, _, reason)] = ask(relay, ("POST", "/create", headers))
    assert status == 403
    assert reason
    assert os.listdir(relay["mailboxes_dir"]) == []


def test_closed_registration_refuses_new_addresses_also_without_the_file(relay):
    relay["registration"] = "closed"
    create, new = ask(relay, creation(), ("POST", "/new"))
    assert (create[0], new[0]) == (403, 403)
    assert os.listdir(relay["mailboxes_dir"]) == []


def test_nocreate_refuses_new_addresses_until_it_is_removed(relay, caplog):
    registration.NOCREATE.touch()
    create, new = ask(relay, creation(), ("POST", "/new"))
    assert (create[0], new[0]) == (403, 403)
    assert json.loads(new[2]) == {"reason": "This relay gives out no new addresses."}
    assert logged(caplog) == ["registration rejected: nocreate, true, false"] * 2
    registration.NOCREATE.unlink()
    assert ask(relay, creation())[0][0] == 201


@pytest.mark.parametrize(
    ("setting", "limit"),
    [("max_load_1m", -1), ("min_available_memory", 1 << 60), ("min_free_disk_space", 1 << 60)],
)
def test_exceeded_limit_refuses_and_logs_which_value_and_limit(relay, caplog, setting, limit):
    relay[setting] = limit
    caplog.set_level(logging.DEBUG)
    create, new = ask(relay, creation(), ("POST", "/new"))
    assert (create[0], new[0]) == (503, 503)
    assert "short of something" in json.loads(new[2])["reason"]
    assert os.listdir(relay["mailboxes_dir"]) == []
    lines = [each for each in caplog.messages if each.startswith("registration rejected: ")]
    assert len(lines) == 2
    which, value, shown_limit = lines[0].removeprefix("registration rejected: ").split(", ")
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


def test_log_has_no_address_and_no_client(relay, caplog):
    caplog.set_level(logging.INFO)
    ask(relay, creation(), creation(), ("POST", "/new"))
    assert "abcdefghi" not in caplog.text


# /new


@pytest.mark.parametrize("path", ["/new", "/cgi-bin/newemail.py"])
@pytest.mark.parametrize("method", ["GET", "POST"])
def test_new_on_a_self_signed_relay_gives_credentials_for_which_the_first_login_makes_an_address(
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
    """Once, the link had `ic=3`, with which Apple's clients use TLS 1.2 and cannot log in."""
    assert registration.dclogin_url(relay, ADDRESS, "p&w") == f"dclogin:{ADDRESS}?p=p%26w&v=1"


def test_login_link_of_an_ip_relay_names_its_servers(relay):
    relay.update(form="ip", mail_domain="192.0.2.1", address_domain="[192.0.2.1]")
    link = registration.dclogin_url(relay, "abcdefghi@[192.0.2.1]", "pw")
    assert link == "dclogin:abcdefghi@[192.0.2.1]?p=pw&v=1&ih=192.0.2.1&sh=192.0.2.1&ic=3"


def test_other_methods_and_paths_are_refused(relay):
    answers = ask(relay, ("GET", "/create"), ("PUT", "/new"), ("GET", "/"))
    assert [status for status, _, _ in answers] == [405, 405, 404]


# How many addresses one network may get.


def new_from(client, token=None):
    """Return the request that nginx sends for a client with an IP address."""
    query = "" if token is None else f"?token={token}"
    return "POST", f"/new{query}", {"X-Real-IP": client}


@pytest.mark.parametrize(
    ("neighbours", "strangers"),
    [
        (("192.0.2.1", "192.0.2.254"), ("192.0.3.1", "2001:db8::1")),
        (("2001:db8:1::1", "2001:db8:1:ffff::2"), ("2001:db8:2::1", "192.0.2.1")),
    ],
)
def test_new_counts_the_requests_of_a_network(relay, caplog, neighbours, strangers):
    relay["max_registrations_per_hour"] = 4
    clients = [*neighbours, *neighbours, *neighbours, *strangers]
    statuses = [status for status, _, _ in ask(relay, *map(new_from, clients))]
    assert statuses == [200] * 4 + [429] * 2 + [200] * 2
    assert logged(caplog) == ["registration rejected: max_registrations_per_hour, >4, 4"] * 2


def login_from(client, number):
    """Return the request that Dovecot's Lua makes for a client's first login."""
    method, path, headers = creation(f"address{number:02}@_chat.example.org")
    return method, path, headers | {"X-Real-IP": client}


def test_logins_make_no_more_addresses_than_the_limit_of_their_network(relay, caplog):
    """Once, only /new had a limit. Logins made 492 addresses a second, with three inodes each."""
    relay["max_registrations_per_hour"] = 4
    clients = ["192.0.2.1", "192.0.2.254"] * 3 + ["192.0.3.1", "", "2001:db8::1"]
    requests = [login_from(client, number) for number, client in enumerate(clients)]
    # A login from the same network makes the address that /new has offered.
    answers = ask(relay, *[new_from("192.0.2.1")] * 4, *requests, ("GET", "/limits"))
    assert [status for status, _, _ in answers[4:-1]] == [201] * 4 + [429] * 2 + [201] * 3
    assert len(os.listdir(relay["mailboxes_dir"])) == 7
    assert json.loads(answers[-1][2])["max_registrations_per_hour"] == 4
    assert logged(caplog) == ["registration rejected: max_registrations_per_hour, >4, 4"] * 2


def test_logins_at_once_do_not_pass_the_limit_together(relay):
    relay["max_registrations_per_hour"] = 4

    async def exchange():
        async with client_of(registration.server(relay)) as client:
            requests = [login_from("192.0.2.1", number) for number in range(20)]
            return await asyncio.gather(*(client.request(m, p, headers=h) for m, p, h in requests))

    statuses = sorted(answer.status for answer in asyncio.run(exchange()))
    assert statuses == [201] * 4 + [429] * 16


@pytest.mark.parametrize(
    ("files", "free", "status"),
    [(10**6, 9_999, 503), (10**6, 10_000, 201), (0, 0, 201)],
    ids=["too few", "enough", "a file system without a number"],
)
def test_few_free_inodes_refuse_new_addresses(relay, caplog, monkeypatch, files, free, status):
    """Without free inodes, no file can be made, not even for mail, although there is space."""
    disk = SimpleNamespace(f_bavail=1 << 30, f_frsize=4096, f_files=files, f_favail=free)
    monkeypatch.setattr(limits.os, "statvfs", lambda _path: disk)
    assert ask(relay, creation())[0][0] == status
    refusals = ["registration rejected: min_free_inodes, 9999, 10000"]
    assert logged(caplog) == (refusals if status == 503 else [])


def test_limits_have_the_values_on_which_new_addresses_depend(relay):
    asked = [new_from("192.0.2.1")] * 3 + [new_from("192.0.3.1")] + [("GET", "/limits")]
    found = json.loads(ask(relay, *asked)[-1][2])
    assert found.pop("max_registrations_per_hour") == 3
    assert sorted(found) == ["max_load_1m", "min_available_memory", "min_free_disk_space"]
    assert min(found.values()) >= 0
    assert found["min_available_memory"] > 1 << 20


# By invitation.


@pytest.fixture
def invited(relay):
    """Return the settings of a relay that makes addresses by invitation."""
    relay["registration"] = "invite"
    return relay


def invitation(uses=1, days=7, now=None):
    return invitations.make(invitations.DIRECTORY, uses, days, "", now or time.time())


def test_invitation_of_three_uses_makes_three_addresses_for_ten_at_once(invited):
    token = invitation(uses=3)
    answers = ask_together(invited, *[new_from("192.0.2.1", token)] * 10)
    made = [answer["email"] for status, answer in answers if status == 200]
    assert sorted(os.listdir(invited["mailboxes_dir"])) == sorted(made)
    assert len(made) == 3
    assert [status for status, _ in answers].count(403) == 7
    assert ask(invited, new_from("192.0.2.1", token))[0][0] == 403
    assert list(invitations.DIRECTORY.iterdir()) == []


def test_address_of_an_invitation_has_the_password_of_the_answer(invited):
    [(_, answer)] = ask_together(invited, new_from("192.0.2.1", invitation()))
    assert sha512_crypt.verify(answer["password"], stored_hash(invited, answer["email"]))
    assert answer["dclogin_url"].startswith(f"dclogin:{answer['email']}?p=")


def test_login_makes_no_address_on_a_relay_with_invitations(invited):
    assert ask(invited, creation())[0][0] == 403
    assert os.listdir(invited["mailboxes_dir"]) == []


@pytest.mark.parametrize("token", [None, "", "x", "A" * 22, "../../../../etc/passwd", "A" * 5000])
def test_text_that_is_no_invitation_makes_no_address(invited, token):
    invitation()
    [(status, answer)] = ask_together(invited, new_from("192.0.2.1", token))
    assert status == 403
    assert answer == {"reason": "This invitation is used up or no longer valid."}
    assert os.listdir(invited["mailboxes_dir"]) == []


def test_expired_invitation_makes_no_address(invited):
    token = invitation(days=1, now=time.time() - 86401)
    assert ask(invited, new_from("192.0.2.1", token))[0][0] == 403


def test_network_that_guesses_is_refused_and_others_are_not(invited):
    """It asks a hundred times at once. Then it is refused even with a right token."""
    token = invitation(uses=2)
    wrong = [new_from("192.0.2.1", f"{number:022}") for number in range(100)]
    statuses = [status for status, _ in ask_together(invited, *wrong)]
    assert statuses.count(403) == registration.GUESSES
    assert statuses.count(429) == 100 - registration.GUESSES
    guesses = wrong[: registration.GUESSES]
    answers = ask(invited, *guesses, new_from("192.0.2.9", token), new_from("198.51.100.1", token))
    assert [status for status, _, _ in answers[-2:]] == [429, 200]


def test_invitation_is_kept_when_the_disk_fails(invited):
    token = invitation()
    os.rmdir(invited["mailboxes_dir"])
    assert ask(invited, new_from("192.0.2.1", token))[0][0] == 503
    os.mkdir(invited["mailboxes_dir"])
    assert ask(invited, new_from("192.0.2.1", token))[0][0] == 200


def test_invitation_waits_while_there_are_no_new_addresses(invited):
    token = invitation()
    registration.NOCREATE.touch()
    assert ask(invited, new_from("192.0.2.1", token))[0][0] == 403
    registration.NOCREATE.unlink()
    assert ask(invited, new_from("192.0.2.1", token))[0][0] == 200


def test_look_at_an_invitation_does_not_use_it_up(invited):
    """Programs that show previews of links in chats would use it up."""
    token = invitation()
    [(status, headers, _)] = ask(invited, ("GET", f"/new?token={token}"))
    assert (status, headers["Location"]) == (301, f"/#{token}")
    invited.update(form="domain", tls_mode="acme", mail_domain="chat.example.org")
    [(status, headers, _)] = ask(invited, ("GET", f"/new?token={token}"))
    link = f"dcaccount:https://chat.example.org/new?token={token}"
    assert (status, headers["Location"]) == (301, link)
    assert ask(invited, new_from("192.0.2.1", token))[0][0] == 200


def test_nothing_is_logged_about_invitations(invited, caplog):
    caplog.set_level(logging.INFO)
    token = invitation()
    registration.NOCREATE.touch()
    ask(invited, new_from("192.0.2.1", token))
    registration.NOCREATE.unlink()
    ask(invited, new_from("192.0.2.1", token), new_from("192.0.2.1", token))
    assert logged(caplog) == ["registration rejected: nocreate, true, false"]
