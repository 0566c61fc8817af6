"""Writes `pillar.example` and `docs/settings.md` from `KEYS` in `chatmail/settings.py`.

`make documents` runs it after a setting was added or changed. A test compares the two files with
what this program would write.
"""

import importlib.util
import textwrap
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
# The required setting has no default. The documents show this value.
EXAMPLE_DOMAIN = "chat.example.org"
# The longest lines that yamllint and the Markdown documents allow.
YAML_WIDTH, MARKDOWN_WIDTH = 100, 120

PILLAR_HEAD = """\
Every setting of a relay with its default. Only mail_domain is required; leave out what you do not
change. `salt-call --local chatmail_relay.settings` shows the settings that a machine uses. A wrong
name, type or value fails the run before anything on the machine changes, and the error message
names it. This file is made by `make documents` from chatmail/settings.py.
"""
SETTINGS_HEAD = """\
All settings are keys of the mapping `chatmail` in pillar. A name such as `dns:server` below stands
for the key `server` in the mapping `dns`. Only `mail_domain` is required.
[`pillar.example`](../pillar.example) is a complete pillar with all defaults.

A wrong name, type or value fails the run before anything on the machine changes. The error message
names every mistake at once. `salt-call --local chatmail_relay.settings` shows the settings that a
machine uses.

This file is made by `make documents` from `chatmail/settings.py`.
"""


def load_settings():
    """Return the module `chatmail/settings.py`, which is in no package."""
    path = ROOT / "chatmail" / "settings.py"
    spec = importlib.util.spec_from_file_location("chatmail_settings", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def facts(key):
    """Return the sentences about a setting's unit and its allowed values."""
    sentences = [f"Unit: {key.unit}."] if key.unit else []
    return " ".join([*sentences, f"Allowed: {allowed_values(key)}."])


def allowed_values(key):
    """Return the allowed values of a setting, in the words of its error message."""
    # Quotes matter only in an error message, because the documents show a pillar.
    words = _refusal(key, object()).removesuffix(", without quotes")
    for value, word in ((None, "null"), ("", '""')):
        if not _refusal(key, value) and key.check(value) == value:
            words += f", or {word}"
    return words


def _refusal(key, value):
    """Return the message with which a setting's check refuses a value, "" if it accepts it."""
    try:
        key.check(value)
    except ValueError as error:
        return str(error)
    return ""


def yaml_value(value):
    """Return a default as a pillar has it."""
    words = {None: "null", False: "false", True: "true"}
    return words[value] if value is None or isinstance(value, bool) else str(value)


# What a master with several relays has in its own pillar, and in that of the relays.
FLEET_EXAMPLE = """
# --- Several relays and a Salt master (docs/fleet.md) ---
# In the pillar of the master itself: in which order a rollout visits the relays.
chatmail_fleet:
  # The relays that `salt-run chatmail_fleet.status` and the others ask: a list, or a compound
  # target. Without it, every minion whose pillar has a mail domain.
  relays: [relay1.example.org, relay2.example.org, relay3.example.org]
  # Relays that get a change first, and the Salt environment that they run. Empty: the usual one.
  canaries: [relay1.example.org]
  canary_saltenv: ""
  # The others, wave after wave. The first relay that fails stops the rollout.
  waves:
    - [relay2.example.org]
    - [relay3.example.org]
  # Relays of one group that work at the same time.
  at_once: 5

# In the pillar of the relays.
beacons:
  # What the master is told of, with these limits.
  chatmail_relay:
    - interval: 300
    - stopped_units: 0
    - certificate_days: 14
    - queue: 1000
    - disk_free: 10
"""


def pillar_example(keys):
    """Return the text of `pillar.example`."""
    lines = [*_wrapped(PILLAR_HEAD, YAML_WIDTH, "# "), "chatmail:"]
    open_group = ""
    for key in keys:
        group, _, name = key.name.rpartition(":")
        if key.section:
            lines += [] if key is keys[0] else [""]
            lines.append(f"  # --- {key.section} ---")
        if group and group != open_group:
            lines.append(f"  {group}:")
        open_group = group
        indent = "    " if group else "  "
        prefix = f"{indent}# "
        lines += _wrapped(f"{key.meaning} {facts(key)}", YAML_WIDTH, prefix)
        value = EXAMPLE_DOMAIN if key.name == "mail_domain" else yaml_value(key.default)
        lines.append(f"{indent}{name}: {value}")
    return "\n".join(lines) + "\n" + FLEET_EXAMPLE


def settings_page(keys):
    """Return the text of `docs/settings.md`."""
    lines = ["# Settings"]
    for paragraph in SETTINGS_HEAD.split("\n\n"):
        lines += [*_wrapped(paragraph, MARKDOWN_WIDTH), ""]
    for key in keys:
        if key.section:
            lines += [f"## {key.section}", ""]
        default = "required" if key.name == "mail_domain" else f"`{yaml_value(key.default)}`"
        lines.append(f"### `{key.name}`")
        for text in (key.meaning, f"Default: {default}. {facts(key)}"):
            lines += [*_wrapped(text, MARKDOWN_WIDTH), ""]
    return "\n".join(lines[:-1]) + "\n"


def _wrapped(text, width, prefix=""):
    """Return the lines of a paragraph, each with `prefix`. Long words and URLs are not broken."""
    return textwrap.wrap(
        text,
        width,
        initial_indent=prefix,
        subsequent_indent=prefix,
        break_long_words=False,
        break_on_hyphens=False,
    )


def documents():
    """Return {path: text} of the files that this program writes."""
    keys = load_settings().KEYS
    return {
        ROOT / "pillar.example": pillar_example(keys),
        ROOT / "docs" / "settings.md": settings_page(keys),
    }


if __name__ == "__main__":
    for path, text in documents().items():
        path.write_text(text)
