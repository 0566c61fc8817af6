"""The newest released version of the formula, from the history of this repository.

There need not be a tag. A release is a commit that changed CHANGELOG.md and left nothing under
`Unreleased`: what comes afterwards has a line there.
"""

import re
import subprocess
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).resolve().parents[2]
# The name of the newest release, where nothing is unreleased.
RELEASED = re.compile(r"^## Unreleased\s+^## ([0-9][0-9.]*)$", re.MULTILINE)


class Release(NamedTuple):
    """A released version: its name, such as 2026.11, and its commit."""

    name: str
    commit: str


def newest():
    """Return the newest Release that this checkout is not itself. Skips where no history is."""
    ours = RELEASED.search((ROOT / "CHANGELOG.md").read_text())
    for commit in _git("log", "--format=%H", "--", "CHANGELOG.md").split():
        found = RELEASED.search(_git("show", f"{commit}:CHANGELOG.md"))
        if found and not (ours and found[1] == ours[1]):
            return Release(found[1], commit)
    pytest.skip("the history of this checkout (git log) does not reach back to a release")
    return None


def archive(release, path):
    """Write the formula of a release to a tar file."""
    _git("archive", f"--output={path}", release.commit, "chatmail", "_modules", "_states")


def _git(*arguments):
    """Return the output of git. Skips where it does not work, such as in a copy without .git."""
    # The tests run as root, also in a checkout of somebody else.
    command = ["git", "-c", f"safe.directory={ROOT}", "-C", str(ROOT), *arguments]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        pytest.skip("the newest release is found by git, which is not installed")
    if done.returncode != 0:
        pytest.skip(f"the newest release is found by git, which says: {done.stderr.strip()}")
    return done.stdout
