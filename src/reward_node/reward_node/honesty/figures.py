"""The figures of the honesty suite, from the curves.

Role: which figures there are and how each is computed; every figure is of one task or of all. Does not depend on torch or ROS.

VOC is the rank correlation of the model's own value with time (GVL, arXiv 2411.04549). On successes it is taken up to the second scored
frame after the task was done, where the loop ends an episode. What a control must not do: rise.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from reward_node.honesty.playing import Curve, Played
from whetstone.completion import Completion, first_success
from whetstone.metrics import expected_calibration_error, roc_auc, value_order_correlation

Figure = tuple[float | None, str, int]
"""(value or None where there is nothing to compute it from, unit, number of what it is computed from)."""

_EXACT = 4
"""Decimals that a score can be relied on: what a still changes beyond them is rounding, which is in some order too."""


def figures(played: Sequence[Played], success: Completion) -> dict[str, Figure]:
    """Metric -> figure, of these clips."""
    wins = [one for one in played if one.clip.success]
    losses = [one for one in played if not one.clip.success]
    won = np.array([one.clip.success for one in played])
    completion, completed = _all(played, lambda one: one.curve.completion), _all(played, lambda one: one.clip.completed)
    progress, truth = _all(played, lambda one: one.curve.progress), _all(played, lambda one: one.clip.progress)
    said = [first_success(success, one.curve.completion, one.curve.progress) for one in played]
    # Wrong: success was declared on a frame on which the task was not done.
    wrong = [run >= 0 and not one.clip.completed[run] for run, one in zip(said, played, strict=True)]
    valid = np.isfinite(completion)
    seconds = np.concatenate([one.curve.seconds[1:] for one in played]) if played else np.empty(0)
    found: dict[str, Figure] = {
        "voc_success": _mean([voc(one) for one in wins]),
        "voc_failure": _mean([value_order_correlation(one.curve.raw) for one in losses]),
        "success_auc": _auc([end(one.curve.raw, one) for one in played], won),
        "success_auc_completion": _auc([end(one.curve.completion, one) for one in played], won),
        "completion_calibration_error": _calibration(completion[valid], completed[valid]),
        "progress_error": _mean(np.abs(progress - truth)[np.isfinite(progress)]),
        "false_success_rate": _mean([bad for bad, one in zip(wrong, played, strict=True) if not one.clip.success]),
        "early_success_rate": _mean([bad for bad, one in zip(wrong, played, strict=True) if one.clip.success]),
        "missed_success_rate": _mean([run < 0 for run, one in zip(said, played, strict=True) if one.clip.success]),
        "invalid_rate": _mean(~valid),
    }
    found |= controls([one for one in played if one.controls])
    if len(seconds):
        found["latency_p50"] = (float(1e3 * np.percentile(seconds, 50)), "ms", len(seconds))
        found["latency_p95"] = (float(1e3 * np.percentile(seconds, 95)), "ms", len(seconds))
        found["scores_per_second"] = (float(1.0 / seconds.mean()), "1/s", len(seconds))
    return found


def controls(played: Sequence[Played]) -> dict[str, Figure]:
    """What the controls show; `gain` is a clip's rise from its first score to its end, in the model's own unit."""

    def of(name: str) -> list[tuple[Played, Curve]]:
        return [(one, one.controls[name]) for one in played if name in one.controls]

    found = {
        "gain": _mean([gain(one.curve, one) for one in played]),
        "static_gain_max": (max((abs(gain(curve, one)) for one, curve in of("static")), default=None), "1", len(of("static"))),
        "static_voc": _mean([value_order_correlation(curve.raw.round(_EXACT)) for _, curve in of("static")]),
        "noisy_static_gain": _mean([gain(curve, one) for one, curve in of("noisy")]),
        "voc_reversed": _mean([value_order_correlation(curve.raw) for _, curve in of("reversed")]),
    }
    for name in ("wrong_object", "wrong_task"):
        found[f"voc_{name}"] = _mean([value_order_correlation(curve.raw) for _, curve in of(name)])
        found[f"right_above_{name}"] = _mean([end(one.curve.raw, one) > end(curve.raw, one) for one, curve in of(name)])
        found[f"{name}_completion"] = _mean([end(curve.completion, one) for one, curve in of(name)])
    return found


def voc(one: Played) -> float:
    """Of a success, up to the second scored frame after it was done."""
    done = int(np.argmax(one.clip.completed)) if one.clip.completed.any() else len(one.clip.completed)
    return value_order_correlation(one.curve.raw[: done + 2])


def end(values: np.ndarray, one: Played) -> float:
    """How a clip ended: the mean of its last scores; NaN where one was not valid. values: (S,) of the clip or of a control of it."""
    return float(np.mean(values[-one.clip.last :]))


def gain(curve: Curve, one: Played) -> float:
    return end(curve.raw, one) - float(curve.raw[0])


def _all(played: Sequence[Played], column: Callable[[Played], np.ndarray]) -> np.ndarray:
    return np.concatenate([column(one) for one in played]) if played else np.empty(0)


def _mean(values: Sequence[float] | np.ndarray) -> Figure:
    return (float(np.mean(values)) if len(values) else None, "1", len(values))


def _auc(values: Sequence[float], won: np.ndarray) -> Figure:
    usable = np.isfinite(values)
    area = roc_auc(np.asarray(values)[usable], won[usable]) if usable.any() else float("nan")
    return (None if np.isnan(area) else area, "1", int(usable.sum()))


def _calibration(completion: np.ndarray, completed: np.ndarray) -> Figure:
    return (expected_calibration_error(completion, completed) if len(completion) else None, "1", len(completion))
