"""Mail off and on, with a script in the place of systemctl and of Postfix's programs."""

import pytest
from chatmaild.common import mail_off
from chatmaild.common.errors import OperatorError
from chatmaild.move import switching
from support.settings import settings

# Notes each call. Units are files in `active`; those in `installed` exist.
PROGRAM = """#!/bin/sh
cd {directory}
name=${{0##*/}}
echo "$name $*" >> calls
test ! -e broken || test "$name $1" != "$(cat broken)" || {{ echo it broke >&2; exit 1; }}
case "$name $1" in
"systemctl is-active") test -e "active/$3" ;;
"systemctl show") shift 3; for unit; do
    test -e "installed/$unit" && echo loaded || echo not-found; done ;;
"systemctl start") shift; for unit; do touch "active/$unit"; done ;;
"systemctl stop") shift; for unit; do rm -f "active/$unit"; done ;;
"postconf -e") echo "$2" >> main.cf ;;
"postqueue -j") test ! -s queue || {{ head -1 queue; sed -i 1d queue; }} ;;
esac
"""


@pytest.fixture
def machine(tmp_path, monkeypatch):
    """A directory that stands for a machine with a relay on Debian 12."""
    programs = tmp_path / "bin"
    for directory in (programs, tmp_path / "active", tmp_path / "installed"):
        directory.mkdir()
    for name in ("systemctl", "postconf", "postfix", "postqueue"):
        (programs / name).write_text(PROGRAM.format(directory=tmp_path))
        (programs / name).chmod(0o755)
    for unit in (*switching.POSTFIX, "dovecot.service"):
        (tmp_path / "active" / unit).touch()
        (tmp_path / "installed" / unit).touch()
    (tmp_path / "main.cf").write_text("original\n")
    monkeypatch.setenv("PATH", f"{programs}:/usr/bin:/bin")
    monkeypatch.setattr(switching, "MAIN_CF", tmp_path / "main.cf")
    monkeypatch.setattr(mail_off, "MAIL_OFF", tmp_path / "mail-off")
    return tmp_path


def calls(machine):
    return (machine / "calls").read_text().splitlines()


def test_off_stops_all_and_keeps_the_reason(machine):
    assert switching.switch_off("it moved") | {"seconds": 0} == {
        "mail_off": "it moved",
        "changed": True,
        "seconds": 0,
    }
    assert list((machine / "active").iterdir()) == []
    assert mail_off.read_reason() == "it moved"
    assert "systemctl disable dovecot.service postfix.service" in calls(machine)
    assert (machine / "main.cf").read_text() == "original\n"


def test_off_waits_for_deliveries_that_have_begun(machine):
    (machine / "queue").write_text('{"queue_name": "active"}\n{"queue_name": "incoming"}\n')
    switching.switch_off("it moved")
    done = calls(machine)
    closed = done.index("postconf -e master_service_disable = inet")
    stopped = done.index("systemctl stop postfix.service postfix@-.service")
    assert done[closed:stopped].count("postqueue -j") == 3


def test_off_waits_for_no_destination_that_hangs(machine, monkeypatch):
    monkeypatch.setattr(switching, "PATIENCE", 0.1)
    monkeypatch.setattr(switching, "_is_delivering", lambda: True)
    assert switching.switch_off("it moved")["changed"] is True


def test_off_twice_changes_nothing(machine):
    switching.switch_off("it moved")
    assert switching.switch_off("it moved")["changed"] is False
    assert switching.switch_off("another reason")["changed"] is True


def test_off_works_before_the_first_converge(machine):
    for directory in ("active", "installed"):
        for unit in (machine / directory).iterdir():
            unit.unlink()
    assert switching.switch_off("it comes")["changed"] is True
    assert not [call for call in calls(machine) if call.split()[1] in ("stop", "disable")]


@pytest.mark.parametrize("step", ["postfix reload", "systemctl stop"])
def test_off_that_fails_keeps_the_reason_and_restores_the_configuration(machine, step):
    (machine / "broken").write_text(step)
    with pytest.raises(OperatorError, match=r"failed with status 1: it broke"):
        switching.switch_off("it moved")
    assert mail_off.read_reason() == "it moved"
    assert (machine / "main.cf").read_text() == "original\n"


def test_on_starts_all_and_forgets_the_reason(machine):
    switching.switch_off("it moved")
    assert switching.switch_on()["changed"] is True
    assert mail_off.read_reason() is None
    assert {path.name for path in (machine / "active").iterdir()} >= set(switching.UNITS)
    assert switching.switch_on()["changed"] is False


def test_settings_look_for_the_same_file():
    assert str(mail_off.MAIL_OFF) == settings.MAIL_OFF
