"""DSRL: soft actor-critic over the initial noise of a frozen flow policy.

Role: the learner plug-in `dsrl` (Wagenmaker et al., arXiv 2506.15799; SAC: Haarnoja et al., arXiv 1812.05905), for a policy that fulfils
whetstone.contracts.SteeredPolicy. Depends on torch; knows nothing of ROS.

With o what is seen, w the noise that the actor chose, r the shaped reward (shaping.py), over transitions of all episodes so far:
    y = r + gamma (1 - done) (min of two drawn Q'(o', w') - alpha log p(w' | o')),   w' from the actor
    critics: (Q_i(o, w) - y)^2
    actor:   alpha log p(w | o) - mean_i Q_i(o, w)
    alpha:   such that the entropy of each number of w is `entropy`
Q' follow the critics slowly (polyak). Gradient steps are bounded by the decisions that came: `updates` for each.
"""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from learner_node.descent import Descent, DivergedError
from learner_node.replay import Transitions, transitions
from learner_node.rounds import GateConfig, Rounds, judged
from learner_node.shaping import Shaping
from whetstone.config import parse
from whetstone.contracts import Rollout, SteeredPolicy, UpdateReport
from whetstone.errors import ConfigError
from whetstone.networks import Critics

_SOURCE = "config/learners/dsrl.yaml"


@dataclass(frozen=True)
class DSRLConfig:
    """policy: configuration that it is made for; updates: gradient steps per decision; warm_up: iterations in which the critics learn
    alone; batch, learning_rate; critics: how many, width: of
    their layers; polyak: share of the critics that their slow copies take over at each step; temperature: alpha at the start; entropy:
    wanted of each number of the noise, nat; shaping: of the rewards; gate."""

    plugin: str = "dsrl"
    policy: str = "steered"
    updates: float = field(default=2.0, metadata={"gt": 0})
    warm_up: int = field(default=1, metadata={"ge": 0})
    batch: int = field(default=256, metadata={"ge": 2})
    learning_rate: float = field(default=3e-4, metadata={"gt": 0})
    critics: int = field(default=5, metadata={"ge": 2})
    width: int = field(default=256, metadata={"ge": 8})
    polyak: float = field(default=0.005, metadata={"gt": 0, "le": 1})
    temperature: float = field(default=0.05, metadata={"gt": 0})
    entropy: float = 0.0
    shaping: Shaping = field(default_factory=Shaping)
    gate: GateConfig = field(default_factory=GateConfig)


