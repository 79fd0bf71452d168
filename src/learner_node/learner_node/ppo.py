"""PPO with GAE for a policy that knows the probability of what it did.

Role: the learner plug-in `ppo` (Schulman et al., arXiv 1707.06347; GAE: arXiv 1506.02438), for a policy that fulfils
whetstone.contracts.StochasticPolicy. On-policy: each update reads the episodes of its own iteration and no others. Depends on torch; knows
nothing of ROS.

With delta_t = r_t + gamma V(o_{t+1}) - V(o_t) and no value behind the last decision (shaping.py: r; gamma and lambda per decision):
    A_t = sum_k (gamma lambda)^k delta_{t+k}, normalised over the iteration,     V is fitted to A + V
    ratio = exp(sharpness (log p - log p_old)),     loss = -min(ratio A, clip(ratio, 1 - clip, 1 + clip) A)
log p is the mean over the numbers of a chain; `sharpness` is how many of them count as independent. An epoch that has moved further than
`divergence` (mean of ratio - 1 - log ratio, an estimate of the KL divergence; Schulman 2020) is the last of its update.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import torch

from learner_node import shaping
from learner_node.descent import Descent
from learner_node.group import group
from learner_node.interventions import intervened
from learner_node.network_learner import NetworkLearner
from learner_node.rounds import GateConfig, RoundsConfig
from learner_node.shaping import Shaping
from whetstone.config import parse
from whetstone.contracts import Rollout, StochasticPolicy
from whetstone.errors import ConfigError
from whetstone.networks import perceptron

_SOURCE = "config/learners/ppo.yaml"


@dataclass(frozen=True)
class PPOConfig:
    """policy: configuration that it is made for; tensors: "biases" are all vectors (biases and the scales of norms); epochs, batch,
    learning_rate of an update; clip, sharpness, divergence: see the module; trace: lambda; value_steps, value_rate, input_noise (standard
    deviation, of what it sees): of the value function's training in each update; shaping: of the rewards; gate."""

    plugin: str = "ppo"
    policy: str = "stochastic"
    tensors: Literal["biases", "all"] = "biases"
    epochs: int = field(default=20, metadata={"ge": 1})
    batch: int = field(default=256, metadata={"ge": 2})
    learning_rate: float = field(default=1e-3, metadata={"gt": 0})
    clip: float = field(default=0.2, metadata={"gt": 0})
    sharpness: float = field(default=8.0, metadata={"gt": 0})
    divergence: float = field(default=0.3, metadata={"gt": 0})
    trace: float = field(default=0.98, metadata={"ge": 0, "le": 1})
    value_steps: int = field(default=200, metadata={"ge": 1})
    value_rate: float = field(default=1e-3, metadata={"gt": 0})
    input_noise: float = field(default=0.5, metadata={"ge": 0})
    shaping: Shaping = field(default_factory=Shaping)
    gate: GateConfig = field(default_factory=GateConfig)
    rounds: RoundsConfig = field(default_factory=RoundsConfig)


@dataclass(frozen=True)
class _Data:
    """Decisions of one iteration. inputs (N, .), chains (N, ., .), advantages (N,), wanted (N,): what the value function learns."""

    inputs: torch.Tensor
    chains: torch.Tensor
    advantages: torch.Tensor
    wanted: torch.Tensor


