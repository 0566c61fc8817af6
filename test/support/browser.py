"""Headless Chromium for tests, driven by its DevTools protocol: one page, looked at from outside.

`BROWSER` is None where Chromium is not installed. https://chromedevtools.github.io/devtools-protocol/
"""

import asyncio
import base64
import contextlib
import shutil
import subprocess
import tempfile
from pathlib import Path

import aiohttp
import pytest

BROWSER = shutil.which("chromium")
needed = pytest.mark.skipif(
    not (BROWSER and shutil.which("zbarimg")),
    reason="needs Debian's packages chromium and zbar-tools",
)
# Without the background flags Chromium asks its maker's hosts at every start.
FLAGS = [
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
    "--ignore-certificate-errors", "--hide-scrollbars", "--remote-debugging-port=0",
]  # fmt: skip
PATIENCE = 30  # seconds that any one step may take


class Page:
    """A browser tab: what it was told, and the errors it reported meanwhile."""

    def __init__(self, socket):
        self.socket = socket
        self.sent = 0
        self.errors = []
        self.events = set()

    async def call(self, method, **parameters):
        """Send one command and return its result. Raises RuntimeError for the browser's error."""
        self.sent += 1
        await self.socket.send_json({"id": self.sent, "method": method, "params": parameters})
        while True:
            answer = await self.socket.receive_json(timeout=PATIENCE)
            if answer.get("id") == self.sent:
                if "error" in answer:
                    raise RuntimeError(f"{method}: {answer['error']}")
                return answer["result"]
            self.note(answer)

    def note(self, event):
        """Keep what the tests ask about: console errors, exceptions, finished loads."""
        method, parameters = event["method"], event["params"]
        self.events.add(method)
        if method == "Runtime.exceptionThrown":
            self.errors.append(parameters["exceptionDetails"]["text"])
        elif method == "Log.entryAdded" and parameters["entry"]["level"] == "error":
            self.errors.append(f"{parameters['entry']['text']} {parameters['entry'].get('url')}")
        elif method == "Runtime.consoleAPICalled" and parameters["type"] in ("error", "assert"):
            self.errors.append(str(parameters["args"]))

    async def open(self, url, width=1280, height=900, scheme="light"):
        """Load a page at a size in CSS pixels and wait for it; scheme: light or dark."""
        for domain in ("Page", "Runtime", "Log"):
            await self.call(f"{domain}.enable")
        await self.call(
            "Emulation.setDeviceMetricsOverride",
            width=width, height=height, deviceScaleFactor=1, mobile=width < 600,
        )  # fmt: skip
        await self.call(
            "Emulation.setEmulatedMedia",
            features=[{"name": "prefers-color-scheme", "value": scheme}],
        )
        self.events.clear()
        await self.call("Page.navigate", url=url)
        async with asyncio.timeout(PATIENCE):
            while "Page.loadEventFired" not in self.events:
                self.note(await self.socket.receive_json())

    async def evaluate(self, expression):
        """Return the value of a JavaScript expression; a promise is awaited."""
        answer = await self.call(
            "Runtime.evaluate", expression=expression, awaitPromise=True, returnByValue=True
        )
        if "exceptionDetails" in answer:
            raise RuntimeError(f"{expression}: {answer['exceptionDetails']}")
        return answer["result"].get("value")

    async def wait_for(self, expression):
        """Return the value of an expression as soon as it is true."""
        async with asyncio.timeout(PATIENCE):
            while not (value := await self.evaluate(expression)):
                await self.evaluate("new Promise(requestAnimationFrame)")
        return value

    async def screenshot(self, path: Path):
        """Write the whole page, not only what fits the window, as a PNG file."""
        answer = await self.call("Page.captureScreenshot", captureBeyondViewport=True)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(base64.b64decode(answer["data"]))


@contextlib.asynccontextmanager
async def browser_page(*flags):
    """Start Chromium with further flags, yield its one Page, and end it."""
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        process = subprocess.Popen(
            [BROWSER, *FLAGS, *flags, f"--user-data-dir={profile}", "about:blank"],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        try:
            port = await devtools_port(Path(profile), process)
            async with aiohttp.ClientSession() as session:
                async with session.get(f"http://127.0.0.1:{port}/json") as answer:
                    tabs = await answer.json()
                [tab] = [tab for tab in tabs if tab["type"] == "page"]
                async with session.ws_connect(
                    tab["webSocketDebuggerUrl"], max_msg_size=0
                ) as socket:
                    yield Page(socket)
        finally:
            process.terminate()
            process.wait()


async def devtools_port(profile: Path, process: subprocess.Popen) -> int:
    """Return the port that Chromium chose, once it has written it down."""
    written = profile / "DevToolsActivePort"
    async with asyncio.timeout(PATIENCE):
        while not written.exists() or not written.read_text().strip():
            if process.poll() is not None:
                raise RuntimeError(f"{BROWSER} ended with {process.returncode} before it was ready")
            await asyncio.sleep(0.05)  # Chromium tells nobody when the file is there
    return int(written.read_text().split()[0])


def decode_qr(picture: Path) -> list[str]:
    """Return the texts of all QR codes in a picture, as zbarimg (package zbar-tools) reads them."""
    found = subprocess.run(
        ["zbarimg", "--quiet", "--raw", "-Sdisable", "-Sqrcode.enable", str(picture)],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    return found.stdout.splitlines()
