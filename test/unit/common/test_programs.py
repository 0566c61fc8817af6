"""Programs of the machine, with a shell for each of them."""

import pytest
from chatmaild.common import programs
from chatmaild.common.errors import OperatorError

BROKEN = "echo shown; echo first >&2; echo second >&2; echo third >&2; exit 3"


@pytest.mark.parametrize(("lines", "last"), [(1, "third"), (2, "second\nthird")])
def test_program_that_fails_is_an_error_with_its_last_lines(lines, last):
    with pytest.raises(OperatorError) as caught:
        programs.run("sh", "-c", BROKEN, lines=lines)
    assert str(caught.value) == f"sh failed with status 3: {last}"


def test_program_may_fail_where_the_caller_looks_itself():
    done = programs.run("sh", "-c", BROKEN, check=False)
    assert (done.returncode, done.stdout) == (3, "shown\n")


def test_program_that_fails_in_silence_is_an_error_all_the_same():
    with pytest.raises(OperatorError, match=r"^sh failed with status 1: no message$"):
        programs.run("sh", "-c", "echo no reason; exit 1")


def test_missing_program_names_the_state_that_installs_it():
    with pytest.raises(OperatorError, match=r"rsyncx is not installed.*apply chatmail\.move`$"):
        programs.run("rsyncx", state="chatmail.move")


def test_program_that_hangs_is_ended():
    with pytest.raises(OperatorError, match=r"^sleep did not end within 0\.1 s$"):
        programs.run("sleep", "100", timeout=0.1)


def test_program_is_asked_in_plain_words_and_asks_nothing(monkeypatch):
    monkeypatch.setenv("LC_ALL", "de_DE.UTF-8")
    done = programs.run("sh", "-c", 'cat; echo "$LC_ALL $FURTHER"', FURTHER="here")
    assert done.stdout == "C.UTF-8 here\n"


def test_output_that_is_no_text_is_shown_as_far_as_it_is():
    assert programs.run("printf", "a\\377b").stdout == "a\N{REPLACEMENT CHARACTER}b"