class PPO(NetworkLearner[_Data]):
    """See the module."""

    on_policy = True

    def __init__(self, config: PPOConfig, policy: StochasticPolicy, seed: int):
        self.config = config
        self._value: Any = None
        super().__init__(policy, config.gate, config.rounds, config.tensors)
        self._rng = np.random.default_rng([seed, 41])
        self._seed = seed

    @classmethod
    def load(cls, config: dict[str, Any], policy: Any, seed: int) -> PPO:
        """Raises ConfigError for a bad key or a policy that does not know the probability of what it did."""
        parsed = parse(PPOConfig, config, _SOURCE)
        if not isinstance(policy, StochasticPolicy):
            raise ConfigError(f"learner 'ppo' needs a policy that knows the probability of what it did; use policy:={parsed.policy}")
        return cls(parsed, policy, seed)

    def see(self, episodes: list[Rollout], iteration: int) -> tuple[dict[str, float], _Data | None]:
        missing = sum(np.isnan(shaping.rewards(rollout, self.config.shaping)).sum() for rollout in episodes)
        return {"unlabelled_steps": float(missing)}, self._data(episodes)

    def forget(self, failed: bool) -> None:
        self._optimiser = torch.optim.Adam(self._parameters, lr=self.config.learning_rate)
        if failed:
            self._value = None

    def memory(self) -> list[tuple[int, str]]:
        return []  # each update reads its own episodes alone

    def recall(self, rollout: Rollout, iteration: int) -> None:
        return

    def prepare(self, names: Collection[str], inputs: int) -> None:
        if "value" in names:
            self._make_value(inputs)

    def parts(self) -> dict[str, Any]:
        found = {"rng": self._rng, "optimiser": self._optimiser}
        return found if self._value is None else found | {"value": self._value, "value_optimiser": self._value_optimiser}

    def _data(self, episodes: list[Rollout]) -> _Data | None:
        """What the episodes say; None where nothing does. Values are those from before this update."""
        parts: list[_Data] = []
        for rollout in episodes:
            if rollout.latents is None:
                raise ConfigError(
                    f"episode {rollout.episode_id}: its decisions hold no chain of the flow; use policy:={self.config.policy}, exploring"
                )
            try:
                chains = self.policy.chains(rollout.latents)
            except ValueError as error:
                raise ConfigError(f"episode {rollout.episode_id}: {error}; use policy:={self.config.policy}") from None
            inputs = self.policy.encode(rollout.images, rollout.proprioception, rollout.actions, rollout.instruction)
            earned = shaping.rewards(rollout, self.config.shaping)
            values = self._values(inputs)
            advantages = gae(earned, values, self.config.shaping.discount, self.config.trace)
            wanted = advantages + values
            # What a human did in its place (interventions.py) says nothing of what it drew.
            known = torch.from_numpy(np.isfinite(earned) & ~intervened(rollout))
            as_tensor = [torch.from_numpy(one).float()[known] for one in (advantages, wanted)]
            parts.append(_Data(inputs[known], chains[known], *as_tensor))
        if sum(len(part.wanted) for part in parts) < 2:
            return None
        names = ("inputs", "chains", "advantages", "wanted")
        inputs, chains, advantages, wanted = (torch.cat([getattr(part, name) for part in parts]) for name in names)
        return _Data(inputs, chains, (advantages - advantages.mean()) / advantages.std(correction=0).clamp_min(1e-6), wanted)

    def _values(self, inputs: torch.Tensor) -> np.ndarray:
        """(T,) of the value function, zero before its first training."""
        if self._value is None:
            return np.zeros(len(inputs))
        with torch.no_grad():
            return self._value(inputs.float().cpu())[:, 0].numpy().astype(np.float64)

    def learn(self, material: _Data) -> tuple[dict[str, float], str]:
        config, count = self.config, len(material.advantages)
        with torch.no_grad():
            old = self.policy.chain_log_probabilities(material.inputs, material.chains)
        losses, divergence, epochs, descent = [], 0.0, 0, Descent()
        for _ in range(config.epochs):
            epochs += 1
            order = torch.from_numpy(self._rng.permutation(count))
            for batch in order.split(config.batch):
                index = batch[group().share(len(batch))]
                now = self.policy.chain_log_probabilities(material.inputs[index], material.chains[index])
                ratio = (config.sharpness * (now - old[index])).exp()
                advantage = material.advantages[index].to(ratio.device)
                gain = torch.minimum(ratio * advantage, ratio.clamp(1 - config.clip, 1 + config.clip) * advantage)
                loss = -gain.sum() * group().size / len(batch)
                losses.append(descent.step(self._optimiser, loss, self._parameters))
            with torch.no_grad():
                moved = config.sharpness * (self.policy.chain_log_probabilities(material.inputs, material.chains) - old)
            divergence = float((moved.exp() - 1 - moved).mean())
            if divergence > config.divergence:
                break
        descent.finish()
        value_loss = self._fit_value(material.inputs.float().cpu(), material.wanted, descent)
        found = {"loss": np.nanmean(losses), "kl": divergence, "epochs": epochs, "value_loss": value_loss, "skipped_steps": descent.skipped}
        return {name: float(value) for name, value in found.items()}, ""

    def _fit_value(self, inputs: torch.Tensor, wanted: torch.Tensor, descent: Descent) -> float:
        """Mean squared error of the last tenth of the steps."""
        if self._value is None:
            self._make_value(inputs.shape[1])
        assert self._value is not None
        losses = []
        for _ in range(self.config.value_steps):
            index = torch.from_numpy(self._rng.integers(0, len(inputs), min(self.config.batch, len(inputs))))
            seen = inputs[index]
            seen = seen + self.config.input_noise * torch.from_numpy(self._rng.standard_normal(seen.shape)).float()
            loss = (self._value(seen)[:, 0] - wanted[index]).square().mean()
            losses.append(descent.step(self._value_optimiser, loss, list(self._value.parameters())))
        return float(np.nanmean(losses[-max(len(losses) // 10, 1) :]))

    def _make_value(self, inputs: int) -> None:
        self.inputs = inputs
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self._seed)
            self._value = perceptron((inputs, 64, 1))
        self._value_optimiser = torch.optim.AdamW(self._value.parameters(), lr=self.config.value_rate, weight_decay=0.1)


def gae(earned: np.ndarray, values: np.ndarray, discount: float, trace: float) -> np.ndarray:
    """(T,) generalised advantages of one episode (arXiv 1506.02438, equation 16). earned, values: (T,); nothing comes behind the last
    decision; where a reward is missing (NaN) it counts as none, and the caller leaves that decision out."""
    advantages, following, total = np.zeros(len(earned)), 0.0, 0.0
    for index in range(len(earned) - 1, -1, -1):
        delta = float(np.nan_to_num(earned[index])) + discount * following - float(values[index])
        total = delta + discount * trace * total
        advantages[index], following = total, float(values[index])
    return advantages
