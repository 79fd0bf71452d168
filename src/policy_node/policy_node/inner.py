"""The policy inside another one, which it steers or corrects.

Role: loads it by the name of its configuration; and what the outer ones have in common. Does not depend on ROS.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import nn

from policy_node.flow_vla import FlowVLAPolicy
from policy_node.parameters import put, taken
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


class AroundFlow:
    """What policies around a frozen flow policy have in common: what they see is what it sees, and only their own modules are trained and
    sent. modules: by the name that stands before their parameters' own."""

    def __init__(self, inner: FlowVLAPolicy, modules: dict[str, nn.Module]) -> None:
        self.inner = inner
        inner.network.requires_grad_(False)
        self._own = {f"{prefix}.{name}": value for prefix, module in modules.items() for name, value in module.named_parameters()}

    def encode(self, images: dict[str, np.ndarray], proprioception: np.ndarray, actions: np.ndarray, instruction: str) -> torch.Tensor:
        """As FlowVLAPolicy.encode."""
        return self.inner.encode(images, proprioception, actions, instruction)

    def interrupted(self) -> None:
        self.inner.interrupted()

    def trainable_state(self) -> dict[str, np.ndarray]:
        return taken(self._own)

    def load_trainable_state(self, state: dict[str, np.ndarray]) -> None:
        put(self._own, state)
