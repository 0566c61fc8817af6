"""The web pages: what is built, how it is installed, and what a browser makes of it."""

import asyncio
import importlib.util
import json
import re
import shutil
import stat
import subprocess
import sys
import threading
import xml.etree.ElementTree as ElementTree
from http.server import ThreadingHTTPServer
from pathlib import Path

import pytest
import segno
from support import browser

ROOT = Path(__file__).parents[2]
ARTIFACTS = ROOT / "artifacts" / "website"
PROGRAM = ROOT / "chatmail/website/files/build.py"


def load(path):
    spec = importlib.util.spec_from_file_location(f"tested_{path.stem}", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


webdev = load(ROOT / "chatmail/website/webdev.py")
build = webdev.builder
PAGES = ("index.html", "info.html", "privacy.html")
CONTACTS = {
    "privacy_postal": "Ada & Co <relay>\n  Example Street 1\n12345 Town",
    "privacy_mail": "privacy@example.org",
    "privacy_pdo": "Dr. Data_Guard",
    "privacy_supervisor": "State *Authority*",
}


def settings(mail_domain="chat.example.org", **more):
    return webdev.resolve({"chatmail": {"mail_domain": mail_domain, **more}})


def pages(*arguments, **more):
    return {name: body.decode() for name, body in build.build(settings(*arguments, **more)).items()}


def words(page):
    """Return a page's text as a reader sees it."""
    return " ".join("".join(ElementTree.fromstring(as_xml(page)).itertext()).split())


def as_xml(page):
    """Return a page as XML, which has no elements without an end."""
    page = re.sub(
        r"<((?:meta|link|img|br)\b[^>]*)>", r"<\1/>", page.removeprefix("<!DOCTYPE html>")
    )
    return page.replace(" defer>", ' defer="">').replace(" hidden>", ' hidden="">')


# What is built.


def test_info_page_tells_the_relays_own_limits():
    info = words(
        pages(
            max_message_size="12M",
            max_mailbox_size="2G",
            delete_mails_after=1,
            delete_large_after=3,
            delete_inactive_users_after=45,
            max_user_send_per_minute=70,
            username_min_length=6,
            username_max_length=12,
            password_min_length=11,
        )["info.html"]
    )
    for expected in (
        "up to 12 MB",
        "up to 2 GB",
        "Messages deleted after 1 day ",
        "deleted after 3 days",
        "deleted after 45 days",
        "70 messages a minute",
        "6 to 12 characters",
        "11 characters or more",
    ):
        assert expected in info


def test_privacy_page_names_contacts_as_they_were_written():
    privacy = pages(**CONTACTS)["privacy.html"]
    assert "Ada & Co <relay> Example Street 1 12345 Town" in words(privacy)
    assert privacy.count("<br>") == 2
    assert 'href="mailto:privacy@example.org"' in privacy
    assert "Dr. Data_Guard" in words(privacy)
    assert "State *Authority*" in words(privacy)


def test_privacy_page_without_contacts_says_so():
    built = pages()
    assert "have not published their names" in words(built["privacy.html"])
    assert "have not published a mail address" in words(built["info.html"])
    assert "mailto:" not in "".join(built[name] for name in PAGES)
    assert "None" not in words(built["privacy.html"])


@pytest.mark.parametrize(
    "hostile", ["<script>alert(1)</script>", "{{ 7 * 7 }}", "# _a_ `b` [c](d)"]
)
def test_setting_with_markup_stays_text(hostile):
    assert hostile in words(pages(privacy_postal=hostile)["privacy.html"])


def test_underscore_of_a_test_domain_starts_no_emphasis():
    built = pages("_chat.example.org")
    assert "Chat privately with _chat.example.org" in words(built["index.html"])
    assert "<em>" not in "".join(built[name] for name in PAGES)


def test_pages_load_nothing_from_elsewhere_and_hold_no_script():
    for name, page in {**pages(), **pages("_chat.example.org")}.items():
        if name.endswith(".html"):
            for tag in re.findall(r"<(?:img|link|script)\b[^>]*>", page):
                assert re.search(r'(?:src|href)="/[^/]', tag), tag
            assert "style=" not in page
            assert not re.search(r"<script[^>]*>[^<]", page)
            assert not re.search(r"\son\w+=", page)
        if name.endswith(".css"):
            assert "url(" not in page
            assert "@import" not in page


@pytest.mark.parametrize(
    ("mail_domain", "invited"),
    [("chat.example.org", True), ("_chat.example.org", False), ("13.12.23.42", False)],
)
def test_invitation_by_certificate_is_ready_made_or_fetched(mail_domain, invited):
    built = pages(mail_domain)
    assert ("invite.svg" in built) is invited
    assert (f'href="DCACCOUNT:https://{mail_domain}/new"' in built["index.html"]) is invited
    assert ('src="/invite.js"' in built["index.html"]) is not invited


def test_invitation_while_no_addresses_are_given_out_is_none():
    built = pages(nocreate=True)
    assert "No new addresses at the moment" in words(built["index.html"])
    assert "DCACCOUNT:" not in built["index.html"]
    assert "no new addresses at the moment" in words(built["info.html"])


@pytest.mark.parametrize("mail_domain", ["chat.example.org", "_chat.example.org", "13.12.23.42"])
def test_invitation_where_addresses_take_one_is_in_no_file(mail_domain):
    """A code for everybody would be refused; without JavaScript the page says what it is about."""
    built = pages(mail_domain, registration="invite")
    index = built["index.html"]
    assert "invite.svg" not in built
    assert 'href="DCACCOUNT' not in index
    assert ('data-account="DCACCOUNT:' in index) is not mail_domain.startswith(("_", "13"))
    assert "New addresses are by invitation. To show yours" in words(index)
    assert "Open the link of your invitation" in words(index)
    assert "Scan this code" not in words(index)
    assert "New addresses are by invitation" in words(built["info.html"])


def test_build_twice_gives_the_same_bytes():
    assert pages(**CONTACTS) == pages(**CONTACTS)


@pytest.mark.parametrize(
    ("count", "expected"),
    [
        (31457280, "30 MB"),
        (500 * 2**20, "500 MB"),
        (1000 * 2**20, "1000 MB"),
        (2**30, "1 GB"),
        (3 * 2**29, "1.5 GB"),
        (2**19, "0.5 MB"),
    ],
)
def test_size_reads_as_people_write_it(count, expected):
    assert build.size(count) == expected


# The two well-known files.


@pytest.mark.parametrize("mail_domain", ["chat.example.org", "_chat.example.org"])
def test_mta_sts_policy_names_the_mx_and_ends_lines_by_crlf(mail_domain):
    assert pages(mail_domain)[".well-known/mta-sts.txt"] == (
        f"version: STSv1\r\nmode: enforce\r\nmx: {mail_domain}\r\nmax_age: 2419200\r\n"
    )


def test_mta_sts_policy_of_an_address_without_a_name_is_none():
    assert ".well-known/mta-sts.txt" not in pages("13.12.23.42")


@pytest.mark.parametrize("mail_domain", ["chat.example.org", "_chat.example.org", "13.12.23.42"])
def test_autoconfig_lists_every_port_of_the_relay(mail_domain):
    config = ElementTree.fromstring(
        pages(mail_domain)[".well-known/autoconfig/mail/config-v1.1.xml"]
    )
    assert config.findtext("emailProvider/domain") == mail_domain
    servers = [
        (server.get("type"), int(server.findtext("port")), server.findtext("socketType"))
        for server in config.iterfind("emailProvider/*[@type]")
    ]
    assert servers == [
        ("imap", 993, "SSL"),
        ("imap", 143, "STARTTLS"),
        ("imap", 443, "SSL"),
        ("smtp", 465, "SSL"),
        ("smtp", 587, "STARTTLS"),
        ("smtp", 443, "SSL"),
    ]
    for server in config.iterfind("emailProvider/*[@type]"):
        assert server.findtext("hostname") == mail_domain
        assert server.findtext("username") == "%EMAILADDRESS%"
        assert server.findtext("authentication") == "password-cleartext"


# The operator's own pages.


@pytest.fixture
def folder(tmp_path):
    """A folder with one page of the operator's."""
    path = tmp_path / "www"
    path.mkdir()
    (path / "index.md").write_text("# Hi from {{ relay.mail_domain }}\n\n{{ invite }}\n")
    return path


def test_www_folder_disabled_leaves_the_well_known_files_only():
    assert sorted(pages(www_folder="disabled")) == [
        ".well-known/autoconfig/mail/config-v1.1.xml",
        ".well-known/mta-sts.txt",
    ]


def test_www_folder_markdown_is_rendered_and_other_files_are_copied(folder):
    (folder / "about").mkdir()
    (folder / "about" / "us.md").write_text("# Who we are\n\nThree friends.\n")
    (folder / "rules.html").write_text("<p>{{ as it is }}</p>")
    (folder / "photo.png").write_bytes(b"\x89PNG\xff")
    built = build.build(settings(www_folder=str(folder)))
    index = built["index.html"].decode()
    assert "Hi from chat.example.org" in words(index)
    assert 'href="DCACCOUNT:https://chat.example.org/new"' in index
    assert 'href="/privacy"' not in index
    assert "<title>Who we are · chat.example.org</title>" in built["about/us.html"].decode()
    assert built["rules.html"] == b"<p>{{ as it is }}</p>"
    assert built["photo.png"] == b"\x89PNG\xff"
    assert "index.md" not in built
    assert "privacy.html" not in built


def test_www_folder_may_replace_our_style_but_not_the_policy(folder):
    (folder / "style.css").write_text("body {}")
    (folder / ".well-known").mkdir()
    (folder / ".well-known" / "mta-sts.txt").write_text("mode: none")
    (folder / ".well-known" / "security.txt").write_text("Contact: mailto:a@example.org")
    built = build.build(settings(www_folder=str(folder)))
    assert built["style.css"] == b"body {}"
    assert b"mode: enforce" in built[".well-known/mta-sts.txt"]
    assert built[".well-known/security.txt"] == b"Contact: mailto:a@example.org"


def test_www_folder_hidden_files_are_not_published(folder):
    (folder / ".git").mkdir()
    (folder / ".git" / "config").write_text("secret")
    (folder / ".index.md.swp").write_text("secret")
    assert not [
        name
        for name in build.build(settings(www_folder=str(folder)))
        if "git" in name or "swp" in name
    ]


def test_www_folder_symlink_is_refused(folder):
    (folder / "key.pem").symlink_to("/etc/hostname")
    with pytest.raises(build.WebsiteError, match=r"key\.pem is no plain file"):
        build.build(settings(www_folder=str(folder)))


def test_www_folder_missing_is_refused_with_the_next_step(tmp_path):
    with pytest.raises(build.WebsiteError, match="no folder on this machine: put your pages there"):
        build.build(settings(www_folder=str(tmp_path / "nowhere")))


def test_www_folder_without_an_index_page_is_refused(tmp_path):
    with pytest.raises(build.WebsiteError, match=r"neither index\.md nor index\.html"):
        build.build(settings(www_folder=str(tmp_path)))


def test_www_folder_with_two_sources_of_a_page_is_refused(folder):
    (folder / "index.html").write_text("<p>")
    with pytest.raises(
        build.WebsiteError, match=r"index\.md and index\.html would be the same page"
    ):
        build.build(settings(www_folder=str(folder)))


@pytest.mark.parametrize(
    "text", ["{{ nothing }}", "{% if %}", "{{ relay.nothing }}", "{{ relay.__class__.mro() }}"]
)
def test_www_folder_page_that_does_not_render_is_named(folder, text):
    (folder / "broken.md").write_text(text)
    with pytest.raises(build.WebsiteError, match=r"page broken\.md does not render"):
        build.build(settings(www_folder=str(folder)))


# How it is installed.


def run(output, *options, **more):
    return subprocess.run(
        [sys.executable, PROGRAM, *options, output],
        input=json.dumps(settings(**more)),
        capture_output=True,
        text=True,
        check=False,
    )


def content(folder):
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


def test_program_writes_what_nginx_may_read_and_a_second_run_writes_nothing(tmp_path):
    output = tmp_path / "www"
    first = json.loads(run(output).stdout)
    assert content(output) == build.build(settings())
    assert first["added"] == sorted(content(output))
    for path in output.rglob("*"):
        assert stat.S_IMODE(path.stat().st_mode) == (0o755 if path.is_dir() else 0o644)
    before = {path: path.stat().st_ino for path in output.rglob("*")}
    assert json.loads(run(output).stdout) == {"added": [], "changed": [], "removed": []}
    assert {path: path.stat().st_ino for path in output.rglob("*")} == before


def test_program_asked_to_check_tells_and_writes_nothing(tmp_path):
    output = tmp_path / "www"
    assert "index.html" in json.loads(run(output, "--check").stdout)["added"]
    assert not output.exists()
    run(output)
    answer = json.loads(run(output, "--check", delete_mails_after=5).stdout)
    assert answer["changed"] == list(PAGES)
    assert content(output) == build.build(settings())


def test_program_repairs_edits_and_removes_what_does_not_belong_there(tmp_path):
    output, outside = tmp_path / "www", tmp_path / "outside"
    outside.mkdir()
    (outside / "keep").write_text("mine")
    run(output)
    (output / "index.html").write_text("defaced")
    (output / "old" / "page").mkdir(parents=True)
    (output / "old" / "page" / "x.html").write_text("old")
    (output / "link").symlink_to(outside)
    (output / "info.html").unlink()
    (output / "info.html").symlink_to(outside / "keep")
    (output / "style.css").unlink()
    (output / "style.css").mkdir()
    assert json.loads(run(output).stdout) == {
        "added": ["style.css"],
        "changed": ["index.html", "info.html"],
        "removed": ["link", "old/page/x.html"],
    }
    assert content(output) == build.build(settings())
    assert not (output / "old").exists()
    assert (outside / "keep").read_text() == "mine"


def test_program_that_fails_leaves_the_pages_as_they_were(tmp_path):
    output = tmp_path / "www"
    run(output)
    failed = run(output, www_folder="/nonexistent")
    assert failed.returncode == 1
    assert "www_folder is /nonexistent, which is no folder" in failed.stderr
    assert "Traceback" not in failed.stderr
    assert content(output) == build.build(settings())


# The state.


def run_all(command, stdin, stdin_raw_newlines, python_shell):
    """Answer as Salt's cmd.run_all does."""
    assert stdin_raw_newlines is True
    assert python_shell is False
    done = subprocess.run(command, input=stdin, capture_output=True, text=True, check=False)
    return {"retcode": done.returncode, "stdout": done.stdout, "stderr": done.stderr}


@pytest.fixture
def state():
    """The state module, as Salt's loader prepares it."""
    module = load(ROOT / "_states/chatmail_website.py")
    module.__opts__ = {"test": False}
    module.__salt__ = {"cmd.run_all": run_all}
    module.PYTHON = sys.executable
    return module


def test_state_dry_run_tells_what_the_run_then_does_and_a_second_run_nothing(state, tmp_path):
    arguments = {"name": str(tmp_path / "www"), "program": str(PROGRAM), "settings": settings()}
    state.__opts__["test"] = True
    foretold = state.built(**arguments)
    assert foretold["result"] is None
    assert not (tmp_path / "www").exists()
    state.__opts__["test"] = False
    done = state.built(**arguments)
    assert done["result"] is True
    assert done["changes"] == foretold["changes"]
    assert "index.html" in done["changes"]["added"]
    for test in (False, True):
        state.__opts__["test"] = test
        again = state.built(**arguments)
        assert (again["result"], again["changes"]) == (True, {})


def test_state_dry_run_before_the_program_exists_would_build(state, tmp_path):
    state.__opts__["test"] = True
    answer = state.built(str(tmp_path / "www"), str(tmp_path / "build.py"), settings())
    assert answer["result"] is None
    assert answer["changes"]
    assert "not installed yet" in answer["comment"]


def test_state_dry_run_before_the_packages_exist_would_build(state, tmp_path):
    program = tmp_path / "build.py"
    program.write_text("import chatmail_package_that_is_missing")
    state.__opts__["test"] = True
    assert state.built(str(tmp_path / "www"), str(program), settings())["result"] is None
    state.__opts__["test"] = False
    assert state.built(str(tmp_path / "www"), str(program), settings())["result"] is False


@pytest.mark.parametrize("test", [False, True])
def test_state_fails_with_the_programs_own_words(state, tmp_path, test):
    state.__opts__["test"] = test
    answer = state.built(str(tmp_path / "www"), str(PROGRAM), settings(www_folder="/nonexistent"))
    assert answer["result"] is False
    assert answer["changes"] == {}
    assert "www_folder is /nonexistent" in answer["comment"]


def test_state_dry_run_with_a_changed_source_would_build(state, tmp_path):
    """A dry run still has last release's sources, by which the pages are up to date."""
    state.__opts__["test"] = True
    answer = state.mod_watch(str(tmp_path), str(PROGRAM), settings(), sfun="built")
    assert answer["result"] is None
    assert answer["changes"]


# What a browser makes of it.

needs_browser = pytest.mark.skipif(
    not (browser.BROWSER and shutil.which("zbarimg")),
    reason="needs Debian's packages chromium and zbar-tools",
)


@pytest.fixture
def serve():
    """Return a function that serves pages with nginx's headers and returns their address."""
    servers: list[ThreadingHTTPServer] = []

    def start(**more):
        servers.append(webdev.make_server(settings(**more)))
        threading.Thread(target=servers[-1].serve_forever, daemon=True).start()
        return f"http://127.0.0.1:{servers[-1].server_port}"

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


@needs_browser
@pytest.mark.parametrize(
    "mail_domain",
    ["chat.example.org", "_chat.example.org", "a-relay-with-quite-a-long-name.chat.example.org"],
)
def test_pages_fit_every_screen_and_report_no_error(serve, mail_domain):
    site = serve(mail_domain=mail_domain, **CONTACTS)

    async def look():
        async with browser.browser_page() as page:
            for name in ("", "info", "privacy"):
                for width in (320, 390, 1280):
                    for scheme in ("light", "dark"):
                        await page.open(f"{site}/{name}", width=width, scheme=scheme)
                        if mail_domain.startswith("_") and not name:
                            await page.wait_for("document.querySelector('.code svg') !== null")
                        shot = f"{mail_domain}-{name or 'start'}-{width}-{scheme}.png"
                        await page.screenshot(ARTIFACTS / shot)
                        wide = await page.evaluate("document.documentElement.scrollWidth")
                        assert wide == width, shot
            assert page.errors == []

    asyncio.run(look())


@needs_browser
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_qr_code_on_the_page_reads_as_the_invitation(serve, tmp_path, scheme):
    site = serve()

    async def look():
        async with browser.browser_page() as page:
            await page.open(site, width=390, scheme=scheme)
            await page.screenshot(tmp_path / "page.png")

    asyncio.run(look())
    assert browser.decode_qr(tmp_path / "page.png") == ["DCACCOUNT:https://chat.example.org/new"]


@needs_browser
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_self_signed_page_shows_a_fetched_login_as_link_and_qr_code(serve, tmp_path, scheme):
    site = serve(mail_domain="_chat.example.org")

    async def look():
        async with browser.browser_page() as page:
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


@needs_browser
def test_self_signed_page_when_refused_says_so_and_tries_again_on_request(serve, monkeypatch):
    site = serve(mail_domain="_chat.example.org")
    monkeypatch.setattr(webdev, "NEW_ADDRESS", {"error": "too much load"})

    async def look():
        async with browser.browser_page() as page:
            await page.open(site)
            await page.wait_for("!document.querySelector('[data-invite=ask]').hidden")
            said = await page.evaluate("document.querySelector('[role=status]').textContent")
            link = await page.evaluate("document.querySelector('[data-invite=link]').hidden")
            monkeypatch.undo()
            await page.evaluate("document.querySelector('[data-invite=ask]').click()")
            await page.wait_for("document.querySelector('a[href^=dclogin]') !== null")
            return said, link

    said, link_hidden = asyncio.run(look())
    assert "No new address could be had" in said
    assert link_hidden


# What follows the # of the page's address: the token of an invitation.

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
    """The paths that were POSTed."""
    paths = []
    answer_new = webdev.answer_new

    def answer(settings, path):
        paths.append(path)
        return answer_new(settings, path)

    monkeypatch.setattr(webdev, "answer_new", answer)
    return paths


def visit(site, shot, *steps, scheme="light"):
    """Return what the invitation shows on a phone at first and after each step, a JavaScript line.

    shot: name of the picture of the last one in ARTIFACTS.
    """

    async def look():
        async with browser.browser_page() as page:
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
    # That the relay said no is an error to the browser.
    assert [error for error in errors if "responded with a status of" not in error] == []
    return shown


def only(status, ask=False):
    """Return what is shown where no code is."""
    return {"code": False, "link": False, "status": status, "ask": ask}


NO_INVITATION = only("New addresses are by invitation: open the link of yours to see it here.")


@needs_browser
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_token_is_shown_as_a_code_and_nothing_is_asked(serve, asked, scheme):
    site = serve(registration="invite")
    shot = f"invite-domain-{scheme}.png"
    [shown] = visit(f"{site}/#{TOKEN}", shot, scheme=scheme)
    link = f"DCACCOUNT:https://chat.example.org/new?token={TOKEN}"
    assert (shown["link"], shown["ask"]) == (link, False)
    assert "Scan the code" in shown["status"]
    assert browser.decode_qr(ARTIFACTS / shot) == [link]
    assert asked == []


@needs_browser
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_token_on_a_self_signed_relay_is_not_used_by_a_look(serve, asked, scheme):
    site = serve(mail_domain="_chat.example.org", registration="invite")
    [shown] = visit(f"{site}/#{TOKEN}", f"invite-self-signed-{scheme}.png", scheme=scheme)
    said = "You are invited. Press the button once you want your address."
    assert shown == only(said, "Make my address")
    assert asked == []


@needs_browser
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_token_on_a_self_signed_relay_is_used_once_when_asked(serve, asked, scheme):
    site = serve(mail_domain="_chat.example.org", registration="invite")
    shot = f"invite-self-signed-made-{scheme}.png"
    _, shown = visit(f"{site}/#{TOKEN}", shot, f"{PRESS}; {PRESS}", scheme=scheme)
    link = webdev.NEW_ADDRESS["dclogin_url"]
    assert (shown["link"], shown["ask"]) == (link, False)
    assert shown["status"] == f"Made for you: {webdev.NEW_ADDRESS['email']}"
    assert browser.decode_qr(ARTIFACTS / shot) == [link]
    assert asked == [f"/new?token={TOKEN}"]


@needs_browser
@pytest.mark.parametrize("mail_domain", ["chat.example.org", "_chat.example.org"])
def test_page_without_a_token_says_that_it_takes_an_invitation(serve, asked, mail_domain):
    site = serve(mail_domain=mail_domain, registration="invite")
    malformed = ["info", TOKEN[:21], "x" * 44, f"{TOKEN}%22", f"{TOKEN}&a"]
    steps = [f"location.hash = '{fragment}'" for fragment in malformed]
    assert visit(site, f"invite-none-{mail_domain}.png", *steps) == [NO_INVITATION] * 6
    assert asked == []


@needs_browser
def test_another_token_in_the_same_tab_is_shown_instead(serve):
    site = serve(registration="invite")
    steps = [f"location.hash = '{'0' * 43}'", "location.hash = ''"]
    first, second, third = visit(f"{site}/#{TOKEN}", "invite-other.png", *steps)
    assert first["link"].endswith(f"token={TOKEN}")
    assert second["link"].endswith(f"token={'0' * 43}")
    assert third == NO_INVITATION


@needs_browser
def test_open_relay_asks_once_whatever_follows(serve, asked):
    site = serve(mail_domain="_chat.example.org")
    shown = visit(f"{site}/#{TOKEN}", "invite-open.png", "location.hash = 'elsewhere'")
    assert [each["link"] for each in shown] == [webdev.NEW_ADDRESS["dclogin_url"]] * 2
    assert asked == ["/new"]


OF_NETWORK = "Too many new addresses were asked for from your network. Please try again later."
SHORT = "The relay cannot take in new people just now. Please try again later."


@needs_browser
@pytest.mark.parametrize(
    ("registration", "status", "outcome"),
    [
        ("open", 429, only(OF_NETWORK, "Try again")),
        ("invite", 403, only("This invitation is used up or no longer valid.")),
        ("invite", 503, only(SHORT, "Make my address")),
    ],
)
def test_refusal_is_told_in_plain_words(serve, monkeypatch, registration, status, outcome):
    monkeypatch.setattr(webdev, "answer_new", lambda *_: (status, {}))
    site = serve(mail_domain="_chat.example.org", registration=registration)
    steps = [PRESS] if registration == "invite" else []
    assert visit(f"{site}/#{TOKEN}", f"invite-{status}.png", *steps)[-1] == outcome


QR_MATRICES = """
(text) => {
  const bytes = Array.from(new TextEncoder().encode(text));
  const version = qrVersion(bytes.length);
  const codewords = qrInterleave(qrData(bytes, version), version);
  const matrices = QR_MASKS.map((_, mask) => qrMatrix(codewords, version, mask));
  return matrices.map((matrix) => matrix.map((row) => row.map(Number)));
}
"""
# What versions 1 to 10 hold at level M (ISO/IEC 18004, table 7). A full code has no padding, in
# which segno before 1.5 differs from the standard.
QR_CAPACITY = [14, 26, 42, 62, 84, 106, 122, 152, 180, 213]


@needs_browser
def test_qr_encoder_draws_every_version_and_mask_as_another_one_does(serve):
    site = serve(mail_domain="_chat.example.org")
    texts = [
        "dclogin:" + "aZ09?=&@"[: length % 8] + "x" * (length - 8 - length % 8)
        for length in QR_CAPACITY
    ]

    async def draw():
        async with browser.browser_page() as page:
            await page.open(site)
            return [await page.evaluate(f"({QR_MATRICES})({json.dumps(text)})") for text in texts]

    for version, (text, drawn) in enumerate(zip(texts, asyncio.run(draw()), strict=True), 1):
        assert len(text) == QR_CAPACITY[version - 1]
        for mask, matrix in enumerate(drawn):
            other = segno.make(
                text, version=version, mask=mask, error="m", mode="byte", boost_error=False
            )
            assert matrix == [list(row) for row in other.matrix], (version, mask)


@needs_browser
def test_qr_encoder_text_of_any_length_reads_back(serve, tmp_path):
    site = serve(mail_domain="_chat.example.org")
    alphabet = "dclogin:k3@_chat.example.org?p=%41&v=1~"
    lengths = [*range(1, 213, 7), *QR_CAPACITY]

    async def draw():
        async with browser.browser_page() as page:
            await page.open(site, width=390)
            await page.wait_for("document.querySelector('.code svg') !== null")
            for length in lengths:
                text = (alphabet * 6)[:length]
                code = f"qrImage(qrCode({json.dumps(text)}))"
                await page.evaluate(f"document.querySelector('.code').replaceChildren({code})")
                await page.screenshot(tmp_path / "code.png")
                assert browser.decode_qr(tmp_path / "code.png") == [text]
            assert await page.evaluate("qrCode('x'.repeat(214))") is None

    asyncio.run(draw())
