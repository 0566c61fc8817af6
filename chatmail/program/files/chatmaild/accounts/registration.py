"""The HTTP interface of the accounts service, on the loopback interface.

`POST /create`: Dovecot's Lua (`auth.lua`) asks for an address that has no password file.
    The header `X-Address` is the address. `X-Password` is the password, percent-encoded UTF-8. They
    are headers because URLs are logged, and because Dovecot 2.3 waits 2 s before it sends a body.
    `X-Real-IP` is the client's IP address.
    Statuses: 201 created, 200 exists already, 403 refused (the body is the reason), 429 too many
    requests from one network, 503 try again later.

`POST /new`, `GET /new` and the old path `/cgi-bin/newemail.py`: apps ask, through nginx.
    The answer is a random address and a password. With open registration this creates nothing: the
    first login creates the address, so an answer that nobody uses leaves no trace. With
    `registration: invite`, `?token=` is the token of an invitation, and the address is created
    here; no login creates one.
    Statuses: 403 no valid invitation or registration is closed, 429 too many requests from one
    network, 503 try again later. The body is `{"reason": text}`, which Delta Chat shows.

`GET /limits`: `chatmail_relay.limits` asks. The answer has the present values that limit new
    addresses.
"""

import asyncio
import errno
import ipaddress
import logging
import time
from urllib.parse import quote, unquote_to_bytes

from chatmaild.accounts import invitations, limits, mailboxes
from chatmaild.accounts.nocreate import NOCREATE
from chatmaild.common.addresses import inadmissible, new_credentials
from chatmaild.common.http_server import Request, Response, Server, json_response
from chatmaild.common.rate_limit import RateLimit
from chatmaild.metrics import counters

# A network of this size counts as one client. Providers give a site a /48 (RFC 6177), and a /24 is
# the smallest network that is routed (RFC 7454 section 6.1.3).
NETWORK_PREFIXES = {4: 24, 6: 48}
# The number of wrong tokens that a network may send at once, and then in each minute.
GUESSES = 20
# The number of random names that are tried until one is free. Nearly all names are free, except
# where user names have one or two letters.
ATTEMPTS = 100

log = logging.getLogger(__name__)


class Refused(Exception):
    """The service gives no new address.

    status: the HTTP status. reason: the text of the answer.
    """

    def __init__(self, status: int, reason: str):
        super().__init__(reason)
        self.status = status


