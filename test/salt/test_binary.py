"""The state chatmail_binary downloads a program, checks it, and only then puts it in place."""

import hashlib
import http.server
import io
import tarfile
import threading

import pytest

OLD, NEW = b"#!/bin/sh\necho old\n", b"#!/bin/sh\necho new\n"


def archive(*members, kind="gz"):
    """Return a tar archive of (name, content) pairs. Content None makes a symbolic link."""
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode=f"w:{kind}") as made:
        for name, content in members:
            member = tarfile.TarInfo(name)
            member.size = len(content or b"")
            if content is None:
                member.type, member.linkname = tarfile.SYMTYPE, "/bin/sh"
            made.addfile(member, io.BytesIO(content or b""))
    return stream.getvalue()


def sha256(content):
    return hashlib.sha256(content).hexdigest()


RIGHT = sha256(NEW)


@pytest.fixture
def web():
    """Run a web server on loopback: `files` is {path: content}, `asked` the requested paths."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            server.asked.append(self.path)
            content = server.files.get(self.path)
            self.send_response(404 if content is None else 200)
            self.send_header("Content-Length", str(len(content or b"")))
            self.end_headers()
            self.wfile.write(content or b"")

        def log_message(self, *arguments):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.files, server.asked = {}, []
        server.url = f"http://127.0.0.1:{server.server_port}"
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()


@pytest.fixture
def program(tmp_path):
    """Return the path of the program, in a directory of its own."""
    (tmp_path / "bin").mkdir()
    return tmp_path / "bin" / "iroh-relay"


@pytest.fixture
def downloaded(salt_states, web, program):
    """Return call(content of the archive, digest, test=False), which runs the state."""

    def call(content, digest=RIGHT, test=False):
        web.files["/iroh.tar.gz"] = content
        source = f"{web.url}/iroh.tar.gz"
        name = str(program)
        return salt_states(
            "chatmail_binary.downloaded", test, name=name, source=source, sha256=digest
        )

    return call


def test_program_is_installed_once_and_all_users_may_run_it(downloaded, program, web):
    given = archive(("iroh-relay-v0/README", b"no"), ("iroh-relay-v0/iroh-relay", NEW))
    predicted = downloaded(given, test=True)
    assert predicted["result"] is None
    assert not program.exists()

    first = downloaded(given)
    assert first["result"] is True
    assert first["changes"] == predicted["changes"]
    assert first["changes"]["sha256"] == {"old": None, "new": sha256(NEW)}
    assert program.read_bytes() == NEW
    assert program.stat().st_mode & 0o7777 == 0o755

    second = downloaded(given)
    assert (second["result"], second["changes"]) == (True, {})
    assert web.asked == ["/iroh.tar.gz"]


def test_program_is_replaced_by_a_rename(downloaded, program):
    """Linux refuses to write to a running program, and half a program must never be in place."""
    program.write_bytes(OLD)
    program.chmod(0o755)
    with program.open("rb") as running:
        answer = downloaded(archive(("iroh-relay", NEW)))
        assert answer["changes"] == {"sha256": {"old": sha256(OLD), "new": sha256(NEW)}}
        assert running.read() == OLD
    assert program.read_bytes() == NEW


@pytest.mark.parametrize("mode", [0o644, 0o777, 0o4755])
def test_wrong_mode_is_put_right(downloaded, program, mode):
    program.write_bytes(NEW)
    program.chmod(mode)
    answer = downloaded(archive(("iroh-relay", NEW)))
    assert answer["changes"] == {"mode": {"old": f"{mode:04o}", "new": "0755"}}
    assert program.stat().st_mode & 0o7777 == 0o755


REFUSED = [
    (archive(("iroh-relay", b"somebody else's")), "the digest of iroh-relay in it is"),
    (archive(("iroh", NEW)), "expected a file iroh-relay in this archive, found none"),
    (archive(("iroh-relay", None)), "expected a file iroh-relay in this archive, found none"),
    (archive(("iroh-relay", NEW))[:60], ""),
    (NEW, ""),
    (b"", ""),
    (None, "404"),
]


@pytest.mark.parametrize(("content", "message"), REFUSED)
@pytest.mark.parametrize("old", [OLD, None])
def test_archive_without_the_right_program_fails_and_the_old_program_stays(
    downloaded, program, content, message, old
):
    if old:
        program.write_bytes(old)
        program.chmod(0o755)
    answer = downloaded(content)
    assert answer["result"] is False
    assert answer["changes"] == {}
    assert f"{program} was left as it was. " in answer["comment"]
    assert message in answer["comment"]
    assert [each.read_bytes() for each in program.parent.iterdir()] == ([old] if old else [])


def test_message_about_a_wrong_digest_has_both_digests(downloaded):
    answer = downloaded(archive(("iroh-relay", NEW)), digest=sha256(OLD))
    assert sha256(NEW) in answer["comment"]
    assert sha256(OLD) in answer["comment"]
    assert "iroh_binary:sha256" in answer["comment"]


def test_host_that_does_not_answer_fails(salt_states, program):
    # Nothing listens on port 1 of loopback.
    answer = salt_states(
        "chatmail_binary.downloaded",
        name=str(program),
        source="http://127.0.0.1:1/iroh.tar.gz",
        sha256=RIGHT,
    )
    assert answer["result"] is False
    assert "http://127.0.0.1:1/iroh.tar.gz" in answer["comment"]


@pytest.mark.parametrize("test", [False, True])
def test_machine_without_a_known_program_is_told_what_to_set(salt_states, program, test):
    answer = salt_states(
        "chatmail_binary.downloaded", test, name=str(program), source=None, sha256=None
    )
    assert answer["result"] is False
    assert "iroh_binary:url and iroh_binary:sha256" in answer["comment"]
