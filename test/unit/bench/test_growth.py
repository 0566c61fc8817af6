"""How much the services grow by many messages."""

import pytest
from bench import growth


def test_growth_is_that_without_pages_of_files_the_most_first():
    before = {
        "one journald": (9_000, 2_000),
        "one postfix": (9_000, 5_000),
        "one filter": (30_000, 10_000),
        "one gone": (9_000, 9_000),
    }
    after = {
        "one journald": (20_000, 4_000),
        "one postfix": (20_000, 4_500),
        "one filter": (30_000, 10_400),
        "one new": (9_000, 9_000),
    }
    assert growth.percent(before, after) == {"one filter": 4.0, "one postfix": -10.0}


class Crowd:
    """A crowd that notes what was asked of it."""

    def __init__(self, here, there):
        self.way, self.closed = (here, there), False

    def close(self):
        self.closed = True


def test_rounds_go_every_way_and_the_services_rest_without_clients(monkeypatch):
    crowds, done, said = [], [], []
    monkeypatch.setattr(growth, "Crowd", lambda *way: crowds.append(Crowd(*way)) or crowds[-1])
    monkeypatch.setattr(
        growth, "one_round", lambda crowd, to, each: done.append((crowd.way, to, each))
    )
    monkeypatch.setattr(growth.time, "sleep", lambda s: said.append([c.closed for c in crowds]))
    one, other = Box("one"), Box("other")
    growth.phase([(one, one), (one, other)], 2, 7, said.append)
    assert done == [(("one", "one"), one, 7), (("one", "other"), other, 7)] * 2
    assert said[-1] == [True, True]


class Box:
    def __init__(self, domain):
        self.domain = domain


def test_messages_that_do_not_come_end_the_part(monkeypatch):
    monkeypatch.setattr(growth, "PATIENCE", -1)
    box = Box("one")
    box.messages = lambda accounts: 3
    with pytest.raises(RuntimeError, match="3 of 5 messages"):
        growth.await_arrival(box, [], 5)
