"""Applies states on a relay, and reads the report of a run."""

import json

APPLY = "salt-call --local state.apply chatmail"


def states(run):
    """Return the states of a `salt-call --out=json` run, each with its result and changes."""
    report = json.loads(run.stdout)["local"]
    assert isinstance(report, dict), report  # a list holds the errors of the rendering
    return report


def not_as_expected(report):
    """Return the states that failed or changed something, for the message of an assertion."""
    # Another answer of Salt's, such as that a run is under way, has texts in the place of states.
    assert all(isinstance(state, dict) for state in report.values()), report
    return {
        name: (state["result"], state["comment"], state["changes"])
        for name, state in report.items()
        if state["result"] is not True or state["changes"]
    }


def changing(run):
    """Return the states with changes in a run, or with predicted changes in a dry run."""
    report = states(run)
    failed = [each["comment"] for each in report.values() if each["result"] is False]
    assert failed == []
    return {name for name, each in report.items() if each["changes"] or each["result"] is None}


def apply(relay, sls, **chatmail):
    """Apply states with further settings in the pillar `chatmail`, and return the report.

    `test=True` is a dry run, as on the command line.
    """
    test = f"test={chatmail.pop('test', False)}"
    pillar = json.dumps({"chatmail": chatmail})
    command = ["salt-call", "--local", "--out=json", "state.apply", sls, test, f"pillar={pillar}"]
    return states(relay.run(command, check=False))


def ids(report, wanted):
    """Return the ids of the states of a report for which `wanted(state)` is true."""
    return {state["__id__"] for state in report.values() if wanted(state)}


def changed(report):
    """Return the states with changes, also the predicted changes of a dry run."""
    return ids(report, lambda state: state["changes"] or state["result"] is None)


def failed(report):
    return ids(report, lambda state: state["result"] is False)
