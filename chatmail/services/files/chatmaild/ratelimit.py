"""How many messages an address may send: the generic cell rate algorithm (GCRA)."""

import threading
import time
from collections.abc import Callable

# Forgetting idle senders costs a walk over all of them, so it is done when they have doubled.
FIRST_WALK = 1000


class RateLimit:
    """A sustained rate and a burst for each key; holds one float for each key in use."""

    def __init__(self, per_minute: int, burst: int, clock: Callable[[], float] = time.monotonic):
        """Take the sustained rate and how many tokens an idle key has at once."""
        self._interval = 60 / per_minute
        self._tolerance = self._interval * (burst - 1)
        self._clock = clock
        self._lock = threading.Lock()
        self._due: dict[str, float] = {}  # when the key is idle again: GCRA's arrival time
        self._walk_at = FIRST_WALK

    def take(self, key: str) -> bool:
        """Take a token, or return False and take none."""
        with self._lock:
            now = self._clock()
            due = max(self._due.get(key, now), now)
            if due - now > self._tolerance + 1e-6:  # floats: a token is due exactly now
                return False
            self._due[key] = due + self._interval
            if len(self._due) > self._walk_at:
                self._due = {name: due for name, due in self._due.items() if due > now}
                self._walk_at = max(FIRST_WALK, 2 * len(self._due))
            return True

    def __len__(self):
        return len(self._due)
