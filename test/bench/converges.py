"""How long salt-call takes the first time, without a change, and with one setting changed."""

import json
import re

from bench.machine import lab

# The pillar of a relay that is measured: 40 senders must not meet the limits of one person.
PILLAR = {"max_user_send_per_minute": 1_000_000, "max_user_send_burst_size": 1_000_000}


def seconds(output):
    """Return changed states and seconds of the last line of `lab up` or `lab converge`."""
    found = re.search(r"changed=(\d+) failed=0 in ([\d.]+) s", output)
    return int(found[1]), float(found[2])


def up(name, release, directory):
    """Boot and converge a box; return the seconds of the converge."""
    pillar = directory / f"{name}.sls"
    pillar.write_text(json.dumps({"chatmail": PILLAR}))
    return seconds(lab("up", name, "--os", release, "--pillar", pillar))[1]


def again(machine):
    """Return the seconds of a converge that changes nothing, and of one with a changed setting."""
    unchanged = [seconds(lab("converge", machine.name)) for _ in range(3)]
    if any(changed for changed, _ in unchanged):
        raise RuntimeError(f"a second converge changed {unchanged} states (number, seconds)")
    changes = []
    for burst in (999_999, PILLAR["max_user_send_burst_size"]):
        pillar = {"chatmail": {**PILLAR, "max_user_send_burst_size": burst}}
        machine.path("/srv/pillar/extra.sls").write_text(json.dumps(pillar))
        changes.append(seconds(lab("converge", machine.name))[1])
    return min(took for _, took in unchanged), min(changes)
