"""The operator's own lines, as Salt renders them into the configurations."""

import logging

import pytest
from support import reference
from support.local_files import PATHS

PILLAR = {"chatmail": {"mail_domain": "_chat.example.org"}}


@pytest.fixture
def render(tmp_path):
    """Return a function that renders {path: text} with {name: text} as the operator's files."""

    def run(files, release=13):
        own = tmp_path / "roots" / "chatmail_local"
        own.mkdir(parents=True, exist_ok=True)
        for name in PATHS:
            (own / name).unlink(missing_ok=True)
        for name, text in files.items():
            (own / name).write_text(text)
        return reference.rendered_files(PILLAR, release, tmp_path)

    # Salt's thousands of debug lines would hide the message of a failure.
    logging.disable(logging.CRITICAL)
    yield run
    logging.disable(logging.NOTSET)


@pytest.mark.parametrize("release", [12, 13])
def test_lines_are_written_between_two_marks(render, release):
    stock = render({}, release)
    with_own = render({name: f"# {name} 😀 'ü'\nown\n" for name in PATHS}, release)
    for name, path in PATHS.items():
        before, after = stock.pop(path), with_own.pop(path)
        added = [line.strip() for line in after.splitlines() if line not in before.splitlines()]
        assert added == [
            f"# --- From salt://chatmail_local/{name}",
            f"# {name} 😀 'ü'",
            "own",
            f"# --- End of salt://chatmail_local/{name}",
        ]
    assert with_own == stock


def test_lines_are_in_the_server_of_the_domain(render):
    text = render({"nginx.conf": "location = /own {\n    return 204;\n}\n"})[PATHS["nginx.conf"]]
    before, _, after = text.partition(
        "        location = /own {\n            return 204;\n        }\n"
    )
    assert "server_name _chat.example.org" in before.rpartition("\n    server {\n")[2]
    assert after == "        # --- End of salt://chatmail_local/nginx.conf\n    }\n}\n"


def test_file_that_is_gone_leaves_nothing(render):
    """Salt keeps a copy of each file that it has read."""
    stock = render({})
    assert "own = 1" in render({"main.cf": "own = 1\n"})[PATHS["main.cf"]]
    assert render({}) == stock
    assert render({"main.cf": "{% if false %}own = 1{% endif %}\n"}) == stock


def test_file_is_a_template_with_the_settings(render):
    text = (
        "own = {{ relay.mail_domain }} {{ grains.osmajorrelease }} {{ pillar.chatmail | length }}"
    )
    assert "\nown = _chat.example.org 13 1\n" in render({"main.cf": text})[PATHS["main.cf"]]


def test_first_line_does_not_continue_a_line_of_the_formula(render):
    """In Postfix's files, a line that begins with a blank continues the one before it."""
    assert "\n-o own=1\n" in render({"master.cf": "\n  -o own=1\n"})[PATHS["master.cf"]]


def test_mistake_in_a_template_is_named_before_any_state_runs(render):
    with pytest.raises(RuntimeError, match=r"chatmail_local/nginx\.conf\(2\)"):
        render({"nginx.conf": "# one\n{{ relay.nonsense }}\n"})
