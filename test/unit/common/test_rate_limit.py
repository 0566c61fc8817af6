"""The rate limit of an address: contract, section 4."""

from chatmaild.common.rate_limit import FIRST_WALK, RateLimit
from hypothesis import given
from hypothesis import strategies as st


class Clock:
    """A clock that a test sets forward."""

    def __init__(self):
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def test_take_allows_a_burst_and_then_the_rate():
    clock = Clock()
    limit = RateLimit(per_minute=60, burst=10, clock=clock)
    assert [limit.take("alice") for _ in range(11)] == [True] * 10 + [False]
    clock.now += 0.9
    assert not limit.take("alice")
    clock.now += 0.1
    assert [limit.take("alice"), limit.take("alice")] == [True, False]
    clock.now += 5
    assert [limit.take("alice") for _ in range(6)] == [True] * 5 + [False]


def test_take_that_is_refused_takes_no_token():
    clock = Clock()
    limit = RateLimit(per_minute=60, burst=1, clock=clock)
    assert limit.take("alice")
    assert not any(limit.take("alice") for _ in range(100))
    clock.now += 1
    assert limit.take("alice")


def test_allows_predicts_take_and_takes_no_token():
    clock = Clock()
    limit = RateLimit(per_minute=60, burst=2, clock=clock)
    assert all(limit.allows("alice") for _ in range(10))
    limit.take("alice"), limit.take("alice")
    assert not limit.allows("alice")
    assert limit.allows("bob")
    clock.now += 1
    assert limit.allows("alice")


def test_busiest_is_the_largest_number_of_missing_tokens():
    clock = Clock()
    limit = RateLimit(per_minute=60, burst=10, clock=clock)
    assert limit.busiest() == 0
    for key in ("alice", "alice", "alice", "bob"):
        limit.take(key)
    assert limit.busiest() == 3
    clock.now += 2
    assert limit.busiest() == 1
    clock.now += 100
    assert limit.busiest() == 0


def test_take_counts_each_sender_alone():
    limit = RateLimit(per_minute=1, burst=1, clock=Clock())
    assert limit.take("alice")
    assert limit.take("bobby")
    assert not limit.take("alice")


def test_take_forgets_idle_senders():
    clock = Clock()
    limit = RateLimit(per_minute=60, burst=10, clock=clock)
    for number in range(5 * FIRST_WALK):
        clock.now += 0.01
        limit.take(f"user{number}")
    assert len(limit) <= FIRST_WALK + 1


def test_take_remembers_busy_senders_while_it_forgets_others():
    clock = Clock()
    limit = RateLimit(per_minute=1, burst=1, clock=clock)
    assert limit.take("busy")
    clock.now += 1
    for number in range(3 * FIRST_WALK):
        limit.take(f"user{number}")
    assert not limit.take("busy")


@given(st.integers(1, 600), st.integers(1, 50), st.lists(st.floats(0, 5), max_size=200))
def test_take_never_allows_more_than_burst_and_rate(per_minute, burst, pauses):
    clock = Clock()
    limit = RateLimit(per_minute, burst, clock)
    taken = 0
    for pause in pauses:
        clock.now += pause
        taken += limit.take("alice")
        assert taken <= burst + (clock.now - 1000) * per_minute / 60 + 1e-3
