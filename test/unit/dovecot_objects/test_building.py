"""The objects for Dovecot's programs: what tcc makes of the sources, what goes into place."""

import subprocess
from pathlib import Path

import pytest
from chatmaild.common.errors import OperatorError
from chatmaild.dovecot_objects import __main__ as program
from chatmaild.dovecot_objects import building, objects

SOURCES = Path(__file__).parents[3] / "chatmail/dovecot_objects/files"


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """The folder of a relay: the sources, and the objects of another Dovecot."""
    monkeypatch.setattr(objects, "FOLDER", tmp_path)
    for each in objects.OBJECTS:
        each.source.write_text((SOURCES / each.source.name).read_text())
        each.file.write_text("of another Dovecot")
    (tmp_path / "checked").write_text("with another Dovecot")
    return tmp_path


@pytest.fixture
def dovecot(tmp_path, monkeypatch):
    """Programs and libraries that call each other as Dovecot's do."""
    home = tmp_path / "dovecot"
    (home / "modules").mkdir(parents=True)
    sources = {
        "libdovecot.so.0": (
            "#include <sys/inotify.h>\n"
            "void *timeout_add_short(unsigned m, const char *f, unsigned l, void *c, void *x)"
            " { return 0; }\n"
            "void timeout_remove(void **t) { *t = 0; }\n"
            "#include <unistd.h>\n"
            "int add(int fd) { return inotify_add_watch(fd, \"/new\", 2); }\n"
            "int i_close(int fd) { return close(fd); }\n"
        ),
        "libdovecot-storage.so.0": (
            "void *timeout_add_short(unsigned, const char *, unsigned, void *, void *);\n"
            "void timeout_remove(void **);\n"
            "int mailbox_watch_extract_notify_fd(void *b, const char **r) { void *t ="
            " timeout_add_short(500, \"mailbox-watch.c\", 1, 0, 0); timeout_remove(&t); return 0; }"
        ),
        "libdovecot-login.so.0": (
            "void i_stream_create_fd_autoclose(), o_stream_create_fd(), pool_alloconly_create();\n"
            "int main_login(void) { i_stream_create_fd_autoclose(); o_stream_create_fd();"
            " pool_alloconly_create(); return 0; }"
        ),
        "modules/libssl_iostream_openssl.so": (
            "void BIO_new_bio_pair(), SSL_new(), SSL_free();\n"
            "void open_tls(void) { BIO_new_bio_pair(); SSL_new(); SSL_free(); }"
        ),
        "imap": (
            "int mailbox_watch_extract_notify_fd(void *, const char **);\n"
            "int main(void) { const char *r; return mailbox_watch_extract_notify_fd(0, &r); }"
        ),
        "imap-hibernate": (
            "int i_close(int);\nint called(int i) { return i ? i_close(i) : 1; }\n"
            "int main(void) { return called(0); }"
        ),
        "imap-login": (
            "int main_login(void);\nint called(int i) { return i ? main_login() : 1; }\n"
            "int main(void) { return called(0); }"
        ),
    }  # fmt: skip
    built = []
    for name, text in sources.items():
        shared = ["-shared", "-fPIC", f"-Wl,-soname,{name}"] if ".so" in name else []
        command = ["gcc", "-x", "c", "-", "-o", home / name, *shared, "-x", "none", *built]
        # The object has what is missing.
        command += [f"-Wl,-rpath,{home}", "-Wl,--unresolved-symbols=ignore-all"]
        subprocess.run(command, input=text, text=True, check=True)
        if name.startswith("libdovecot"):
            built.append(home / name)
    monkeypatch.setattr(objects, "DOVECOT", home)
    return home


def test_objects_that_dovecot_would_use_go_into_place(folder, dovecot):
    building.build()
    for each in objects.OBJECTS:
        assert each.file.read_bytes().startswith(b"\x7fELF")
    check = ["sha256sum", "--check", "--status", "--strict", folder / "checked"]
    assert subprocess.run(check, check=False).returncode == 0
    assert list(folder.glob(".*")) == []


@pytest.mark.parametrize(
    "changed", ["imap", "imap-hibernate", "imap-login", "modules/libssl_iostream_openssl.so"]
)
def test_another_version_of_dovecot_shows(folder, dovecot, changed):
    building.build()
    with (dovecot / changed).open("ab") as file:
        file.write(b"update")
    check = ["sha256sum", "--check", "--status", "--strict", folder / "checked"]
    assert subprocess.run(check, check=False).returncode != 0


def test_stack_of_a_process_with_the_object_is_not_executable(folder, dovecot):
    """Without a header about the stack, the dynamic linker makes it executable."""
    building.build()
    maps = subprocess.run(
        ["cat", "/proc/self/maps"],
        env={"LD_PRELOAD": str(folder / "imap.so")},
        capture_output=True,
        text=True,
        check=True,
    )
    assert maps.stderr == ""
    [mapped] = {line.split()[1] for line in maps.stdout.splitlines() if "[stack]" in line}
    assert mapped == "rw-p"
    assert "imap.so" in maps.stdout


def test_dovecot_that_calls_something_else_runs_without_an_object(folder, dovecot, capsys):
    """A fake imap that calls nothing stands for a later Dovecot."""
    (dovecot / "imap").write_text("#!/bin/sh\nexec true\n")
    assert program.main() == 1
    said = capsys.readouterr().err
    assert f"expected {dovecot}/libdovecot-storage.so.0 to call timeout_add_short" in said
    assert not (folder / "imap.so").exists()
    assert not (folder / "checked").exists()


def test_source_that_does_not_compile_leaves_no_object(folder, dovecot, capsys):
    (folder / "imap.c").write_text("this is no C")
    assert program.main() == 1
    assert "tcc could not compile" in capsys.readouterr().err
    assert not (folder / "imap.so").exists()


def test_machine_without_the_compiler_is_told_which_package_to_install(
    folder, dovecot, monkeypatch, capsys
):
    monkeypatch.setenv("PATH", str(folder))
    assert program.main() == 1
    assert "Install Debian's package tcc" in capsys.readouterr().err
    assert not (folder / "imap.so").exists()


def test_object_for_a_machine_of_32_bits_is_refused():
    with pytest.raises(OperatorError, match="64 bits"):
        building.forbid_executable_stack(b"\x7fELF\x01\x01" + bytes(100))


def test_object_that_does_not_fit_leaves_the_other_one_in_use(folder, dovecot, capsys):
    (dovecot / "imap-login").write_text("#!/bin/sh\nexec true\n")
    assert program.main() == 1
    said = capsys.readouterr().err
    assert f"{dovecot}/libdovecot-login.so.0 to call i_stream_create_fd_autoclose" in said
    assert "imap:" not in said
    assert not (folder / "imap-login.so").exists()
    assert (folder / "imap.so").read_bytes().startswith(b"\x7fELF")
    assert not (folder / "checked").exists()
