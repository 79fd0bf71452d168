"""A frozen flow policy whose initial noise a small actor chooses.

Role: the policy plug-in `steered` (contract: whetstone.contracts.SteeredPolicy), for the learner `dsrl`: only the actor is trained and
sent, a few hundred kilobytes. Depends on torch; knows nothing of ROS or simulators.

The flow turns noise into chunks that the demonstrations made likely; whoever chooses the noise chooses among them and can never leave
them (Wagenmaker et al., arXiv 2506.15799).
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal

import numpy as np
import torch

from policy_node.flow_vla import FlowVLAPolicy
from policy_node.inner import AroundFlow, load_inner
from whetstone.config import config_hash, parse
from whetstone.contracts import Chunk, Observation, PolicyMode
from whetstone.networks import NoiseActor
from whetstone.profile import RobotProfile

_SOURCE = "config/policies/steered.yaml"


@dataclass(frozen=True)
class SteeredConfig:
    """inner: the flow policy, a file of config/policies; width: of the actor's layers; bound: of the noise; spread: its standard deviation
    at the start; repeat: one row of noise for the whole chunk, so that the actor has to choose `columns` numbers only; keep: see the class;
    deployment: how the refined policy is deployed."""

    plugin: str = "steered"
    inner: str = "flow_vla"
    width: int = field(default=256, metadata={"ge": 8})
    bound: float = field(default=1.0, metadata={"gt": 0})
    spread: float = field(default=0.15, metadata={"gt": 0})
    repeat: bool = True
    keep: bool = True
    deployment: Literal["sampled", "greedy"] = "greedy"


class SteeredPolicy(AroundFlow):
    """Greedy acts from the middle of the actor's distribution, otherwise every chunk draws from it. Latent: the noise chosen.

    Exploring with `keep`, what is drawn (not the noise, which the actor makes of it and of what is seen) is the same for all chunks of an
    episode: its outcome judges it, while draws that are new with every chunk average out (FlowVLAPolicy says more).
    """

    def __init__(self, config: SteeredConfig, inner: FlowVLAPolicy, device: str = "cpu"):
        self.config = config
        self.spec = replace(
            inner.spec,
            policy_id="steered",
            config_hash=config_hash([inner.spec.config_hash, {**asdict(config), "deployment": ""}]),
        )
        columns = len(inner.spec.joints) + 1
        self._rows = inner.spec.horizon if config.repeat else 1
        size = columns if config.repeat else columns * inner.spec.horizon
        torch.manual_seed(0)  # the learner's copy begins as the robot's
        self.actor = NoiseActor(inner.network.seen, size, config.width, config.bound, config.spread).to(device).eval()
        super().__init__(inner, {"actor": self.actor})
        self._greedy, self._keeps, self._seed, self._generator = True, False, 0, torch.Generator()

    @classmethod
    def load(cls, config: dict[str, Any], profile: RobotProfile, device: str = "cpu") -> SteeredPolicy:
        """Raises ConfigError for a bad key or an inner policy that does not fit, AssetError where its weights are missing."""
        parsed = parse(SteeredConfig, config, _SOURCE)
        return cls(parsed, load_inner(parsed.inner, profile, device, _SOURCE), device)

    def reset(self, instruction: str, seed: int, mode: PolicyMode) -> None:
        self.inner.reset(instruction, seed, "sampled")
        self._greedy, self._keeps, self._seed = mode == "greedy", self.config.keep and mode == "exploring", seed
        self._generator.manual_seed(seed)

    @torch.no_grad()
    def act(self, observation: Observation) -> Chunk:
        """latent: the noise chosen, (actor.size,) float32."""
        inputs = self.inner.see(observation)
        if self._keeps:
            self._generator.manual_seed(self._seed)
        noise = self.actor.greedy(inputs) if self._greedy else self.actor.sample(inputs, self._generator)[0]
        actions = self.inner.execute(observation, self.inner.chunks(inputs, noise.repeat(1, self._rows)))
        return Chunk(actions, latent=noise[0].cpu().numpy().astype(np.float32))
