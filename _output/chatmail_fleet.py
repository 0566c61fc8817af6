"""Show the results of the runner chatmail_fleet as tables. `--out json` shows all of them instead.

A machine in the table has a mark: ! for a fault, ? for a silent one. Below the table stands what is
wrong with each of them, and the last line counts.
"""

# Larger fleets get one character for each pair.
WIDE = 12
# A relay that somebody else controls must not push the others out of sight: characters of a cell
# and of what is wrong, and columns.
LONGEST, LONGEST_COMMENT, MOST_COLUMNS = 40, 2000, 20
SIGNS = ". under 1 s, 1-9 s, + more, x lost, - not asked"


def output(data, **_kwargs):
    """Return the text for what a function of the runner returned.

    CLI Example:

    .. code-block:: bash

        salt-run chatmail_fleet.status --out chatmail_fleet
    """
    # In place of the results, Salt gives the text of an error.
    if not isinstance(data, dict) or not isinstance(data.get("data"), dict):
        return str(data)
    relays = data["data"]
    if not relays:
        return "no relay matches. Targets need the pillar of a minion, which the master knows once"
    ways = [way for each in relays.values() for way in each.get("to", {})]
    blocks = [_matrix(relays, way) for way in dict.fromkeys(ways)] or [_table(relays)]
    return "\n".join([*blocks, *_complaints(relays), _count(relays)])


def _table(relays):
    """Return one row for each machine. Values that are dictionaries are for --out json only."""
    rest = {"result", "answered", "comment"}
    columns = dict.fromkeys(
        name
        for each in relays.values()
        for name, value in each.items()
        if name not in rest and not isinstance(value, dict)
    )
    columns = list(columns)[:MOST_COLUMNS]
    rows = [["", "relay", *(_cut(str(name).replace("_", " ")) for name in columns)]]
    for relay, each in relays.items():
        rows.append([_mark(each), relay, *(_cell(each.get(name)) for name in columns)])
    return _align(rows)


def _align(rows):
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    )


def _mark(each):
    if each["result"]:
        return " "
    return "!" if each["answered"] else "?"


def _cell(value):
    if value is None:
        return "-"
    if isinstance(value, list):
        # A list of records is for --out json.
        plain = all(isinstance(each, str) for each in value)
        text = ",".join(value) if plain and value else str(len(value))
        return text if len(text) <= LONGEST else str(len(value))
    return _cut(str(value))


def _cut(text):
    """Return a text in one line that fits into a cell."""
    text = " ".join(text.split())
    return text if len(text) <= LONGEST else f"{text[: LONGEST - 1]}…"


def _matrix(relays, way):
    """Return a row for each sender and a column for each recipient."""
    names = list(relays)
    found = {name: relays[name].get("to", {}).get(way, {}) for name in names}
    if len(names) <= WIDE:
        rows = [[f"by {way}: from", *names]]
        rows += [[name, *(_time(found[name].get(other)) for other in names)] for name in names]
        return _align(rows) + "\n"
    width, lines = max(map(len, names)), [f"by {way}: a row sends, a column receives. {SIGNS}"]
    for number, name in enumerate(names, 1):
        signs = "".join(_sign(found[name].get(other)) for other in names)
        lines.append(f"{number:3} {name.ljust(width)}  {signs}")
    return "\n".join(lines) + "\n"


def _time(value):
    return "-" if value is None else "lost" if isinstance(value, str) else f"{value:.2f}"


def _sign(value):
    if value is None or isinstance(value, str):
        return "-" if value is None else "x"
    return "." if value < 1 else str(int(value)) if value < 10 else "+"


def _complaints(relays):
    """Return a line for each machine with a comment, such as what is wrong there."""
    said = [(relay, each["comment"]) for relay, each in relays.items() if each.get("comment")]
    lines = [f"{relay}: {' '.join(str(comment).split())}" for relay, comment in said]
    return [
        line if len(line) <= LONGEST_COMMENT else f"{line[:LONGEST_COMMENT]}…" for line in lines
    ]


def _count(relays):
    marks = [_mark(each) for each in relays.values()]
    parts = [f"{len(relays)} relays", f"{marks.count(' ')} well"]
    for mark, name in (("!", "with faults"), ("?", "silent")):
        those = [relay for relay, each in relays.items() if _mark(each) == mark]
        if those:
            parts.append(f"{len(those)} {name} ({', '.join(those)})")
    return ", ".join(parts)
