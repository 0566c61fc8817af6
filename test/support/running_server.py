"""An HTTP server of a service on a free port, and a client that asks it."""

import contextlib

import aiohttp
from support.transport_peers import free_port


@contextlib.asynccontextmanager
async def client_of(server):
    """Run an http_server.Server within the event loop. Yield an aiohttp session that asks it."""
    port = free_port()
    await server.listen("127.0.0.1", port)
    try:
        async with aiohttp.ClientSession(f"http://127.0.0.1:{port}") as session:
            yield session
    finally:
        await server.stop()
