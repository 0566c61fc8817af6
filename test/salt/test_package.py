"""chatmail_package: the packages of all parts by one call of apt."""

import pytest
from salt.exceptions import CommandExecutionError
from support.state_module import load

PARTS = [
    {"state": "chatmail_package", "fun": "installed", "pkgs": ["a", "b"]},
    {"state": "chatmail_package", "fun": "together"},
    {"state": "chatmail_package", "fun": "installed", "pkgs": ["b", "c"]},
    {"state": "pkg", "fun": "installed", "pkgs": ["of another formula"]},
]


class Apt:
    """The functions of Salt for packages. `calls` has what each call installs."""

    def __init__(self, *there, unknown=()):
        self.there, self.unknown, self.calls = dict.fromkeys(there, "1"), unknown, []
        self.functions = {"pkg.list_pkgs": lambda: dict(self.there), "pkg.install": self.install}

    def install(self, pkgs, refresh, install_recommends, env):
        assert refresh is True
        # An HTTP client that dnspython recommends takes 10 MB of each service which imports it.
        assert install_recommends is False
        assert env == {"SYSTEMD_OFFLINE": "1"}
        self.calls.append(pkgs)
        if wrong := set(pkgs) & set(self.unknown):
            raise CommandExecutionError(f"no package {wrong}")
        self.there.update(dict.fromkeys([*pkgs, "dependency"], "1"))
        return {each: {"old": "", "new": "1"} for each in [*pkgs, "dependency"]}


def run(apt, test=False):
    """Run the states of PARTS as Salt does; return their results, `together` first."""
    module = load("chatmail_package", apt.functions, test, __lowstate__=PARTS)
    together = module.together("all")
    return [together, *(module.installed("x", low["pkgs"]) for low in (PARTS[0], PARTS[2]))]


def test_packages_of_all_parts_need_one_call_of_apt():
    apt = Apt("b")
    together, first, second = run(apt)
    assert apt.calls == [["a", "c"]]
    assert set(together["changes"]) == {"a", "c", "dependency"}
    # A service watches the packages of its own part.
    assert set(first["changes"]) == {"a"}
    assert set(second["changes"]) == {"c"}
    assert [ret["changes"] for ret in run(apt)] == [{}, {}, {}]


def test_dry_run_names_the_states_that_change():
    predicted, done = run(Apt("b"), test=True), run(Apt("b"))
    assert [bool(ret["changes"]) for ret in predicted] == [bool(ret["changes"]) for ret in done]
    assert [ret["result"] for ret in predicted] == [None, None, None]
    assert {ret["result"] for ret in run(Apt("a", "b", "c"), test=True)} == {True}


def test_package_that_does_not_exist_fails_its_own_part_only():
    apt = Apt(unknown=["c"])
    together, first, second = run(apt)
    assert together["result"] is True
    assert "no package" in together["warnings"][0]
    assert (first["result"], set(first["changes"])) == (True, {"a", "b", "dependency"})
    assert second["result"] is False
    assert "no package" in second["comment"]


def test_apt_that_installs_nothing_and_says_nothing_is_a_failure():
    apt = Apt()
    apt.functions["pkg.install"] = lambda **_arguments: {}
    ret = load("chatmail_package", apt.functions).installed("x", ["a"])
    assert ret["result"] is False
    assert "apt-get install a" in ret["comment"]


@pytest.mark.parametrize("test", [True, False])
def test_part_alone_installs_its_packages(test):
    apt = Apt()
    ret = load("chatmail_package", apt.functions, test).installed("x", ["a"])
    assert ret["result"] is (None if test else True)
    assert "a" in ret["changes"]
    assert apt.calls == ([] if test else [["a"]])
