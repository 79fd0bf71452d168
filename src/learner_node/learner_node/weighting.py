"""Which chunks of an episode are worth imitating, by the reward alone.

Role: pure arithmetic from a rollout's rewards to one weight per decision. Does not depend on torch, on ROS or on a particular reward model.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from whetstone.contracts import Rollout


@dataclass(frozen=True)
class Weighting:
    """weights: (T,) in {0, 1}; unlabelled: decisions left out because a reward never came."""

    weights: np.ndarray
    unlabelled: int


def weigh(rollout: Rollout, regress_tolerance: float) -> Weighting:
    """Success filter times the RA-BC indicator.

    An episode counts only if it ended as a success (the reward model's debounced completion: the filter of LRM's real-robot recipe,
    arXiv 2603.16065). Within it a chunk counts if progress did not fall over it by more than `regress_tolerance`: the part of RA-BC
    (arXiv 2509.25358) that matters when successes are already chosen: a missed grasp on the way to a success is not imitated.
    """
    progress = rollout.rewards["progress"].astype(np.float64).copy()
    if len(progress) != len(rollout.stamps) + 1:
        raise ValueError(f"episode {rollout.episode_id}: {len(progress)} progress values for {len(rollout.stamps)} decisions and an end")
    gain = np.diff(progress)
    labelled = np.isfinite(gain)
    kept = labelled & (np.nan_to_num(gain) >= -regress_tolerance) & (rollout.outcome == "success")
    return Weighting(kept.astype(np.float64), int((~labelled).sum()))
