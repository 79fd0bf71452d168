"""The order in which the scoring thread takes what it is given."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator

import pytest

from reward_node.worker import Job, Worker
from whetstone.frame_sets import FrameSet

Log = list[list[tuple[int, int | None]]]


@pytest.fixture
def blocked() -> Iterator[Callable[[bool], tuple[Worker, Log, threading.Event]]]:
    """A worker at its first job, which it leaves when the event is set; the log has robot and stamp (None: an episode's begin)."""
    made: list[tuple[Worker, threading.Event]] = []

    def make(newest_only: bool) -> tuple[Worker, Log, threading.Event]:
        log: Log = []
        free, busy = threading.Event(), threading.Event()

        def work(jobs: list[Job]) -> None:
            log.append([(job.robot, None if job.frames is None else job.frames.stamp) for job in jobs])
            busy.set()
            assert free.wait(10)

        worker = Worker(work, newest_only)
        made.append((worker, free))
        worker.give(job(9, None))
        assert busy.wait(10)
        return worker, log, free

    yield make
    for worker, free in made:
        free.set()
        worker.stop(10)


def job(robot: int, stamp: int | None) -> Job:
    return Job(robot, "episode", "words", 0, None if stamp is None else FrameSet(stamp=stamp))


def until(log: Log, count: int) -> None:
    for _ in range(1000):
        if len(log) == count:
            return
        threading.Event().wait(0.01)
    pytest.fail(f"{log} instead of {count} calls")


def test_one_job_of_each_robot_at_a_time_and_each_robot_s_in_order(blocked: Callable[..., tuple[Worker, Log, threading.Event]]) -> None:
    worker, log, free = blocked(False)
    for robot, stamp in ((0, None), (0, 1), (0, 2), (1, None), (1, 3), (2, None)):
        assert worker.give(job(robot, stamp)) == 0
    free.set()
    until(log, 4)
    assert log[1:] == [[(0, None), (1, None), (2, None)], [(0, 1), (1, 3)], [(0, 2)]]


def test_a_newer_frame_set_replaces_the_same_robot_s_only(blocked: Callable[..., tuple[Worker, Log, threading.Event]]) -> None:
    worker, log, free = blocked(True)
    assert [worker.give(job(robot, stamp)) for robot, stamp in ((0, 1), (1, 2), (0, 3), (1, None), (1, 4))] == [0, 0, 1, 1, 0]
    free.set()
    until(log, 3)
    assert log[1:] == [[(0, 3), (1, None)], [(1, 4)]]
