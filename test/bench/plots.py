"""Plots of a run: who waits how long, messages over time, memory against clients."""

import itertools


def draw(record, directory):
    """Write the plots of a run as PNG; return their names, or why there are none.

    record: what the JSON file has. directory: a Path.
    """
    try:
        import matplotlib
    except ImportError:
        return "(no plots: matplotlib is missing; `.venv/bin/pip install --group bench` brings it)"
    matplotlib.use("Agg")
    kinds = (("waits", waits), ("timeline", timeline), ("growth", growth))
    return " ".join(
        plot(record, directory / f"{record['release']}-{kind}.png", function)
        for kind, function in kinds
        if record.get(kind)
    )


def plot(record, path, function):
    """Let one function draw, and write the file; return its name."""
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(8, 4.5), layout="constrained")
    function(axes, record)
    axes.set_title(f"{axes.get_title()} ({record['release']}, {record['date'][:10]})")
    axes.grid(alpha=0.3)
    axes.legend()
    figure.savefig(path, dpi=120)
    pyplot.close(figure)
    return path.name


def waits(axes, record):
    """Draw the share of the messages whose notice came within a time."""
    for name, values in record["waits"].items():
        ordered = sorted(1000 * value for value in values)
        share = [100 * (index + 1) / len(ordered) for index in range(len(ordered))]
        axes.step(ordered, share, where="post", label=f"{name} ({len(ordered)})")
    axes.set(title="notice after the end of DATA", xlabel="ms", ylabel="% of the messages")
    axes.set_xscale("log")


def timeline(axes, record):
    """Draw what was accepted and what had arrived in mailboxes, in messages a second."""
    rows = record["timeline"][::2]
    seconds = [(after[0] + before[0]) / 2 for before, after in itertools.pairwise(rows)]
    for column, name in ((1, "accepted"), (2, "into mailboxes")):
        rates = [
            (after[column] - before[column]) / (after[0] - before[0])
            for before, after in itertools.pairwise(rows)
        ]
        axes.plot(seconds, rates, label=name)
    axes.set(title="40 senders, 10 KB", xlabel="seconds", ylabel="messages a second")


def growth(axes, record):
    """Draw the memory of the box against the clients that wait."""
    number, memory = zip(*record["growth"], strict=True)
    axes.plot(number, memory, marker="o", label="PSS of the units that grew")
    axes.set(title="idle TLS clients", xlabel="clients in IDLE", ylabel="MB")
    axes.set_ylim(bottom=0)
