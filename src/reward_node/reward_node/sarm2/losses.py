"""The SARM2 loss (arXiv 2606.10305): progress, mixture balance, primitives; and ours for completion.

Role: pure function of scores and labels. Does not depend on data loading or on ROS.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor
from torch.nn import functional as F

from reward_node.sarm2.configuration import LossSettings
from reward_node.sarm2.network import Scores

UNKNOWN = -100
"""A primitive that has no label."""


@dataclass
class Labels:
    """progress: (B, R) in [0, 1] or NaN: unknown; completed: (B, R) 0 or 1; primitives: (B, R) int, index or UNKNOWN."""

    progress: Tensor
    completed: Tensor
    primitives: Tensor


def mixture_terms(scores: Scores) -> tuple[Tensor, Tensor, Tensor]:
    """(var of load, var of importance, mean entropy of the gate in nat).

    importance: share of the full softmax that each expert gets over the batch; load: share of what it is really given
    after the top few are chosen. Both times the number of experts, so that 1 everywhere (variance 0) is even use.
    """
    experts = scores.gates.shape[-1]
    importance = scores.gates.flatten(0, -2).mean(dim=0) * experts
    load = scores.shares.flatten(0, -2).mean(dim=0) * experts
    entropy = -(scores.gates * scores.gates.clamp_min(1e-9).log()).sum(dim=-1).mean()
    return load.var(unbiased=False), importance.var(unbiased=False), entropy


def loss(scores: Scores, labels: Labels, settings: LossSettings) -> tuple[Tensor, dict[str, float]]:
    """The sum that is minimised, and its parts by name for the log."""
    known = labels.progress.isfinite()
    squared = (scores.progress - labels.progress.nan_to_num()).square()
    progress = (squared * known).sum() / known.sum().clamp_min(1)
    named = (labels.primitives != UNKNOWN).sum().clamp_min(1)
    primitive = F.cross_entropy(scores.primitives.flatten(0, 1), labels.primitives.flatten(), ignore_index=UNKNOWN, reduction="sum") / named
    completion = F.binary_cross_entropy_with_logits(scores.completion, labels.completed)
    load, importance, entropy = mixture_terms(scores)
    mixture = settings.load * load + settings.importance * importance - settings.entropy * entropy
    total = progress + settings.mixture * mixture + settings.primitive * primitive + settings.completion * completion
    parts = {"progress": progress, "primitive": primitive, "completion": completion, "load": load, "entropy": entropy}
    return total, {name: float(value.detach()) for name, value in parts.items()}
