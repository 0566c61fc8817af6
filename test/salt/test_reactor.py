"""The reactor of docs/fleet.md, with events of a relay that somebody else controls."""

import re
from pathlib import Path

import pytest
import salt.config
import salt.loader
import salt.template

PAGE = Path(__file__).resolve().parents[2] / "docs/fleet.md"
HOSTILE = """x"
pwned:
  runner.salt.cmd:
    - args:
        fun: cmd.run
        cmd: id
ignored:
  runner.test.arg:
    - args:
        text: \""""


@pytest.fixture
def react(tmp_path):
    """Return what Salt makes of the example for the data of an event."""
    example = re.search(
        r"`/etc/salt/reactor/relay\.sls` posts.*?```\n(.*?)```", PAGE.read_text(), re.S
    )[1]
    path = tmp_path / "relay.sls"
    path.write_text(example)
    opts = salt.config.apply_master_config({"root_dir": str(tmp_path), "id": "master"})
    renderers = salt.loader.render(opts, {})

    def render(data):
        return salt.template.compile_template(
            str(path), renderers, "jinja|yaml", [], [], tag="salt/beacon/x/", data=data
        )

    return render


def line_of(found):
    assert list(found) == ["tell the operator"]
    [arguments] = found["tell the operator"]["runner.http.query"]
    assert set(arguments["args"]) == {"url", "method", "data"}
    return arguments["args"]["data"]


def test_event_becomes_one_line(react):
    assert line_of(react({"id": "r1", "wrong": ["queue", "disk_free"]})) == "r1: queue, disk_free"
    assert line_of(react({"id": "r1", "wrong": []})) == "r1: well again"


@pytest.mark.parametrize("data", [{"id": "r1", "wrong": [HOSTILE]}, {"id": HOSTILE, "wrong": []}])
def test_strings_of_an_event_stay_one_value(react, data):
    """Once, a string of a hostile relay added a runner to the reactor, so root on the master."""
    assert HOSTILE in line_of(react(data))
