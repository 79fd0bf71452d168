"""Figures of a reward model's curve, and of how far several models agree.

Role: from scores to numbers and landmarks, in plain numpy; every formula of the report about reward models stands here. Does not depend on
torch, ROS or a model.

VOC is the rank correlation of the model's own value with time (GVL, arXiv 2411.04549), over the frames that were scored.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from robot_bringup.evaluation.lanes import Scores
from whetstone.completion import Completion, first_success
from whetstone.metrics import ranks, roc_auc, value_order_correlation

END = 0.5
"""Seconds at the end of a recording that show how it ended, as in the honesty suite."""
EXACT = 4
"""Decimals of a score on a still that can be relied on: what differs beyond them is rounding, which has an order too."""
DROPS = 2
"""Largest losses of progress that are landmarks."""


@dataclass(frozen=True)
class Landmark:
    """A place of the curve worth a picture. what: "start", "peak", "drop", "success" or "end"; index: of the score."""

    what: str
    index: int


def own(scores: Scores) -> np.ndarray:
    """The model's own value at the frames that were scored."""
    return scores.values["raw"][scores.valid]


def curve_figures(scores: Scores, success: Completion | None, step: float) -> dict[str, float | None]:
    """Of one recording. success: when the model's word ends an episode; step: s between two scores that a live node would have.

    voc; first, end (mean of the last END seconds) and gain (their difference) of its own value; progress_end, completion_end; largest_drop
    of progress; success_at: s from the first score, None: it never says so; scored, invalid: frames; latency_p50, latency_p95: s. None:
    there is nothing to compute it from.
    """
    values, found = own(scores), dict[str, float | None]()
    last = _last(scores)
    found["voc"] = value_order_correlation(values) if len(values) > 1 else None
    found["first"] = float(values[0]) if len(values) else None
    found["end"] = _mean(scores.values["raw"][last])
    found["gain"] = None if found["end"] is None or found["first"] is None else found["end"] - found["first"]
    for name in ("progress", "completion"):
        found[f"{name}_end"] = _mean(scores.values[name][last])
    found["largest_drop"] = max((size for size, _ in drops(scores)), default=0.0) if len(values) else None
    said = first_success(success, scores.values["completion"], scores.values["progress"]) if success is not None else -1
    found["success_at"] = float(scores.stamps[said] - scores.stamps[0]) / 1e9 if said >= 0 else None
    found["scored"], found["invalid"] = float(scores.valid.sum()), float((~scores.valid).sum())
    # The first score is left out: what is loaded and compiled with it is not asked for again.
    seconds = scores.seconds[1:][np.isfinite(scores.seconds[1:])]
    for name, share in (("latency_p50", 50), ("latency_p95", 95)):
        found[name] = float(np.percentile(seconds, share)) if len(seconds) else None
    found["behind"] = float((seconds > step).mean()) if len(seconds) else None
    return found


def control_figures(real: Scores, control: Scores) -> dict[str, float | None]:
    """Of a control of the same recording: its voc, gain and end, and share: its gain as a share of the real one's."""
    values = own(control).round(EXACT)
    end, before = _mean(control.values["raw"][_last(control)]), _mean(real.values["raw"][_last(real)])
    gain = None if end is None or not len(values) else end - float(values[0])
    real_gain = None if before is None or not len(own(real)) else before - float(own(real)[0])
    share = None if gain is None or real_gain is None or abs(real_gain) < 10.0**-EXACT else gain / real_gain
    return {"voc": value_order_correlation(values) if len(values) > 1 else None, "gain": gain, "end": end, "share": share}


