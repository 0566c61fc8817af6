"""The pages of a relay: the answers of nginx, and their look in a browser."""

import asyncio
import contextlib
import imaplib
import json
import urllib.error
import urllib.parse
import urllib.request
from pathlib import Path

import pytest
from relay import elsewhere
from relay.client import tls_context
from support import browser

ARTIFACTS = Path(__file__).parents[2] / "artifacts" / "website"
APPLY = "salt-call --local --retcode-passthrough state.apply chatmail.website,chatmail.nginx"
MTA_STS = "/.well-known/mta-sts.txt"
AUTOCONFIG = "/.well-known/autoconfig/mail/config-v1.1.xml"


def get(relay, path):
    """Return status, headers and body of a path on the relay."""
    url = f"https://{relay.domain}{path}"
    try:
        with urllib.request.urlopen(url, timeout=10, context=tls_context()) as answer:
            return answer.status, answer.headers, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.headers, error.read().decode()


def settings(relay):
    return json.loads(relay.run("cat /etc/chatmail/relay.json").stdout)


@contextlib.contextmanager
def pillar(relay, **more):
    """Apply the website with further pillar, and again without it at the end."""
    override = json.dumps({"chatmail": {"mail_domain": relay.domain, **more}})
    try:
        relay.run(f"{APPLY} pillar='{override}'")
        yield
    finally:
        relay.run(APPLY)


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("/", "text/html"),
        ("/info", "text/html"),
        ("/privacy", "text/html"),
        ("/style.css", "text/css"),
        ("/icon.svg", "image/svg+xml"),
        (MTA_STS, "text/plain"),
        (AUTOCONFIG, "text/xml"),
    ],
)
def test_path_is_served_as_what_it_is(relay, path, kind):
    status, headers, _ = get(relay, path)
    assert (status, headers.get_content_type()) == (200, kind)


def test_pages_forbid_whatever_they_do_not_bring_themselves(relay):
    for path in ("/", "/info", "/privacy", "/nothing-here"):
        policy = get(relay, path)[1]["Content-Security-Policy"]
        assert "default-src 'none'" in policy
        assert "unsafe" not in policy


@browser.needed
def test_browser_shows_pages_without_error_and_an_invitation_that_works(relay, tmp_path):
    self_signed = settings(relay)["tls_mode"] == "self_signed"
    artifacts = elsewhere.writable(ARTIFACTS, tmp_path)
    flags = [] if relay.in_dns else [f"--host-resolver-rules=MAP {relay.domain} {relay.ip}"]

    async def look():
        async with browser.open_page(chromium) as page:
            for name in ("", "info", "privacy"):
                for width in (390, 1280):
                    for scheme in ("light", "dark"):
                        url = f"https://{relay.domain}/{name}"
                        await page.open(url, width=width, scheme=scheme)
                        if self_signed and not name:
                            await page.wait_for("document.querySelector('.code svg') !== null")
                        shot = f"lab-{relay.domain}-{name or 'start'}-{width}-{scheme}.png"
                        await page.screenshot(artifacts / shot)
                        wide = await page.evaluate("document.documentElement.scrollWidth")
                        assert wide == width, shot
            await page.open(f"https://{relay.domain}/", width=390)
            link = await page.wait_for(
                "!document.querySelector('.invite .button').hidden"
                " && document.querySelector('.invite .button').href"
            )
            await page.screenshot(tmp_path / "page.png")
            return link, page.errors

    with browser.running_browser(*flags) as chromium:
        link, errors = asyncio.run(look())
    assert errors == []
    [scanned] = browser.decode_qr(tmp_path / "page.png")
    if self_signed:
        assert scanned == link
        assert login(relay, link) == "OK"
    else:
        assert scanned == f"DCACCOUNT:https://{relay.domain}/new"
        assert link.lower() == scanned.lower()


def login(relay, link):
    """Log in with a `dclogin:` link; return the answer of the IMAP server."""
    address, _, query = link.removeprefix("dclogin:").partition("?")
    [password] = urllib.parse.parse_qs(query)["p"]
    with imaplib.IMAP4_SSL(relay.domain, ssl_context=tls_context(), timeout=10) as imap:
        return imap.login(urllib.parse.unquote(address), password)[0]


def test_www_folder_of_the_operator_replaces_our_pages(relay):
    relay.run("mkdir -p /srv/pages && echo '# Our *own* page' > /srv/pages/index.md")
    with pillar(relay, www_folder="/srv/pages"):
        assert "<h1>Our <em>own</em> page</h1>" in get(relay, "/")[2]
        assert get(relay, "/privacy")[0] == 404
    assert get(relay, "/privacy")[0] == 200


def test_www_folder_disabled_leaves_what_machines_ask_for(relay):
    with pillar(relay, www_folder="disabled"):
        for path in ("/", "/info", "/privacy", "/style.css"):
            assert get(relay, path)[0] == 404, path
        assert get(relay, MTA_STS)[0] == 200
        assert get(relay, AUTOCONFIG)[0] == 200
        request = urllib.request.Request(f"https://{relay.domain}/new", method="POST")
        with urllib.request.urlopen(request, timeout=10, context=tls_context()) as answer:
            assert json.load(answer)["email"]
    assert get(relay, "/")[0] == 200
