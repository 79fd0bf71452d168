"""Signals, windows and metrics: pure functions."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from reward_node.signals import contrastive, recent_window, total, uniform_window
from whetstone.metrics import expected_calibration_error, ranks, roc_auc, value_order_correlation


def test_ranks_share_ties() -> None:
    assert ranks(np.array([3.0, 1.0, 3.0, 2.0])).tolist() == [2.5, 0.0, 2.5, 1.0]


def test_value_order_correlation_of_known_series() -> None:
    assert value_order_correlation(np.arange(5.0)) == pytest.approx(1.0)
    assert value_order_correlation(-np.arange(5.0)) == pytest.approx(-1.0)
    # 1 - 6 * sum(d^2) / (n (n^2 - 1)) with d = 0 1 -1 0 0
    assert value_order_correlation(np.array([0.0, 2.0, 1.0, 3.0, 4.0])) == pytest.approx(1 - 6 * 2 / (5 * 24))
    assert value_order_correlation(np.ones(5)) == 0.0
    assert value_order_correlation(np.array([0.0, np.nan, 1.0])) == 0.0
    assert value_order_correlation(np.array([1.0])) == 0.0


@given(st.lists(st.integers(-1000, 1000), min_size=2, max_size=20, unique=True))
def test_value_order_correlation_ignores_a_monotone_map(values: list[int]) -> None:
    series = np.array(values, dtype=float)
    assert value_order_correlation(series) == pytest.approx(value_order_correlation(np.arctan(series / 1e3)))


@given(st.lists(st.tuples(st.integers(0, 5), st.booleans()), min_size=1, max_size=30))
def test_roc_auc_is_the_share_of_pairs_in_order(pairs: list[tuple[int, bool]]) -> None:
    wins = [value for value, positive in pairs if positive]
    losses = [value for value, positive in pairs if not positive]
    got = roc_auc(np.array([value for value, _ in pairs]), np.array([positive for _, positive in pairs]))
    if not wins or not losses:
        assert math.isnan(got)
        return
    expected = np.mean([1.0 if win > loss else 0.5 if win == loss else 0.0 for win in wins for loss in losses])
    assert got == pytest.approx(float(expected))


def test_expected_calibration_error() -> None:
    assert expected_calibration_error(np.array([0.25, 0.25, 0.25, 0.25]), np.array([1, 0, 0, 0])) == pytest.approx(0.0)
    assert expected_calibration_error(np.array([0.95, 1.0]), np.array([0, 0])) == pytest.approx(0.975)


def test_contrastive_has_a_dead_zone_and_needs_a_pair() -> None:
    assert contrastive(0.5, 0.4, 0.05) == 1.0
    assert contrastive(0.4, 0.5, 0.05) == -1.0
    assert contrastive(0.42, 0.4, 0.05) == 0.0
    assert contrastive(0.5, None, 0.05) == 0.0
    assert contrastive(float("nan"), 0.4, 0.05) == 0.0


@given(st.floats(0, 1), st.floats(0, 1), st.sampled_from([-1.0, 0.0, 1.0]))
def test_total_is_a_mean_within_bounds(process: float, completion: float, contrast: float) -> None:
    assert 0.0 <= total(process, completion, contrast) <= 1.0
    assert total(1.0, 1.0, 1.0) == 1.0 and total(0.0, 0.0, -1.0) == 0.0


@given(st.integers(0, 200), st.integers(1, 8))
def test_recent_window_is_causal_and_of_fixed_length(newest: int, recent: int) -> None:
    window = recent_window(newest, recent)
    assert len(window) == recent + 1
    assert window[0] == 0 and window[-1] == newest
    assert all(0 <= index <= newest for index in window)
    assert window[1:] == sorted(window[1:])


@given(st.integers(1, 200), st.integers(8, 16))
def test_uniform_window_keeps_the_first_and_the_newest(seen: int, count: int) -> None:
    window = uniform_window(seen, count)
    assert len(window) == count
    assert window[0] == 0 and window[-1] == seen - 1
    assert window == sorted(window)
