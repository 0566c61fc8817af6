"""The accounts service: creates an address at its first login and hands out new ones.

Over HTTP on the loopback interface:

`POST /create`, asked by Dovecot's Lua (`auth.lua`) for an address that has no password file.
    `X-Address` and `X-Password` hold address and password, the latter percent-encoded UTF-8; in
    headers, because URLs are logged and Dovecot 2.3 waits 2 s before it sends a body. `X-Real-IP`
    is the client's address.
    201 created, 200 exists already, 403 refused (the reason is the body), 429 too many for one
    network, 503 try again later.

`POST /new`, `GET /new` and the old path `/cgi-bin/newemail.py`, reached through nginx.
    They invent an address and a password. Where registration is open they create nothing: that is
    done by the first login, so an answer nobody uses leaves no trace. Where it is by invitation,
    `?token=` names one, and the address is made here and nowhere else.
    403 not invited or nobody is, 429 too many for one network, 503 try again later; with
    `{"reason": text}`, which Delta Chat shows.

`GET /limits`, asked by `chatmail_relay.status`: what new addresses depend on, as it is now.
"""

import asyncio
import errno
import ipaddress
import logging
import time
from pathlib import Path
from urllib.parse import quote, unquote_to_bytes

from aiohttp import web

from chatmaild.accounts import invitations, limits, mailboxes
from chatmaild.common.addresses import inadmissible, new_credentials
from chatmaild.common.rate_limit import RateLimit
from chatmaild.metrics import counters

NOCREATE = Path("/etc/chatmail-nocreate")
# No request has a body; the headers hold a password of 511 bytes, each as %XX.
MAX_BODY = 1024
# What counts as one client: providers give a site a /48 (RFC 6177), and a /24 is the least that is
# routed (RFC 7454 section 6.1.3).
NETWORK_PREFIXES = {4: 24, 6: 48}
# Wrong tokens that one network may try: at once, and in a minute after that.
GUESSES = 20
# Random names tried until one is free; nearly all are, unless user names have one or two letters.
ATTEMPTS = 100

log = logging.getLogger(__name__)


class Refused(Exception):
    """No new address; `status` is the HTTP status, the text is for whoever asked."""

    def __init__(self, status: int, reason: str):
        super().__init__(reason)
        self.status = status


