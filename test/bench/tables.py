"""Tables of several runs side by side: those of docs/performance.md, and before and after.

`make documents` writes the tables of the page from the files in docs/figures. `make bench` wrote
these files, and somebody put them there. A test compares the page with them.
"""

import json
import sys
from collections import Counter
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path[:1] = [str(ROOT / "test")]

from bench.figures import (  # noqa: E402
    FIGURES,
    comparison,
    in_columns,
    shown,
    shown_goal,
    verdict,
)

PAGE = ROOT / "docs" / "performance.md"
FIGURES_FOLDER = ROOT / "docs" / "figures"
# {head of the column: file in docs/figures}. A file that is not there has no column.
RUNS = {
    "13 before": "debian-13-before",
    "13 now": "debian-13",
    "12 before": "debian-12-before",
    "12 now": "debian-12",
}
# What is between these lines of the page is written by this program.
BEGIN = "<!-- Made by `make documents` from docs/figures: begin -->"
END = "<!-- Made by `make documents` from docs/figures: end -->"


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
    """Return the lines with all tables of docs/performance.md.

    records: as in `side_by_side`. A record with peers gets a table of its own.
    """
    lines = side_by_side(records)
    lines += ["", "CPU a message at full speed, in milliseconds:", ""]
    lines += by_service(records, "cpu", 0.1)
    lines += ["", "PSS of the idle box, in MB:", "", *by_service(records, "memory", 1)]
    for name, record in records.items():
        if peers := record.get("peers"):
            lines += ["", f"{name}, beside others:", "", *comparison(record["figures"], peers)]
    lines += ["", "When the runs were, and how busy the machine was with other work:", ""]
    rows = map(_circumstances, records.items())
    return [*lines, *in_columns([("run", "date", "cores", "at most"), *rows])]


def _circumstances(item):
    """Return the row of a run in the table about the circumstances."""
    name, record = item
    part, busy = max(record["busy"].items(), key=lambda pair: pair[1], default=("", 0))
    about = f"{busy:.0f} %" + (f" ({part})" if part else "")
    return (name, record["date"], str(record["cores"]), about)


def documents():
    """Return {path: text} of docs/performance.md with the tables of the files in docs/figures."""
    records = {
        name: read(path)
        for name, path in ((name, FIGURES_FOLDER / f"{file}.json") for name, file in RUNS.items())
        if path.exists()
    }
    before, rest = PAGE.read_text().split(BEGIN)
    after = rest.split(END)[1]
    lines = [BEGIN, "", *page(records), "", END]
    return {PAGE: before + "\n".join(lines) + after}


if __name__ == "__main__":
    for page_path, page_text in documents().items():
        page_path.write_text(page_text)
