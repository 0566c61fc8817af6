"""Builds the pages of a relay with `chatmail/website`, for the tests of the pages."""

import importlib.util
import re
import xml.etree.ElementTree as ElementTree
from pathlib import Path

ROOT = Path(__file__).parents[2]
# Tests put pictures there, for a person to look at.
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
    """Return the text of a page as a reader sees it."""
    return " ".join("".join(ElementTree.fromstring(as_xml(page)).itertext()).split())


def as_xml(page):
    """Return a page as XML: elements without an end tag get one."""
    page = re.sub(
        r"<((?:meta|link|img|br)\b[^>]*)>", r"<\1/>", page.removeprefix("<!DOCTYPE html>")
    )
    return page.replace(" defer>", ' defer="">').replace(" hidden>", ' hidden="">')
