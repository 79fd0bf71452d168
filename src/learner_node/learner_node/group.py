"""Several processes that make one update together, each on its share of every batch.

Role: what learners need of `torchrun` (by way of accelerate): who am I, my share, the mean over all. Alone, without `torchrun`, everything
is the identity and accelerate is not even imported. Knows nothing of ROS or of any learner.

All processes hold the same weights, the same buffers and the same random generators, draw the same batches and the same noise, and differ
in which rows they compute the loss of; gradients are averaged before each step. So a group takes the steps that one process would have
taken, but for the order of summation.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from datetime import timedelta
from functools import cache, cached_property
from typing import Any

import torch

from whetstone.processes import die_with
from whetstone.sharding import sharded

_PATIENCE = timedelta(days=14)
"""That the others wait for the next update: a robot may be out of use over a weekend."""


class Group:
    """Processes of one `torchrun`, or one alone. rank: 0 leads."""

    def __init__(self) -> None:
        self.size = int(os.environ.get("WORLD_SIZE", "1"))
        self.rank = int(os.environ.get("RANK", "0"))
        self._accelerator: Any = None
        if self.size > 1:
            # torchrun gives each process a session of its own, so who kills it does not reach them: a learner would go on unseen.
            die_with(os.getppid())
            from accelerate import Accelerator, InitProcessGroupKwargs

            self._accelerator = Accelerator(cpu=not torch.cuda.is_available(), kwargs_handlers=[InitProcessGroupKwargs(timeout=_PATIENCE)])

    def device(self, device: str) -> str:
        """Each process's own of what was asked for: cuda is cuda:0, cuda:1, ..."""
        return f"cuda:{os.environ.get('LOCAL_RANK', self.rank)}" if self.size > 1 and device == "cuda" else device

    def share(self, count: int) -> slice:
        """My rows of a batch."""
        return slice(count * self.rank // self.size, count * (self.rank + 1) // self.size)

    def portion(self, rows: int, count: int) -> float:
        """Factor of the mean over my `rows` of `count`: with it the mean over all processes is that over all rows."""
        return rows * self.size / count

    def mean(self, value: float) -> float:
        """Over all processes; no number where any has none."""
        if self.size == 1:
            return value
        found = self._reduce(torch.tensor(value, dtype=torch.float64 if self._on_cpu else torch.float32))
        return float(found)

    def average(self, parameters: Sequence[torch.Tensor]) -> None:
        """Gradients of all processes, in place. Those of sharded parameters (whetstone.sharding) are averaged already."""
        if self.size == 1:
            return
        gradients = [one.grad for one in parameters if one.grad is not None and not sharded(one)]
        if not gradients:
            return
        whole = self._reduce(torch.cat([one.flatten() for one in gradients]))
        for gradient, part in zip(gradients, whole.split([one.numel() for one in gradients]), strict=True):
            gradient.copy_(part.view_as(gradient))

    @cached_property
    def mesh(self) -> Any:
        """All processes, as torch.distributed wants them for whetstone.sharding."""
        from torch.distributed.device_mesh import init_device_mesh

        return init_device_mesh(self._accelerator.device.type, (self.size,))

    def tell(self, what: object = None) -> Any:
        """What process 0 has, in all processes. Pickled: between processes of one torchrun alone, on machines that trust each other."""
        from accelerate.utils import broadcast_object_list

        box = [what if self.rank == 0 else None]
        return broadcast_object_list(box)[0]

    @property
    def _on_cpu(self) -> bool:
        return self._accelerator.device.type == "cpu"

    def _reduce(self, tensor: torch.Tensor) -> torch.Tensor:
        return self._accelerator.reduce(tensor.to(self._accelerator.device), reduction="mean").to(tensor.device)


@cache
def group() -> Group:
    """Of this process. Made when it is first asked for: all processes of a torchrun must ask."""
    return Group()
