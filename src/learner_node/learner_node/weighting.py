"""Which chunks of an episode are worth imitating and which are to be avoided, by the reward alone.

Role: pure arithmetic from a rollout's rewards to one weight per decision. Does not depend on torch, on ROS or on a particular reward model.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from whetstone.contracts import Rollout


@dataclass(frozen=True)
class Weighting:
    """weights: (T,) above 0: imitate, below 0: avoid, 0: leave out; unlabelled: decisions left out because a reward never came."""

    weights: np.ndarray
    unlabelled: int


def weigh(rollout: Rollout, regress_tolerance: float, failure_weight: float) -> Weighting:
    """1 for the chunks of a success, -failure_weight for those of a failure, 0 for what tells nothing.

    Whether an episode ended as a success is the reward model's debounced completion (the filter of LRM's real-robot recipe, arXiv
    2603.16065). Of a success, a chunk counts if progress did not fall over it by more than `regress_tolerance`: the part of RA-BC
    (arXiv 2509.25358) that matters when successes are already chosen: a missed grasp on the way to a success is not imitated. Of a
    failure every labelled chunk counts: which of them spoiled the episode shows only against the successes.
    """
    progress = rollout.rewards["progress"].astype(np.float64).copy()
    if len(progress) != len(rollout.stamps) + 1:
        raise ValueError(f"episode {rollout.episode_id}: {len(progress)} progress values for {len(rollout.stamps)} decisions and an end")
    gain = np.diff(progress)
    labelled = np.isfinite(gain)
    if rollout.outcome == "success":
        weights = (labelled & (np.nan_to_num(gain) >= -regress_tolerance)).astype(np.float64)
    else:
        weights = -failure_weight * labelled
    return Weighting(weights, int((~labelled).sum()))
