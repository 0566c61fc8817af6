"""The examples of docs/fleet.md, for tests that run them."""

import re
from pathlib import Path

PAGE = Path(__file__).resolve().parents[2] / "docs/fleet.md"


def example(words):
    """Return the first block of code after these words of the page."""
    _before, found, after = PAGE.read_text().partition(words)
    assert found, f"{PAGE.name} has no longer the words: {words}"
    return re.search(r"^( *)```\w*\n(.*?)^\1```$", after, re.M | re.S)[2]


def finger():
    """Return the shell function of the page that prints a fingerprint."""
    return example("On the master, print the fingerprint of its key.").splitlines()[0]