def drops(scores: Scores) -> list[tuple[float, int]]:
    """(size, index at which it ends) of the stretches over which the curve falls without rising between, largest first: of progress, or of
    the model's own value where it gives no progress."""
    values = scores.values["progress"] if np.isfinite(scores.values["progress"]).any() else scores.values["raw"]
    rows = np.flatnonzero(np.isfinite(values))
    found, top = [], 0.0
    for place, row in enumerate(rows):
        falls = place and values[row] < values[rows[place - 1]]
        if not falls:
            top = float(values[row])
        elif place + 1 == len(rows) or values[rows[place + 1]] >= values[row]:
            found.append((top - float(values[row]), int(row)))
    return sorted(found, key=lambda drop: (-drop[0], drop[1]))


def landmarks(scores: Scores, success: Completion | None) -> list[Landmark]:
    """In the order of the recording; of several at one place the first of start, end, success, peak, drop."""
    valid = np.flatnonzero(scores.valid)
    if not len(valid):
        return []
    values = scores.values["raw"]
    said = first_success(success, scores.values["completion"], scores.values["progress"]) if success is not None else -1
    places = [("start", int(valid[0])), ("end", int(valid[-1]))]
    places += [("success", said)] if said >= 0 else []
    places += [("peak", int(valid[np.argmax(values[valid])]))] if np.isfinite(values[valid]).any() else []
    places += [("drop", row) for size, row in drops(scores)[:DROPS] if size > 0]
    found: dict[int, Landmark] = {}
    for what, index in places:
        found.setdefault(index, Landmark(what, index))
    return [found[index] for index in sorted(found)]


def agreement(one: Scores, other: Scores) -> float | None:
    """Spearman's rank correlation of two models' own values at the frames that both scored; of the one that scores less often every frame
    counts, against the newest score of the other. None: fewer than three frames, or one of them is constant."""
    few, many = sorted((_pairs(one), _pairs(other)), key=lambda pairs: len(pairs[0]))
    if not len(few[0]) or not len(many[0]):
        return None
    place = np.searchsorted(many[0], few[0], side="right") - 1
    known = place >= 0
    return rank_correlation(few[1][known], many[1][place[known]])


def rank_correlation(one: np.ndarray, other: np.ndarray) -> float | None:
    """Spearman's, ties sharing their mean rank; None where it does not exist."""
    if len(one) < 3 or np.ptp(one) == 0 or np.ptp(other) == 0:
        return None
    return float(np.corrcoef(ranks(one), ranks(other))[0, 1])


def success_auc(ends: Sequence[float | None], succeeded: Sequence[bool | None]) -> tuple[float | None, str]:
    """ROC-AUC of how recordings ended against what became of them, and why there is none. None among `succeeded`: unknown."""
    usable = [(end, won) for end, won in zip(ends, succeeded, strict=True) if end is not None and won is not None]
    wins, n = sum(won for _, won in usable), len(usable)
    if not n:
        unknown = any(won is not None for won in succeeded)
        return (
            None,
            "no scored recording has a known outcome" if unknown else "no recording has a known outcome; name them with outcomes:=FILE",
        )
    if wins in (0, n):
        return None, f"all {n} recordings with a known outcome are {'successes' if wins else 'failures'}; both kinds are needed"
    return roc_auc(np.array([end for end, _ in usable]), np.array([won for _, won in usable])), ""


def _pairs(scores: Scores) -> tuple[np.ndarray, np.ndarray]:
    return scores.stamps[scores.valid], own(scores)


def _last(scores: Scores) -> np.ndarray:
    """Rows of the scores that show how it ended."""
    if not len(scores.stamps):
        return np.empty(0, np.int64)
    rows = np.flatnonzero(scores.stamps > scores.stamps[-1] - round(END * 1e9))
    return rows[scores.valid[rows]]


def _mean(values: np.ndarray) -> float | None:
    return float(np.mean(values)) if len(values) and np.isfinite(values).all() else None


def means(rows: Sequence[Mapping[str, float | None]], name: str) -> tuple[float | None, int]:
    """Mean of a figure over recordings that have it, and how many."""
    values = [value for row in rows if (value := row.get(name)) is not None]
    return (float(np.mean(values)) if values else None, len(values))
