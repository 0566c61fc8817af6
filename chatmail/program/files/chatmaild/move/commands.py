"""The commands of the Salt module chatmail_move. Each command imports only what it needs."""

from chatmaild.common.commands import answer


def off(_settings: dict, reason: str) -> dict:
    """Keep mail off on this machine from now on."""
    from chatmaild.move import switching

    return switching.switch_off(reason)


def on(_settings: dict) -> dict:
    """Allow mail on this machine again."""
    from chatmaild.move import switching

    return switching.switch_on()


def key(_settings: dict, seconds: int) -> dict:
    """Make the key of a move on the new machine."""
    from chatmaild.move import receiving

    return {"public_key": receiving.make_key(seconds)}


def admit(_settings: dict, public_key: str, addresses: list[str], seconds: int) -> dict:
    """Let the new machine read the files of this one."""
    from chatmaild.move import sending

    return sending.admit(public_key, addresses, seconds)


def copy(settings: dict, host_key: str, addresses: list[str], last: bool) -> dict:
    """Copy the relay from the old machine."""
    from chatmaild.move import receiving

    return receiving.copy(settings, host_key, addresses, last)


def close(_settings: dict) -> dict:
    """Remove the keys of a move from this machine."""
    from chatmaild.move import receiving, sending

    receiving.forget_key()
    return {"changed": sending.close()}


COMMANDS = {"off": off, "on": on, "key": key, "admit": admit, "copy": copy, "close": close}

if __name__ == "__main__":
    answer(COMMANDS)
