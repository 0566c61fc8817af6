"""The gateway for `POST /mxdeliv`, where other relays deliver mail over HTTPS.

nginx passes the request on. The gateway hands the message by SMTP to an smtpd of Postfix on the
loopback interface, which makes the same checks as port 25. Postfix's answer becomes the HTTP
status. The gateway keeps no message.
"""

import asyncio
import collections
import contextlib
import ipaddress
import logging

from chatmaild.common.http_server import Request, Response, Server
from chatmaild.message.spool import Message
from chatmaild.metrics import counters
from chatmaild.transport.smtp_client import SmtpSession, Uncertain, Unreachable, connect
from chatmaild.transport.smtp_protocol import Answer, has_bare_line_end, is_address

# Seconds from the start of a request, which nginx passes on unbuffered. A message that is accepted
# after the sender gave up would arrive twice. So a message that Postfix does not have completely
# within END_SECONDS is refused. Postfix's answer comes within REPLY_SECONDS more, of which DNS
# lookups of the filter may take 20. Relays like this one wait for 160 s
# (https_client.HTTPS_SECONDS - CONNECTED_SECONDS). 30 MB within BODY_SECONDS need 2.3 Mbit/s.
BODY_SECONDS = 110
END_SECONDS = 120
REPLY_SECONDS = 30
MAX_RECIPIENTS = 1000
# Bytes. Each recipient is a header field: 1000 of the longest addresses have 270 KB. nginx passes
# on 128 KB (large_client_header_buffers).
MAX_HEADER = 512 * 1024
# Requests at once. PER_CLIENT is more than a relay like this one makes (delivery.PER_HOST). AT_ONCE
# is for all clients: each request may wait for DNS in an smtpd (master.cf, 127.0.0.1:10025).
PER_CLIENT = 50
AT_ONCE = 500
log = logging.getLogger(__name__)


class Refused(Exception):
    """The gateway refuses a request without asking Postfix.

    status: the HTTP status. code, text: the SMTP reply in the body of the response.
    """

    def __init__(self, status: int, code: int, text: str):
        super().__init__(text)
        self.status = status
        self.answer = Answer(code, text)


class Gateway:
    """The HTTP handler.

    name: its own name in SMTP. max_size: the largest size of a message in bytes.
    spool: the directory for large messages (see Message).
    smtpd_port: the port of Postfix's smtpd on 127.0.0.1.
    """

    def __init__(self, name: str, max_size: int, spool: str, smtpd_port: int = 10025):
        self._name = name
        self._max_size = max_size
        self._spool = spool
        self._smtpd_port = smtpd_port
        self._of_client: collections.Counter[str] = collections.Counter()

    def server(self) -> Server:
        """Return the HTTP server, which answers 405 to other methods than POST."""
        return Server({"/mxdeliv": {"POST": self.post}}, MAX_HEADER)

    async def post(self, request: Request) -> Response:
        """Answer 200 when Postfix took the message for every recipient, and an error otherwise."""
        end = asyncio.get_running_loop().time() + END_SECONDS
        try:
            with self._count_client(client_address(request)), Message(self._spool) as message:
                sender, recipients = envelope(request)
                await self._receive(request, message)
                answer = await self._hand_over(request, sender, recipients, message, end)
        except Refused as error:
            _count(error.answer)
            return Response(status=error.status, text=f"{error.answer.line()}\n")
        _count(answer)
        if answer.delivered:
            return Response(text=f"{answer.line()}\n")
        return Response(status=503 if answer.temporary else 400, text=f"{answer.line()}\n")

    @contextlib.contextmanager
    def _count_client(self, client: str):
        """Count a request of a client while it runs. Raises Refused when there are too many."""
        address = ipaddress.ip_address(client)
        # One machine may have all addresses of a /64.
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

    async def _receive(self, request: Request, message: Message) -> None:
        """Read the body of a request into a message. Raises Refused."""
        too_large = Refused(413, 552, f"5.3.4 more than {self._max_size} octets")
        if int(request.header("content-length") or 0) > self._max_size:
            raise too_large
        try:
            async with asyncio.timeout(BODY_SECONDS):
                async for chunk in request.body():
                    if message.size + len(chunk) > self._max_size:
                        raise too_large
                    _keep(message, chunk)
        except TimeoutError:
            raise Refused(408, 451, f"4.4.2 no whole message within {BODY_SECONDS} s") from None
        except OSError:
            # The client has gone, so nobody reads this answer.
            raise Refused(400, 451, "4.4.2 connection lost amid the message") from None
        if has_bare_line_end(message.chunks()):
            raise Refused(400, 550, "5.5.2 a line must end in CR LF and nothing else")

    async def _hand_over(
        self,
        request: Request,
        sender: str,
        recipients: list[str],
        message: Message,
        end: float,
    ) -> Answer:
        """Hand the message to Postfix for all recipients or for none; return the answer.

        end: the time by the loop's clock at which the sender may have given up.
        """

        def may_end() -> bool:
            return not request.has_gone() and asyncio.get_running_loop().time() < end

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
        # The worst answer counts for all recipients: the sender then repeats all of them by SMTP.
        return max(answers.values(), key=lambda answer: answer.code)


def _keep(message: Message, chunk: bytes) -> None:
    """Append bytes to the message. Raises Refused."""
    try:
        message.write(chunk)
    except OSError as error:
        log.error("cannot keep a message aside: %s", error.strerror or type(error).__name__)
        raise Refused(503, 452, "4.3.1 no room to keep the message aside") from None


def _count(answer: Answer) -> None:
    result = "accepted" if answer.delivered else "deferred" if answer.temporary else "refused"
    counters.count("chatmail_mxdeliv_total", result)


def envelope(request: Request) -> tuple[str, list[str]]:
    """Return the sender (empty for `<>`) and the recipients of a request. Raises Refused."""
    senders = request.all_headers("x-mail-from")
    recipients = list(dict.fromkeys(request.all_headers("x-mail-to")))
    if len(senders) > 1:
        raise Refused(400, 501, "5.5.4 expected at most one X-Mail-From")
    [sender] = senders or [""]
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


def client_address(request: Request) -> str:
    """Return the client's IP address, which nginx sent. Raises Refused without one."""
    try:
        return str(ipaddress.ip_address(request.header("x-real-ip")))
    except ValueError:
        log.error("nginx passed no client address: its location needs X-Real-IP $remote_addr")
        raise Refused(503, 451, "4.3.5 this relay is not set up correctly") from None