class DSRL:
    """Owns a policy of its own; the one that drives the robot is another process's."""

    def __init__(self, config: DSRLConfig, policy: SteeredPolicy, seed: int):
        self.config, self.policy, self.actor = config, policy, policy.actor
        self._rng = np.random.default_rng([seed, 31])
        self._generator = torch.Generator().manual_seed(seed)
        self._rounds = Rounds(config.gate, policy)
        self._replay: list[Transitions] = []
        self._critics: Critics | None = None
        self._iterations = 0
        self._seed = seed

    @classmethod
    def load(cls, config: dict[str, Any], policy: Any, seed: int) -> DSRL:
        """Raises ConfigError for a bad key or a policy whose noise nobody chooses."""
        parsed = parse(DSRLConfig, config, _SOURCE)
        if not isinstance(policy, SteeredPolicy):
            raise ConfigError(f"learner 'dsrl' needs a policy whose noise an actor chooses; use policy:={parsed.policy}")
        return cls(parsed, policy, seed)

    def update(self, rollouts: list[Rollout], iteration: int, last: bool) -> UpdateReport:
        episodes = judged(rollouts)
        new = [self._remember(rollout) for rollout in episodes]
        metrics = {
            "episodes": float(len(episodes)),
            "reward_success_rate": sum(rollout.outcome == "success" for rollout in episodes) / max(len(episodes), 1),
            "unlabelled_steps": float(sum(one.unlabelled for one in new)),
        }
        verdict = self._rounds.judge(episodes, last)
        if verdict.final:
            return UpdateReport(verdict.drove != 0, verdict.said, metrics)
        fresh = sum(len(one) for one in new)
        if not fresh:
            return UpdateReport(verdict.back, f"{verdict.said}; nothing to learn from: no decision has a reward", metrics)
        warm = self._iterations >= self.config.warm_up
        self._iterations += 1
        try:
            metrics |= self._train(round(self.config.updates * fresh), warm)
        except DivergedError as error:
            self._rounds.undo()
            self._critics = None
            return UpdateReport(verdict.back, f"{verdict.said}; update undone: {error}", metrics)
        if not warm:
            return UpdateReport(verdict.back, f"{verdict.said}; the critics alone have learned", metrics)
        self._rounds.take()
        return UpdateReport(True, verdict.said, metrics)

    def trainable_state(self) -> dict[str, np.ndarray]:
        return self.policy.trainable_state()

    def _remember(self, rollout: Rollout) -> Transitions:
        if rollout.latents is None or rollout.latents.shape[1] != self.actor.size:
            given = "none" if rollout.latents is None else str(rollout.latents.shape[1])
            raise ConfigError(
                f"episode {rollout.episode_id}: its decisions hold {given} numbers of noise, learner 'dsrl' needs {self.actor.size}; "
                f"use policy:={self.config.policy}"
            )
        inputs = self.policy.encode(rollout.images, rollout.proprioception, rollout.actions, rollout.instruction)
        made = transitions(rollout, inputs, torch.from_numpy(rollout.latents), self.config.shaping)
        self._replay.append(made)
        return made

    def _begin(self, inputs: int) -> Critics:
        config = self.config
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self._seed)
            critics = Critics(inputs, self.actor.size, config.width, config.critics)
        self._slow = copy.deepcopy(critics).requires_grad_(False)
        self._alpha = torch.tensor(math.log(config.temperature), requires_grad=True)
        rate = config.learning_rate
        self._optimisers = [torch.optim.Adam(values, lr=rate) for values in (critics.parameters(), self.actor.parameters(), [self._alpha])]
        return critics

    def _train(self, steps: int, actor: bool) -> dict[str, float]:
        """Means of the last tenth of the steps. actor: whether it learns too. Raises DivergedError."""
        config, data = self.config, Transitions.joined(self._replay)
        critics = self._critics = self._critics or self._begin(data.inputs.shape[1])
        seen: list[dict[str, float]] = []
        descent = Descent(norm=10.0)
        for _ in range(steps):
            batch = data.draw(config.batch, self._rng)
            alpha = self._alpha.exp().detach()
            with torch.no_grad():
                noise, density = self.actor.sample(batch.following, self._generator)
                pair = self._rng.permutation(config.critics)[:2]
                value = self._slow(batch.following, noise)[pair].min(0).values - alpha * density
                wanted = batch.rewards + config.shaping.discount * (1 - batch.done) * value
            loss = (critics(batch.inputs, batch.actions) - wanted).square().mean()
            self._step(descent, 0, loss)
            noise, density = self.actor.sample(batch.inputs, self._generator)
            value = critics(batch.inputs, noise).mean(0)
            entropy = -density.detach().mean() / self.actor.size
            if actor:
                self._step(descent, 1, (alpha * density - value).mean())
                self._step(descent, 2, self._alpha.exp() * (entropy - config.entropy))
            with torch.no_grad():
                for slow, fast in zip(self._slow.parameters(), critics.parameters(), strict=True):
                    slow.lerp_(fast, config.polyak)
            found = {"loss": loss, "value": value.mean(), "temperature": self._alpha.exp(), "entropy": entropy}
            seen.append({name: float(one.detach()) for name, one in found.items()})
        descent.finish()
        tail = seen[-max(steps // 10, 1) :]
        means = {name: float(np.nanmean([one[name] for one in tail])) for name in tail[0]}
        return {**means, "skipped_steps": float(descent.skipped)}

    def _step(self, descent: Descent, which: int, loss: torch.Tensor) -> None:
        """Of the critics (0), the actor (1) or the temperature (2)."""
        optimiser = self._optimisers[which]
        descent.step(optimiser, loss, [value for group in optimiser.param_groups for value in group["params"]])
