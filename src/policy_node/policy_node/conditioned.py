"""A flow policy that is told whether what it is to do is better than usual, and acts as if it always were.

Role: the policy plug-in `conditioned` (contract: whetstone.contracts.ConditionedPolicy), for the learner `recap` (pi*0.6, arXiv
2511.14759). The flow itself is trained, with one learned vector for "positive" and one for "negative". Depends on torch; knows nothing of
ROS or simulators.

The vector is a further input of the network: it is added in the first layer of what looks at the inputs, so that what it changes depends on
what is seen. Without an indicator nothing is added. Both vectors begin as zero: what has learned nothing acts as the policy inside. Acting,
with guidance beta (classifier-free guidance, arXiv 2207.12598; 1: the positive velocity alone):

    v = v_none + beta (v_positive - v_none)
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal

import numpy as np
import torch
from torch import nn

from policy_node.flow_network import FlowNetwork
from policy_node.flow_vla import FlowVLAPolicy
from policy_node.inner import load_inner
from policy_node.real_time_chunking import Flow
from whetstone.config import config_hash, parse
from whetstone.contracts import Chunk, Observation, PolicyMode, Underway
from whetstone.profile import RobotProfile

_SOURCE = "config/policies/conditioned.yaml"
_GAIN = 5.0
"""Of the vectors: they begin as zero, and have to get far within an update's few steps of a size that suits biases."""


@dataclass(frozen=True)
class ConditionedConfig:
    """inner: the flow policy, a file of config/policies; guidance: beta; deployment: how the refined policy is deployed."""

    plugin: str = "conditioned"
    inner: str = "flow_vla"
    guidance: float = field(default=2.0, metadata={"ge": 0})
    deployment: Literal["sampled", "greedy"] = "greedy"


class ConditionedNetwork(FlowNetwork):
    """The layers of another flow network, whose parameters keep their names, and the two vectors."""

    def __init__(self, plain: FlowNetwork, guidance: float):
        nn.Module.__init__(self)  # not FlowNetwork's: no layer is made anew
        self.columns, self.horizon, self.seen, self.guidance = plain.columns, plain.horizon, plain.seen, guidance
        for name, module in plain.named_children():
            self.add_module(name, module)
        for name, buffer in plain.named_buffers(recurse=False):
            self.register_buffer(name, buffer)
        width, device = plain.chunk_in.out_features, plain.chunk_in.weight.device
        self.advantage = nn.ParameterDict({name: torch.zeros(width, device=device) for name in ("positive", "negative")})

    def velocity(
        self, inputs: torch.Tensor, chunk: torch.Tensor, time: torch.Tensor, scale: torch.Tensor, indicator: torch.Tensor | None = None
    ) -> torch.Tensor:
        """As FlowNetwork.velocity. indicator (B,): above 0 positive, below 0 negative, 0 (or without it) none."""
        if indicator is None:
            return super().velocity(inputs, chunk, time, scale)
        which = indicator.to(inputs.device)[:, None]
        vector = (which > 0) * self.advantage["positive"] + (which < 0) * self.advantage["negative"]
        return self._velocity(self._told(inputs, vector), chunk, time, scale)

    def _told(self, inputs: torch.Tensor, vector: torch.Tensor) -> torch.Tensor:
        """(B, width), as `context` of inputs."""
        return self.context[1:](self.context[0](inputs) + _GAIN * vector)

    def flow(self, inputs: torch.Tensor, scale: torch.Tensor) -> Flow:
        """As FlowNetwork.flow, positive."""
        plain, positive = self.context(inputs), self._told(inputs, self.advantage["positive"])

        def velocity(chunk: torch.Tensor, time: torch.Tensor) -> torch.Tensor:
            found = self._velocity(positive, chunk, time, scale)
            if self.guidance == 1:
                return found
            without = self._velocity(plain, chunk, time, scale)
            return without + self.guidance * (found - without)

        return velocity


class ConditionedPolicy:
    """Acts, explores and is sent as the policy inside, with the indicator positive."""

    def __init__(self, config: ConditionedConfig, inner: FlowVLAPolicy, device: str = "cpu"):
        self.config, self.inner, self.device, self.guidance = config, inner, device, config.guidance
        self.network = inner.network = ConditionedNetwork(inner.network, config.guidance).eval()
        self.spec = replace(
            inner.spec,
            policy_id="conditioned",
            config_hash=config_hash([inner.spec.config_hash, {**asdict(config), "deployment": "", "guidance": 0}]),
        )

    @classmethod
    def load(cls, config: dict[str, Any], profile: RobotProfile, device: str = "cpu") -> ConditionedPolicy:
        """Raises ConfigError for a bad key or an inner policy that does not fit, AssetError where its weights are missing."""
        parsed = parse(ConditionedConfig, config, _SOURCE)
        return cls(parsed, load_inner(parsed.inner, profile, device, _SOURCE), device)

    def reset(self, instruction: str, seed: int, mode: PolicyMode) -> None:
        self.inner.reset(instruction, seed, mode)

    def act(self, observation: Observation) -> Chunk:
        """latent: as FlowVLAPolicy's."""
        return self.inner.act(observation)

    def interrupted(self) -> None:
        self.inner.interrupted()

    def inpaint(self, observation: Observation, underway: Underway) -> Chunk:
        return self.inner.inpaint(observation, underway)

    def encode(self, images: dict[str, np.ndarray], proprioception: np.ndarray, actions: np.ndarray, instruction: str) -> torch.Tensor:
        """As FlowVLAPolicy.encode."""
        return self.inner.encode(images, proprioception, actions, instruction)

    def replay(self, without: str) -> tuple[torch.Tensor, torch.Tensor] | None:
        """As FlowVLAPolicy.replay."""
        return self.inner.replay(without)

    def trainable_state(self) -> dict[str, np.ndarray]:
        """As FlowVLAPolicy's, and the two vectors."""
        return self.inner.trainable_state()

    def load_trainable_state(self, state: dict[str, np.ndarray]) -> None:
        self.inner.load_trainable_state(state)
