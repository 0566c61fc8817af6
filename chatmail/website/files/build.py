"""Builds the relay's web pages, their QR code and two well-known files.

Debian's python3 runs it on the relay. It fetches nothing from the network:

    build.py [--check] OUTPUT < relay.json

The settings, as `chatmail/settings.py` resolves them, come on standard input. The program builds
all files in memory first, so an error leaves OUTPUT as it was. Then it writes the files that differ
and removes all others. It prints what changed, or with --check what would change:
`{"added": [...], "changed": [...], "removed": [...]}`.
"""

import argparse
import io
import json
import os
import re
import sys
from pathlib import Path

import markdown
import segno
from jinja2 import FileSystemLoader, StrictUndefined, TemplateError
from jinja2.sandbox import SandboxedEnvironment
from markupsafe import Markup

SOURCES = Path(__file__).parent
MEBIBYTE = 1024 * 1024


class WebsiteError(Exception):
    """The pages cannot be built; the text says why and what to do."""


def build(settings: dict, sources: Path = SOURCES) -> dict[str, bytes]:
    """Return every file of the website by its path below the web root.

    settings: the relay's settings; with `www_folder`, the operator's pages are built.
    sources: the folder with our pages, templates and assets.
    Raises WebsiteError for a `www_folder` that cannot be used and for a page that does not render.
    """
    files = well_known(settings, sources)
    folder = settings["www_folder"]
    if folder == "disabled":
        return files
    own = read_sources(sources / "pages") if not folder else read_operator_folder(Path(folder))
    shared = read_sources(sources / "assets")
    # With invitations, each code is different, so the page itself draws it.
    if settings["registration"] == "open" and settings["tls_mode"] != "self_signed":
        shared["invite.svg"] = qr_svg(invitation(settings))
    return {**shared, **render_pages(own, settings, sources), **files}


def invitation(settings: dict) -> str:
    """Return the text that a messenger scans to get an address here (`DCACCOUNT:`)."""
    return f"DCACCOUNT:https://{settings['mail_domain']}/new"


def qr_svg(text: str) -> bytes:
    """Return the QR code of `text` as SVG, dark on light, independent of the page's colours."""
    out = io.BytesIO()
    segno.make(text, error="m", micro=False).save(
        out, kind="svg", border=4, dark="#000", light="#fff", omitsize=True, xmldecl=False
    )
    return out.getvalue()


def well_known(settings: dict, sources: Path) -> dict[str, bytes]:
    """Return the autoconfig file, and the MTA-STS policy of a relay with a domain."""
    config = environment(sources).get_template("config-v1.1.xml.jinja")
    files = {
        ".well-known/autoconfig/mail/config-v1.1.xml": config.render(relay=settings).encode(),
    }
    if settings["mta_sts_policy"]:
        files[".well-known/mta-sts.txt"] = settings["mta_sts_policy"].encode()
    return files


def read_sources(folder: Path) -> dict[str, bytes]:
    """Return the files below `folder` by relative path, without hidden ones (.git, .swp).

    Raises WebsiteError for anything but plain files: a link could publish a file by mistake.
    """
    found = {}
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder)
        if any(part.startswith(".") and part != ".well-known" for part in name.parts):
            continue
        if path.is_symlink() or not (path.is_file() or path.is_dir()):
            raise WebsiteError(f"{path} is no plain file: put a copy in its place, or remove it")
        if path.is_file():
            found[name.as_posix()] = path.read_bytes()
    return found


def read_operator_folder(folder: Path) -> dict[str, bytes]:
    """Return the operator's files. Raises WebsiteError if they are not a website."""
    if not folder.is_dir():
        raise WebsiteError(
            f"www_folder is {folder}, which is no folder on this machine: "
            "put your pages there, or remove www_folder from the pillar to show the usual ones"
        )
    found = read_sources(folder)
    # A slip such as `www_folder: /etc` must not publish a folder that holds something else.
    if "index.md" not in found and "index.html" not in found:
        raise WebsiteError(f"www_folder {folder} has neither index.md nor index.html: add one")
    return found


def render_pages(own: dict[str, bytes], settings: dict, sources: Path) -> dict[str, bytes]:
    """Return `own` with each Markdown file rendered to a page; other files stay as they are."""
    pages = {f"{name[:-3]}.html": name for name in own if name.endswith(".md")}
    for page, source in pages.items():
        if page in own:
            raise WebsiteError(f"{source} and {page} would be the same page: remove one of them")
    files = {name: body for name, body in own.items() if not name.endswith(".md")}
    present = {*files, *pages}
    for page, source in pages.items():
        try:
            text = own[source].decode()
            files[page] = render_page(page, text, present, settings, sources).encode()
        except (TemplateError, UnicodeDecodeError) as error:
            raise WebsiteError(f"page {source} does not render: {error}") from error
    return files


