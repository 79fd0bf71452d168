"""Gradient steps that a loss which is no number does not spoil.

Role: the one place where learners step their optimisers: such a step is skipped and counted, and after too many of them the update is given
up. Depends on torch.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch

from learner_node.group import group
from whetstone.sharding import sharded, whole

LIMIT = 10
"""Skipped steps of one update after which it is given up."""


class DivergedError(Exception):
    """More than LIMIT steps of an update had no usable gradient. The weights are those of the last step that had one."""


class Descent:
    """The steps of one update. taken, skipped: so far; norm: of the gradient, at most."""

    def __init__(self, norm: float = 1.0) -> None:
        self.taken, self.skipped, self.norm = 0, 0, norm

    def step(self, optimiser: torch.optim.Optimizer, loss: torch.Tensor, parameters: Sequence[torch.Tensor]) -> float:
        """One step of `parameters`, which the optimiser holds. Returns the loss, NaN where the step was skipped. Raises DivergedError.

        loss: of this process's share of the batch, where a group of processes makes the step together (group.py).
        """
        optimiser.zero_grad(set_to_none=True)
        value = group().mean(float(loss.detach()))
        usable = math.isfinite(value)
        if usable:
            loss.backward()
            group().average(parameters)
            # A finite loss may have a gradient that is not.
            usable = math.isfinite(self._clip(parameters))
        if not usable:
            optimiser.zero_grad(set_to_none=True)
            self.skipped += 1
            if self.skipped > LIMIT:
                raise DivergedError(f"{self.skipped} steps had no usable gradient")
            return math.nan
        optimiser.step()
        self.taken += 1
        return value

    def _clip(self, parameters: Sequence[torch.Tensor]) -> float:
        """Norm of the whole gradient before it was clipped; what is sharded does not mix with what is not."""
        parts = [[one for one in parameters if sharded(one) == which and one.grad is not None] for which in (False, True)]
        norms = [whole(torch.nn.utils.get_total_norm([one.grad for one in part if one.grad is not None])) for part in parts if part]
        if not norms:
            return 0.0
        norm = norms[0] if len(norms) == 1 else torch.linalg.vector_norm(torch.stack(norms))
        for part in parts:
            torch.nn.utils.clip_grads_with_norm_(part, self.norm, norm)
        return float(norm)

    def finish(self) -> None:
        """The update's steps are over. Raises DivergedError where every one of them was skipped."""
        if self.skipped and not self.taken:
            raise DivergedError(f"all {self.skipped} steps had no usable gradient")
