"""Fits a calibration map to labelled scores.

Role: isotonic regression for progress, Platt scaling for completion; pure numpy. Does not depend on torch or ROS.
"""

from __future__ import annotations

import numpy as np

from whetstone.calibration import CalibrationMap

KNOTS = 24
"""At most: a map of more would follow its episodes, not its model."""


def fit(raw: np.ndarray, progress: np.ndarray, stated: np.ndarray, completed: np.ndarray) -> CalibrationMap:
    """All (N,): the model's raw value and its true progress, its stated completion and whether the task was done. NaN scores are left out.

    Raises ValueError where there is too little to fit: fewer than 20 scores, or none or all of them done.
    """
    usable = np.isfinite(raw) & np.isfinite(stated)
    if usable.sum() < 20:
        raise ValueError(f"only {int(usable.sum())} valid scores, at least 20 are needed")
    raw, progress, stated, completed = raw[usable], progress[usable], stated[usable], np.asarray(completed, float)[usable]
    if not 0 < completed.sum() < len(completed):
        raise ValueError("the episodes show only one of done and not done; both are needed")
    return CalibrationMap(_knots(raw, progress), *_platt(np.clip(stated, 1e-6, 1 - 1e-6), completed))


def isotonic(values: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """The non-decreasing sequence nearest to values (n,) in weighted squares (pool adjacent violators)."""
    pools: list[list[float]] = []  # mean, weight, count
    for value, weight in zip(values, weights, strict=True):
        pools.append([float(value), float(weight), 1])
        while len(pools) > 1 and pools[-2][0] >= pools[-1][0]:
            mean, weight_after, count = pools.pop()
            total = pools[-1][1] + weight_after
            pools[-1] = [(pools[-1][0] * pools[-1][1] + mean * weight_after) / total, total, pools[-1][2] + count]
    return np.concatenate([np.full(int(count), mean) for mean, _, count in pools])


def _knots(raw: np.ndarray, progress: np.ndarray) -> np.ndarray:
    """(K, 2): mean raw value and fitted progress of groups of equal size."""
    order = np.argsort(raw, kind="stable")
    groups = np.array_split(order, min(KNOTS, max(2, len(order) // 10)))
    middle = np.array([raw[group].mean() for group in groups])
    fitted = isotonic(np.array([progress[group].mean() for group in groups]), np.array([len(group) for group in groups]))
    keep = np.concatenate([[True], np.diff(middle) > 0])  # equal raw values make equal groups
    return np.stack([middle[keep], np.clip(fitted[keep], 0.0, 1.0)], axis=1)


def _platt(stated: np.ndarray, completed: np.ndarray) -> tuple[float, float]:
    """(slope > 0, intercept) of a logistic regression by Newton's method, with Platt's softened labels."""
    logit = np.log(stated / (1 - stated))
    positive = completed.sum()
    target = np.where(completed > 0, (positive + 1) / (positive + 2), 1 / (len(completed) - positive + 2))
    features = np.stack([logit, np.ones_like(logit)], axis=1)
    weights = np.array([1.0, 0.0])
    for _ in range(50):
        probability = 1 / (1 + np.exp(-np.clip(features @ weights, -30, 30)))
        gradient = features.T @ (probability - target) + 1e-3 * (weights - [1.0, 0.0])
        curvature = (features * (probability * (1 - probability))[:, None]).T @ features + 1e-3 * np.eye(2)
        step = np.linalg.solve(curvature, gradient)
        weights = weights - step / max(1.0, float(np.abs(step).max()))
        if np.abs(step).max() < 1e-8:
            break
    return max(float(weights[0]), 1e-3), float(weights[1])
