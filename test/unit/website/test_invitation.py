"""An invitation in a browser. The token is after the # in the address of the page."""

import asyncio

import pytest
from support import browser
from support.website import ARTIFACTS, webdev

TOKEN = "Ax9_-zQ3mT7pLw5RkVbN2c"
PRESS = "document.querySelector('[data-invite=ask]').click()"
FRAME = "new Promise(requestAnimationFrame)"
SHOWN = """
Object.fromEntries(["code", "link", "status", "ask"].map((part) => {
  const element = document.querySelector(`[data-invite=${part}]`);
  return [part, element.checkVisibility() && (element.getAttribute("href") || element.innerText)];
}))
"""


@pytest.fixture
def asked(monkeypatch):
    """Return the list of the paths to which the page has sent a POST."""
    paths = []
    answer_new = webdev.answer_new

    def answer(settings, path):
        paths.append(path)
        return answer_new(settings, path)

    monkeypatch.setattr(webdev, "answer_new", answer)
    return paths


@pytest.fixture
def visit(chromium):
    """Return a function that opens an invitation in a window of a phone's size."""

    def visited(site, shot, *steps, scheme="light"):
        """Return what the page shows at first and after each step. A step is JavaScript.

        shot: name of the picture of the last view, in ARTIFACTS.
        """

        async def look():
            async with browser.open_page(chromium) as page:
                await page.open(site, width=360, height=740, scheme=scheme)
                shown = []
                for step in (None, *steps):
                    if step:
                        await page.evaluate(step)
                    await page.evaluate(f"{FRAME}.then(() => {FRAME})")
                    while "Asking the relay" in (now := await page.evaluate(SHOWN))["status"]:
                        await page.evaluate(FRAME)
                    shown.append(now)
                await page.screenshot(ARTIFACTS / shot)
                assert await page.evaluate("document.documentElement.scrollWidth") == 360
                return shown, page.errors

        shown, errors = asyncio.run(look())
        # The browser reports a refusal of the relay as an error.
        assert [error for error in errors if "responded with a status of" not in error] == []
        return shown

    return visited


def only(status, ask=False):
    """Return what the page shows without a code."""
    return {"code": False, "link": False, "status": status, "ask": ask}


NO_INVITATION = only("New addresses are by invitation: open the link of yours to see it here.")


@browser.needed
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_token_is_shown_as_a_code_and_nothing_is_asked(visit, serve, asked, scheme):
    site = serve(registration="invite")
    shot = f"invite-domain-{scheme}.png"
    [shown] = visit(f"{site}/#{TOKEN}", shot, scheme=scheme)
    link = f"DCACCOUNT:https://chat.example.org/new?token={TOKEN}"
    assert (shown["link"], shown["ask"]) == (link, False)
    assert "Scan the code" in shown["status"]
    assert browser.decode_qr(ARTIFACTS / shot) == [link]
    assert asked == []


@browser.needed
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_opening_the_page_on_a_self_signed_relay_does_not_use_the_token(
    visit, serve, asked, scheme
):
    site = serve(mail_domain="_chat.example.org", registration="invite")
    [shown] = visit(f"{site}/#{TOKEN}", f"invite-self-signed-{scheme}.png", scheme=scheme)
    message = "You are invited. Press the button once you want your address."
    assert shown == only(message, "Make my address")
    assert asked == []


@browser.needed
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_button_on_a_self_signed_relay_uses_the_token_once(visit, serve, asked, scheme):
    site = serve(mail_domain="_chat.example.org", registration="invite")
    shot = f"invite-self-signed-made-{scheme}.png"
    _, shown = visit(f"{site}/#{TOKEN}", shot, f"{PRESS}; {PRESS}", scheme=scheme)
    link = webdev.NEW_ADDRESS["dclogin_url"]
    assert (shown["link"], shown["ask"]) == (link, False)
    assert shown["status"] == f"Made for you: {webdev.NEW_ADDRESS['email']}"
    assert browser.decode_qr(ARTIFACTS / shot) == [link]
    assert asked == [f"/new?token={TOKEN}"]


@browser.needed
@pytest.mark.parametrize("mail_domain", ["chat.example.org", "_chat.example.org"])
def test_page_without_a_token_says_that_it_takes_an_invitation(visit, serve, asked, mail_domain):
    site = serve(mail_domain=mail_domain, registration="invite")
    malformed = ["info", TOKEN[:21], "x" * 44, f"{TOKEN}%22", f"{TOKEN}&a"]
    steps = [f"location.hash = '{fragment}'" for fragment in malformed]
    assert visit(site, f"invite-none-{mail_domain}.png", *steps) == [NO_INVITATION] * 6
    assert asked == []


@browser.needed
def test_another_token_in_the_same_tab_is_shown_instead(visit, serve):
    site = serve(registration="invite")
    steps = [f"location.hash = '{'0' * 43}'", "location.hash = ''"]
    first, second, third = visit(f"{site}/#{TOKEN}", "invite-other.png", *steps)
    assert first["link"].endswith(f"token={TOKEN}")
    assert second["link"].endswith(f"token={'0' * 43}")
    assert third == NO_INVITATION


@browser.needed
def test_page_of_an_open_relay_sends_one_request_only(visit, serve, asked):
    site = serve(mail_domain="_chat.example.org")
    shown = visit(f"{site}/#{TOKEN}", "invite-open.png", "location.hash = 'elsewhere'")
    assert [each["link"] for each in shown] == [webdev.NEW_ADDRESS["dclogin_url"]] * 2
    assert asked == ["/new"]


OF_NETWORK = "Too many new addresses were asked for from your network. Please try again later."
SHORT = "The relay cannot take in new people just now. Please try again later."


@browser.needed
@pytest.mark.parametrize(
    ("registration", "status", "outcome"),
    [
        ("open", 429, only(OF_NETWORK, "Try again")),
        ("invite", 403, only("This invitation is used up or no longer valid.")),
        ("invite", 503, only(SHORT, "Make my address")),
    ],
)
def test_refusal_is_shown_in_plain_words(visit, serve, monkeypatch, registration, status, outcome):
    monkeypatch.setattr(webdev, "answer_new", lambda *_: (status, {}))
    site = serve(mail_domain="_chat.example.org", registration=registration)
    steps = [PRESS] if registration == "invite" else []
    assert visit(f"{site}/#{TOKEN}", f"invite-{status}.png", *steps)[-1] == outcome
