"""Salt for the tests of our modules and states: its real loader, and a minion of its own."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import salt.config
import salt.loader

REPOSITORY = Path(__file__).resolve().parents[2]
PROGRAM = REPOSITORY / "chatmail/program/files"
GRAINS = {"os": "Debian", "os_family": "Debian", "osmajorrelease": 13, "kernel": "Linux"}


def link_modules(directory):
    """Make a directory of our modules, whose `chatmail_program` runs this repository's program.

    Each module that calls `chatmail_program` gets its own copy of that module. So a test cannot
    change the path for all of them, and this function changes the file.
    """
    directory.mkdir()
    for module in (REPOSITORY / "_modules").glob("*.py"):
        (directory / module.name).symlink_to(module)
    door = directory / "chatmail_program.py"
    code = door.read_text().replace('"/usr/local/lib/chatmail"', repr(str(PROGRAM)))
    door.unlink()
    door.write_text(code)


@pytest.fixture
def salt_opts(tmp_path):
    """Return the options of a minion that lives in tmp_path and knows our modules and states."""
    extmods = tmp_path / "extmods"
    extmods.mkdir()
    link_modules(extmods / "modules")
    (extmods / "states").symlink_to(REPOSITORY / "_states")
    opts = salt.config.apply_minion_config(
        {
            "root_dir": str(tmp_path),
            "extension_modules": str(extmods),
            "file_client": "local",
            "file_roots": {"base": [str(REPOSITORY)]},
            "id": "relay",
        }
    )
    opts.update(grains=dict(GRAINS), pillar={}, test=False)
    return opts


@pytest.fixture
def salt_modules(salt_opts):
    """Return `__salt__` as our modules see it: salt_modules["chatmail_dkim.present"](...).

    The program that they ask is this repository's.
    """
    utils = salt.loader.utils(salt_opts)
    return salt.loader.minion_mods(salt_opts, utils=utils)


@pytest.fixture
def salt_states(salt_opts, salt_modules):
    """Return call(function, test=False, **arguments), which runs a state and returns its result."""
    loaders = {}

    def call(function, test=False, **arguments):
        if test not in loaders:
            opts = dict(salt_opts, test=test)
            serializers = salt.loader.serializers(opts)
            loaders[test] = salt.loader.states(opts, salt_modules, {}, serializers)
        return loaders[test][function](**arguments)

    return call


@pytest.fixture
def salt_call(tmp_path):
    """Return a function that runs salt-call --local on a minion that has never synced anything.

    salt_call("state.apply", "probe", sls={"probe": "..."}, pillar={...}, **configuration)
    returns the CompletedProcess, with the result that Salt printed as `returned`.
    salt_call.roots: the directory of the states.
    """
    roots, pillar_roots, conf = tmp_path / "roots", tmp_path / "pillar", tmp_path / "conf"
    for each in (roots, pillar_roots, conf):
        each.mkdir()

    def call(*arguments, sls=None, pillar=None, **configuration):
        for name, text in (sls or {}).items():
            (roots / f"{name}.sls").write_text(text)
        (pillar_roots / "top.sls").write_text("base: {'*': [relay]}")
        (pillar_roots / "relay.sls").write_text(json.dumps(pillar or {}))
        # Only links to the formula's directories: Salt walks through all of a root, and .venv is
        # large.
        if not (roots / "_modules").exists():
            link_modules(roots / "_modules")
        for each in ("chatmail", "_states"):
            if not (roots / each).is_symlink() and (REPOSITORY / each).is_dir():
                (roots / each).symlink_to(REPOSITORY / each)
        configuration = {
            "root_dir": str(tmp_path / "root"),
            "file_client": "local",
            "fileserver_followsymlinks": True,
            "file_roots": {"base": [str(roots)]},
            "pillar_roots": {"base": [str(pillar_roots)]},
            "grains": GRAINS,
            "id": "relay",
            **configuration,
        }
        (conf / "minion").write_text(json.dumps(configuration))
        program = str(Path(sys.executable).with_name("salt-call"))
        done = subprocess.run(
            [program, "--local", f"--config-dir={conf}", "--out=json", *arguments],
            capture_output=True,
            text=True,
            timeout=120,
        )
        done.returned = json.loads(done.stdout).get("local") if done.stdout else None
        return done

    call.roots = roots
    return call
