"""A flow policy whose steps are random while it explores, so that what it did has a probability.

Role: the policy plug-in `stochastic` (contract: whetstone.contracts.StochasticPolicy), for the learner `ppo`. The flow itself is trained.
Depends on torch; knows nothing of ROS or simulators.

A flow's Euler steps x <- x + v dt are deterministic given the first noise. Here each step but the last adds Gaussian noise of deviation
noise * sqrt(dt), so that the chain x_0, ..., x_last has an exact log-probability (ReinFlow, arXiv 2505.22094; pi_RL, arXiv 2510.25889):

    start = 1: x_0 is unit noise and the drift is v - noise^2 / (2 s) (x - (1 - s) v), s = 1 - t: the flow's own distribution at every time
               (Flow-SDE), so exploring acts like the sampled policy;
    start = 0: x_0 = 0 and the drift is v: exploring strays around the greedy chunk, which is what is deployed.

repeat: a step's noise is one row for the whole chunk, and the probability is that of the mean over rows, which has all of it.
keep: what is drawn is the same for all chunks of an episode, so that its outcome judges it, while each chunk's probability is still counted
for itself (as in gSDE, Raffin et al., arXiv 2005.05719).
The last step is without noise: it brings the chunk back to where the network has seen chunks, and the arm does not shake.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal

import numpy as np
import torch

from policy_node.flow_vla import FlowVLAPolicy
from policy_node.inner import load_inner
from whetstone.config import config_hash, parse
from whetstone.contracts import Chunk, Observation, PolicyMode
from whetstone.profile import RobotProfile

_SOURCE = "config/policies/stochastic.yaml"


@dataclass(frozen=True)
class StochasticConfig:
    """inner: the flow policy, a file of config/policies; noise: of a whole flow's steps together, in standard deviations of a chunk; start,
    repeat, keep: see the module; deployment: how the refined policy is deployed."""

    plugin: str = "stochastic"
    inner: str = "flow_vla"
    noise: float = field(default=0.2, metadata={"gt": 0})
    start: Literal[0, 1] = 0
    repeat: bool = True
    keep: bool = True
    deployment: Literal["sampled", "greedy"] = "greedy"


class StochasticPolicy:
    """Greedy and sampled act as the inner policy does; exploring as the module says. Latent: the chain, (flow_steps, horizon * columns)."""

    def __init__(self, config: StochasticConfig, inner: FlowVLAPolicy, device: str = "cpu"):
        self.config, self.inner, self.device, self.network = config, inner, device, inner.network
        self.spec = replace(
            inner.spec,
            policy_id="stochastic",
            config_hash=config_hash([inner.spec.config_hash, {**asdict(config), "deployment": ""}]),
        )
        self._rows = inner.spec.horizon if config.repeat else 1
        self._steps, self._size = inner.config.flow_steps, inner.spec.horizon * (len(inner.spec.joints) + 1)
        self._exploring, self._seed, self._generator = False, 0, torch.Generator()

    @classmethod
    def load(cls, config: dict[str, Any], profile: RobotProfile, device: str = "cpu") -> StochasticPolicy:
        """Raises ConfigError for a bad key or an inner policy that does not fit, AssetError where its weights are missing."""
        parsed = parse(StochasticConfig, config, _SOURCE)
        return cls(parsed, load_inner(parsed.inner, profile, device, _SOURCE), device)

    def reset(self, instruction: str, seed: int, mode: PolicyMode) -> None:
        self._exploring, self._seed = mode == "exploring", seed
        self._generator.manual_seed(seed)
        self.inner.reset(instruction, seed, "sampled" if self._exploring else mode)

    @torch.no_grad()
    def act(self, observation: Observation) -> Chunk:
        """latent: the chain, flattened; log_probability: of the chain."""
        if not self._exploring:
            return replace(self.inner.act(observation), latent=None)
        inputs = self.inner.see(observation)
        if self.config.keep:
            self._generator.manual_seed(self._seed)
        chain = self._draw(inputs)
        actions = self.inner.execute(observation, self._last(inputs, chain[:, -1]))
        log_probability = float(self.chain_log_probabilities(inputs, chain)[0])
        return Chunk(actions, chain[0].flatten().cpu().numpy().astype(np.float32), log_probability)

    def _draw(self, inputs: torch.Tensor) -> torch.Tensor:
        """(1, flow_steps, size): x_0 and what came of each noisy step."""
        first = self.config.start * torch.randn(1, self._size, generator=self._generator)
        chain = [first.to(self.device)]
        for step in range(self._steps - 1):
            mean, deviation = self._step(inputs, chain[-1], step)
            drawn = torch.randn(1, self._size // self._rows, generator=self._generator).repeat(1, self._rows)
            chain.append(mean + deviation * drawn.to(self.device))
        return torch.stack(chain, dim=1)

    def _step(self, inputs: torch.Tensor, point: torch.Tensor, step: int) -> tuple[torch.Tensor, float]:
        """Mean (B, size) and deviation of the next point of the chain."""
        scale = torch.full((len(point),), float(self.config.start), device=point.device)
        time = step / self._steps
        velocity = self.network.velocity(inputs, point, torch.full_like(scale, time), scale)
        noise = self.config.noise
        drift = velocity
        if self.config.start:
            left = 1 - time
            drift = velocity - noise**2 / (2 * left) * (point - time * velocity)
        return point + drift / self._steps, noise / math.sqrt(self._steps)

    def _last(self, inputs: torch.Tensor, point: torch.Tensor) -> torch.Tensor:
        scale = torch.full((len(point),), float(self.config.start), device=point.device)
        time = torch.full_like(scale, (self._steps - 1) / self._steps)
        return point + self.network.velocity(inputs, point, time, scale) / self._steps

    def chain_log_probabilities(self, inputs: torch.Tensor, chains: torch.Tensor) -> torch.Tensor:
        """(B,) mean log-density, nat, of a number of the chain (B, flow_steps, size) given its first point; differentiable.

        The mean instead of the sum over some hundreds of numbers: a ratio of two such sums is 0 or infinite after the smallest change.
        """
        found = []
        for step in range(self._steps - 1):
            mean, deviation = self._step(inputs, chains[:, step], step)
            away = ((chains[:, step + 1] - mean) / deviation).unflatten(1, (self._rows, -1)).mean(1)
            found.append(-0.5 * away.square() - math.log(deviation) - 0.5 * math.log(2 * math.pi))
        return torch.stack(found).mean(dim=(0, 2))

    def chains(self, latents: np.ndarray) -> torch.Tensor:
        """(T, flow_steps * size), as rollouts hold it -> (T, flow_steps, size). ValueError where the size is another."""
        if latents.ndim != 2 or latents.shape[1] != self._steps * self._size:
            raise ValueError(f"its decisions hold {latents.shape[1:]} numbers of latent, not {self._steps * self._size}")
        return torch.from_numpy(np.asarray(latents, np.float32)).unflatten(1, (self._steps, self._size)).to(self.device)

    def encode(self, images: dict[str, np.ndarray], proprioception: np.ndarray, actions: np.ndarray, instruction: str) -> torch.Tensor:
        """As FlowVLAPolicy.encode."""
        return self.inner.encode(images, proprioception, actions, instruction)

    def trainable_state(self) -> dict[str, np.ndarray]:
        return self.inner.trainable_state()

    def load_trainable_state(self, state: dict[str, np.ndarray]) -> None:
        self.inner.load_trainable_state(state)
