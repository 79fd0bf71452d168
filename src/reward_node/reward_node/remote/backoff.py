"""When to try a server again.

Role: pauses between the attempts at one request, and the circuit breaker between requests. Pure: the clock and the randomness are given.
Knows nothing of HTTP.
"""

from __future__ import annotations

import random
from collections.abc import Callable

from reward_node.remote.settings import RetrySettings


class Backoff:
    """clock: s, monotonic; seed: of the jitter."""

    def __init__(self, settings: RetrySettings, clock: Callable[[], float], seed: int = 0) -> None:
        self._settings, self._clock, self._random = settings, clock, random.Random(seed)
        self._until = clock()
        self.failures = 0
        """Requests that failed since the last one that succeeded."""
        self.cause = ""
        """Of the last failure."""

    @property
    def left(self) -> float:
        """s that the server is still to be left alone."""
        return max(self._until - self._clock(), 0.0)

    @property
    def attempts(self) -> int:
        """At the next request: one where the server counts as down, to learn whether it is back."""
        return 1 if self.failures >= self._settings.failures else self._settings.attempts

    def pause(self, attempt: int) -> float:
        """s before this attempt; the first has the number 0 and needs none."""
        return self._jitter(self._settings.pause * 2.0 ** (attempt - 1)) if attempt else 0.0

    def succeeded(self) -> None:
        self.failures, self._until, self.cause = 0, self._clock(), ""

    def failed(self, cause: str) -> None:
        self.failures, self.cause = self.failures + 1, cause
        beyond = self.failures - self._settings.failures
        if beyond >= 0:
            # The exponent is bounded before it overflows a float.
            self._until = self._clock() + self._jitter(min(self._settings.rest * 2.0 ** min(beyond, 64), self._settings.longest))

    def _jitter(self, seconds: float) -> float:
        return seconds * self._random.uniform(0.5, 1.0)
