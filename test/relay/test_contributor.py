"""Work on the repository, on a machine as from a provider, with git and make.

The machine that runs these tests may have packages that no list of ours names. A bare box has none.
"""

import subprocess
from pathlib import Path

import pytest

CHECKOUT = Path(__file__).parents[2]
# A box cannot reach a package index, so it uses the wheels of the lab.
WITH_WHEELS = "PIP_NO_INDEX=1 PIP_FIND_LINKS=/srv/wheels"


@pytest.mark.timeout(1200)
def test_setup_lint_and_unit_tests_pass_on_a_bare_machine(empty_box):
    box = empty_box("--bare")
    box.run("apt-get update -q && apt-get install -qy --no-install-recommends git make")
    # The files of a clone: those that git tracks, or would track after `git add`.
    listed = ["git", "-C", str(CHECKOUT), "ls-files", "--cached", "--others", "--exclude-standard"]
    files = subprocess.run(listed, capture_output=True, text=True, check=True).stdout
    box.run(
        "mkdir /root/chatmail && tar -C /srv/checkout -cf - --ignore-failed-read -T - "
        "| tar -C /root/chatmail -xf - && cd /root/chatmail && git init -q && git add --all",
        input=files,
    )
    done = box.run(f"cd /root/chatmail && {WITH_WHEELS} make setup lint unit", check=False)
    assert done.returncode == 0, done.stdout[-8000:] + done.stderr[-4000:]
    assert " passed" in done.stdout
