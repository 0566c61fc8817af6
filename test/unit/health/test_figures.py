"""The figures that a master shows of each relay."""

import pytest
from chatmaild.health import figures
from chatmaild.health.running import Failed


@pytest.mark.parametrize(
    ("shown", "found"),
    [("@1764174712\n", "2025-11-26T16:31Z"), ("@0", None), ("", None), ("n/a", None)],
)
def test_time_of_systemd(shown, found):
    assert figures.format_time(shown) == found


def test_program_that_does_not_answer_leaves_its_figure_out(tmp_path, monkeypatch):
    def fail(*_command):
        raise Failed("postqueue gave no answer")

    monkeypatch.setattr(figures, "list_queue", fail)
    monkeypatch.setattr(figures, "ask_program", lambda *_command: "@1764174712")
    found = figures.find({"mailboxes_dir": str(tmp_path)})
    assert (found["queue"], found["expired"]) == (None, "2025-11-26T16:31Z")
    assert 0 <= found["disk_free"] <= 100


def test_units_that_do_not_run_are_counted(tmp_path, monkeypatch):
    found = {"chatmail-filter": "active", "dovecot": "active", "postfix": "failed"}
    monkeypatch.setattr(figures, "find_units", lambda _settings: found)
    monkeypatch.setattr(figures, "list_queue", lambda: ["one", "two"])
    settings = {
        "services": ["filter"],
        "iroh_relay": "",
        "mail": True,
        "mailboxes_dir": str(tmp_path),
        "tls_certificate": str(tmp_path / "none"),
    }
    shown = figures.watch(settings)
    # Postfix failed, and coturn, nginx and unbound are not there.
    assert (shown["stopped_units"], shown["certificate_days"], shown["queue"]) == (4, None, 2)
    # Where mail is off, Postfix and Dovecot may stand still.
    assert figures.watch({**settings, "mail": False})["stopped_units"] == 3
