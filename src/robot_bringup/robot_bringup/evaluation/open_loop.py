"""Figures of a policy's chunks against what was done.

Role: from chunks to numbers, in numpy; every formula of the report about policies stands here. Does not depend on torch, ROS or a policy.

Open loop: each chunk answers what was recorded, and nothing that it says moves the arm. Errors tell how near a policy is to whoever acted
in the recording; they do not tell whether it would have succeeded.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

import numpy as np

from robot_bringup.evaluation.lanes import Chunks
from robot_bringup.evaluation.recordings import Done
from whetstone.guard import Guard, GuardResult
from whetstone.profile import RobotProfile


@dataclass(frozen=True)
class Errors:
    """policy, hold: (D, horizon, joints + 1) absolute difference from what was done, rad and opening, NaN where nobody knows that; hold: of
    a chunk that stays where the arm was measured, the least that a policy must beat."""

    policy: np.ndarray
    hold: np.ndarray


def errors(chunks: Chunks, done: Done | None, period: int) -> Errors:
    """Row h of a decision's chunk against what was to be reached from the control step h periods (ns) later."""
    wanted = np.full_like(chunks.actions, np.nan)
    if done is not None and len(done.stamps):
        target = done.target()
        for row, stamp in enumerate(chunks.stamps.tolist()):
            times = stamp + period * np.arange(chunks.actions.shape[1])
            place = np.searchsorted(done.stamps, times - period // 2)
            near = (place < len(done.stamps)) & (np.abs(done.stamps[np.minimum(place, len(done.stamps) - 1)] - times) <= period // 2)
            wanted[row, near] = target[place[near]]
    return Errors(np.abs(chunks.actions - wanted), np.abs(chunks.measured[:, None] - wanted))


def error_figures(found: Errors, execute: int) -> dict[str, float | None]:
    """joints (rad) and gripper (opening) over the rows that would be executed, ..._chunk over all; hold_...: of staying; ratio: joints by
    hold_joints."""
    figures: dict[str, float | None] = {}
    for prefix, error in (("", found.policy), ("hold_", found.hold)):
        figures[f"{prefix}joints"] = _mean(error[:, :execute, :-1])
        figures[f"{prefix}gripper"] = _mean(error[:, :execute, -1])
    figures["joints_chunk"], figures["gripper_chunk"] = _mean(found.policy[..., :-1]), _mean(found.policy[..., -1])
    joints, hold = figures["joints"], figures["hold_joints"]
    figures["ratio"] = joints / hold if joints is not None and hold else None
    return figures


def by_row(error: np.ndarray) -> np.ndarray:
    """(horizon, joints + 1) mean over decisions; NaN where no decision knows."""
    known = np.isfinite(error)
    return np.where(known.any(0), np.where(known, error, 0).sum(0) / np.maximum(known.sum(0), 1), np.nan)


def smoothness(chunks: Chunks, done: Done | None, execute: int, rate: float) -> dict[str, float | None]:
    """jerk: root mean square of the third difference of the joint targets within chunks times rate^3, rad/s^3; done_jerk: of what was
    commanded in the recording; seam_p50, seam_p95: largest difference of a joint, rad, between a chunk's row `execute` and the first of the
    chunk that follows it there; first_step: mean over decisions of the largest joint difference between the first row and where the arm
    was."""
    joints = chunks.actions[..., :-1]
    found: dict[str, float | None] = {"jerk": _jerk(joints, rate), "done_jerk": None}
    if done is not None:
        commanded = done.commanded[np.isfinite(done.commanded).all(axis=1), :-1]
        found["done_jerk"] = _jerk(commanded[None], rate)
    # Only where one decision follows the other in time.
    follows = np.abs(np.diff(chunks.stamps) * rate / 1e9 - execute) < 0.5
    seams = np.abs(joints[1:, 0] - joints[:-1, execute]).max(-1)[follows] if len(joints) > 1 and execute < joints.shape[1] else np.empty(0)
    found["seam_p50"], found["seam_p95"] = (float(np.percentile(seams, share)) if len(seams) else None for share in (50, 95))
    found["first_step"] = _mean(np.abs(joints[:, 0] - chunks.measured[:, :-1]).max(-1)) if len(joints) else None
    return found


def guarded(chunks: Chunks, done: Done | None, execute: int, profile: RobotProfile) -> tuple[dict[str, float | None], dict[str, int]]:
    """What the guard would have done to the rows that would be executed: rows, changed and held as shares of them; and how often for which
    reason ("velocity: joint2").

    Each chunk begins where the arm was measured, as fast as it was; from its second row on the arm is taken to be where the guard let it
    go.
    """
    guard, reasons = Guard(profile), Counter[str]()
    rows = changed = held = 0
    for stamp, actions, measured in zip(chunks.stamps.tolist(), chunks.actions, chunks.measured, strict=True):
        state = np.asarray(measured, np.float64)
        previous: GuardResult | None = GuardResult(state, _speed(done, stamp, profile), False, ())
        for action in actions[:execute]:
            previous = guard.check(action, state, previous, profile.period)
            rows, changed, held = rows + 1, changed + bool(previous.reasons and not previous.held), held + previous.held
            reasons.update(previous.reasons)
            state = previous.command
    if not rows:
        return {"rows": 0.0, "changed": None, "held": None}, {}
    return {"rows": float(rows), "changed": changed / rows, "held": held / rows}, dict(reasons.most_common())


def _speed(done: Done | None, stamp: int, profile: RobotProfile) -> np.ndarray:
    """(joints,) rad/s over the control step before; zero where nobody knows."""
    if done is not None and len(done.stamps) > 1:
        row = int(np.abs(done.stamps - stamp).argmin())
        if row > 0 and abs(int(done.stamps[row]) - stamp) <= profile.period_ns // 2:
            seconds = float(done.stamps[row] - done.stamps[row - 1]) / 1e9
            speed = (done.measured[row, :-1] - done.measured[row - 1, :-1]) / max(seconds, profile.period / 2)
            return np.clip(np.nan_to_num(speed).astype(np.float64), -profile.velocity, profile.velocity)
    return np.zeros(len(profile.joints))


def _jerk(joints: np.ndarray, rate: float) -> float | None:
    """joints: (D, rows, joints)."""
    if not joints.size or joints.shape[1] < 4:
        return None
    return float(np.sqrt(np.mean(np.square(np.diff(joints.astype(np.float64), n=3, axis=1) * rate**3))))


def _mean(values: np.ndarray) -> float | None:
    known = values[np.isfinite(values)]
    return float(known.mean()) if known.size else None
