"""Chunk execution: which row of which chunk is the command for a control step.

Role: pure arithmetic between a policy that answers with chunks and a robot that wants one target per period.
Robot time is integer nanoseconds; a step index counts control periods since the first frame of the episode.
Does not depend on rclpy, on a policy or on the clock of this machine.
"""

from __future__ import annotations

import numpy as np

NANOSECONDS = 1_000_000_000


class ChunkExecution:
    """Decides when to infer and which row to send; never asks for two inferences of the same step.

    execute: rows to run before the next inference; horizon: rows in a chunk; rate: control rate in Hz.

    Inferences are due at steps that are multiples of `execute`; when such a step was missed (a slow policy, a lost
    frame) the next seen step is due instead and the grid stays where it was.
    """

    def __init__(self, execute: int, horizon: int, rate: float) -> None:
        if execute < 1 or horizon < execute:
            raise ValueError(f"need 1 <= execute <= horizon, got execute {execute} and horizon {horizon}")
        if not rate > 0:
            raise ValueError(f"rate must be positive, got {rate}")
        self.execute = execute
        self.horizon = horizon
        self.rate = rate
        self._start: int | None = None
        self.stop()

    def start(self, stamp: int) -> None:
        """Begin an episode whose first frame has this stamp."""
        self.stop()
        self._start = stamp

    def stop(self) -> None:
        """End the episode: every step is a hold, and an inference still in flight is not wanted any more."""
        self._start = None
        self._next_due = 0
        self._in_flight: int | None = None
        self._chunk_index = 0
        self._actions: np.ndarray | None = None

    @property
    def running(self) -> bool:
        return self._start is not None

    def index(self, stamp: int) -> int:
        """Step index of a stamp; negative for a frame from before the episode."""
        if self._start is None:
            raise RuntimeError("no episode is running")
        return round((stamp - self._start) * self.rate / NANOSECONDS)

    def due(self, index: int) -> bool:
        """True when the observation of this step must be given to the policy."""
        return self.running and self._in_flight is None and index >= self._next_due

    def begin(self, index: int) -> None:
        """An inference on the observation of this step has started."""
        if not self.due(index):
            raise RuntimeError(f"no inference is due at step {index}")
        self._in_flight = index
        self._next_due = (index // self.execute + 1) * self.execute

    def finish(self, index: int, actions: np.ndarray) -> bool:
        """Take its result, (horizon, columns). False when the episode it belongs to is over: the result is dropped."""
        if self._in_flight != index:
            return False
        self._in_flight = None
        self._chunk_index = index
        self._actions = actions
        return True

    def row(self, index: int) -> np.ndarray | None:
        """Target for the period that begins at this step, (columns,); None: there is none, hold."""
        if self._actions is None:
            return None
        offset = index - self._chunk_index
        return self._actions[offset] if 0 <= offset < len(self._actions) else None
