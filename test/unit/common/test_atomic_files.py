"""Files that are written completely or not at all."""

import os
import stat

import pytest
from chatmaild.common import atomic_files


@pytest.mark.parametrize("durable", [False, True])
def test_file_gets_content_mode_and_times_in_one_step(tmp_path, durable):
    path = tmp_path / "file"
    path.write_text("old")
    atomic_files.replace(path, "new", mode=0o640, times=(5, 7_000_000_000), durable=durable)
    assert path.read_text() == "new"
    assert stat.S_IMODE(path.stat().st_mode) == 0o640
    assert path.stat().st_mtime == 7
    atomic_files.replace(str(path), b"\xff")
    assert (path.read_bytes(), stat.S_IMODE(path.stat().st_mode)) == (b"\xff", 0o600)
    assert os.listdir(tmp_path) == ["file"]


def test_mode_does_not_depend_on_the_umask(tmp_path):
    old = os.umask(0o777)
    try:
        atomic_files.replace(tmp_path / "file", "text", mode=0o644)
    finally:
        os.umask(old)
    assert stat.S_IMODE((tmp_path / "file").stat().st_mode) == 0o644


def test_exclusive_file_is_never_replaced(tmp_path):
    atomic_files.replace(tmp_path / "key", "first", exclusive=True)
    with pytest.raises(FileExistsError):
        atomic_files.replace(tmp_path / "key", "second", exclusive=True)
    assert (tmp_path / "key").read_text() == "first"
    assert os.listdir(tmp_path) == ["key"]


@pytest.mark.parametrize("function", ["replace", "fsync", "fchmod"])
def test_failure_leaves_the_old_file_and_no_draft(tmp_path, monkeypatch, function):
    def fail(*_):
        raise OSError(28, "No space left on device")

    path = tmp_path / "file"
    path.write_text("old")
    monkeypatch.setattr(os, function, fail)
    with pytest.raises(OSError, match="No space left"):
        atomic_files.replace(path, "new", durable=True)
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["file"]


def test_missing_directory_is_an_error(tmp_path):
    with pytest.raises(FileNotFoundError):
        atomic_files.replace(tmp_path / "none" / "file", "text")
