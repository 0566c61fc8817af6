"""The object for Dovecot's imap: what tcc makes of the source, and what does not go into place."""

import subprocess
from pathlib import Path

import pytest
from chatmaild.common.errors import OperatorError
from chatmaild.imap_notify import __main__ as program
from chatmaild.imap_notify import building

SOURCE = Path(__file__).parents[3] / "chatmail/imap_notify/files/imap_notify.c"


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """The folder of a relay: the source, and the object of another Dovecot."""
    for name, file in (("SOURCE", "imap_notify.c"), ("OBJECT", "imap_notify.so")):
        monkeypatch.setattr(building, name, tmp_path / file)
    monkeypatch.setattr(building, "CHECKED", tmp_path / "checked")
    monkeypatch.setattr(building, "FOLDER", tmp_path)
    (tmp_path / "imap_notify.c").write_text(SOURCE.read_text())
    (tmp_path / "imap_notify.so").write_text("of another Dovecot")
    (tmp_path / "checked").write_text("with another Dovecot")
    return tmp_path


@pytest.fixture
def dovecot(tmp_path, monkeypatch):
    """A program and two libraries that call each other as Dovecot's do."""
    home = tmp_path / "dovecot"
    home.mkdir()
    sources = {
        "libdovecot.so.0": (
            "#include <sys/inotify.h>\n"
            "void *timeout_add_short(unsigned m, const char *f, unsigned l, void *c, void *x)"
            " { return 0; }\n"
            "void timeout_remove(void **t) { *t = 0; }\n"
            "int add(int fd) { return inotify_add_watch(fd, \"/new\", 2); }\n"
        ),
        "libdovecot-storage.so.0": (
            "void *timeout_add_short(unsigned, const char *, unsigned, void *, void *);\n"
            "void timeout_remove(void **);\n"
            "int mailbox_watch_extract_notify_fd(void *b, const char **r) { void *t ="
            " timeout_add_short(500, \"mailbox-watch.c\", 1, 0, 0); timeout_remove(&t); return 0; }"
        ),
        "imap": (
            "int mailbox_watch_extract_notify_fd(void *, const char **);\n"
            "int main(void) { const char *r; return mailbox_watch_extract_notify_fd(0, &r); }"
        ),
    }  # fmt: skip
    built = []
    for name, text in sources.items():
        shared = [] if name == "imap" else ["-shared", "-fPIC"]
        command = ["gcc", "-x", "c", "-", "-o", home / name, *shared, "-x", "none", *built]
        command += [f"-Wl,-rpath,{home}"] + ([] if name == "imap" else [f"-Wl,-soname,{name}"])
        subprocess.run(command, input=text, text=True, check=True)
        built.append(home / name)
    paths = [home / name for name in ("libdovecot.so.0", "libdovecot-storage.so.0", "imap")]
    monkeypatch.setattr(building, "LIBRARY", paths[0])
    monkeypatch.setattr(building, "STORAGE", paths[1])
    monkeypatch.setattr(building, "IMAP", paths[2])
    functions = [function for _, function in building.CALLS]
    callers = [paths[1], paths[1], paths[0], paths[2]]
    monkeypatch.setattr(building, "CALLS", tuple(zip(callers, functions, strict=True)))
    return home


def test_object_that_dovecot_would_use_goes_into_place(folder, dovecot):
    building.build()
    assert (folder / "imap_notify.so").read_bytes().startswith(b"\x7fELF")
    check = ["sha256sum", "--check", "--status", "--strict", folder / "checked"]
    assert subprocess.run(check, check=False).returncode == 0
    assert list(folder.glob(".*")) == []


def test_another_version_of_dovecot_shows(folder, dovecot):
    building.build()
    with (dovecot / "imap").open("ab") as file:
        file.write(b"update")
    check = ["sha256sum", "--check", "--status", "--strict", folder / "checked"]
    assert subprocess.run(check, check=False).returncode != 0


def test_stack_of_a_process_with_the_object_is_not_executable(folder, dovecot):
    """Without a header about the stack, the dynamic linker makes it executable."""
    building.build()
    maps = subprocess.run(
        ["cat", "/proc/self/maps"],
        env={"LD_PRELOAD": str(folder / "imap_notify.so")},
        capture_output=True,
        text=True,
        check=True,
    )
    assert maps.stderr == ""
    [mapped] = {line.split()[1] for line in maps.stdout.splitlines() if "[stack]" in line}
    assert mapped == "rw-p"
    assert "imap_notify.so" in maps.stdout


def test_dovecot_that_calls_something_else_runs_without_an_object(folder, dovecot, capsys):
    """A fake imap that calls nothing stands for a later Dovecot."""
    (dovecot / "imap").write_text("#!/bin/sh\nexec true\n")
    assert program.main() == 1
    said = capsys.readouterr().err
    assert f"expected {dovecot}/libdovecot-storage.so.0 to call timeout_add_short" in said
    assert not (folder / "imap_notify.so").exists()
    assert not (folder / "checked").exists()


def test_source_that_does_not_compile_leaves_no_object(folder, dovecot, capsys):
    (folder / "imap_notify.c").write_text("this is no C")
    assert program.main() == 1
    assert "tcc could not compile" in capsys.readouterr().err
    assert not (folder / "imap_notify.so").exists()


def test_machine_without_the_compiler_is_told_which_package_to_install(
    folder, dovecot, monkeypatch, capsys
):
    monkeypatch.setenv("PATH", str(folder))
    assert program.main() == 1
    assert "Install Debian's package tcc" in capsys.readouterr().err
    assert not (folder / "imap_notify.so").exists()


def test_object_for_a_machine_of_32_bits_is_refused():
    with pytest.raises(OperatorError, match="64 bits"):
        building.forbid_executable_stack(b"\x7fELF\x01\x01" + bytes(100))
