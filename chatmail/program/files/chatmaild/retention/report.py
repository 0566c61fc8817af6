"""The results of the commands as text for a terminal and the journal."""

from chatmaild.retention.tally import KIB, MESSAGE_REASONS, PASSED_OVER


def describe(command, result):
    """Return the result of a command as text."""
    if command == "report":
        return _describe_report(result)
    would = "would remove" if result["dry_run"] else "removed"
    removed, passed = result["removed"], result["passed_over"]
    messages = ", ".join(f"{removed[reason]} {reason}" for reason in MESSAGE_REASONS)
    lines = [f"{would} messages: {messages} ({_format_size(result['removed_bytes'])})"]
    if command == "run":
        lines.append(
            f"{would} {removed['inactive']} inactive mailboxes,"
            f" {removed['empty']} empty directories"
        )
        if result["removed_notifications"]:
            lines.append(
                f"removed {result['removed_notifications']} notifications of lost addresses"
            )
    else:
        before, after = _format_size(result["before"]), _format_size(result["after"])
        lines.append(f"quota: {before} before, {after} after")
    lines.append("passed over: " + ", ".join(f"{passed[cause]} {cause}" for cause in PASSED_OVER))
    return "\n".join(lines)


def _describe_report(numbers):
    accounts, storage = numbers["accounts"], numbers["storage_bytes"]
    lines = [f"addresses: {accounts['all']} ({accounts['ci']} of them ci-)"]
    lines += [
        f"  active within {days} days: {number}"
        for days, number in numbers["accounts_active"].items()
    ]
    total, messages, extra = (_format_size(storage[of]) for of in ("total", "messages", "extra"))
    lines.append(f"storage: {total} (messages {messages}, other files {extra})")
    lines += [
        f"  messages of {_format_size(int(size))} or more: {number}"
        f" ({_format_size(numbers['messages_bytes'][size])})"
        for size, number in numbers["messages_count"].items()
    ]
    return "\n".join(lines)


def _format_size(number):
    """Return a number of bytes for people, with units of 1024 as in the settings."""
    for unit in ("B", "K", "M", "G"):
        if number < KIB or unit == "G":
            break
        number /= KIB
    return f"{number:.0f}{unit}" if unit == "B" else f"{number:.1f}{unit}"