class Registration:
    """The HTTP handlers, and how much each network has asked for."""

    def __init__(self, settings: dict):
        per_hour = settings["max_registrations_per_hour"]
        self._settings = settings
        self._rate = RateLimit(per_hour / 60, per_hour)
        # Of its own: what /new hands out is made by a login afterwards.
        self._logins = RateLimit(per_hour / 60, per_hour)
        self._guesses = RateLimit(GUESSES, GUESSES)
        # Many requests at once must not pass a limit that has room for one.
        self._one_at_a_time = asyncio.Lock()

    async def create(self, request: web.Request) -> web.Response:
        """Answer Dovecot's question for a new address; see the module's docstring."""
        address = request.headers.get("X-Address", "")
        try:
            password = unquote_to_bytes(request.headers.get("X-Password", "")).decode()
            self._check_admissible(address, password)
            self._check_limits()
            if not self._logins.take(network_of(request)):
                raise self._too_many()
            created = await asyncio.to_thread(self._make, address, password)
        except UnicodeDecodeError:
            return web.Response(status=403, text="a password is UTF-8 text")
        except Refused as refused:
            return web.Response(status=refused.status, text=str(refused))
        except OSError as error:
            return web.Response(status=503, text=self._disk_error(error))
        return web.Response(status=201 if created else 200)

    def _check_admissible(self, address, password):
        """Raises Refused."""
        if reason := inadmissible(address, password, self._settings):
            raise Refused(403, reason)
        if self._settings["registration"] == "invite":
            raise Refused(403, "addresses are made by invitation, at /new")

    async def new(self, request: web.Request) -> web.Response:
        """Hand out an address and a password that nobody has."""
        token = request.query.get("token", "")
        if request.method == "GET" and (link := self._link_for_get(token)):
            return web.Response(status=301, headers={"Location": link, "Cache-Control": "no-store"})
        try:
            async with self._one_at_a_time:
                address, password = await self._new_credentials(token, network_of(request))
        except Refused as refused:
            return web.json_response({"reason": str(refused)}, status=refused.status)
        answer = {"email": address, "password": password}
        if self._settings["tls_mode"] == "self_signed":
            answer["dclogin_url"] = dclogin_url(self._settings, address, password)
        return web.json_response(answer, headers={"Cache-Control": "no-store"})

    def _link_for_get(self, token):
        """Return where a browser is sent that opens the link, None if it is answered like POST."""
        token = token if invitations.TOKEN.fullmatch(token) else ""
        if self._settings["tls_mode"] != "self_signed":
            query = f"?token={token}" if token else ""
            return f"dcaccount:https://{self._settings['mail_domain']}/new{query}"
        # To look at an invitation, as previews of links do, must not use it up.
        return f"/#{token}" if self._settings["registration"] == "invite" else None

    async def _new_credentials(self, token, network):
        """Return an address and its password. Raises Refused."""
        self._check_limits()
        if not self._rate.allows(network):
            raise self._too_many()
        if self._settings["registration"] == "invite":
            credentials = await self._invited(token, network)
        else:
            credentials = new_credentials(self._settings)
        self._rate.take(network)
        return credentials

    def _too_many(self):
        """Log that a network wants too much, and return what it is told."""
        limit = self._settings["max_registrations_per_hour"]
        _log_rejection(f"max_registrations_per_hour, >{limit}, {limit}")
        return Refused(429, "Too many new addresses for your network. Please try again later.")

    async def _invited(self, token, network):
        """Make an address for an invitation. Raises Refused."""
        if not self._guesses.allows(network):
            raise Refused(429, "Too many invitations that are none. Please try again later.")
        try:
            return await asyncio.to_thread(self._redeem, token)
        except invitations.NotInvited:
            self._guesses.take(network)
            raise Refused(403, "This invitation is used up or no longer valid.") from None
        except OSError as error:
            raise Refused(503, self._disk_error(error)) from None

    def _redeem(self, token):
        with invitations.redeem(invitations.DIRECTORY, token, time.time()):
            for _ in range(ATTEMPTS):
                address, password = new_credentials(self._settings)
                if self._make(address, password):
                    return address, password
            raise OSError(errno.EEXIST, "all names tried are taken")

    def _make(self, address, password):
        """Create an address; return False when it exists. Raises OSError."""
        created = mailboxes.create(self._settings["mailboxes_dir"], address, password)
        if created:
            kind = "ci" if address.startswith("ci-") else "nonci"
            counters.count(f"created_{kind}_accounts")
        return created

    async def limits(self, _request: web.Request) -> web.Response:
        """Tell this machine what new addresses depend on: {setting: value now}."""
        busiest = max(self._rate.busiest(), self._logins.busiest())
        return web.json_response(
            {**limits.measure(self._settings), "max_registrations_per_hour": busiest}
        )

    def _check_limits(self):
        """Raises Refused while there are no new addresses."""
        if NOCREATE.exists() or self._settings["registration"] == "closed":
            _log_rejection("nocreate, true, false")
            raise Refused(403, "This relay gives out no new addresses.")
        try:
            limit = limits.find_exceeded(self._settings)
        except OSError as error:
            raise Refused(503, self._disk_error(error)) from None
        if limit:
            _log_rejection(limit)
            raise Refused(503, "This relay is short of something now. Please try again later.")

    def _disk_error(self, error):
        """Log an error and return what to tell others."""
        # Not the whole error: its file name is the address.
        directory = self._settings["mailboxes_dir"]
        log.error("cannot create an address in %s: %s", directory, error.strerror)
        return "This relay cannot make an address now. Please try again later."


def _log_rejection(limit):
    log.warning("registration rejected: %s", limit)
    counters.count("chatmail_registrations_rejected_total", limit.partition(",")[0])


def network_of(request: web.Request) -> str:
    """Return the network of the client, as nginx or Dovecot saw it."""
    try:
        address = ipaddress.ip_address(request.headers.get("X-Real-IP", ""))
    except ValueError:
        # Somebody on this machine; a number of them is one network, too.
        return "local"
    prefix = NETWORK_PREFIXES[address.version]
    return str(ipaddress.ip_network((address, prefix), strict=False))


def dclogin_url(settings: dict, address: str, password: str) -> str:
    """Return the link by which Delta Chat logs in to a relay with a self-signed certificate.

    The address stands as it is: Delta Chat does not decode this part of the URL.
    """
    link = f"dclogin:{address}?p={quote(password, safe='')}&v=1"
    if settings["form"] != "ip":
        # Delta Chat takes a self-signed certificate of a host whose name begins with `_`, if that
        # name is in it. With `ic=3` it takes any, and Apple's clients do not speak TLS 1.3 then.
        return link
    # An address literal is no host name to look up, so the link says where the servers are. `ic=3`:
    # take any certificate.
    host = settings["mail_domain"]
    return f"{link}&ih={host}&sh={host}&ic=3"


def application(settings: dict) -> web.Application:
    """Return the service for these settings."""
    registration = Registration(settings)
    app = web.Application(client_max_size=MAX_BODY)
    app.router.add_post("/create", registration.create)
    app.router.add_get("/limits", registration.limits)
    for path in ("/new", "/cgi-bin/newemail.py"):
        app.router.add_get(path, registration.new, allow_head=False)
        app.router.add_post(path, registration.new)
    return app
