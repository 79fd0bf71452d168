"""The thread that scores: what it is given, and in which order it takes it.

Role: keeps the model's time away from the node's executor. Knows nothing of ROS or of what a reward is.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass

from whetstone.frame_sets import FrameSet


@dataclass(frozen=True)
class Job:
    """Work for the worker: a frame set to score, or (frames None) an episode to begin. robot: which of those it serves."""

    robot: int
    episode_id: str
    instruction: str
    seed: int
    frames: FrameSet[bytes] | None


class Worker:
    """One thread that takes the jobs of every robot in their order, one of each robot at a time.

    newest_only: a robot's frame set that still waits gives way to a newer one.
    """

    def __init__(self, work: Callable[[list[Job]], None], newest_only: bool) -> None:
        self._work = work
        self._newest_only = newest_only
        self._jobs: list[Job] = []
        self._ready = threading.Condition()
        self._stopped = False
        self._thread = threading.Thread(target=self._loop, name="reward", daemon=True)
        self._thread.start()

    def give(self, job: Job) -> int:
        """Returns how many waiting frame sets were dropped for it."""
        with self._ready:
            before = len(self._jobs)
            if job.frames is None or self._newest_only:
                # A new episode makes the old one's frames worthless.
                self._jobs = [waiting for waiting in self._jobs if waiting.frames is None or waiting.robot != job.robot]
            dropped = before - len(self._jobs)
            self._jobs.append(job)
            self._ready.notify()
        return dropped

    def stop(self, seconds: float) -> None:
        with self._ready:
            self._stopped = True
            self._jobs.clear()
            self._ready.notify()
        self._thread.join(seconds)

    def _loop(self) -> None:
        while True:
            with self._ready:
                while not self._jobs and not self._stopped:
                    self._ready.wait()
                if self._stopped:
                    return
                taken: dict[int, Job] = {}
                for job in self._jobs:
                    taken.setdefault(job.robot, job)
                self._jobs = [job for job in self._jobs if taken[job.robot] is not job]
            self._work(list(taken.values()))