def render_page(page: str, text: str, present: set, settings: dict, sources: Path) -> str:
    """Return one page in full: Jinja, then Markdown, then the layout.

    page: its path below the web root. text: its Markdown. present: the paths of all pages, of
    which the navigation links those that exist.
    """
    html = environment(sources)
    invite = html.get_template("invite.html.jinja")
    invite = invite.render(relay=settings, invitation=invitation(settings))
    source = environment(sources, finalize=literal).from_string(text)
    body = markdown.markdown(
        source.render(relay=settings, invite=Markup(invite)), extensions=["tables", "md_in_html"]
    )
    heading = re.search(r"<h1[^>]*>(.*?)</h1>", body, re.DOTALL)
    return html.get_template("layout.html.jinja").render(
        relay=settings,
        title=Markup(heading[1]).striptags() if heading else settings["mail_domain"],
        body=Markup(body),
        page=page,
        present=present,
    )


def environment(sources: Path, finalize=None) -> SandboxedEnvironment:
    """Return a Jinja environment in which a page can read settings and nothing else.

    finalize: a function that gets each printed value before HTML is escaped.
    """
    made = SandboxedEnvironment(
        autoescape=True,
        undefined=StrictUndefined,
        loader=FileSystemLoader(sources / "templates"),
        finalize=finalize,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    made.filters["size"] = size
    made.filters["amount"] = amount
    return made


def literal(value):
    """Return a setting in a form that Markdown and HTML show unchanged.

    For example, `_chat.example.org` must not start an emphasis. Lines of an address stay lines.
    """
    if not isinstance(value, str) or isinstance(value, Markup):
        return value
    plain = re.sub(r"[\\`*_\[\]<>&\"'#|{}]", lambda match: f"&#{ord(match[0])};", value.strip())
    return Markup("<br>\n".join(line.strip() for line in plain.splitlines()))


def size(count: int) -> str:
    """Return a number of bytes for people: 31457280 is `30 MB`."""
    mebibytes = count / MEBIBYTE
    if mebibytes >= 1024:
        return f"{round(mebibytes / 1024, 1):g} GB"
    return f"{round(mebibytes, 1):g} MB"


def amount(count: int, unit: str) -> str:
    """Return a number with its English unit: `1 day`, `20 days`."""
    return f"{count} {unit}" if count == 1 else f"{count} {unit}s"


def read_output(folder: Path) -> dict[str, bytes | None]:
    """Return {path: content} of the web root; None stands for anything but a plain file."""
    found = {}
    for path in folder.rglob("*"):
        plain = path.is_file() and not path.is_symlink()
        if plain or path.is_symlink() or not path.is_dir():
            found[path.relative_to(folder).as_posix()] = path.read_bytes() if plain else None
    return found


def difference(files: dict[str, bytes], present: dict[str, bytes | None]) -> dict[str, list]:
    """Return the paths that `files` adds to, changes in and removes from `present`."""
    return {
        "added": sorted(files.keys() - present.keys()),
        "changed": sorted(
            name for name in files.keys() & present.keys() if files[name] != present[name]
        ),
        "removed": sorted(present.keys() - files.keys()),
    }


def install(files: dict[str, bytes], output: Path, changes: dict[str, list]) -> None:
    """Write `files` to `output`, each in one step, so that no reader sees half of a file."""
    for name in changes["removed"]:
        (output / name).unlink()
    for folder in sorted((path for path in output.rglob("*") if path.is_dir()), reverse=True):
        if not folder.is_symlink() and not any(folder.iterdir()):
            folder.rmdir()
    for name in changes["added"] + changes["changed"]:
        target = output / name
        target.parent.mkdir(parents=True, exist_ok=True)
        aside = target.with_name(f".{target.name}.new")
        aside.write_bytes(files[name])
        os.replace(aside, target)


def main() -> int:
    """Build and compare; without --check, write, too."""
    parser = argparse.ArgumentParser(description="Build the relay's web pages.")
    parser.add_argument("output", type=Path, help="the web root, which will hold nothing else")
    parser.add_argument("--check", action="store_true", help="only tell what would change")
    options = parser.parse_args()
    os.umask(0o022)  # nginx reads what root writes
    try:
        files = build(json.load(sys.stdin))
    except WebsiteError as error:
        print(error, file=sys.stderr)
        return 1
    changes = difference(files, read_output(options.output))
    if not options.check:
        install(files, options.output, changes)
    print(json.dumps(changes))
    return 0


if __name__ == "__main__":
    sys.exit(main())
