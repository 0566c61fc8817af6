"""The package that `spm build` makes of this repository."""

import json
import subprocess
import sys
import tarfile
from pathlib import Path

import yaml

ROOT = Path(__file__).resolve().parents[2]


def test_package_has_the_formula_and_no_tests(tmp_path):
    """Without a list in FORMULA, the package had the tests, and .venv where it was there."""
    (tmp_path / "spm").write_text(json.dumps({"spm_build_dir": str(tmp_path / "built")}))
    (tmp_path / "master").write_text(json.dumps({"root_dir": str(tmp_path / "root")}))
    program = Path(sys.executable).with_name("spm")
    command = [program, f"--config-dir={tmp_path}", "--log-level=error", "build", "."]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)
    built = list(tmp_path.rglob("*.spm"))
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
