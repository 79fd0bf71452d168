"""Chunk execution: rows, due steps, holds."""

from __future__ import annotations

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
