"""Transitions from the policy's own episodes, for learners that estimate returns.

Role: what was seen, done and earned at each decision, and what was seen at the next, as tensors; and how much of a batch comes from before
the run (prior.py). A decision without a reward is left out, and counted. Depends on torch; knows nothing of ROS.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from learner_node import shaping
from learner_node.prior import prior_count
from learner_node.shaping import Shaping
from whetstone.contracts import Rollout


@dataclass(frozen=True)
class Transitions:
    """inputs, following: (N, .) that the policy saw at the decision and at the next one; actions: (N, .) of the learner's choice;
    rewards: (N,); done: (N,) 1 where none follows; returns: (N,) discounted sum of the rewards to the episode's end; unlabelled: decisions
    left out for want of one."""

    inputs: torch.Tensor
    actions: torch.Tensor
    rewards: torch.Tensor
    following: torch.Tensor
    done: torch.Tensor
    returns: torch.Tensor
    unlabelled: int

    def __len__(self) -> int:
        return len(self.rewards)

    @classmethod
    def joined(cls, parts: Sequence[Transitions]) -> Transitions:
        tensors = {name: torch.cat([getattr(part, name) for part in parts]) for name in _TENSORS}
        return cls(**tensors, unlabelled=sum(part.unlabelled for part in parts))

    def draw(self, count: int, rng: np.random.Generator) -> Transitions:
        """`count` of them, each as likely as the other."""
        index = torch.from_numpy(rng.integers(0, len(self), count))
        return Transitions(**{name: getattr(self, name)[index] for name in _TENSORS}, unlabelled=0)


_TENSORS = ("inputs", "actions", "rewards", "following", "done", "returns")


@dataclass(frozen=True)
class Halves:
    """Symmetric sampling (RLPD, arXiv 2302.02948): `share` of a batch comes from before the run. prior: None: there is nothing."""

    own: Transitions
    prior: Transitions | None
    share: float

    def draw(self, count: int, rng: np.random.Generator) -> Transitions:
        before = prior_count(count, self.share, len(self.prior), len(self.own)) if self.prior is not None else 0
        drawn = [] if before == count else [self.own.draw(count - before, rng)]
        if self.prior is not None and before:
            drawn.append(self.prior.draw(before, rng))
        return Transitions.joined(drawn)


def transitions(
    rollout: Rollout, inputs: torch.Tensor, actions: torch.Tensor, chosen: Shaping, only: np.ndarray | None = None
) -> Transitions:
    """inputs (T, .) and actions (T, .) of the episode's decisions; only: (T,) bool, which of them; None: all.

    An episode ends for good with its last decision, whether it succeeded or ran out of time: a policy that dawdles is to feel it.
    """
    earned = shaping.rewards(rollout, chosen)
    labelled = np.isfinite(earned)
    known = torch.from_numpy(labelled if only is None else labelled & only)
    done = torch.zeros(len(earned))
    done[-1] = 1.0
    sums = shaping.returns(earned, chosen.discount)
    tensors = {
        "inputs": inputs,
        "actions": actions,
        "rewards": torch.from_numpy(np.nan_to_num(earned)),
        "following": torch.cat([inputs[1:], inputs[-1:]]),
        "done": done,
        "returns": torch.from_numpy(sums),
    }
    return Transitions(**{name: one.float().cpu()[known] for name, one in tensors.items()}, unlabelled=int((~labelled).sum()))
