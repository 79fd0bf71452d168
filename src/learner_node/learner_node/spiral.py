"""SPIRAL: a residual actor-critic on a frozen policy, in rounds.

Role: the learner plug-in `spiral` (arXiv 2606.10305), for a policy that fulfils whetstone.contracts.ResidualPolicy. Depends on torch; knows
nothing of ROS.

With s what is seen, a the rows of a chunk that are carried out, G the discounted sum of the shaped rewards that follow (shaping.py):
    y = blend G + (1 - blend) (r + gamma (1 - done) max over `choices` draws z of min_i Q'_i(s', a'(z)))
    critics: (Q_i(s, a) - y)^2
    actor:   -mean over z of min_i Q_i(s, a(z)) + penalty || residual(s, pi(s, z)) ||^2,     a(z) = pi(s, z) + scale residual(s, pi(s, z))
Q' follow the critics slowly (polyak). The blend's half of Monte-Carlo return anchors critics that few episodes cannot bootstrap.
`penalty` weighs the mean square of the residual's numbers against returns of about 1 (30 in the paper, for its chunks and rewards).
"""

from __future__ import annotations

import copy
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from learner_node.descent import Descent, DivergedError
from learner_node.replay import Transitions, transitions
from learner_node.rounds import GateConfig, Rounds, judged
from learner_node.shaping import Shaping
from whetstone.config import parse
from whetstone.contracts import ResidualPolicy, Rollout, UpdateReport
from whetstone.errors import ConfigError

_SOURCE = "config/learners/spiral.yaml"


@dataclass(frozen=True)
class SPIRALConfig:
    """policy: configuration that it is made for; updates: gradient steps per decision; warm_up: iterations in which the critics learn
    alone; batch, learning_rate; choices: draws of the frozen
    policy's noise; blend: share of the Monte-Carlo return; penalty: see the module; polyak: share of the critics that their slow copies
    take over at each step; shaping: of the rewards; gate."""

    plugin: str = "spiral"
    policy: str = "residual"
    updates: float = field(default=2.0, metadata={"gt": 0})
    warm_up: int = field(default=1, metadata={"ge": 0})
    batch: int = field(default=256, metadata={"ge": 2})
    learning_rate: float = field(default=3e-4, metadata={"gt": 0})
    choices: int = field(default=4, metadata={"ge": 1})
    blend: float = field(default=0.5, metadata={"ge": 0, "le": 1})
    penalty: float = field(default=0.1, metadata={"ge": 0})
    polyak: float = field(default=0.005, metadata={"gt": 0, "le": 1})
    shaping: Shaping = field(default_factory=Shaping)
    gate: GateConfig = field(default_factory=GateConfig)


class SPIRAL:
    """Owns a policy of its own; the one that drives the robot is another process's."""

    def __init__(self, config: SPIRALConfig, policy: ResidualPolicy, seed: int):
        self.config, self.policy = config, policy
        self._rng = np.random.default_rng([seed, 37])
        self._generator = torch.Generator().manual_seed(seed)
        self._rounds = Rounds(config.gate, policy)
        self._replay: list[Transitions] = []
        self._iterations = 0
        self._forget_momentum()

    @classmethod
    def load(cls, config: dict[str, Any], policy: Any, seed: int) -> SPIRAL:
        """Raises ConfigError for a bad key or a policy without a residual."""
        parsed = parse(SPIRALConfig, config, _SOURCE)
        if not isinstance(policy, ResidualPolicy):
            raise ConfigError(f"learner 'spiral' needs a policy with a residual and critics; use policy:={parsed.policy}")
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
        if verdict.back:
            self._forget_momentum()
        fresh = sum(len(one) for one in new)
        if not fresh:
            return UpdateReport(verdict.back, f"{verdict.said}; nothing to learn from: no decision has a reward", metrics)
        warm = self._iterations >= self.config.warm_up
        self._iterations += 1
        try:
            metrics |= self._train(round(self.config.updates * fresh), warm)
        except DivergedError as error:
            self._rounds.undo()
            self._forget_momentum()
            return UpdateReport(verdict.back, f"{verdict.said}; update undone: {error}", metrics)
        self._rounds.take()
        return UpdateReport(True, verdict.said, metrics)

    def trainable_state(self) -> dict[str, np.ndarray]:
        return self.policy.trainable_state()

    def _remember(self, rollout: Rollout) -> Transitions:
        inputs = self.policy.encode(rollout.images, rollout.proprioception, rollout.actions, rollout.instruction)
        made = transitions(rollout, inputs, self.policy.carried_out(rollout.actions, rollout.proprioception), self.config.shaping)
        self._replay.append(made)
        return made

    def _forget_momentum(self) -> None:
        """The optimisers' moments and the slow critics are of the weights in force."""
        rate, policy = self.config.learning_rate, self.policy
        self._critic_optimiser = torch.optim.Adam(policy.critics.parameters(), lr=rate)
        self._actor_optimiser = torch.optim.Adam(policy.residual.parameters(), lr=rate)
        self._slow = copy.deepcopy(policy.critics).requires_grad_(False)

    def _train(self, steps: int, actor: bool) -> dict[str, float]:
        """Means of the last tenth of the steps. actor: whether the residual learns too. Raises DivergedError."""
        config, policy, data = self.config, self.policy, Transitions.joined(self._replay)
        seen: list[dict[str, float]] = []
        descent, critics, residual = Descent(norm=10.0), list(policy.critics.parameters()), list(policy.residual.parameters())
        for _ in range(steps):
            batch = data.draw(config.batch, self._rng)
            with torch.no_grad():
                following, chunks = self._draw(batch.following)
                value = self._slow(following, policy.correct(following, chunks)).min(0).values
                value = value.view(config.choices, -1).max(0).values
                bootstrapped = batch.rewards + config.shaping.discount * (1 - batch.done) * value
                wanted = config.blend * batch.returns + (1 - config.blend) * bootstrapped
            loss = (policy.critics(batch.inputs, batch.actions) - wanted).square().mean()
            descent.step(self._critic_optimiser, loss, critics)
            inputs, chunks = self._draw(batch.inputs)
            correction = policy.residual(torch.cat([inputs, chunks], dim=-1))
            value = policy.critics(inputs, chunks + policy.scale * correction).min(0).values.mean()
            size = correction.square().mean()
            if actor:
                descent.step(self._actor_optimiser, config.penalty * size - value, residual)
            with torch.no_grad():
                for slow, fast in zip(self._slow.parameters(), policy.critics.parameters(), strict=True):
                    slow.lerp_(fast, config.polyak)
            found = {"loss": loss, "value": value, "residual": size.sqrt()}
            seen.append({name: float(one.detach()) for name, one in found.items()})
        descent.finish()
        tail = seen[-max(steps // 10, 1) :]
        means = {name: float(np.nanmean([one[name] for one in tail])) for name in tail[0]}
        return {**means, "skipped_steps": float(descent.skipped)}

    def _draw(self, inputs: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """(choices * B, .) inputs again and as many chunks of the frozen policy."""
        again = inputs.repeat(self.config.choices, 1)
        noise = torch.randn(len(again), self.policy.noise, generator=self._generator)
        return again, self.policy.propose(again, noise)
