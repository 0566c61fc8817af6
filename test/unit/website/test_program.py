"""The program that Salt runs to install the pages."""

import json
import stat
import subprocess
import sys

from support.website import PAGES, PROGRAM, build, settings


def run(output, *options, **more):
    return subprocess.run(
        [sys.executable, PROGRAM, *options, output],
        input=json.dumps(settings(**more)),
        capture_output=True,
        text=True,
        check=False,
    )


def content(folder):
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


def test_program_writes_what_nginx_may_read_and_a_second_run_writes_nothing(tmp_path):
    output = tmp_path / "www"
    first = json.loads(run(output).stdout)
    assert content(output) == build.build(settings())
    assert first["added"] == sorted(content(output))
    for path in output.rglob("*"):
        assert stat.S_IMODE(path.stat().st_mode) == (0o755 if path.is_dir() else 0o644)
    before = {path: path.stat().st_ino for path in output.rglob("*")}
    assert json.loads(run(output).stdout) == {"added": [], "changed": [], "removed": []}
    assert {path: path.stat().st_ino for path in output.rglob("*")} == before


def test_program_with_check_reports_changes_and_writes_nothing(tmp_path):
    output = tmp_path / "www"
    assert "index.html" in json.loads(run(output, "--check").stdout)["added"]
    assert not output.exists()
    run(output)
    answer = json.loads(run(output, "--check", delete_mails_after=5).stdout)
    assert answer["changed"] == list(PAGES)
    assert content(output) == build.build(settings())


def test_program_repairs_edits_and_removes_foreign_files(tmp_path):
    output, outside = tmp_path / "www", tmp_path / "outside"
    outside.mkdir()
    (outside / "keep").write_text("mine")
    run(output)
    (output / "index.html").write_text("defaced")
    (output / "old" / "page").mkdir(parents=True)
    (output / "old" / "page" / "x.html").write_text("old")
    (output / "link").symlink_to(outside)
    (output / "info.html").unlink()
    (output / "info.html").symlink_to(outside / "keep")
    (output / "style.css").unlink()
    (output / "style.css").mkdir()
    assert json.loads(run(output).stdout) == {
        "added": ["style.css"],
        "changed": ["index.html", "info.html"],
        "removed": ["link", "old/page/x.html"],
    }
    assert content(output) == build.build(settings())
    assert not (output / "old").exists()
    assert (outside / "keep").read_text() == "mine"


def test_program_that_fails_leaves_the_pages_as_they_were(tmp_path):
    output = tmp_path / "www"
    run(output)
    failed = run(output, www_folder="/nonexistent")
    assert failed.returncode == 1
    assert "www_folder is /nonexistent, which is no folder" in failed.stderr
    assert "Traceback" not in failed.stderr
    assert content(output) == build.build(settings())
