"""The dict service: what Dovecot asks and tells about an address, by its dict protocol.

Over a Unix socket that Dovecot's mail processes (user vmail) connect to:

`priv/<mailbox>/devicetoken`: the address's device tokens, for METADATA.
`shared/<mailbox>/vendor/vendor.dovecot/pvt/server/vendor/deltachat/<name>`: entries of the server.
`priv/<mailbox>/vendor/vendor.dovecot/pvt/server/vendor/vendor.dovecot/pvt/messagenew`, set by
    Dovecot's `push.lua`, and by no client: a message came, so clients in IDLE are woken, and the
    address's devices too, unless it is its own message.
`shared/last-login/<address>`, set by Dovecot's last_login plugin.

Files are read and written within the event loop: they are small, and the order of what one
address does needs no locks then.
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

# Dovecot opens a connection for each question and closes it; this ends those that it forgot.
CONNECTION_TIMEOUT = 60
MAX_READ = 16384

# How Dovecot writes entries of the server, as opposed to those of a mailbox.
SERVER = "vendor/vendor.dovecot/pvt/server/"
DELTACHAT = f"{SERVER}vendor/deltachat/"
MESSAGE_NEW = f"{SERVER}vendor/vendor.dovecot/pvt/messagenew"
# What `push.lua` sets where an address wrote to itself.
OWN_MESSAGE = "own"

log = logging.getLogger(__name__)


def home_of(settings: dict, address: str) -> Path:
    """Return the directory of an address. Raises Refused when the name is none of ours."""
    if not is_address(address, settings["address_domain"]):
        raise Refused("not an address of this relay")
    return Path(settings["mailboxes_dir"]) / address


def lookup(settings: dict, address: str, key: str) -> str | None:
    """Return what an address may read under a key, or None. Raises Refused."""
    home = home_of(settings, address)
    match key.split("/", 2):
        case ["priv", _, "devicetoken"]:
            return " ".join(entries.list_tokens(home, time.time())) or None
        case ["shared", _, name] if name.startswith(DELTACHAT):
            return entries.find_server_entry(name.removeprefix(DELTACHAT), settings, time.time())
    return None


def change(settings: dict, notifier: Notifier, address: str, key: str, value: str | None) -> None:
    """Set a key of an address, or remove it (value None). Raises Refused."""
    home = home_of(settings, address)
    try:
        match key.split("/", 2):
            case ["priv", _, "devicetoken"] if value is None:
                entries.remove_tokens(home)
            case ["priv", _, "devicetoken"]:
                entries.add_token(home, value, time.time())
            case ["priv", _, name] if name == MESSAGE_NEW:
                counters.count("delivered_mail")
                wake.wake_soon(home)
                if value != OWN_MESSAGE:
                    for token in entries.list_tokens(home, time.time()):
                        notifier.notify(address, token)
            case ["shared", "last-login", user] if user == address:
                last_login.touch(home, time.time())
            case _:
                raise Refused("no such entry")
    except ValueError as error:
        raise Refused(str(error)) from None
    except OSError as error:
        # Not the whole error: its file name is the address.
        raise Refused(f"cannot be written: {error.strerror}") from None


def forget(settings: dict, address: str, token: str) -> None:
    """Drop a token that the notification service has no device for any more."""
    try:
        entries.remove_token(home_of(settings, address), token, time.time())
    except (OSError, Refused) as error:
        log.error("a dead device token stays: %s", type(error).__name__)


async def serve(lookup, change, reader, writer):
    """Answer one connection until its end."""
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
