"""Chunk execution: rows, due steps, holds."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from policy_node.execution import ChunkExecution

PERIOD = 50_000_000


def chunk(index: int, horizon: int) -> np.ndarray:
    """Column 0 holds the step that a row is meant for."""
    return np.arange(index, index + horizon, dtype=np.float32)[:, None]


def test_nothing_runs_before_an_episode() -> None:
    execution = ChunkExecution(4, 8, 20.0)
    assert not execution.due(0)
    assert execution.row(0) is None
    with pytest.raises(RuntimeError):
        execution.index(0)


@given(st.integers(1, 6), st.integers(0, 6), st.integers(1, 60))
def test_lockstep_infers_on_the_grid_and_every_step_gets_its_own_row(execute: int, extra: int, steps: int) -> None:
    horizon = execute + extra
    execution = ChunkExecution(execute, horizon, 20.0)
    start = 7_123_456_789
    execution.start(start)
    inferred = []
    for step in range(steps):
        index = execution.index(start + step * PERIOD)
        assert index == step
        for _ in range(2):  # the simulator may publish a frame twice
            if execution.due(index):
                inferred.append(index)
                execution.begin(index)
                assert execution.finish(index, chunk(index, horizon))
        row = execution.row(index)
        assert row is not None and row[0] == step
    assert inferred == list(range(0, steps, execute))


@given(st.lists(st.tuples(st.integers(1, 4), st.booleans()), max_size=60))
def test_late_inference_keeps_the_grid_and_never_two_at_once(events: list[tuple[int, bool]]) -> None:
    execution = ChunkExecution(3, 5, 20.0)
    execution.start(0)
    index, flying, seen = 0, None, set()
    for advance, done in events:
        index += advance
        if flying is not None and done:
            assert execution.finish(flying, chunk(flying, 5))
            flying = None
        if execution.due(index):
            assert flying is None and index not in seen
            execution.begin(index)
            seen.add(index)
            flying = index
        row = execution.row(index)
        assert row is None or row[0] == index
        assert not execution.due(index) or flying is None


def test_exhausted_chunk_holds() -> None:
    execution = ChunkExecution(2, 3, 10.0)
    execution.start(0)
    execution.begin(0)
    execution.finish(0, chunk(0, 3))
    assert execution.row(2) is not None
    assert execution.row(3) is None


def test_result_of_a_finished_episode_is_dropped() -> None:
    execution = ChunkExecution(2, 2, 10.0)
    execution.start(0)
    execution.begin(0)
    execution.stop()
    assert not execution.finish(0, chunk(0, 2))
    execution.start(1_000)
    assert execution.row(0) is None
    assert execution.due(0)


def test_begin_refuses_what_is_not_due() -> None:
    execution = ChunkExecution(2, 2, 10.0)
    execution.start(0)
    execution.begin(0)
    with pytest.raises(RuntimeError, match="step 0"):
        execution.begin(0)


@pytest.mark.parametrize(("execute", "horizon", "rate"), [(0, 4, 20.0), (5, 4, 20.0), (1, 1, 0.0)])
def test_bad_settings(execute: int, horizon: int, rate: float) -> None:
    with pytest.raises(ValueError):
        ChunkExecution(execute, horizon, rate)


def test_a_chunk_takes_over_at_the_row_of_its_time_and_says_how_far_it_jumps() -> None:
    execution = ChunkExecution(4, 12, 20.0)
    execution.start(0)
    execution.begin(0)
    execution.finish(0, np.tile([[0.0, 0.0, 1.0]], (12, 1)))
    assert math.isnan(execution.jump) and execution.delay == 0
    execution.begin(4)
    assert execution.finish(4, np.tile([[0.25, -0.5, 0.0]], (12, 1)), now=7)
    assert execution.delay == 3
    assert execution.jump == 0.5  # not the gripper's 1
    row = execution.row(7)
    assert row is not None and row[0] == 0.25
    assert execution.row(15) is not None and execution.row(16) is None  # the 12 rows belong to steps 4 to 15


def test_what_is_underway_is_the_rest_of_the_chunk_and_the_longest_delay_of_late() -> None:
    execution = ChunkExecution(4, 8, 20.0)
    execution.start(0)
    assert execution.underway(0) is None
    execution.begin(0)
    execution.finish(0, chunk(0, 8), now=2)
    execution.begin(4)
    underway = execution.underway(4)
    assert underway is not None and underway.delay == 2
    assert underway.actions[:, 0].tolist() == [4, 5, 6, 7]
    execution.finish(4, chunk(4, 8), now=5)
    later = execution.underway(11)
    assert later is not None and (len(later.actions), later.delay) == (1, 1)  # no more delay than there are rows


@given(st.integers(1, 5), st.lists(st.integers(0, 4), min_size=1, max_size=12))
def test_waiting_the_arm_rests_while_the_policy_thinks_and_no_row_is_left_out(execute: int, delays: list[int]) -> None:
    execution = ChunkExecution(execute, execute + 2, 20.0, waits=True)
    execution.start(0)
    index = 0
    for delay in delays:
        assert execution.due(index)
        execution.begin(index)
        assert execution.underway(index) is None
        for _ in range(delay):
            assert execution.row(index) is None
            index += 1
        execution.finish(index - delay, chunk(0, execute + 2), now=index)
        done = []
        while (row := execution.row(index)) is not None:
            assert not execution.due(index)
            done.append(row[0])
            index += 1
        assert done == list(range(execute))


@given(st.floats(0.0, 2.0), st.integers(1, 4))
def test_an_ensemble_is_the_weighted_mean_of_all_that_was_said_of_a_step(m: float, execute: int) -> None:
    execution = ChunkExecution(execute, 8, 20.0, ensemble=m)
    execution.start(0)
    said: dict[int, list[float]] = {}
    for number, step in enumerate(range(0, 6 * execute, execute)):
        execution.begin(step)
        actions = np.full((8, 2), float(number))
        execution.finish(step, actions)
        for row in range(8):
            said.setdefault(step + row, []).append(float(number))
        for index in range(step, step + execute):
            weights = np.exp(-m * np.arange(len(said[index])))
            row = execution.row(index)
            assert row is not None and row[0] == pytest.approx(np.average(said[index], weights=weights))


def test_agreeing_chunks_make_an_ensemble_of_the_same_and_no_jump() -> None:
    execution = ChunkExecution(2, 6, 20.0, ensemble=0.01)
    execution.start(0)
    for step in (0, 2, 4):
        execution.begin(step)
        execution.finish(step, np.repeat(chunk(step, 6), 2, axis=1))
        row = execution.row(step)
        assert row is not None and row[0] == pytest.approx(step)
    assert execution.jump == pytest.approx(0)


def test_whoever_thought_when_the_episode_ended_has_nothing_to_say_in_the_next() -> None:
    """Not even at the same step, for which another inference is in flight by then."""
    execution = ChunkExecution(4, 8, 20.0)
    execution.start(0)
    execution.begin(0)
    before = execution.era
    execution.start(1_000)
    assert execution.era != before
    execution.begin(0)
    before = execution.era
    execution.forget()
    assert execution.era != before and execution.running


def test_one_chunk_that_is_not_finite_spoils_no_other() -> None:
    bad = np.full((8, 3), np.nan)
    guided = ChunkExecution(4, 8, 20.0)
    guided.start(0)
    guided.begin(0)
    guided.finish(0, bad)
    assert guided.underway(4) is None, "what goes on from it would not be finite either, and so for ever"
    mean = ChunkExecution(4, 8, 20.0, ensemble=0.01)
    mean.start(0)
    for step, actions in ((0, chunk(0, 8)), (4, bad[:, :1])):
        mean.begin(step)
        mean.finish(step, actions)
    row = mean.row(5)
    assert row is not None and row[0] == 5
    last = mean.row(9)
    assert last is not None and np.isnan(last).all(), "nothing else is there: the guard names it"
