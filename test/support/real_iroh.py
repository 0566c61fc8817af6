"""The real iroh-relay. cargo builds it once, and it is kept beside the lab's images."""

import os
import platform
import shutil
import subprocess
from pathlib import Path

import pytest
from lab.host import CACHE, lock, say

# The version that works with the iroh in Delta Chat (docs/realtime.md).
VERSION = "0.35.0"


def iroh_relay():
    """Return the path of the program, which works with this host's glibc. Build it if necessary."""
    kept = CACHE / f"iroh-relay-{VERSION}-{platform.machine()}"
    with lock("iroh-relay"):
        if not kept.is_dir():
            build(kept)
    return kept / "bin" / "iroh-relay"


def build(kept):
    """Build the program into a directory, one job at a time. Without cargo, skip the test."""
    cargo = shutil.which("cargo") or shutil.which("cargo", path=Path.home() / ".cargo/bin")
    if cargo is None:
        pytest.skip("needs cargo, to build the iroh relay")
    say(f"building iroh-relay {VERSION} (once; 5 to 20 minutes)")
    unfinished = kept.with_name(f"{kept.name}.unfinished")
    shutil.rmtree(unfinished, ignore_errors=True)
    command = ["nice", "-n", "19", cargo, "install", "iroh-relay", "--version", VERSION]
    command += ["--locked", "--features", "server", "--jobs", "1", "--root", str(unfinished)]
    environment = {**os.environ, "CARGO_TARGET_DIR": str(unfinished / "target")}
    subprocess.run(command, env=environment, check=True)
    shutil.rmtree(unfinished / "target")
    unfinished.rename(kept)
