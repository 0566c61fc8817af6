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
