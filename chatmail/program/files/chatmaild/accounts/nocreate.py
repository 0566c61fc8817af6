"""The file that stops new addresses at once: while it exists, no address is created."""

from pathlib import Path

from chatmaild.common import atomic_files
from chatmaild.common.errors import InvalidRequest, OperatorError

NOCREATE = Path("/etc/chatmail-nocreate")
# The file begins with this text when the pillar stops new addresses.
MANAGED = "Managed by the chatmail formula"


def switch(state: str | bool) -> dict[str, bool]:
    """Stop new addresses or allow them again, as `chatmail_accounts.nocreate` describes.

    state: "on" or "off", or the booleans that YAML makes of these words.
    Returns {"nocreate", "changed"}. Raises InvalidRequest for another state, and OperatorError
    when the pillar stops new addresses.
    """
    wanted = {"on": True, "off": False}.get(state, state)
    if not isinstance(wanted, bool):
        raise InvalidRequest(f"state: {state!r}, allowed is on or off")
    found = NOCREATE.read_text() if NOCREATE.exists() else None
    if wanted and found is None:
        atomic_files.replace(NOCREATE, "By chatmail_accounts.nocreate.\n", mode=0o644)
    elif not wanted and found is not None:
        if found.startswith(MANAGED):
            raise OperatorError(
                "the pillar keeps new addresses off (registration: closed, or nocreate: true): "
                "change it there, and apply the state"
            )
        NOCREATE.unlink()
    return {"nocreate": wanted, "changed": wanted is (found is None)}
