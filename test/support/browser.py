"""Headless Chromium for tests of one page. The tests control it by its DevTools protocol.

`BROWSER` is None if Chromium is not installed. https://chromedevtools.github.io/devtools-protocol/
"""

import asyncio
import base64
import contextlib
import shutil
import subprocess
import tempfile
import time
from pathlib import Path

import aiohttp
import pytest

BROWSER = shutil.which("chromium")
needed = pytest.mark.skipif(
    not (BROWSER and shutil.which("zbarimg")),
    reason="needs Debian's packages chromium and zbar-tools",
)
# Without the background flags, Chromium sends requests to Google at every start.
FLAGS = [
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
    "--ignore-certificate-errors", "--hide-scrollbars", "--remote-debugging-port=0",
]  # fmt: skip
PATIENCE = 30  # seconds that each step may take


class Page:
    """A browser tab, with the events and the errors that it has reported so far."""

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
        await self.show_at(width, height, scheme)
        self.events.clear()
        await self.call("Page.navigate", url=url)
        async with asyncio.timeout(PATIENCE):
            while "Page.loadEventFired" not in self.events:
                self.note(await self.socket.receive_json())

    async def show_at(self, width, height=900, scheme="light"):
        """Give the window another size and the browser another colour scheme."""
        await self.call(
            "Emulation.setDeviceMetricsOverride",
            width=width, height=height, deviceScaleFactor=1, mobile=width < 600,
        )  # fmt: skip
        await self.call(
            "Emulation.setEmulatedMedia",
            features=[{"name": "prefers-color-scheme", "value": scheme}],
        )

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
        answer = await self.call(
            "Page.captureScreenshot", captureBeyondViewport=True, optimizeForSpeed=True
        )
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(base64.b64decode(answer["data"]))


@contextlib.contextmanager
def running_browser(*flags):
    """Start Chromium with further flags, yield the address of its DevTools, and end it."""
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        process = subprocess.Popen(
            [BROWSER, *FLAGS, *flags, f"--user-data-dir={profile}", "about:blank"],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        try:
            yield devtools_address(Path(profile), process)
        finally:
            process.terminate()
            process.wait()


def devtools_address(profile: Path, process: subprocess.Popen) -> str:
    """Return the address on which Chromium listens, once the file with this address exists."""
    written = profile / "DevToolsActivePort"
    deadline = time.monotonic() + PATIENCE
    while not written.exists() or len(written.read_text().split()) < 2:
        if process.poll() is not None:
            raise RuntimeError(f"{BROWSER} ended with {process.returncode} before it was ready")
        if time.monotonic() > deadline:
            raise RuntimeError(f"{BROWSER} was not ready within {PATIENCE} s")
        time.sleep(0.02)  # Chromium sends no message when the file is there
    port, path = written.read_text().split()
    return f"ws://127.0.0.1:{port}{path}"


@contextlib.asynccontextmanager
async def open_page(devtools: str):
    """Yield a new Page of a running browser, without the cookies and the cache of earlier pages."""
    async with aiohttp.ClientSession() as session, connect(session, devtools) as socket:
        browser = Page(socket)
        context = await browser.call("Target.createBrowserContext")
        target = await browser.call("Target.createTarget", url="about:blank", **context)
        tab = f"{devtools.partition('/devtools/')[0]}/devtools/page/{target['targetId']}"
        try:
            async with connect(session, tab) as of_tab:
                yield Page(of_tab)
        finally:
            await browser.call("Target.disposeBrowserContext", **context)


def connect(session: aiohttp.ClientSession, address: str):
    """Open a connection that takes answers of any size, such as pictures."""
    return session.ws_connect(address, max_msg_size=0)


def decode_qr(picture: Path) -> list[str]:
    """Return the texts of all QR codes in a picture, as zbarimg (package zbar-tools) reads them."""
    found = subprocess.run(
        ["zbarimg", "--quiet", "--raw", "-Sdisable", "-Sqrcode.enable", str(picture)],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    return found.stdout.splitlines()
