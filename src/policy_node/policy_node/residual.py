"""A frozen flow policy, a small trained correction of its chunks, and critics that choose the best of several.

Role: the policy plug-in `residual` (contract: whetstone.contracts.ResidualPolicy), for the learner `spiral` (SPIRAL, arXiv 2606.10305):

    a = pi(s, z) + scale * residual(s, pi(s, z)),      of `choices` draws of z the one with the greatest min_i Q_i(s, a)

Only residual and critics are trained and sent. Depends on torch; knows nothing of ROS or simulators.
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
from whetstone.networks import Critics, perceptron
from whetstone.profile import RobotProfile

_SOURCE = "config/policies/residual.yaml"


@dataclass(frozen=True)
class ResidualConfig:
    """inner: the flow policy, a file of config/policies; width: of all layers; critics: how many; scale: of the correction, in standard
    deviations of a chunk; spread: standard deviation of the noise; repeat: one row of noise for the whole chunk; keep: exploring, the noise
    is drawn once for the episode (see FlowVLAPolicy for why); choices: chunks to choose among when deployed; deployment: how the refined
    policy is deployed, greedy: best of `choices`."""

    plugin: str = "residual"
    inner: str = "flow_vla"
    width: int = field(default=64, metadata={"ge": 8})
    critics: int = field(default=5, metadata={"ge": 1})
    scale: float = field(default=0.1, metadata={"gt": 0})
    spread: float = field(default=0.15, metadata={"gt": 0})
    repeat: bool = True
    choices: int = field(default=4, metadata={"ge": 1})
    keep: bool = True
    deployment: Literal["sampled", "greedy"] = "greedy"


class ResidualPolicy(AroundFlow):
    """Greedy takes the best of several chunks, the first of which comes from zero noise; otherwise every chunk is one draw.

    All noise of an episode follows from its seed.
    """

    def __init__(self, config: ResidualConfig, inner: FlowVLAPolicy, device: str = "cpu"):
        self.config, self.device, self.scale = config, device, config.scale
        self.spec = replace(
            inner.spec,
            policy_id="residual",
            config_hash=config_hash([inner.spec.config_hash, {**asdict(config), "deployment": "", "choices": 0}]),
        )
        self.columns = len(inner.spec.joints) + 1
        self._rows = inner.spec.horizon if config.repeat else 1
        self.size, self.noise = inner.spec.execute * self.columns, inner.spec.horizon * self.columns // self._rows
        inputs = inner.network.seen
        torch.manual_seed(0)  # the learner's copy begins as the robot's
        self.residual = perceptron((inputs + self.size, config.width, config.width, self.size), last_gain=0.0).to(device).eval()
        self.critics = Critics(inputs, self.size, config.width, config.critics).to(device).eval()
        super().__init__(inner, {"residual": self.residual, "critics": self.critics})
        self._greedy, self._keeps, self._seed, self._rng = True, False, 0, np.random.default_rng(0)

    @classmethod
    def load(cls, config: dict[str, Any], profile: RobotProfile, device: str = "cpu") -> ResidualPolicy:
        """Raises ConfigError for a bad key or an inner policy that does not fit, AssetError where its weights are missing."""
        parsed = parse(ResidualConfig, config, _SOURCE)
        return cls(parsed, load_inner(parsed.inner, profile, device, _SOURCE), device)

    def reset(self, instruction: str, seed: int, mode: PolicyMode) -> None:
        self.inner.reset(instruction, seed, "sampled")
        self._greedy, self._keeps, self._seed = mode == "greedy", self.config.keep and mode == "exploring", seed
        self._rng = np.random.default_rng([seed, 29])

    @torch.no_grad()
    def act(self, observation: Observation) -> Chunk:
        """latent: the noise of the chunk that was taken, (noise,) float32."""
        inputs = self.inner.see(observation)
        count = self.config.choices if self._greedy else 1
        if self._keeps:
            self._rng = np.random.default_rng([self._seed, 29])
        noise = self._rng.standard_normal((count, self.noise)).astype(np.float32)
        if self._greedy:
            noise[0] = 0.0
        start, seen = torch.from_numpy(noise).to(self.device), inputs.expand(count, -1)
        whole = self._whole(seen, start)
        corrected = self.correct(seen, whole[:, : self.size])
        added = (corrected - whole[:1, : self.size]) / self.scale
        best = int(self.critics(seen, added).min(0).values.argmax()) if count > 1 else 0
        chunk = torch.cat([corrected[best], whole[best, self.size :]])[None]
        return Chunk(self.inner.execute(observation, chunk), latent=noise[best])

    def propose(self, inputs: torch.Tensor, noise: torch.Tensor) -> torch.Tensor:
        """(B, execute * columns), normalised: the rows of the frozen policy's chunks that are carried out."""
        return self._whole(inputs, noise)[:, : self.size]

    def _whole(self, inputs: torch.Tensor, noise: torch.Tensor) -> torch.Tensor:
        return self.inner.chunks(inputs, self.config.spread * noise.repeat(1, self._rows))

    def correct(self, inputs: torch.Tensor, chunks: torch.Tensor) -> torch.Tensor:
        return chunks + self.scale * self.residual(torch.cat([inputs, chunks], dim=-1))

    def carried_out(self, actions: np.ndarray, proprioception: np.ndarray) -> torch.Tensor:
        state = torch.from_numpy(np.asarray(proprioception, np.float32)).to(self.device)
        return self.inner.network.normalise(torch.from_numpy(np.asarray(actions, np.float32)).to(self.device), state)[:, : self.size]
