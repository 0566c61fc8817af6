"""The keys of the dict service, which Dovecot's mail processes read and set for an address.

`priv/<mailbox>/devicetoken`: the device tokens of the address, for METADATA.
`shared/<mailbox>/vendor/vendor.dovecot/pvt/server/vendor/deltachat/<name>`: entries of the server.
`shared/last-login/<address>`: Dovecot's last_login plugin sets it.

The files are small, so they are read and written within the event loop. The changes of one address
then need no locks.
"""

import asyncio
import logging
import time
from contextlib import suppress
from pathlib import Path

from chatmaild.common.addresses import is_address
from chatmaild.metadata import entries, last_login, wake
from chatmaild.metadata.dict_protocol import Conversation, ProtocolError, Refused
from chatmaild.metadata.notifier import Notifier
from chatmaild.metrics import counters

# Seconds. Dovecot opens a connection for each question and closes it. A connection that Dovecot
# forgot ends after this time.
CONNECTION_TIMEOUT = 60
MAX_READ = 16384

# Dovecot's prefix for entries of the server. Entries of a mailbox have no such prefix.
SERVER = "vendor/vendor.dovecot/pvt/server/"
DELTACHAT = f"{SERVER}vendor/deltachat/"

log = logging.getLogger(__name__)


def home_of(settings: dict, address: str) -> Path:
    """Return the directory of an address. Raises Refused for a name that is no address here."""
    if not is_address(address, settings["address_domain"]):
        raise Refused("not an address of this relay")
    return Path(settings["mailboxes_dir"]) / address


def lookup(settings: dict, address: str, key: str) -> str | None:
    """Return the value of a key for an address, or None. Raises Refused."""
    home = home_of(settings, address)
    match key.split("/", 2):
        case ["priv", _, "devicetoken"]:
            return " ".join(entries.list_tokens(home, time.time())) or None
        case ["shared", _, name] if name.startswith(DELTACHAT):
            return entries.find_server_entry(name.removeprefix(DELTACHAT), settings, time.time())
    return None


def change(settings: dict, address: str, key: str, value: str | None) -> None:
    """Set a key of an address. The value None removes the key. Raises Refused."""
    home = home_of(settings, address)
    try:
        match key.split("/", 2):
            case ["priv", _, "devicetoken"] if value is None:
                entries.remove_tokens(home)
            case ["priv", _, "devicetoken"]:
                entries.add_token(home, value, time.time())
            case ["shared", "last-login", user] if user == address:
                last_login.touch(home, time.time())
            case _:
                raise Refused("no such entry")
    except ValueError as error:
        raise Refused(str(error)) from None
    except OSError as error:
        # The text leaves out the file name, because it contains the address.
        raise Refused(f"cannot be written: {error.strerror}") from None


def note_delivery(settings: dict, notifier: Notifier, address: str, own: bool) -> None:
    """Wake whom a delivered message concerns: clients in IDLE, and the devices of the address.

    own: the address sent the message to itself. Then no device is woken, because clients send such
        messages to reach their other devices.
    Raises Refused for a name that is no address here, and OSError.
    """
    counters.count("delivered_mail")
    home = home_of(settings, address)
    wake.wake_soon(home)
    if not own:
        for token in entries.list_tokens(home, time.time()):
            notifier.notify(address, token)


def forget(settings: dict, address: str, token: str) -> None:
    """Remove a token after the notification service answered that it has no device for it."""
    try:
        entries.remove_token(home_of(settings, address), token, time.time())
    except (OSError, Refused) as error:
        log.error("a dead device token stays: %s", type(error).__name__)


async def serve(lookup, change, reader, writer):
    """Answer one connection until it ends."""
    conversation = Conversation(lookup, change)
    try:
        async with asyncio.timeout(CONNECTION_TIMEOUT) as limit:
            while data := await reader.read(MAX_READ):
                writer.write(conversation.receive(data))
                await writer.drain()
                limit.reschedule(asyncio.get_running_loop().time() + CONNECTION_TIMEOUT)
    except ProtocolError as error:
        log.error("a client of the dict socket sent %s", error)
    except (ConnectionError, TimeoutError):
        pass
    finally:
        writer.close()
        with suppress(ConnectionError):
            await writer.wait_closed()
