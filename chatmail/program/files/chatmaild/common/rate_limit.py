"""A rate limit by key, with the generic cell rate algorithm (GCRA)."""

import math
import threading
import time
from collections.abc import Callable

# Idle keys are forgotten in a walk over all keys. The first walk is at this number of keys, and
# each later one when their number has doubled.
FIRST_WALK = 1000


class RateLimit:
    """A sustained rate and a burst for each key. A key in use costs one float of memory."""

    def __init__(self, per_minute: float, burst: int, clock: Callable[[], float] = time.monotonic):
        """Set the limits.

        per_minute: tokens that a key regains in a minute.
        burst: tokens that an idle key has.
        clock: returns the time in seconds.
        """
        self._interval = 60 / per_minute
        self._tolerance = self._interval * (burst - 1)
        self._clock = clock
        self._lock = threading.Lock()
        self._due: dict[str, float] = {}  # when the key is idle again: GCRA's arrival time
        self._walk_at = FIRST_WALK

    def allows(self, key: str) -> bool:
        """Return whether the key has a token. This takes no token."""
        with self._lock:
            return self._due_for(key, self._clock()) is not None

    def _due_for(self, key, now):
        """Return the time at which the key is idle again, or None when it has no token."""
        due = max(self._due.get(key, now), now)
        # The small number allows for rounding, when a token becomes free exactly now.
        return due if due - now <= self._tolerance + 1e-6 else None

    def take(self, key: str) -> bool:
        """Take a token of the key; return False when there is none."""
        with self._lock:
            now = self._clock()
            due = self._due_for(key, now)
            if due is None:
                return False
            self._due[key] = due + self._interval
            if len(self._due) > self._walk_at:
                self._due = {name: due for name, due in self._due.items() if due > now}
                self._walk_at = max(FIRST_WALK, 2 * len(self._due))
            return True

    def busiest(self) -> int:
        """Return the largest number of tokens that a key has taken and not regained yet."""
        with self._lock:
            longest = max(self._due.values(), default=0) - self._clock()
        return max(0, math.ceil(longest / self._interval - 1e-6))

    def __len__(self):
        return len(self._due)
