"""How much the services grow by many messages."""

from bench import growth


def test_growth_is_that_since_the_warm_up_the_most_first():
    looks = [
        {"one filter": 10_000, "one dbus": 700, "one postfix": 5_000},
        {"one filter": 20_000, "one dbus": 700, "one postfix": 5_000},
        {"one filter": 10_400, "one dbus": 1_400, "one postfix": 4_500},
    ]
    assert growth.percent(looks) == {"one filter": 4.0, "one postfix": -10.0}
