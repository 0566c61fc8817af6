"""Loads chatmail/settings.py and lets it check pillars."""

import importlib.util
from pathlib import Path

import pytest

PATH = Path(__file__).resolve().parents[2] / "chatmail" / "settings.py"
spec = importlib.util.spec_from_file_location("chatmail_settings", PATH)
settings = importlib.util.module_from_spec(spec)
spec.loader.exec_module(settings)

TRIXIE = {"os": "Debian", "osmajorrelease": 13}


def resolve(grains=TRIXIE, **pillar):
    return settings.resolve({"chatmail": {"mail_domain": "chat.example.org", **pillar}}, grains)


def refused(grains=TRIXIE, **pillar):
    """Return the lines of the refusal without the first one."""
    with pytest.raises(settings.SettingsError) as caught:
        resolve(grains, **pillar)
    return str(caught.value).splitlines()[1:]
