"""What a fleet of 100 relays costs: the work for a relay does not grow with their number.

The work is counted in calls of Python functions, so other work on the machine has no effect. The
times are printed for information (pytest -s).
"""

import json
import logging
import sys
import time

import pytest
import salt.config
import salt.pillar
from support import compiling
from support.settings import settings

NUMBER = 100
NAMES = [f"relay{number:03}" for number in range(1, NUMBER + 1)]
GRAINS = {"os": "Debian", "osmajorrelease": 13, "cpuarch": "x86_64"}
# One file for all relays, as docs/fleet.md shows it: what differs is in a table.
PILLAR = """
{%- import_json "relays.json" as relays %}
chatmail: {{ relays[grains.id] | json }}
"""


@pytest.fixture
def opts(tmp_path):
    """The options of a master whose pillar has 100 relays."""
    pillars = tmp_path / "pillar"
    pillars.mkdir()
    (pillars / "top.sls").write_text("base: {'relay*': [relays]}")
    (pillars / "relays.sls").write_text(PILLAR)
    relays = {name: {"mail_domain": f"{name}.example.org"} for name in NAMES}
    (pillars / "relays.json").write_text(json.dumps(relays))
    root = str(tmp_path / "root")
    given = {"root_dir": root, "pillar_roots": {"base": [str(pillars)]}, "id": "master"}
    return salt.config.apply_master_config(given)


def counted(work):
    """Return the result of a function, and the number of calls of Python functions in it."""
    calls = 0

    def note(_frame, event, _argument):
        nonlocal calls
        calls += event == "call"

    logging.disable(logging.CRITICAL)
    sys.setprofile(note)
    try:
        return work(), calls
    finally:
        sys.setprofile(None)
        logging.disable(logging.NOTSET)


def render(opts, name):
    """Return the settings of a relay, from the pillar that its master renders."""
    # Salt keeps a list of what read its options, which would grow.
    rendered = salt.pillar.Pillar(dict(opts), {**GRAINS, "id": name}, name, "base").compile_pillar()
    return settings.resolve(rendered, GRAINS)


def test_hundredth_relay_costs_the_master_what_the_second_does(opts):
    began, calls = time.monotonic(), []
    for name in NAMES:
        found, number = counted(lambda name=name: render(opts, name))
        assert found["mail_domain"] == f"{name}.example.org"
        calls.append(number)
    seconds = (time.monotonic() - began) / NUMBER
    print(f"\na pillar and its settings: {calls[-1]} calls, {1000 * seconds:.0f} ms a relay")
    # The first one loads modules. Some look for Salt's extensions among Python's packages once or
    # twice more than others, each time for 9600 calls, so the least of ten counts.
    assert min(calls[-10:]) <= 1.05 * min(calls[1:11])


def test_states_of_a_relay_do_not_depend_on_the_others():
    compiled = []
    for name in (NAMES[0], NAMES[-1]):
        began = time.monotonic()
        with compiling.compiler({"mail_domain": f"{name}.example.org"}) as compile_sls:
            states, number = counted(lambda compile_sls=compile_sls: compile_sls("chatmail"))
        compiled.append((len(states), number))
        seconds = time.monotonic() - began
        print(f"\nall states of a relay: {len(states)} states, {number} calls, {seconds:.1f} s")
    (first, calls), (last, later) = compiled
    assert first == last
    assert later <= 1.05 * calls
