"""Networks too large for one process: each process of a group keeps its share of every weight.

Role: fully sharded data parallelism (ZeRO stage 3, arXiv 1910.02054) by torch's `fully_shard`: a unit of the network is whole only while it
is being computed, its gradients are averaged over the processes and kept in shares, and so are an optimiser's moments. Everything here that
needs the whole of something is a conversation: all processes of the group must ask for the same at the same time. Depends on torch; knows
nothing of learners or ROS.
"""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import nn

from whetstone.errors import ConfigError

_SKELETON = "_whetstone_skeleton"


def shard(network: nn.Module, mesh: Any) -> None:
    """Replace the weights of a network's units by this process's share, in place. mesh: of the processes, one dimension.

    units: what the network's method `units()` names: submodules that are only ever called as a whole. Weights outside of them stay in every
    process. Raises ConfigError where it names none.
    """
    if not hasattr(network, "units"):
        raise ConfigError(f"network '{type(network).__name__}' names no units, so it cannot be sharded; leave learner_sharded out")
    # Not a submodule: its tensors have no content and are no part of the network.
    network.__dict__[_SKELETON] = (copy.deepcopy(network).to("meta"), mesh)
    _shard_units(network, mesh)


def _shard_units(network: Any, mesh: Any) -> None:
    from torch.distributed.fsdp import fully_shard

    for unit in network.units():
        fully_shard(unit, mesh=mesh, reshard_after_forward=True)


def copy_of(network: nn.Module) -> nn.Module:
    """The network as it is now, sharded likewise."""
    if _SKELETON not in network.__dict__:
        return copy.deepcopy(network)
    skeleton, mesh = network.__dict__[_SKELETON]
    made = copy.deepcopy(skeleton)
    _shard_units(made, mesh)
    made.to_empty(device=mesh.device_type)
    with torch.no_grad():
        for own, other in ((made.parameters(), network.parameters()), (made.buffers(), network.buffers())):
            for one, value in zip(own, other, strict=True):
                one.copy_(value)
    return made


def sharded(tensor: torch.Tensor) -> bool:
    """Whether this process has only a share of it."""
    return hasattr(tensor, "full_tensor")


def whole(tensor: torch.Tensor) -> torch.Tensor:
    """All of a tensor that may be sharded."""
    return tensor.full_tensor() if sharded(tensor) else tensor  # type: ignore[attr-defined]


def share(tensor: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    """This process's share of a whole tensor, cut as `like` is; the tensor itself where that is whole. Nothing is sent."""
    if not sharded(like):
        return tensor
    from torch.distributed.tensor import distribute_tensor

    return distribute_tensor(tensor, like.device_mesh, like.placements, src_data_rank=None)  # type: ignore[attr-defined]
