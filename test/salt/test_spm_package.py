"""The package that spm makes of this repository, and installs as docs/fleet.md says."""

import json
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest
import yaml
from support.documents import example

ROOT = Path(__file__).resolve().parents[2]
PILLAR = {"chatmail": {"mail_domain": "_chat.example.org"}}


@pytest.fixture
def spm(tmp_path):
    """A function that runs spm in a clone, with all its directories below a temporary one."""
    # A clone has no compiled Python, which spm could not install.
    strange = shutil.ignore_patterns(".*", "__pycache__", "artifacts", "test")
    clone = shutil.copytree(ROOT, tmp_path / "clone", ignore=strange)
    places = {name: str(tmp_path / name) for name in ("formula_path", "pillar_path")}
    build, cache = tmp_path / "spm_build", tmp_path / "cache"
    places |= {"spm_build_dir": str(build), "spm_cache_dir": str(cache)}
    places |= {"spm_db": str(cache / "packages.db"), "reactor_path": str(tmp_path / "reactor")}
    places |= {"spm_logfile": str(tmp_path / "log")}
    (tmp_path / "spm").write_text(json.dumps(places))
    (tmp_path / "master").write_text(json.dumps({"root_dir": "/"}))

    def run(*arguments):
        command = [Path(sys.executable).with_name("spm"), f"--config-dir={tmp_path}", *arguments]
        return subprocess.run(
            command, cwd=clone, capture_output=True, text=True, timeout=120, check=False
        )

    run.formula, run.pillar, run.built = tmp_path / "formula_path", tmp_path / "pillar_path", build
    return run


def test_package_has_the_formula_and_no_tests(spm):
    """Without a list in FORMULA, the package had the tests, and .venv where it was there."""
    done = spm("--log-level=error", "build", ".")
    built = list(spm.built.glob("*.spm"))
    assert len(built) == 1, done.stdout + done.stderr
    with tarfile.open(built[0]) as archive:
        names = {name.removeprefix("chatmail/") for name in archive.getnames()}
    listed = yaml.safe_load((ROOT / "FORMULA").read_text())["files"]
    assert {name.partition("/")[0] for name in names} - {"chatmail"} == set(listed) - {"chatmail"}
    assert "chatmail/init.sls" in names
    assert "_runners/chatmail_fleet.py" in names


def test_each_folder_that_salt_syncs_is_in_the_package():
    listed = yaml.safe_load((ROOT / "FORMULA").read_text())["files"]
    folders = {path.name for path in ROOT.glob("_*") if any(path.glob("*.py"))}
    assert folders <= set(listed)


def arguments(words, release):
    """Return the arguments of the command of spm after these words of the document."""
    program, *given = example(words).split()
    assert program == "/opt/salt/bin/spm"
    return [each.replace("chatmail-2026.11-1.spm", release) for each in given]


def test_package_is_built_installed_used_and_replaced(spm, salt_call):
    version = yaml.safe_load((ROOT / "FORMULA").read_text())["version"]
    package = str(spm.built / f"chatmail-{version}-1.spm")
    assert spm(*arguments("In a clone:", package)).returncode == 0
    install = arguments("or on a machine without a master:", package)
    done = spm(*install)
    assert (done.returncode, "installing chatmail" in done.stdout) == (0, True), done.stderr
    assert (spm.formula / "_runners/chatmail_fleet.py").exists()
    assert (spm.pillar / "chatmail.sls.orig").read_text() == (ROOT / "pillar.example").read_text()

    roots = {"base": [str(spm.formula)]}
    states = salt_call("state.apply", "chatmail.modules", pillar=PILLAR, file_roots=roots)
    assert states.returncode == 0, states.stderr
    settings = salt_call("chatmail_relay.settings", pillar=PILLAR, file_roots=roots).returned
    assert settings["mail_domain"] == "_chat.example.org"

    assert "already installed" in spm(*install).stderr
    assert spm("-y", "remove", "chatmail").returncode == 0
    assert [path for path in spm.formula.rglob("*") if path.is_file()] == []
    assert "installing chatmail" in spm(*install).stdout
