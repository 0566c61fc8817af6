"""`POST /mxdeliv`: the gateway by which other relays bring mail over HTTPS.

nginx passes the request on; it goes by SMTP to a smtpd of Postfix's on loopback, which has port
25's checks on it, and the answer comes back as an HTTP status. Nothing is kept here.
"""

import asyncio
import collections
import contextlib
import ipaddress
import logging

import aiohttp
from aiohttp import web

from chatmaild.message.spool import Message
from chatmaild.metrics import counters
from chatmaild.transport.smtp_client import SmtpSession, Uncertain, Unreachable, connect
from chatmaild.transport.smtp_protocol import Answer, has_bare_line_end, is_address

# Counted from the start of a request, which nginx passes on unbuffered. What is accepted after the
# sender gave up arrives twice, so a message that is not all with Postfix by END_SECONDS is not
# taken, and Postfix's answer comes within REPLY_SECONDS: the filter's DNS has 20 of them. Relays
# like this one wait for 160 s (https_client.HTTPS_SECONDS - CONNECTED_SECONDS). 30 MB within
# BODY_SECONDS need 2.3 Mbit/s.
BODY_SECONDS = 110
END_SECONDS = 120
REPLY_SECONDS = 30
MAX_RECIPIENTS = 1000
# Requests at once: of one client, above what a relay like this one makes of us (delivery.PER_HOST);
# and of all, each of which may wait for DNS in an smtpd of Postfix's (master.cf, 127.0.0.1:10025).
PER_CLIENT = 50
AT_ONCE = 500
log = logging.getLogger(__name__)


class Refused(Exception):
    """The request is answered without asking Postfix."""

    def __init__(self, status: int, code: int, text: str):
        super().__init__(text)
        self.status = status
        self.answer = Answer(code, text)


class Gateway:
    """The HTTP handler.

    name: what it calls itself in SMTP. max_size: octets of a message. spool: see Message.
    smtpd_port: of Postfix's smtpd on 127.0.0.1.
    """

    def __init__(self, name: str, max_size: int, spool: str, smtpd_port: int = 10025):
        self._name = name
        self._max_size = max_size
        self._spool = spool
        self._smtpd_port = smtpd_port
        self._of_client: collections.Counter[str] = collections.Counter()

    def application(self) -> web.Application:
        """Return the web application; methods other than POST get a 405 of their own accord."""
        # aiohttp takes 128 header fields by default, while each recipient is one. nginx and
        # MAX_RECIPIENTS set the limit here.
        application = web.Application(handler_args={"max_headers": 32768})
        application.router.add_post("/mxdeliv", self.post)
        return application

    async def post(self, request: web.Request) -> web.Response:
        """Answer 200 once Postfix took the message for every recipient, else say why not."""
        end = asyncio.get_running_loop().time() + END_SECONDS
        try:
            with self._count_client(client_address(request)), Message(self._spool) as message:
                sender, recipients = envelope(request)
                await self._receive(request, message)
                answer = await self._hand_over(request, sender, recipients, message, end)
        except Refused as error:
            _count(error.answer)
            return web.Response(status=error.status, text=f"{error.answer.line()}\n")
        _count(answer)
        if answer.delivered:
            return web.Response(text=f"{answer.line()}\n")
        return web.Response(status=503 if answer.temporary else 400, text=f"{answer.line()}\n")

    @contextlib.contextmanager
    def _count_client(self, client: str):
        """Count a request among those of its client. Raises Refused when there are enough."""
        address = ipaddress.ip_address(client)
        # One machine may have all of a /64.
        network = (address, 64 if address.version == 6 else 32)
        client = str(ipaddress.ip_network(network, strict=False))
        if self._of_client[client] >= PER_CLIENT or self._of_client.total() >= AT_ONCE:
            raise Refused(503, 451, "4.3.2 too many messages at once, try again later")
        self._of_client[client] += 1
        try:
            yield
        finally:
            self._of_client[client] -= 1
            if not self._of_client[client]:
                del self._of_client[client]

    async def _receive(self, request: web.Request, message: Message) -> None:
        """Read the body. Raises Refused."""
        too_large = Refused(413, 552, f"5.3.4 more than {self._max_size} octets")
        if (request.content_length or 0) > self._max_size:
            raise too_large
        try:
            async with asyncio.timeout(BODY_SECONDS):
                async for chunk in request.content.iter_any():
                    if message.size + len(chunk) > self._max_size:
                        raise too_large
                    _keep(message, chunk)
        except TimeoutError:
            raise Refused(408, 451, f"4.4.2 no whole message within {BODY_SECONDS} s") from None
        except (OSError, aiohttp.ClientError):
            # Nobody is there any more to read this.
            raise Refused(400, 451, "4.4.2 connection lost amid the message") from None
        if has_bare_line_end(message.chunks()):
            raise Refused(400, 550, "5.5.2 a line must end in CR LF and nothing else")

    async def _hand_over(
        self,
        request: web.Request,
        sender: str,
        recipients: list[str],
        message: Message,
        end: float,
    ) -> Answer:
        """Let Postfix judge and take the message, for all recipients or for none.

        end: when, by the loop's clock, the sender may have given up.
        """

        def may_end() -> bool:
            gone = request.transport is None or request.transport.is_closing()
            return not gone and asyncio.get_running_loop().time() < end

        try:
            async with asyncio.timeout_at(end + REPLY_SECONDS):
                connection = await connect(["127.0.0.1"], self._smtpd_port)
                try:
                    session = SmtpSession(connection, self._name, "this relay")
                    await session.greet()
                    await session.xclient(client_address(request))
                    answers = await session.deliver(sender, recipients, message, True, may_end)
                    await session.quit()
                finally:
                    connection.close()
        except (Unreachable, Uncertain, TimeoutError) as error:
            log.error("Postfix's smtpd for /mxdeliv: %s", str(error) or "timed out")
            return Answer(451, "4.3.0 mail cannot be taken now")
        # The worst answer stands for all, since the sender repeats the whole by SMTP.
        return max(answers.values(), key=lambda answer: answer.code)


