"""Clients that are idle for an hour: they wait while the other parts run."""

import types

import pytest
from bench import bench as command
from bench import conversation, parts


class Clients:
    """Clients that were told after 1 ms."""

    made = 0

    def __init__(self, domain):
        assert domain == "two.example.org"
        Clients.made += 1

    def waits(self, seconds, say):
        say(f"{seconds}")
        return [0.001]


@pytest.fixture
def bench(monkeypatch):
    monkeypatch.setattr(conversation, "IdleClients", Clients)
    monkeypatch.setattr(Clients, "made", 0)
    said = []
    return types.SimpleNamespace(
        box=lambda name: types.SimpleNamespace(domain=f"{name}.example.org"),
        idle_clients=None, values={}, details={}, said=said, say=said.append,
    )  # fmt: skip


@pytest.mark.parametrize("begin", [True, False])
def test_clients_wait_for_an_hour_from_their_beginning(bench, begin):
    if begin:
        parts.begin_hour(bench)
    parts.hour(bench)
    assert Clients.made == 1
    assert bench.said == ["3600"]
    assert (bench.values["hour"], bench.values["hour_p95"]) == (1, 1)


def test_only_a_whole_run_has_the_hour():
    assert not {"begin-hour", "hour"} & set(command.USUAL)
    assert command.ALL.index("memory") < command.ALL.index("begin-hour")
