"""Tables of several runs side by side: those of docs/performance.md, and before and after.

`.venv/bin/python test/bench/tables.py debian-13.json debian-12.json` prints the tables of the page
from the files that `make bench` wrote. Its output is what the page has.
"""

import json
import sys
from collections import Counter
from pathlib import Path

sys.path[:1] = [str(Path(__file__).parents[1])]

from bench.figures import (  # noqa: E402
    FIGURES,
    comparison,
    in_columns,
    shown,
    shown_goal,
    verdict,
)


def read(path):
    """Return the record that a run of `make bench` wrote. The program ends when it cannot."""
    try:
        return json.loads(Path(path).read_text())
    except (OSError, ValueError) as error:
        sys.exit(f"cannot read {path}: {error}; expected is a JSON file that `make bench` wrote")


def side_by_side(records):
    """Return the lines of a Markdown table with the figures of several runs and their verdicts.

    records: {head of the column: record of a run}. Their releases may differ.
    """
    head = ["figure", "goal"]
    for name in records:
        head += [name, ""]
    rows = [(*head, "unit")]
    for figure in FIGURES:
        found = [
            (record["release"], record["figures"].get(figure.key)) for record in records.values()
        ]
        if all(value is None for _, value in found):
            continue
        goals = dict.fromkeys(shown_goal(figure, release) for release, _ in found)
        row = [figure.name, "; ".join(goals)]
        for release, value in found:
            row += [shown(value), verdict(figure, value, release)]
        rows.append((*row, figure.unit))
    return in_columns(rows)


def by_service(records, key, least):
    """Return the lines of a table of what each service took, the most first.

    key: "cpu" or "memory", as in the records. least: services that took less everywhere are left
    out. An instance counts for its service: on Debian 12 Postfix is `postfix@-`.
    """
    columns = []
    for record in records.values():
        columns.append(column := Counter())
        for unit, value in record.get(key, {}).items():
            column[unit.removesuffix(".service").partition("@")[0]] += value
    most = {name: max(column[name] for column in columns) for column in columns for name in column}
    rows = [
        (f"`{name}`", *(shown(column.get(name)) for column in columns))
        for name in sorted(most, key=lambda name: -most[name])
        if most[name] >= least
    ]
    return in_columns([("service", *records), *rows])


def page(records):
    """Return the tables of docs/performance.md."""
    lines = side_by_side(records)
    lines += ["", "CPU a message at full speed, in milliseconds:", ""]
    lines += by_service(records, "cpu", 0.1)
    lines += ["", "PSS of the idle box, in MB:", "", *by_service(records, "memory", 1)]
    for name, record in records.items():
        busy = max(record["busy"].values(), default=0)
        about = f"{record['date']}, {record['cores']} cores, at most {busy:.0f} % busy otherwise"
        lines += ["", f"{name}: {about}."]
        if peers := record.get("peers"):
            lines += ["", *comparison(record["figures"], peers)]
    return lines


def main():
    """Print the tables of the page."""
    if len(sys.argv) < 2:
        sys.exit(__doc__)
    records = [read(path) for path in sys.argv[1:]]
    print(
        "\n".join(
            page({record["release"].replace("debian-", "Debian "): record for record in records})
        )
    )


if __name__ == "__main__":
    main()
