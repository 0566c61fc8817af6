"""What the services load when they start: each large library costs memory on every relay."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = Path(__file__).parents[2] / "chatmail/program/files"
# Megabytes of each on Debian 13, beside asyncio: aiohttp 9, prometheus_client 5, dns 6,
# cryptography 3, passlib 2.
LARGE = {"aiohttp", "cryptography", "dns", "h11", "passlib", "prometheus_client"}


@pytest.mark.parametrize(
    ("service", "needed"),
    [
        ("accounts", {"h11"}),
        ("filter", {"cryptography", "dns"}),
        ("transport", {"h11"}),
    ],
)
def test_service_loads_only_the_large_libraries_that_it_always_needs(service, needed):
    code = f"import sys, chatmaild.{service}.__main__; print(*sys.modules)"
    environment = {name: os.environ[name] for name in os.environ if "PROMETHEUS" not in name}
    loaded = subprocess.run(
        [sys.executable, "-c", code],
        env=environment | {"PYTHONPATH": str(PROGRAM)},
        check=True,
        capture_output=True,
        text=True,
    ).stdout.split()
    assert LARGE & set(loaded) == needed