def _keep(message: Message, chunk: bytes) -> None:
    """Append to the message. Raises Refused."""
    try:
        message.write(chunk)
    except OSError as error:
        log.error("cannot keep a message aside: %s", error.strerror or type(error).__name__)
        raise Refused(503, 452, "4.3.1 no room to keep the message aside") from None


def _count(answer: Answer) -> None:
    result = "accepted" if answer.delivered else "deferred" if answer.temporary else "refused"
    counters.count("chatmail_mxdeliv_total", result)


def envelope(request: web.Request) -> tuple[str, list[str]]:
    """Return sender (empty for `<>`) and recipients of a request. Raises Refused."""
    senders = request.headers.getall("X-Mail-From", [])
    recipients = list(dict.fromkeys(request.headers.getall("X-Mail-To", [])))
    if len(senders) > 1:
        raise Refused(400, 501, "5.5.4 expected at most one X-Mail-From")
    sender = senders[0] if senders else ""
    sender = "" if sender == "<>" else sender
    if sender and not is_address(sender):
        raise Refused(400, 501, "5.1.7 X-Mail-From is no address")
    if not recipients:
        raise Refused(400, 554, "5.5.1 expected X-Mail-To with a recipient")
    if len(recipients) > MAX_RECIPIENTS:
        raise Refused(400, 452, f"4.5.3 more than {MAX_RECIPIENTS} recipients")
    if not all(is_address(recipient) for recipient in recipients):
        raise Refused(400, 501, "5.1.3 X-Mail-To is no address")
    return sender, recipients


def client_address(request: web.Request) -> str:
    """Return the IP that nginx saw. Raises Refused when it told none."""
    try:
        return str(ipaddress.ip_address(request.headers.get("X-Real-IP", "")))
    except ValueError:
        log.error("nginx passed no client address: its location needs X-Real-IP $remote_addr")
        raise Refused(503, 451, "4.3.5 this relay is not set up correctly") from None
