"""The policy inside another one, which it steers or corrects.

Role: loads it by the name of its configuration; and moves the state of the outer one's own networks. Does not depend on ROS.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import nn

from policy_node.flow_vla import FlowVLAPolicy
from whetstone.errors import ConfigError
from whetstone.plugins import configured
from whetstone.profile import RobotProfile

NEEDED = ("see", "chunks", "execute", "encode", "network")


def load_inner(name: str, profile: RobotProfile, device: str, source: str) -> FlowVLAPolicy:
    """Of config/policies/<name>.yaml. Raises ConfigError where it is no flow policy that can be begun from a given noise."""
    plugin, settings = configured("whetstone.policies", name)
    inner = plugin.load(settings, profile, device)
    missing = [part for part in NEEDED if not hasattr(inner, part)]
    if missing:
        raise ConfigError(f"{source}: key 'inner': policy '{name}' has no {missing[0]}; it must be a flow policy like flow_vla")
    return inner


def state_of(modules: dict[str, nn.Module]) -> dict[str, np.ndarray]:
    """All parameters as float32 arrays, each behind its module's name."""
    return {
        f"{prefix}.{name}": value.detach().cpu().numpy().astype(np.float32, copy=True)
        for prefix, module in modules.items()
        for name, value in module.named_parameters()
    }


def load_state(modules: dict[str, nn.Module], state: dict[str, Any]) -> None:
    """All of them at once. ValueError naming the first tensor that is missing, of another shape or unknown; then nothing has changed."""
    own = {f"{prefix}.{name}": value for prefix, module in modules.items() for name, value in module.named_parameters()}
    for name, value in own.items():
        if name not in state:
            raise ValueError(f"tensor '{name}' is missing")
        if tuple(state[name].shape) != tuple(value.shape):
            raise ValueError(f"tensor '{name}' has shape {tuple(state[name].shape)}, the policy has {tuple(value.shape)}")
    extra = sorted(set(state) - set(own))
    if extra:
        raise ValueError(f"tensor '{extra[0]}' is unknown to the policy")
    with torch.no_grad():
        for name, value in own.items():
            value.copy_(torch.from_numpy(np.asarray(state[name], np.float32)))
