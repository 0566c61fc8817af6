"""The accounts service: creates an address at its first login and hands out new ones.

Over HTTP on the loopback interface:

`POST /create`, asked by Dovecot's Lua (`auth.lua`) for an address that has no password file.
    `X-Address` and `X-Password` hold address and password, the latter percent-encoded UTF-8; in
    headers, because URLs are logged and Dovecot 2.3 waits 2 s before it sends a body.
    201 created, 200 exists already, 403 refused (the reason is the body), 503 try again later.

`POST /new`, `GET /new` and the old path `/cgi-bin/newemail.py`, reached through nginx.
    They invent an address and a password and create nothing: that is done by the first login,
    so an answer nobody uses leaves no trace.
"""

import asyncio
import logging
import os
import signal
import tempfile
from functools import partial
from pathlib import Path
from urllib.parse import quote, unquote_to_bytes

from aiohttp import web
from passlib.hash import sha512_crypt

from chatmaild.addresses import inadmissible, new_credentials
from chatmaild.service import load_settings, notify, start_logging

HOST, PORT = "127.0.0.1", 3461
NOCREATE = Path("/etc/chatmail-nocreate")
MEMINFO = Path("/proc/meminfo")
# The cost of `doveadm pw -s SHA512-CRYPT`, 3 ms; passlib's own default would take 0.4 s a login.
HASH_ROUNDS = 5000
# No request has a body; the headers hold a password of 511 bytes, each as %XX.
MAX_BODY = 1024

log = logging.getLogger(__name__)


def create(mailboxes_dir: Path, address: str, password: str) -> bool:
    """Create an address; return False when it exists, with whatever password.

    address, password: admissible ones (`addresses.inadmissible`).
    The password file appears complete or not at all, and to one caller only, also when several
    processes race: it is written aside and then linked, which fails where the name is taken.
    Raises OSError.
    """
    home = Path(mailboxes_dir) / address
    try:
        home.mkdir()
        # The filter, in vmail's group, looks for files in it by name and may list nothing.
        home.chmod(0o710)
    except FileExistsError:
        pass
    # Before the password: nobody may see the address without its protection from cleartext.
    (home / "enforceE2EEincoming").touch(mode=0o640)
    with tempfile.NamedTemporaryFile("w", dir=home, prefix="password.") as draft:
        draft.write("{SHA512-CRYPT}" + sha512_crypt.using(rounds=HASH_ROUNDS).hash(password))
        draft.flush()
        os.fsync(draft.fileno())
        try:
            os.link(draft.name, home / "password")
        except FileExistsError:
            return False
    _sync_directory(home)
    _sync_directory(home.parent)
    return True


def _sync_directory(path):
    """Write a directory's entries to the disk: a client may rely on the address from now on."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def exceeded_limit(relay: dict) -> str | None:
    """Return "setting, value, limit" of the first limit that forbids new addresses now, or None."""
    load = os.getloadavg()[0]
    if load > relay["max_load_1m"]:
        return f"max_load_1m, {load:.2f}, {relay['max_load_1m']}"
    memory = _available_memory()
    if memory < relay["min_available_memory"]:
        return f"min_available_memory, {memory}, {relay['min_available_memory']}"
    disk = os.statvfs(relay["mailboxes_dir"])
    free = disk.f_bavail * disk.f_frsize
    if free < relay["min_free_disk_space"]:
        return f"min_free_disk_space, {free}, {relay['min_free_disk_space']}"
    return None


def _available_memory():
    """Return the bytes that programs can still get, as proc(5) estimates them."""
    for line in MEMINFO.read_text().splitlines():
        name, _, value = line.partition(":")
        if name == "MemAvailable":
            return int(value.split()[0]) * 1024
    raise OSError(f"{MEMINFO} has no MemAvailable")


async def handle_create(relay, request):
    """Answer Dovecot's question for a new address; see the module's docstring."""
    address = request.headers.get("X-Address", "")
    try:
        password = unquote_to_bytes(request.headers.get("X-Password", "")).decode()
    except UnicodeDecodeError:
        return web.Response(status=403, text="a password is UTF-8 text")
    reason = inadmissible(address, password, relay)
    if reason is None and NOCREATE.exists():
        reason = f"{NOCREATE} exists"
    if reason is not None:
        return web.Response(status=403, text=reason)
    try:
        limit = exceeded_limit(relay)
        if limit is not None:
            log.warning("registration rejected: %s", limit)
            return web.Response(status=503, text=limit)
        created = await asyncio.to_thread(create, relay["mailboxes_dir"], address, password)
    except OSError as error:
        # Not the whole error: its file name is the address.
        log.error("cannot create an address in %s: %s", relay["mailboxes_dir"], error.strerror)
        return web.Response(status=503)
    return web.Response(status=201 if created else 200)


async def handle_new(relay, request):
    """Hand out an address and a password that nobody has."""
    self_signed = relay["tls_mode"] == "self_signed"
    if request.method == "GET" and not self_signed:
        # Whoever opens the link in a browser wants the app to do it.
        link = f"dcaccount:https://{relay['mail_domain']}/new"
        return web.Response(status=301, headers={"Location": link})
    address, password = new_credentials(relay)
    answer = {"email": address, "password": password}
    if self_signed:
        answer["dclogin_url"] = dclogin_url(relay, address, password)
    return web.json_response(answer, headers={"Cache-Control": "no-store"})


def dclogin_url(relay: dict, address: str, password: str) -> str:
    """Return the link by which Delta Chat logs in without checking the certificate (`ic=3`).

    The address stands as it is: Delta Chat does not decode this part of the URL.
    """
    # An address literal is no host name to look up, so the link says where the servers are.
    hosts = f"&ih={relay['mail_domain']}&sh={relay['mail_domain']}" if relay["form"] == "ip" else ""
    return f"dclogin:{address}?p={quote(password, safe='')}&v=1{hosts}&ic=3"


def application(relay: dict) -> web.Application:
    """Return the service for these settings."""
    app = web.Application(client_max_size=MAX_BODY)
    app.router.add_post("/create", partial(handle_create, relay))
    for path in ("/new", "/cgi-bin/newemail.py"):
        app.router.add_get(path, partial(handle_new, relay), allow_head=False)
        app.router.add_post(path, partial(handle_new, relay))
    return app


async def main():
    """Serve until systemd says stop; requests under way are answered."""
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    # An access log would say which client got which address.
    runner = web.AppRunner(application(load_settings()), access_log=None)
    await runner.setup()
    await web.TCPSite(runner, HOST, PORT).start()
    notify("READY=1")
    await stop.wait()
    notify("STOPPING=1")
    await runner.cleanup()


if __name__ == "__main__":
    start_logging()
    asyncio.run(main())
