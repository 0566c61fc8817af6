"""chatmail-accounts on its socket: which entries an address may read and set."""

import asyncio
import logging
import time
from functools import partial

import pytest
from chatmaild.metadata import dictionary, entries
from chatmaild.metadata.dict_protocol import Refused

DOMAIN = "_chat.example.org"
ALICE, BOB = f"alice0000@{DOMAIN}", f"bob000000@{DOMAIN}"
SERVER = "vendor/vendor.dovecot/pvt/server"
DAY = 24 * 3600


class Told:
    """Takes the place of the notifier, and keeps its calls."""

    def __init__(self):
        self.devices = []

    def notify(self, address, token):
        self.devices.append((address, token))


@pytest.fixture
def notifier():
    return Told()


@pytest.fixture
def relay(tmp_path):
    """Return the settings of a relay with two addresses."""
    for address in (ALICE, BOB):
        (tmp_path / address).mkdir()
        (tmp_path / address / "password").write_text("{SHA512-CRYPT}x")
    return {
        "address_domain": DOMAIN,
        "mail_domain": DOMAIN,
        "mailboxes_dir": str(tmp_path),
        "iroh_relay": None,
        "tls_mode": "acme",
    }


@pytest.fixture
def woken(monkeypatch):
    """Return the list of the directories whose clients in IDLE were woken."""
    homes = []
    monkeypatch.setattr(dictionary.wake, "wake_soon", homes.append)
    return homes


def put(relay, user, key, value):
    dictionary.change(relay, user, key, value)


def test_token_is_added_for_its_owner_alone(relay):
    put(relay, ALICE, "priv/guid/devicetoken", "one")
    put(relay, ALICE, "priv/guid/devicetoken", "two")
    assert dictionary.lookup(relay, ALICE, "priv/guid/devicetoken") == "one two"
    assert dictionary.lookup(relay, BOB, "priv/guid/devicetoken") is None


def test_entry_that_is_set_to_nil_is_removed(relay):
    put(relay, ALICE, "priv/guid/devicetoken", "one")
    put(relay, ALICE, "priv/guid/devicetoken", None)
    assert dictionary.lookup(relay, ALICE, "priv/guid/devicetoken") is None


def test_message_wakes_each_device_of_its_recipient(relay, notifier, woken):
    put(relay, ALICE, "priv/guid/devicetoken", "one")
    put(relay, ALICE, "priv/guid/devicetoken", "two")
    put(relay, BOB, "priv/guid/devicetoken", "three")
    dictionary.note_delivery(relay, notifier, ALICE, False)
    assert sorted(notifier.devices) == [(ALICE, "one"), (ALICE, "two")]
    assert [home.name for home in woken] == [ALICE]


def test_own_message_wakes_idling_clients_and_no_device(relay, notifier, woken):
    put(relay, ALICE, "priv/guid/devicetoken", "one")
    dictionary.note_delivery(relay, notifier, ALICE, True)
    assert notifier.devices == []
    assert [home.name for home in woken] == [ALICE]


def test_delivery_to_a_name_that_is_no_address_wakes_nobody(relay, notifier, woken):
    with pytest.raises(Refused):
        dictionary.note_delivery(relay, notifier, f"../{ALICE}", False)
    assert (notifier.devices, woken) == ([], [])


def test_dead_token_is_forgotten(relay):
    put(relay, ALICE, "priv/guid/devicetoken", "one")
    dictionary.forget(relay, ALICE, "one")
    dictionary.forget(relay, f"gone00000@{DOMAIN}", "one")
    assert dictionary.lookup(relay, ALICE, "priv/guid/devicetoken") is None


def test_login_sets_the_day_of_its_own_address(relay, tmp_path):
    put(relay, ALICE, f"shared/last-login/{ALICE}", "1")
    assert (tmp_path / ALICE / "password").stat().st_mtime == int(time.time()) // DAY * DAY
    with pytest.raises(Refused):
        put(relay, ALICE, f"shared/last-login/{BOB}", "1")
    assert (tmp_path / BOB / "password").stat().st_mtime % DAY != 0


