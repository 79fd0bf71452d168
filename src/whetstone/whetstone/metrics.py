"""Figures that judge a reward model: value-order correlation, ROC-AUC and friends, in plain numpy.

Role: shared by training, evaluation and tests. Does not depend on torch, ROS or any reward model.
"""

from __future__ import annotations

import numpy as np


def ranks(values: np.ndarray) -> np.ndarray:
    """Ranks 0..n-1 as float64; equal values share their mean rank."""
    values = np.asarray(values, dtype=np.float64)
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    last = np.cumsum(counts) - 1
    return (last - (counts - 1) / 2.0)[inverse]


def value_order_correlation(values: np.ndarray) -> float:
    """VOC (GVL, arXiv 2411.04549): Spearman correlation of the values (n,) with time.

    A constant series, a series with NaN and one shorter than 2 give 0: they order nothing.
    """
    values = np.asarray(values, dtype=np.float64)
    if len(values) < 2 or not np.isfinite(values).all() or np.all(values == values[0]):
        return 0.0
    return float(np.corrcoef(ranks(values), np.arange(len(values)))[0, 1])


def roc_auc(scores: np.ndarray, positive: np.ndarray) -> float:
    """Probability that a random positive scores above a random negative; ties count half. NaN where a class is empty."""
    scores = np.asarray(scores, dtype=np.float64)
    positive = np.asarray(positive, dtype=bool)
    wins, losses = int(positive.sum()), int((~positive).sum())
    if wins == 0 or losses == 0:
        return float("nan")
    return float((ranks(scores)[positive].sum() - wins * (wins - 1) / 2.0) / (wins * losses))


def expected_calibration_error(probability: np.ndarray, outcome: np.ndarray, bins: int = 10) -> float:
    """Mean gap between a stated probability (n,) and how often it came true, over equal bins weighted by their size."""
    probability = np.asarray(probability, dtype=np.float64)
    outcome = np.asarray(outcome, dtype=np.float64)
    place = np.minimum((probability * bins).astype(int), bins - 1)
    gap = 0.0
    for index in range(bins):
        inside = place == index
        if inside.any():
            gap += inside.mean() * abs(probability[inside].mean() - outcome[inside].mean())
    return float(gap)
