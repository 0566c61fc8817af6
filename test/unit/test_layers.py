"""The subpackages import each other as this table says, without a circle."""

import ast
from graphlib import TopologicalSorter
from pathlib import Path

PACKAGE = Path(__file__).parents[2] / "chatmail/program/files/chatmaild"

# The subpackages that each subpackage imports.
ALLOWED = {
    "common": set(),
    "message": set(),
    "metrics": {"common"},
    "dkim": {"common", "message"},
    "filter": {"common", "dkim", "message", "metrics"},
    "transport": {"common", "message", "metrics"},
    "dovecot_objects": {"common"},
    "metadata": {"common", "dovecot_objects", "metrics"},
    "accounts": {"common", "metadata", "metrics"},
    "retention": {"common"},
    "dns": {"common", "dkim"},
    "certificate": {"common"},
    "adopt": {"certificate", "common"},
    "rotation": {"common", "dkim", "dns"},
    "inventory": {"accounts", "certificate", "dkim", "metadata"},
    "backup": {"accounts", "certificate", "common", "dkim", "inventory"},
    "health": {
        *("accounts", "certificate", "common", "dkim", "dns"),
        *("message", "metadata", "retention", "status"),
    },
    "status": {"accounts", "certificate", "common", "dkim", "dovecot_objects"},
    "move": {"certificate", "common", "inventory"},
    # It takes the way of mail, so it uses what sends mail.
    "ping": {"accounts", "common", "dkim", "health", "message", "transport"},
}


def imported(path):
    """Yield the subpackages that a file imports, also inside of functions."""
    for node in ast.walk(ast.parse(path.read_text())):
        assert not getattr(node, "level", 0), f"{path}: an import with a dot in front"
        if isinstance(node, ast.ImportFrom):
            names = [f"{node.module}.{each.name}" for each in node.names]
        else:
            names = [each.name for each in node.names] if isinstance(node, ast.Import) else []
        yield from (name.split(".")[1] for name in names if name.startswith("chatmaild."))


def test_subpackages_import_exactly_what_the_table_says():
    found = {
        directory.name: {each for path in directory.glob("*.py") for each in imported(path)}
        - {directory.name}
        for directory in PACKAGE.iterdir()
        if directory.is_dir() and directory.name != "__pycache__"
    }
    assert found == ALLOWED


def test_no_subpackage_depends_on_itself_by_way_of_others():
    TopologicalSorter(ALLOWED).prepare()
