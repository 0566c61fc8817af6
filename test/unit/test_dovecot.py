"""The configuration of Dovecot for some settings, for both of its versions."""

import importlib.util
from pathlib import Path

import jinja2
import pytest

ROOT = Path(__file__).resolve().parents[2]
FILES = ROOT / "chatmail/dovecot/files"
spec = importlib.util.spec_from_file_location("chatmail_settings", ROOT / "chatmail/settings.py")
settings = importlib.util.module_from_spec(spec)
spec.loader.exec_module(settings)


def configuration(release, **pillar):
    """Return the lines of dovecot.conf."""
    grains = {"os": "Debian", "osmajorrelease": release, "cpuarch": "x86_64", "ipv4": []}
    grains["pythonpath"] = []
    relay = settings.resolve({"chatmail": {"mail_domain": "chat.example.org", **pillar}}, grains)
    template = FILES / f"dovecot-{relay['dovecot_version']}.conf.jinja"
    return jinja2.Template(template.read_text()).render(relay=relay).splitlines()


@pytest.mark.parametrize("release", [12, 13])
@pytest.mark.parametrize(
    ("pillar", "expected"),
    [({}, "optimized"), ({"fsync": True}, "optimized"), ({"fsync": False}, "never")],
)
def test_mail_is_synced_to_the_disk_unless_the_operator_says_no(release, pillar, expected):
    """Once, a power failure lost mail that was no longer in the queue of Postfix."""
    lines = [line for line in configuration(release, **pillar) if "mail_fsync" in line]
    assert lines == [f"mail_fsync = {expected}"]
