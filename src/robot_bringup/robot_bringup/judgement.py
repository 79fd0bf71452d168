"""What the evaluator makes of an episode's ground truth.

Role: pure bookkeeping over (stamp, success, stage) of the frames of one episode. Its verdict follows from stamps alone, so
it repeats under a seed. Does not depend on ROS.
"""

from __future__ import annotations

from typing import Any


class Judgement:
    """One episode. start: stamp of the first frame (ns); rate: Hz; success: the condition held on `frames` frames in a row.

    decides: its verdict ends the episode (evaluation); otherwise it only takes notes (training).
    """

    def __init__(self, start: int, rate: float, max_steps: int, frames: int, decides: bool):
        self._start = start
        self._rate = rate
        self._max_steps = max_steps
        self._frames = frames
        self._decides = decides
        self._last = -1
        self._run = 0
        self._success_step: int | None = None
        self._first: int | None = None
        self._stage_at: list[tuple[int, int]] = []  # step, stage
        self._stages = 0
        self._end: int | None = None
        self._told_at = -1

    def see(self, stamp: int, success: bool, stage: int, stages: int) -> bool | None:
        """Note one frame. Returns the verdict once: True (success), False (none until the last step); else None."""
        step = round((stamp - self._start) * self._rate / 1e9)
        if stamp < self._start or step <= self._last or step > self._max_steps or (self._end is not None and step > self._end):
            return None
        self._run = self._run + 1 if success and (step == self._last + 1 or self._run == 0) else int(success)
        self._last = step
        if success and self._first is None:
            self._first = step
        self._stage_at.append((step, stage))
        self._stages = stages
        if self._success_step is None and self._run >= self._frames:
            self._success_step = step
        if not self._decides or self._told_at >= 0 or (self._success_step is None and step < self._max_steps):
            return None
        self._told_at = step
        return self._success_step is not None

    def end(self, stamp: int) -> None:
        """The episode manager ended the episode at this stamp; later frames do not count."""
        self._end = round((stamp - self._start) * self._rate / 1e9)

    @property
    def complete(self) -> bool:
        """The episode has ended and its last frame was seen."""
        return self._end is not None and self._last >= self._end

    def record(self) -> dict[str, Any]:
        """success; steps until success or the end; ever: the condition held on some frame; stage reached of stages."""
        # A success ends an evaluation episode, and the manager may count a frame less when it hears of it.
        end = max(self._last if self._end is None else self._end, self._told_at)
        success = self._success_step is not None and self._success_step <= end
        return {
            "success": success,
            "steps": self._success_step if success else end,
            "ever": self._first is not None and self._first <= end,
            "stage": max((stage for step, stage in self._stage_at if step <= end), default=0),
            "stages": self._stages,
        }
