"""The commands of the Salt module chatmail_expire."""

from chatmaild.common.commands import answer
from chatmaild.retention.plan import make_expiry_plan, make_report_plan
from chatmaild.retention.quota import cut_one
from chatmaild.retention.removal import remove_one
from chatmaild.retention.sweep import sweep


def run(settings: dict, test: bool) -> dict:
    """Remove old mail and unused addresses, and cut full mailboxes; with `test` only count."""
    return sweep(make_expiry_plan(settings, test))


def report(settings: dict) -> dict:
    """Count addresses and mail."""
    return sweep(make_report_plan(settings))["report"]


COMMANDS = {"run": run, "quota": cut_one, "remove": remove_one, "report": report}

if __name__ == "__main__":
    answer(COMMANDS)
