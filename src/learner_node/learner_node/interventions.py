"""Decisions during which a human drove: which they are, and what was done instead of what the policy wanted.

Role: arithmetic over a rollout's control steps, for every learner that can use corrections (HG-DAgger, arXiv 1810.02890; HIL-SERL, arXiv
2410.21845). Where nobody recorded interventions there are none. Does not depend on torch or ROS.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from whetstone.action_space import ActionConverter
from whetstone.contracts import Rollout
from whetstone.errors import InputError

INTERVENTION = "intervention"


def intervened(rollout: Rollout) -> np.ndarray:
    """(T,) bool: whether a human drove at any control step from a decision to the next one, of the last: to the episode's end."""
    marked = rollout.steps.get(INTERVENTION)
    found = np.zeros(len(rollout.stamps), bool)
    if marked is None or not np.any(marked):
        return found
    stamps = rollout.steps["stamps"]
    at = stamps[np.asarray(marked, bool)]
    # Half a period early: cameras may have clocks of their own.
    which = np.searchsorted(rollout.stamps - _period(stamps) // 2, at, side="right") - 1
    found[which[which >= 0]] = True
    return found


def corrected(rollout: Rollout, converter: ActionConverter | None = None) -> Rollout:
    """The episode with the actions of intervened decisions as they were commanded: from the decision on, a row for each control step.

    converter: to the policy's action space; None: its actions are joint targets, as commands are.
    A row without a command is the last command (the arm held), before the first one the measured position; what the chunk lacks at the
    episode's end is its last row again. Raises InputError where the record marks an intervention and lacks what was commanded.
    """
    which = intervened(rollout)
    if not which.any():
        return rollout
    steps = rollout.steps
    missing = [name for name in ("commanded", "measured") if name not in steps]
    if missing:
        raise InputError(f"episode {rollout.episode_id}: it marks interventions but has no steps/{missing[0]}")
    commanded = _held(steps["commanded"], steps["measured"])
    stamps, period, horizon = steps["stamps"], _period(steps["stamps"]), rollout.actions.shape[1]
    wanted = rollout.stamps[which, None] + period * np.arange(horizon)
    rows = np.searchsorted(stamps, wanted - period // 2).clip(max=len(stamps) - 1)
    actions = np.array(rollout.actions)
    if converter is None:
        actions[which] = commanded[rows]
    else:
        at = np.flatnonzero(which)
        actions[which] = [converter.of_joints(commanded[some], rollout.proprioception[index]) for index, some in zip(at, rows)]
    return replace(rollout, actions=actions)


def _held(commanded: np.ndarray, measured: np.ndarray) -> np.ndarray:
    """(N, columns) without NaN rows."""
    known = np.isfinite(commanded).all(axis=1)
    newest = np.maximum.accumulate(np.where(known, np.arange(len(commanded)), -1))
    return np.where((newest >= 0)[:, None], commanded[newest.clip(min=0)], measured)


def _period(stamps: np.ndarray) -> int:
    """ns between control steps."""
    return int(np.median(np.diff(stamps))) if len(stamps) > 1 else 0
