"""DSRL: soft actor-critic over the initial noise of a frozen flow policy.

Role: the learner plug-in `dsrl` (Wagenmaker et al., arXiv 2506.15799; SAC: Haarnoja et al., arXiv 1812.05905), for a policy that fulfils
whetstone.contracts.SteeredPolicy. Depends on torch; knows nothing of ROS.

With o what is seen, w the noise that the actor chose, r the shaped reward (shaping.py), over transitions of all episodes so far:
    y = blend G + (1 - blend) (r + gamma (1 - done) (min of two drawn Q'(o', w') - alpha log p(w' | o'))),   w' from the actor
    critics: (Q_i(o, w) - y)^2
    actor:   alpha log p(w | o) - mean_i Q_i(o, w) + leash || (m(o) - m_old(o)) / spread ||^2
    alpha:   such that the entropy of each number of w is `entropy`
Q' follow the critics slowly (polyak). Gradient steps are bounded by the decisions that came: `updates` for each.

Four things are not the paper's, which has thousands of decisions where there are hundreds here. G, the return that followed (blend 0 leaves
it out), says what came of a noise that was kept for a whole episode, which is how this policy explores (policy_node/steered.py). m is the
middle of the actor's distribution, m_old that of the actor which this update found, `spread` the deviation it began with: critics know
nothing of noise far from what was tried. What critics see is blurred (replay_learner.py). And the temperature has a faster optimiser, or
the actor spreads before it falls.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Collection
from dataclasses import dataclass, field
from typing import Any

import torch

from learner_node.descent import Descent
from learner_node.replay import Transitions
from learner_node.replay_learner import ReplayConfig, ReplayLearner
from whetstone.config import parse, source_of
from whetstone.contracts import Rollout, SteeredPolicy
from whetstone.errors import ConfigError
from whetstone.networks import Critics

_SOURCE = "config/learners/dsrl.yaml"


@dataclass(frozen=True, kw_only=True)
class DSRLConfig(ReplayConfig):
    """critics: how many, width: of their layers; temperature: alpha at the start; temperature_rate: learning rate of its logarithm;
    entropy: wanted of each number of the noise, in nat, above that of a normal distribution of the spread it began with; leash: see the
    module."""

    plugin: str = "dsrl"
    policy: str = "steered"
    critics: int = field(default=5, metadata={"ge": 2})
    width: int = field(default=64, metadata={"ge": 8})
    temperature: float = field(default=0.01, metadata={"gt": 0})
    temperature_rate: float = field(default=1e-2, metadata={"gt": 0})
    entropy: float = -0.5
    leash: float = field(default=0.1, metadata={"ge": 0})


class DSRL(ReplayLearner[DSRLConfig]):
    """See the module. No noise made what a human did: such decisions are left out, and so is every episode of a policy without noise."""

    corrects = False

    def __init__(self, config: DSRLConfig, policy: SteeredPolicy, seed: int):
        super().__init__(config, policy, seed, salt=31)
        self.actor = policy.actor
        self._critics: Critics | None = None
        self._seed = seed

    @classmethod
    def load(cls, config: dict[str, Any], policy: Any, seed: int) -> DSRL:
        """Raises ConfigError for a bad key or a policy whose noise nobody chooses."""
        parsed = parse(DSRLConfig, config, _SOURCE)
        if not isinstance(policy, SteeredPolicy):
            raise ConfigError(f"learner 'dsrl' needs a policy whose noise an actor chooses; use policy:={parsed.policy}")
        return cls(parsed, policy, seed).with_prior(source_of(config, _SOURCE))

    def forget(self, failed: bool) -> None:
        if failed:
            self._critics = None

    def prepare(self, names: Collection[str], inputs: int) -> None:
        if "critics" in names:
            self.begin(inputs)

    def parts(self) -> dict[str, Any]:
        if self._critics is None:
            return super().parts()
        late = {"critics": self._critics, "slow": self._slow, "alpha": self._alpha, "optimisers": self._optimisers}
        return super().parts() | late

    def actions(self, rollout: Rollout) -> torch.Tensor:
        if rollout.latents is None or rollout.latents.shape[1] != self.actor.size:
            given = "no" if rollout.latents is None else str(rollout.latents.shape[1])
            raise ConfigError(
                f"episode {rollout.episode_id}: its decisions hold {given} numbers of noise, learner 'dsrl' needs {self.actor.size}; "
                f"use policy:={self.config.policy}"
            )
        return torch.from_numpy(rollout.latents)

    def begin(self, inputs: int) -> None:
        self._old = copy.deepcopy(self.actor).requires_grad_(False)
        if self._critics is not None:
            return
        config = self.config
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self._seed)
            self._critics = Critics(inputs, self.actor.size, config.width, config.critics)
        self._slow = copy.deepcopy(self._critics).requires_grad_(False)
        self._alpha = torch.tensor(math.log(config.temperature), requires_grad=True)
        trained = (self._critics.parameters(), config.learning_rate), (self.actor.parameters(), config.learning_rate)
        self._optimisers = [torch.optim.Adam(values, lr=rate) for values, rate in (*trained, ([self._alpha], config.temperature_rate))]

    def step(self, batch: Transitions, descent: Descent, actor: bool) -> dict[str, torch.Tensor]:
        config, critics = self.config, self._critics
        assert critics is not None
        alpha, spread = self._alpha.exp().detach(), self.actor.spread
        with torch.no_grad():
            noise, density = self.actor.sample(batch.following, self._generator)
            pair = self._rng.permutation(config.critics)[:2]
            value = self._slow(self.blurred(batch.following), noise / spread)[pair].min(0).values - alpha * density
        loss = (critics(self.blurred(batch.inputs), batch.actions / spread) - self.wanted(batch, value)).square().mean()
        self._descend(descent, 0, loss)
        noise, density = self.actor.sample(batch.inputs, self._generator)
        value = critics(self.blurred(batch.inputs), noise / spread).mean(0)
        entropy = -density.detach().mean() / self.actor.size - 0.5 * math.log(2 * math.pi * math.e * spread**2)
        if actor:
            moved = (self.actor.greedy(batch.inputs) - self._old.greedy(batch.inputs)) / spread
            self._descend(descent, 1, (alpha * density - value + config.leash * moved.square().sum(-1)).mean())
            self._descend(descent, 2, self._alpha.exp() * (entropy - config.entropy))
        self.follow(self._slow, critics)
        return {"loss": loss, "value": value.mean(), "temperature": self._alpha.exp(), "entropy": entropy}

    def _descend(self, descent: Descent, which: int, loss: torch.Tensor) -> None:
        """Of the critics (0), the actor (1) or the temperature (2)."""
        optimiser = self._optimisers[which]
        descent.step(optimiser, loss, [value for group in optimiser.param_groups for value in group["params"]])
