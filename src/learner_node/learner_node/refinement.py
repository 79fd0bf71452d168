"""Negative-aware flow matching: the policy's flow head is drawn to the chunks of successes and away from those of failures.

Role: the learner plug-in `flow_refinement`. What it shares with others: imitation.py, where the loss is. Depends on torch by way of that;
knows nothing of ROS.

    w(o, chunk) = 1 of a success,  -failure_weight of a failure of its own

That is DiffusionNFT (Zheng et al., arXiv 2509.16117) with beta = 1: the mirror image of v in v_old is made to fit the failures, so v
leaves them by as much as they differ from what it did, and by no more. Imitating successes alone moves a policy that succeeds p of the
time by the share 1 - p of the way from failures to successes: it stalls just where it gets good, and every imitation's own error eats
up the gain. A failure from before the run (prior.py) teaches nothing: the mirror image throws v the further, the less the chunk is one
that v_old would have made.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from learner_node.imitation import PRIOR, FlowImitation, ImitationConfig, Kept, labelled, progress
from whetstone.contracts import Rollout


@dataclass(frozen=True, kw_only=True)
class RefinementConfig(ImitationConfig):
    """failure_weight: of a failure's chunk against a success's (0: filtered imitation); regress_tolerance: progress a chunk of a success
    may lose."""

    failure_weight: float = field(default=0.5, metadata={"ge": 0})
    regress_tolerance: float = field(default=0.02, metadata={"ge": 0})


class FlowRefinement(FlowImitation[RefinementConfig]):
    """See the module."""

    name = "flow_refinement"
    settings = RefinementConfig

    def weigh(self, episodes: Sequence[Kept]) -> list[np.ndarray]:
        config = self.config
        avoided = [0.0 if kept.iteration == PRIOR else config.failure_weight for kept in episodes]
        return [weigh(kept.rollout, config.regress_tolerance, one) for kept, one in zip(episodes, avoided, strict=True)]


def weigh(rollout: Rollout, regress_tolerance: float, failure_weight: float) -> np.ndarray:
    """(T,) 1 for the chunks of a success, -failure_weight for those of a failure, 0 for what tells nothing.

    Whether an episode ended as a success is the reward model's debounced completion (the filter of LRM's real-robot recipe, arXiv
    2603.16065). Of a success, a chunk counts if progress did not fall over it by more than `regress_tolerance`: the part of RA-BC
    (arXiv 2509.25358) that matters when successes are already chosen: a missed grasp on the way to a success is not imitated. Of a
    failure every labelled chunk counts: which of them spoiled the episode shows only against the successes.
    """
    known = labelled(rollout)
    if rollout.outcome == "success":
        return (known & (np.nan_to_num(np.diff(progress(rollout))) >= -regress_tolerance)).astype(np.float64)
    return -failure_weight * known
