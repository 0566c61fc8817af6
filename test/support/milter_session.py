"""A session of the milters without a socket and Postfix."""

from chatmaild.filter import milters
from support import running_filter


class Held(milters.Session):
    """A session that keeps the content of a message that is not refused."""

    direction = "incoming"

    def check_message(self):
        self.check_header_size()
        self.seen = bytes(self.content)


def shared_state(**settings) -> milters.SharedState:
    """Return what the sessions of a role share, on a relay that neither signs nor verifies."""
    defaults = running_filter.SETTINGS | {"mailboxes_dir": "/", "max_message_size": 100}
    return milters.SharedState(defaults | settings, None, None)
