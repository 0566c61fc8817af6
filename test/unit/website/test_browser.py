"""The pages in a browser."""

import asyncio
import itertools

import pytest
from support import browser
from support.website import ARTIFACTS, CONTACTS, webdev


@browser.needed
@pytest.mark.parametrize(
    "mail_domain",
    ["chat.example.org", "_chat.example.org", "a-relay-with-quite-a-long-name.chat.example.org"],
)
def test_pages_fit_every_screen_and_report_no_error(chromium, serve, mail_domain):
    site = serve(mail_domain=mail_domain, **CONTACTS)

    async def look():
        async with browser.open_page(chromium) as page:
            for name in ("", "info", "privacy"):
                await page.open(f"{site}/{name}", width=320)
                if mail_domain.startswith("_") and not name:
                    await page.wait_for("document.querySelector('.code svg') !== null")
                for width, scheme in itertools.product((320, 390, 1280), ("light", "dark")):
                    await page.show_at(width, scheme=scheme)
                    shot = f"{mail_domain}-{name or 'start'}-{width}-{scheme}.png"
                    await page.screenshot(ARTIFACTS / shot)
                    wide = await page.evaluate("document.documentElement.scrollWidth")
                    assert wide == width, shot
            assert page.errors == []

    asyncio.run(look())


@browser.needed
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_qr_code_on_the_page_reads_as_the_invitation(chromium, serve, tmp_path, scheme):
    site = serve()

    async def look():
        async with browser.open_page(chromium) as page:
            await page.open(site, width=390, scheme=scheme)
            await page.screenshot(tmp_path / "page.png")

    asyncio.run(look())
    assert browser.decode_qr(tmp_path / "page.png") == ["DCACCOUNT:https://chat.example.org/new"]


@browser.needed
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_self_signed_page_shows_a_fetched_login_as_link_and_qr_code(
    chromium, serve, tmp_path, scheme
):
    site = serve(mail_domain="_chat.example.org")

    async def look():
        async with browser.open_page(chromium) as page:
            await page.open(site, width=390, scheme=scheme)
            link = await page.wait_for("document.querySelector('a[href^=dclogin]')?.href")
            shown = await page.evaluate(
                "document.querySelector('a[href^=dclogin]').checkVisibility()"
            )
            await page.screenshot(tmp_path / "page.png")
            return link, shown, page.errors

    link, shown, errors = asyncio.run(look())
    assert (link, shown, errors) == (webdev.NEW_ADDRESS["dclogin_url"], True, [])
    assert browser.decode_qr(tmp_path / "page.png") == [link]


@browser.needed
def test_self_signed_page_when_refused_says_so_and_tries_again_on_request(
    chromium, serve, monkeypatch
):
    site = serve(mail_domain="_chat.example.org")
    monkeypatch.setattr(webdev, "NEW_ADDRESS", {"error": "too much load"})

    async def look():
        async with browser.open_page(chromium) as page:
            await page.open(site)
            await page.wait_for("!document.querySelector('[data-invite=ask]').hidden")
            message = await page.evaluate("document.querySelector('[role=status]').textContent")
            link = await page.evaluate("document.querySelector('[data-invite=link]').hidden")
            monkeypatch.undo()
            await page.evaluate("document.querySelector('[data-invite=ask]').click()")
            await page.wait_for("document.querySelector('a[href^=dclogin]') !== null")
            return message, link

    message, link_hidden = asyncio.run(look())
    assert "No new address could be had" in message
    assert link_hidden
