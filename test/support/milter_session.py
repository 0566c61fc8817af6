"""A session of the milters without libmilter and Postfix."""

from chatmaild.filter import milters
from support import running_filter


class Held(milters.Session):
    """A session whose replies are kept, as libmilter would send them."""

    direction = "incoming"
    _protocol = 0  # of what Postfix offered, nothing is left out

    def setreply(self, *reply):
        self.reply = reply

    def check_message(self):
        self.check_header_size()
        self.seen = bytes(self.content)


def shared_state(**settings) -> milters.SharedState:
    """Return what the sessions of a role share, on a relay that neither signs nor verifies."""
    defaults = running_filter.SETTINGS | {"mailboxes_dir": "/", "max_message_size": 100}
    return milters.SharedState(defaults | settings, None, None)
