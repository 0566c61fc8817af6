"""A service restarts when a setting that it reads changes, and for no other setting."""

import ast
import importlib.util
from pathlib import Path

import pytest
from chatmaild.accounts import limits

ROOT = Path(__file__).parents[2]
PROGRAM = ROOT / "chatmail/program/files"
# `limits` computes the names of these settings.
COMPUTED = {"accounts": {"max_load_1m", "min_available_memory", "min_free_disk_space"}}
# A module that several services import reads these settings, but only for new addresses.
OF_NEW_ADDRESSES = {"password_min_length", "username_max_length", "username_min_length"}


def settings_module():
    spec = importlib.util.spec_from_file_location("settings", ROOT / "chatmail/settings.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def imported(name, found):
    """Add a module of chatmaild to `found`, with all modules of chatmaild that it imports."""
    path = PROGRAM / (name.replace(".", "/") + ".py")
    if name in found or not path.exists():
        return found
    found[name] = ast.parse(path.read_text())
    for node in ast.walk(found[name]):
        if isinstance(node, ast.ImportFrom) and node.module:
            imported(node.module, found)
            for each in node.names:
                imported(f"{node.module}.{each.name}", found)
    return found


def read_in(tree):
    """Return the names in settings["name"] and self.settings["name"] of a module."""
    return {
        node.slice.value
        for node in ast.walk(tree)
        if isinstance(node, ast.Subscript)
        and isinstance(node.slice, ast.Constant)
        and ast.unparse(node.value).rpartition(".")[2]
        in ("settings", "_settings", "load_settings()")
    }


@pytest.mark.parametrize("service", ["accounts", "filter", "metrics", "transport"])
def test_settings_read_names_what_the_code_of_a_service_reads(service):
    """A change of a setting that is missing there would take effect only after another restart."""
    modules = imported(f"chatmaild.{service}.__main__", {})
    read = set().union(*map(read_in, modules.values())) | COMPUTED.get(service, set())
    if service != "accounts":
        read -= OF_NEW_ADDRESSES
    assert set(settings_module().SETTINGS_READ[service]) == read


def test_computed_names_are_the_names_of_the_limits(tmp_path):
    assert set(limits.measure({"mailboxes_dir": tmp_path})) == COMPUTED["accounts"]


def test_digest_changes_with_what_a_service_reads_and_with_nothing_else():
    resolve = settings_module().resolve
    grains = {"os": "Debian", "osmajorrelease": 13}

    def digests(**changed):
        pillar = {"chatmail": {"mail_domain": "chat.example.org", **changed}}
        return resolve(pillar, grains)["settings_digests"]

    def changed(**given):
        before, after = digests(), digests(**given)
        return {service for service in before if before[service] != after[service]}

    assert changed(delete_mails_after=5) == set()
    assert changed(username_max_length=12) == {"accounts"}
    assert changed(max_message_size="10M") == {"filter", "transport"}
    assert changed(metrics_address="127.0.0.1:3903") == {"metrics"}