def test_entries_of_the_server_are_answered(relay):
    key = f"shared/guid/{SERVER}/vendor/deltachat/"
    assert dictionary.lookup(relay, ALICE, f"{key}irohrelay") == f"https://{DOMAIN}"
    assert dictionary.lookup(relay, ALICE, f"{key}maxsmtprecipients") == "1000"
    assert dictionary.lookup(relay, ALICE, f"{key}nothing") is None


@pytest.mark.parametrize(
    "key",
    [
        "priv/guid/comment",
        f"priv/guid/{SERVER}/devicetoken",
        f"shared/guid/{SERVER}/vendor/deltachat/irohrelay",
        "shared/guid/devicetoken",
        "devicetoken",
        "",
    ],
)
def test_nothing_else_can_be_set(relay, key):
    with pytest.raises(Refused, match="no such entry"):
        put(relay, ALICE, key, "x")


@pytest.mark.parametrize(
    "user",
    [
        "",
        "alice0000",
        f"../{ALICE}",
        f"a/../{ALICE}",
        ALICE.upper(),
        "alice0000@elsewhere.example",
        f"a\0{ALICE}",
        f"..@{DOMAIN}",
        f"{'a' * 300}@{DOMAIN}",
    ],
)
def test_user_name_that_is_no_address_opens_no_file(relay, user):
    with pytest.raises(Refused, match="not an address"):
        put(relay, user, "priv/guid/devicetoken", "token")
    with pytest.raises(Refused, match="not an address"):
        dictionary.lookup(relay, user, "priv/guid/devicetoken")


def test_refusals_have_neither_value_nor_address(relay):
    refusals = []
    for user, value in ((ALICE, "se cret"), (f"gone00000@{DOMAIN}", "secret")):
        with pytest.raises(Refused) as refusal:
            put(relay, user, "priv/guid/devicetoken", value)
        refusals.append(str(refusal.value))
    assert not any("cret" in text or "@" in text for text in refusals)


def over_socket(relay, path, talk):
    """Run a server on path, and talk(open). open() connects and returns (reader, writer)."""

    async def main():
        handler = partial(
            dictionary.serve,
            partial(dictionary.lookup, relay),
            partial(dictionary.change, relay),
        )
        async with await asyncio.start_unix_server(handler, path):
            await asyncio.wait_for(talk(partial(asyncio.open_unix_connection, path)), 10)

    asyncio.run(main())


def test_dovecots_own_conversation_of_2_4(relay, tmp_path):
    async def talk(connect):
        reader, writer = await connect()
        key = f"priv/3809ee2a7af4026b21120000596654db/devicetoken\t{ALICE}"
        for sent, replies in (
            ("H4\t0\t0\t\tmetadata\n", []),
            (f"B1\t{ALICE}\t0\n", []),
            ("S1\tpriv/3809ee2a7af4026b21120000596654db/devicetoken\ttokA\n", []),
            ("C1\n", ["O1\n"]),
            (f"L{key}\n", ["OtokA\n"]),
            (f"I9\t0\tpriv/3809ee2a7af4026b21120000596654db/\t{ALICE}\n", ["\n"]),
        ):
            writer.write(sent.encode())
            for reply in replies:
                assert await reader.readline() == reply.encode()
        writer.close()

    over_socket(relay, tmp_path / "dict", talk)
    assert entries.list_tokens(tmp_path / ALICE, time.time()) == ["tokA"]


def test_connection_with_another_protocol_is_closed(relay, tmp_path, caplog):
    async def talk(connect):
        reader, writer = await connect()
        writer.write(b"GET / HTTP/1.1\r\n\r\n")
        assert await reader.read() == b""
        writer.close()

    with caplog.at_level(logging.ERROR):
        over_socket(relay, tmp_path / "dict", talk)
    assert "no greeting" in caplog.text


def test_silent_connection_is_closed(relay, tmp_path, monkeypatch):
    monkeypatch.setattr(dictionary, "CONNECTION_TIMEOUT", 0.05)

    async def talk(connect):
        reader, writer = await connect()
        writer.write(b"H4\t0\t0\t\tmeta")
        assert await reader.read() == b""
        writer.close()

    over_socket(relay, tmp_path / "dict", talk)
