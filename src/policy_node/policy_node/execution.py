"""Chunk execution: which row of which chunk is the command for a control step.

Role: pure arithmetic between a policy that answers with chunks and a robot that wants one target per period.
Robot time is integer nanoseconds; a step index counts control periods since the first frame of the episode.
Does not depend on rclpy, on a policy or on the clock of this machine.
"""

from __future__ import annotations

import math
from collections import deque

import numpy as np

from whetstone.contracts import Underway

NANOSECONDS = 1_000_000_000
REMEMBERED = 10
"""Delays of inferences that the next one's is foretold from (real-time chunking's buffer)."""


class ChunkExecution:
    """Decides when to infer and which row to send; never asks for two inferences of the same step, nor for one while another is made.

    execute: rows to run before the next inference; horizon: rows in a chunk; rate: control rate in Hz.
    waits: the arm rests while the policy thinks, and a chunk begins when it arrives. Otherwise (asynchronous inference) it goes on along
        the chunk in use, and a new one takes over at the row that belongs to the time since its observation.
    ensemble: None: the newest chunk commands. Else the m of temporal ensembling (Zhao et al., arXiv 2304.13705, section IV.B): all chunks
        that speak of a step are averaged with the weights exp(-m i), i = 0 the oldest.

    Inferences are due at steps that are multiples of `execute` (waiting: `execute` steps after the chunk began); when such a step was
    missed (a slow policy, a lost frame) the next seen step is due instead and the grid stays where it was.

    jump: how far the newest chunk lay from the one in use at the step where it took over, the largest of all columns but the gripper's, in
    their unit (rad); NaN where there was none. delay: control periods from its observation to there.
    era: changes when an inference in flight is not wanted any more; who finishes one of another era has nobody to give it to.
    """

    def __init__(self, execute: int, horizon: int, rate: float, *, waits: bool = False, ensemble: float | None = None) -> None:
        if execute < 1 or horizon < execute:
            raise ValueError(f"need 1 <= execute <= horizon, got execute {execute} and horizon {horizon}")
        if not rate > 0:
            raise ValueError(f"rate must be positive, got {rate}")
        self.execute = execute
        self.horizon = horizon
        self.rate = rate
        self._waits, self._ensemble = waits, ensemble
        self._delays: deque[int] = deque(maxlen=REMEMBERED)  # outlives an episode: the policy stays as slow
        self._start: int | None = None
        self.era = 0
        self.stop()

    def start(self, stamp: int) -> None:
        """Begin an episode whose first frame has this stamp."""
        self.stop()
        self._start = stamp

    def stop(self) -> None:
        """End the episode: every step is a hold, and an inference still in flight is not wanted any more."""
        self._start = None
        self.era += 1
        self._next_due = 0
        self._in_flight: int | None = None
        self._chunks: list[tuple[int, np.ndarray]] = []  # step of the first row, rows; the newest last
        self.jump, self.delay = math.nan, 0

    def forget(self) -> None:
        """The arm was moved by somebody else: no chunk holds any more, and an inference is due at once."""
        self.era += 1
        self._chunks, self._in_flight, self._next_due = [], None, 0

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

    def underway(self, index: int) -> Underway | None:
        """What the arm does from this step on, for an inference on its observation; None: nothing, or nothing that can be gone on from, or
        it waits."""
        if self._waits or not self._chunks:
            return None
        first, actions = self._chunks[-1]
        rest = actions[max(index - first, 0) :]
        usable = len(rest) > 0 and bool(np.isfinite(rest).all())
        return Underway(rest, min(max(self._delays, default=0), len(rest))) if usable else None

    def finish(self, index: int, actions: np.ndarray, now: int | None = None) -> bool:
        """Take its result, (horizon, columns). now: the step that is commanded next; None: the observation's own. False when the episode it
        belongs to is over: the result is dropped."""
        if self._in_flight != index:
            return False
        self._in_flight = None
        now = index if now is None else max(now, index)
        self.delay = now - index
        self._delays.append(self.delay)
        before = self.row(now)
        first = now if self._waits else index
        if self._waits:
            self._next_due = now + self.execute
        kept = self._chunks if self._ensemble is not None else []
        self._chunks = [*((begun, rows) for begun, rows in kept if begun + len(rows) > now), (first, actions)]
        new = actions[now - first] if now - first < len(actions) else None
        self.jump = math.nan if before is None or new is None else float(np.abs(new - before)[:-1].max(initial=0.0))
        return True

    def row(self, index: int) -> np.ndarray | None:
        """Target for the period that begins at this step, (columns,); None: there is none, hold."""
        end = self.execute if self._waits else self.horizon
        rows = [actions[index - first] for first, actions in self._chunks if 0 <= index - first < min(end, len(actions))]
        if not rows:
            return None
        if self._ensemble is None:
            return rows[-1]
        rows = [row for row in rows if np.isfinite(row).all()] or rows[-1:]  # one chunk of NaN must not spoil the others
        weights = np.exp(-self._ensemble * np.arange(len(rows)))
        return np.tensordot(weights / weights.sum(), np.stack(rows), 1)
