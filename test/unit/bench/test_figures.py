"""The arithmetic and the tables of `make bench`, and what it reads of a box's processes."""

from types import SimpleNamespace

import pytest
from bench import converges, figures, load
from bench.figures import Figure

AT_MOST = Figure("cpu", "CPU a message", "ms", 9, "how")
AT_LEAST = Figure("ratio", "ratio", "%", 70, "how", more=True)
BY_RELEASE = Figure("box", "box", "MB", {"debian-13": 120, "debian-12": 105}, "how")
WITHOUT_GOAL = Figure("rate", "rate", "/s", None, "how", more=True)


@pytest.mark.parametrize(
    ("values", "percent", "expected"),
    [
        ([7], 95, 7),
        (range(1, 101), 95, 95),
        (range(1, 101), 100, 100),
        (reversed(range(1, 21)), 95, 19),
        ([3, 1, 2], 50, 2),
    ],
)
def test_percentile_is_the_value_that_so_many_do_not_exceed(values, percent, expected):
    assert figures.percentile(values, percent) == expected


def test_median_and_p95_are_milliseconds():
    waits = [0.010] * 18 + [0.030, 0.050]
    assert figures.median_and_p95(waits) == pytest.approx((10, 30))


@pytest.mark.parametrize(
    ("figure", "value", "release", "expected"),
    [
        (AT_MOST, 9, "debian-13", "met"),
        (AT_MOST, 9.1, "debian-13", "missed"),
        (AT_LEAST, 70, "debian-13", "met"),
        (AT_LEAST, 69.9, "debian-13", "missed"),
        (BY_RELEASE, 110, "debian-13", "met"),
        (BY_RELEASE, 110, "debian-12", "missed"),
        (WITHOUT_GOAL, 500, "debian-13", ""),
        (AT_MOST, None, "debian-13", ""),
    ],
)
def test_verdict_compares_with_the_goal_of_the_release(figure, value, release, expected):
    assert figures.verdict(figure, value, release) == expected


def test_table_has_the_figures_that_were_measured_and_no_others():
    lines = figures.table({"box_memory": 172.8, "delivered": 180.4, "noop": 0.987}, "debian-12")
    assert len({len(line) for line in lines}) == 1, "the columns are not aligned"
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    assert rows[2][:5] == ["into mailboxes", "-", "180", "/s", ""]
    assert rows[3][:5] == ["whole idle box", "≤ 105", "173", "MB", "missed"]
    assert rows[4][:5] == ["converge without a change", "≤ 1.2", "0.987", "s", "met"]
    assert len(rows) == 5


def test_comparison_shows_what_both_measured_with_the_ratio():
    lines = figures.comparison({"accepted": 300, "cpu": 8}, {"other": {"accepted": 100}})
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    assert rows[0] == ["figure", "unit", "ours", "other"]
    assert rows[2:] == [["accepted", "/s", "300", "100 (3 x)"]]


def test_ratio_to_cmdeploy_gets_a_verdict():
    peers = {"cmdeploy": {"delivered": 50, "new_logins": 40}, "other": {"conversation": 1}}
    values = {"delivered": 225, "conversation": 8, "new_logins": 100}
    values |= figures.of_cmdeploy(values, peers)
    rows = [[cell.strip() for cell in line.split("|")[1:6]] for line in figures.table(values, "")]
    assert ["into mailboxes, of cmdeploy's", "≥ 4", "4.5", "x", "met"] in rows
    assert ["new addresses, of cmdeploy's", "≥ 3", "2.5", "x", "missed"] in rows
    assert "conversation_cmdeploy" not in values


def test_each_figure_has_a_key_of_its_own():
    assert len({figure.key for figure in figures.FIGURES}) == len(figures.FIGURES)


def test_rate_leaves_out_the_warm_up_and_what_came_after_the_end():
    timeline = [(0, 0, 0), (3, 90, 30), (13, 390, 130), (20, 390, 390)]
    assert load.rate(timeline, 1, 15) == 30
    assert load.rate(timeline, 2, 15) == 10


class Told:
    """A client that is told of 2 messages; while it fetches them, of a third, and then of 5."""

    def __init__(self):
        self.socket = SimpleNamespace(settimeout=lambda seconds: None)
        self.count, self.notices, self.fetched = 0, iter([2, 5]), iter([3, 5])

    def wait_for_count(self):
        self.count = next(self.notices)
        return self.count, 10.0 * self.count

    def fetch(self):
        self.count = next(self.fetched)
        return self.count


def test_reading_notes_also_what_a_fetch_tells():
    assert [count for count, _ in load.read(Told(), 5)] == [2, 3, 5]


def test_seconds_of_a_converge_are_read_from_its_last_line():
    said = "  1.0 s  file.managed: x\nsucceeded=125 changed=93 failed=0 in 87.8 s\n"
    assert converges.seconds(said) == (93, 87.8)
