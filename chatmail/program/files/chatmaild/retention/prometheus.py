"""Numbers in Prometheus's text format, in files that chatmail-metrics reads."""

import contextlib
import os

from chatmaild.common import atomic_files
from chatmaild.common.errors import OperatorError


def write_metrics(directory, command, result):
    """Write `report.prom`, and after a run `expire.prom`, in Prometheus's text format."""
    numbers = result["report"] if command == "run" else result
    try:
        atomic_files.replace(
            os.path.join(directory, "report.prom"), format_report(numbers), mode=0o644
        )
        if command == "run":
            path = os.path.join(directory, "expire.prom")
            atomic_files.replace(
                path, format_sums(_read_metrics(path), result["removed"]), mode=0o644
            )
    except OSError as error:
        raise OperatorError(f"cannot write the metrics to {directory}: {error}") from error


def format_report(numbers):
    """Return the numbers of the report, under the names that dashboards of existing relays use."""
    gauges = (
        ("storage_bytes", "kind", "Bytes on disk of messages and of the mailboxes' other files."),
        ("messages_bytes", "min_size", "Bytes of the messages of at least that many bytes."),
        ("messages_count", "min_size", "Messages of at least that many bytes."),
        ("accounts", "kind", "Addresses: all, those of tests (ci-), and the others."),
        ("accounts_active", "days", "Addresses but ci- that logged in within that many days."),
    )
    lines = []
    for name, label, text in gauges:
        lines += [f"# HELP chatmail_{name} {text}", f"# TYPE chatmail_{name} gauge"]
        lines += [
            f'chatmail_{name}{{{label}="{value}"}} {number}'
            for value, number in numbers[name].items()
        ]
    return "\n".join(lines) + "\n"


def format_sums(before, removed):
    """Return the sums over all runs.

    before: the sums of the earlier runs. removed: the numbers of this run.
    """
    lines = ["# HELP chatmail_expire_runs_total Runs of the daily expiry."]
    lines.append("# TYPE chatmail_expire_runs_total counter")
    lines.append(f"chatmail_expire_runs_total {before.get('chatmail_expire_runs_total', 0) + 1}")
    lines.append("# HELP chatmail_expire_removed_total What expiry removed, by reason.")
    lines.append("# TYPE chatmail_expire_removed_total counter")
    for reason, number in removed.items():
        series = f'chatmail_expire_removed_total{{reason="{reason}"}}'
        lines.append(f"{series} {before.get(series, 0) + number}")
    return "\n".join(lines) + "\n"


def _read_metrics(path):
    """Return the numbers in a file by series, an empty dictionary without the file."""
    with contextlib.suppress(FileNotFoundError), open(path, encoding="ascii") as file:
        lines = [line.split() for line in file if not line.startswith("#")]
        return {line[0]: int(line[1]) for line in lines if len(line) == 2}
    return {}