class Registration:
    """The HTTP handlers, with a count of the requests of each network."""

    def __init__(self, settings: dict):
        per_hour = settings["max_registrations_per_hour"]
        self._settings = settings
        self._rate = RateLimit(per_hour / 60, per_hour)
        # Logins have their own count: an address from /new is counted there, and its first login
        # comes afterwards.
        self._logins = RateLimit(per_hour / 60, per_hour)
        self._guesses = RateLimit(GUESSES, GUESSES)
        # Requests wait for each other, so that two of them cannot use the same last token.
        self._one_at_a_time = asyncio.Lock()

    async def create(self, request: Request) -> Response:
        """Answer Dovecot's request for a new address; see the module's docstring."""
        address = request.header("x-address")
        try:
            password = unquote_to_bytes(request.header("x-password")).decode()
            self._check_admissible(address, password)
            self._check_limits()
            if not self._logins.take(network_of(request)):
                raise self._log_excess()
            created = await asyncio.to_thread(self._make, address, password)
        except UnicodeDecodeError:
            return Response(status=403, text="a password is UTF-8 text")
        except Refused as refused:
            return Response(status=refused.status, text=str(refused))
        except OSError as error:
            return Response(status=503, text=self._disk_error(error))
        return Response(status=201 if created else 200)

    def _check_admissible(self, address, password):
        """Raise Refused when the address must not be created with this password."""
        if reason := inadmissible(address, password, self._settings):
            raise Refused(403, reason)
        if self._settings["registration"] == "invite":
            raise Refused(403, "addresses are made by invitation, at /new")

    async def new(self, request: Request) -> Response:
        """Answer with a random address that does not exist yet, and a password."""
        token = request.query("token")
        if request.method == "GET" and (link := self._link_for_get(token)):
            return Response(status=301, headers={"Location": link, "Cache-Control": "no-store"})
        try:
            async with self._one_at_a_time:
                address, password = await self._new_credentials(token, network_of(request))
        except Refused as refused:
            return json_response({"reason": str(refused)}, status=refused.status)
        answer = {"email": address, "password": password}
        if self._settings["tls_mode"] == "self_signed":
            answer["dclogin_url"] = dclogin_url(self._settings, address, password)
        return json_response(answer, headers={"Cache-Control": "no-store"})

    def _link_for_get(self, token):
        """Return the target of a redirect for GET, or None when GET is answered like POST."""
        token = token if invitations.TOKEN.fullmatch(token) else ""
        if self._settings["tls_mode"] != "self_signed":
            query = f"?token={token}" if token else ""
            return f"dcaccount:https://{self._settings['mail_domain']}/new{query}"
        # Programs that show previews open the link too. That must not use up the invitation.
        return f"/#{token}" if self._settings["registration"] == "invite" else None

    async def _new_credentials(self, token, network):
        """Return an address and its password. Raises Refused."""
        self._check_limits()
        if not self._rate.allows(network):
            raise self._log_excess()
        if self._settings["registration"] == "invite":
            credentials = await self._use_invitation(token, network)
        else:
            credentials = new_credentials(self._settings)
        self._rate.take(network)
        return credentials

    def _log_excess(self):
        """Log that a network asked for too many addresses, and return the refusal."""
        limit = self._settings["max_registrations_per_hour"]
        _log_rejection(f"max_registrations_per_hour, >{limit}, {limit}")
        return Refused(429, "Too many new addresses for your network. Please try again later.")

    async def _use_invitation(self, token, network):
        """Create an address for an invitation. Raises Refused."""
        if not self._guesses.allows(network):
            raise Refused(429, "Too many invalid invitations. Please try again later.")
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

    async def limits(self, _request: Request) -> Response:
        """Answer with the present values that limit new addresses: {setting: value}."""
        busiest = max(self._rate.busiest(), self._logins.busiest())
        return json_response(
            {**limits.measure(self._settings), "max_registrations_per_hour": busiest}
        )

    def _check_limits(self):
        """Raise Refused while the relay gives no new addresses."""
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
        """Log an error and return the text for the client."""
        # The log line leaves out the file name, because it contains the address.
        directory = self._settings["mailboxes_dir"]
        log.error("cannot create an address in %s: %s", directory, error.strerror)
        return "This relay cannot make an address now. Please try again later."


def _log_rejection(limit):
    log.warning("registration rejected: %s", limit)
    counters.count("chatmail_registrations_rejected_total", limit.partition(",")[0])


def network_of(request: Request) -> str:
    """Return the network of the client, whose IP address nginx or Dovecot sent."""
    try:
        address = ipaddress.ip_address(request.header("x-real-ip"))
    except ValueError:
        # The request came from this machine. All such requests count as one network.
        return "local"
    prefix = NETWORK_PREFIXES[address.version]
    return str(ipaddress.ip_network((address, prefix), strict=False))


def dclogin_url(settings: dict, address: str, password: str) -> str:
    """Return the link with which Delta Chat logs in to a relay with a self-signed certificate.

    The address is not percent-encoded, because Delta Chat does not decode this part of the URL.
    """
    link = f"dclogin:{address}?p={quote(password, safe='')}&v=1"
    if settings["form"] != "ip":
        # Delta Chat accepts a self-signed certificate of a host whose name begins with `_`, if the
        # certificate has that name. With `ic=3` Delta Chat accepts any certificate, but then
        # Apple's clients do not speak TLS 1.3.
        return link
    # Delta Chat cannot look up an address literal, so the link names the servers. `ic=3` means that
    # it accepts any certificate.
    host = settings["mail_domain"]
    return f"{link}&ih={host}&sh={host}&ic=3"


def server(settings: dict) -> Server:
    """Return the HTTP server of the service with these settings. No request needs a body."""
    registration = Registration(settings)
    new = {"GET": registration.new, "POST": registration.new}
    return Server(
        {
            "/create": {"POST": registration.create},
            "/limits": {"GET": registration.limits},
            "/new": new,
            "/cgi-bin/newemail.py": new,
        }
    )
