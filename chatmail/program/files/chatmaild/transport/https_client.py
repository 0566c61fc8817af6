"""Delivery by HTTPS: `POST https://<host>/mxdeliv`. Connections are kept and used again."""

import asyncio
import re
import ssl
from collections.abc import Iterable, Iterator

from chatmaild.common.http_client import HttpClient, NoAnswer, Origin
from chatmaild.message.spool import Message
from chatmaild.transport.destinations import Host, Tls
from chatmaild.transport.smtp_client import CONNECT_SECONDS, tls_reason

# Seconds for one try from its start to the answer. A message that the other relay accepts after we
# gave up would arrive twice. So our own gateway answers within this time: CONNECTED_SECONDS +
# gateway.END_SECONDS + gateway.REPLY_SECONDS = 20 + 120 + 30 s.
HTTPS_SECONDS = 180
# A silent host takes less time. CONNECTED_SECONDS are for the connection with TLS, PIECE_SECONDS
# for sending a piece of the message, ANSWER_SECONDS for the answer after the last piece: 40 s for
# the gateway, and 20 s for bytes that the kernel still holds.
CONNECTED_SECONDS = 20
PIECE_SECONDS = 30
ANSWER_SECONDS = 60
# From the answer of an HTTP server, only an SMTP reply gets into the log and into bounces. Another
# server than a relay must not be able to send texts to our users.
REPLY = re.compile(r"[2-5][0-9]{2}[ -][ -~]{0,200}")

# The answers of relays that took a message. filtermail answers "250 OK" without a content type.
# madmail answers "OK" as text; its older versions answer nothing. This relay answers "250 2.0.0 …"
# as text. Another answer with status 200 comes from a web server that answers every path. If it
# counted as accepted, the mail would be lost.
TAKEN = re.compile(r"2[0-9]{2}[ -]|ok\s*\Z", re.I)


class HttpsFailed(Exception):
    """The host did not accept the message by HTTPS.

    kind: "answer" when the host answered, else "timeout", "tls" or "connection".
    """

    def __init__(self, text: str, kind: str):
        super().__init__(text)
        self.kind = kind


class _Progress:
    """Two deadlines: one for the next step of a try, and one for the whole try."""

    def __init__(self):
        self._clock = asyncio.get_running_loop().time
        self._end = self._clock() + HTTPS_SECONDS
        self.limit = asyncio.timeout(CONNECTED_SECONDS)
        self.all_sent = False

    def expect(self, seconds: float) -> None:
        """Note that a step was done, and give the next step this time."""
        self.limit.reschedule(min(self._clock() + seconds, self._end))


class HttpsClient:
    """Posts messages. Make the object inside a running event loop.

    verified, unverified: TLS contexts. port: the port of HTTPS. Tests replace them.
    """

    def __init__(
        self,
        verified: ssl.SSLContext,
        unverified: ssl.SSLContext,
        port: int = 443,
    ):
        self._contexts = {Tls.VERIFIED: verified, Tls.UNVERIFIED: unverified}
        self._port = port
        # delivery.py limits the number of connections, for HTTPS and SMTP together.
        self._client = HttpClient(CONNECT_SECONDS)

    async def close(self) -> None:
        """Close the idle connections."""
        await self._client.close()

    async def post(
        self, host: Host, sender: str, recipients: Iterable[str], message: Message
    ) -> None:
        """Hand a message over for all recipients. Raises HttpsFailed."""
        # The exception for nauta.cu is for SMTP only. HTTPS needs a trusted certificate there.
        context = self._contexts.get(host.tls, self._contexts[Tls.VERIFIED])
        headers = [
            ("X-Mail-From", sender),
            *(("X-Mail-To", recipient) for recipient in recipients),
            ("Content-Type", "message/rfc822"),
            ("Content-Length", str(message.size)),
        ]
        progress = _Progress()
        try:
            async with progress.limit:
                # The addresses are those that were checked. A second lookup could give other ones.
                answer = await self._client.post(
                    Origin(host.name, self._port, host.addresses, context),
                    "/mxdeliv",
                    headers,
                    lambda: _body(message, progress),
                )
        except (OSError, ValueError) as error:
            raise HttpsFailed(*_describe_failure(error)) from None
        if answer.status != 200:
            raise HttpsFailed(f"{answer.status} {_find_reply(answer.text)}".strip(), "answer")
        if not progress.all_sent:
            raise HttpsFailed("200 before it had the whole message", "answer")
        if not _is_taken(answer.content_type, answer.text):
            raise HttpsFailed("200, but not as a relay answers", "answer")


def _body(message: Message, progress: _Progress) -> Iterator[bytes]:
    progress.all_sent = False
    for chunk in message.chunks():
        progress.expect(PIECE_SECONDS)
        yield chunk
    progress.all_sent = True
    progress.expect(ANSWER_SECONDS)


def _is_taken(content_type: str, text: str) -> bool:
    """Return whether an answer with status 200 means that a relay accepted the message."""
    kind = content_type.partition(";")[0].strip().lower()
    if kind not in ("", "text/plain"):
        return False
    return TAKEN.match(text) is not None or not (kind or text)


def _find_reply(text: str) -> str:
    """Return the SMTP reply at the beginning of an answer, or "" without one."""
    found = REPLY.match(text)
    return found[0] if found else ""


def _describe_failure(error: Exception) -> tuple[str, str]:
    """Return the text and the kind of HttpsFailed for an error."""
    if isinstance(error, TimeoutError):
        return "timed out", "timeout"
    if isinstance(error, ssl.SSLError):
        return f"TLS failed: {tls_reason(error)}", "tls"
    if isinstance(error, NoAnswer):
        return str(error), "connection"
    # Other texts may quote bytes from the other side, so they are not used.
    return getattr(error, "strerror", None) or type(error).__name__, "connection"
