"""The gateway for /mxdeliv as nginx sees it, and the smtpd of Postfix behind it."""

import asyncio
import contextlib

import aiohttp
from aiosmtpd.smtp import SMTP
from chatmaild.transport import gateway
from support import transport_peers as peers

MAX_SIZE = 100_000
ENVELOPE = (("X-Mail-From", "a@b.example"), ("X-Mail-To", "x@ours.example"))


class Smtpd(peers.SmtpPeer):
    """Postfix's smtpd behind /mxdeliv."""

    def __init__(self, xclient=True, **refusals):
        super().__init__(**refusals)
        self.offers_xclient = xclient
        self.clients = []

    async def handle_EHLO(self, server, session, envelope, hostname, responses):
        responses = await super().handle_EHLO(server, session, envelope, hostname, responses)
        offer = ["250-XCLIENT NAME ADDR"] if self.offers_xclient else []
        return [responses[0], *offer, *responses[1:]]

    async def handle_MAIL(self, server, session, envelope, address, options):
        if "MAIL" in self.refusals:
            return self.refusals["MAIL"]
        envelope.mail_from = address
        return "250 2.1.0 ok"

    @contextlib.asynccontextmanager
    async def at(self, address, port):
        loop = asyncio.get_running_loop()
        peer = self

        class Session(SMTP):
            async def smtp_XCLIENT(self, arg):
                peer.clients.append(arg)
                self._set_rset_state()
                self.session.host_name = None
                await self.push("220 peer.example ESMTP")

        server = await loop.create_server(
            lambda: Session(self, data_size_limit=None, hostname="peer", loop=loop), address, port
        )
        try:
            yield self
        finally:
            server.close()


@contextlib.asynccontextmanager
async def running_gateway(tmp_path, smtpd=None):
    """Run the gateway as nginx sees it. Yield post(), which returns status and text."""
    smtpd_port = peers.free_port()
    made = gateway.Gateway("ours.example", MAX_SIZE, str(tmp_path), smtpd_port)
    server = made.server()
    port = peers.free_port()
    await server.listen("127.0.0.1", port)

    async def post(body=peers.MESSAGE, headers=ENVELOPE, method="POST", client="192.0.2.7"):
        pairs = [*headers, *([("X-Real-IP", client)] if client is not None else [])]
        async with aiohttp.ClientSession() as session:
            url = f"http://127.0.0.1:{port}/mxdeliv"
            async with session.request(method, url, data=body, headers=pairs) as response:
                return response.status, await response.text()

    try:
        async with contextlib.AsyncExitStack() as stack:
            if smtpd:
                await stack.enter_async_context(smtpd.at("127.0.0.1", smtpd_port))
            yield post
    finally:
        await server.stop()


def post(tmp_path, smtpd=None, **request):
    async def run():
        async with running_gateway(tmp_path, smtpd) as ask:
            return await ask(**request)

    return asyncio.run(run())


class Slow(Smtpd):
    """Postfix's smtpd, which answers RCPT only after `may_go_on`."""

    def __init__(self):
        super().__init__()
        self.asked, self.may_go_on = asyncio.Event(), asyncio.Event()

    async def handle_RCPT(self, *arguments):
        self.asked.set()
        await self.may_go_on.wait()
        return await super().handle_RCPT(*arguments)


async def give_up(ask, smtpd):
    """Begin a request, break it off before a slow smtpd has answered, and let smtpd go on."""
    asking = asyncio.create_task(ask())
    await smtpd.asked.wait()
    asking.cancel()
    await asyncio.wait([asking])
    # The gateway reads the end of the connection before the next request on another one.
    assert (await ask(method="GET"))[0] == 405
    smtpd.may_go_on.set()
