"""What learners that train the policy's own network have in common: which of its tensors, and their shares where it is sharded.

Role: between the frame of a learner (rounds_learner.py) and an algorithm. Depends on torch; knows nothing of ROS.
"""

from __future__ import annotations

from typing import Any, Generic, Literal, TypeVar

import torch

from learner_node.rounds import GateConfig, RoundsConfig
from learner_node.rounds_learner import RoundsLearner
from whetstone import sharding

M = TypeVar("M")


class NetworkLearner(RoundsLearner[M], Generic[M]):
    """tensors: "biases" are all vectors (biases and the scales of norms)."""

    def __init__(self, policy: Any, gate: GateConfig, rounds: RoundsConfig, tensors: Literal["biases", "all"]) -> None:
        super().__init__(policy, gate, rounds)
        self._tensors = tensors
        self._collect()

    def _collect(self) -> None:
        trainable = self.policy.trainable_state()
        self._parameters: list[torch.Tensor] = [
            value
            for name, value in self.policy.network.named_parameters()
            if name in trainable and (self._tensors == "all" or value.ndim < 2)
        ]
        self.forget(failed=False)

    def shard(self, mesh: Any) -> None:
        """Before anything is learned: this process keeps its share of the network alone. Raises ConfigError (whetstone.sharding)."""
        sharding.shard(self.policy.network, mesh)
        self._collect()
