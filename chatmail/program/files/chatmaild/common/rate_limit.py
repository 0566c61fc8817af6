"""How often somebody may do something: the generic cell rate algorithm (GCRA)."""

import math
import threading
import time
from collections.abc import Callable

# Forgetting idle senders costs a walk over all of them, so it is done when they have doubled.
FIRST_WALK = 1000


class RateLimit:
    """A sustained rate and a burst for each key; holds one float for each key in use."""

    def __init__(self, per_minute: float, burst: int, clock: Callable[[], float] = time.monotonic):
        """Take the sustained rate and how many tokens an idle key has at once."""
        self._interval = 60 / per_minute
        self._tolerance = self._interval * (burst - 1)
        self._clock = clock
        self._lock = threading.Lock()
        self._due: dict[str, float] = {}  # when the key is idle again: GCRA's arrival time
        self._walk_at = FIRST_WALK

    def allows(self, key: str) -> bool:
        """Return whether there is a token, and take none."""
        with self._lock:
            return self._due_for(key, self._clock()) is not None

    def _due_for(self, key, now):
        """Return when the key's next token is due, or None when that is too far away."""
        due = max(self._due.get(key, now), now)
        return due if due - now <= self._tolerance + 1e-6 else None  # floats: due exactly now

    def take(self, key: str) -> bool:
        """Take a token, or return False and take none."""
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
        """Return how many tokens the key that took most has not regained yet."""
        with self._lock:
            longest = max(self._due.values(), default=0) - self._clock()
        return max(0, math.ceil(longest / self._interval - 1e-6))

    def __len__(self):
        return len(self._due)
