"""The commands of the Salt module chatmail_relay. Each command imports only what it needs."""

from chatmaild.common.commands import answer


def describe(settings: dict) -> dict:
    """Return the state of this relay."""
    from chatmaild.status import description

    return description.describe(settings)


def list_limits(settings: dict) -> dict[str, dict]:
    """Return the limits of new addresses and connections, with their present values."""
    from chatmaild.status import limits

    return limits.list_limits(settings)


COMMANDS = {"describe": describe, "limits": list_limits}

if __name__ == "__main__":
    answer(COMMANDS)
