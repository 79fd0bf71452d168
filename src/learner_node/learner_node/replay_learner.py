"""What learners from all episodes so far have in common: transitions, bounded gradient steps, critics that learn before anything follows.

Role: between the frame of a learner (rounds_learner.py) and an actor-critic. Depends on torch; knows nothing of ROS.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Generic, Self, TypeVar

import numpy as np
import torch

from learner_node.descent import Descent
from learner_node.interventions import corrected, intervened
from learner_node.prior import read_prior
from learner_node.replay import Halves, Transitions, transitions
from learner_node.rounds import GateConfig, RoundsConfig
from learner_node.rounds_learner import RoundsLearner
from learner_node.shaping import Shaping
from whetstone.contracts import Rollout
from whetstone.errors import ConfigError

NORM = 10.0
"""Of a gradient, at most: critics that bootstrap have large ones."""


@dataclass(frozen=True, kw_only=True)
class ReplayConfig:
    """policy: configuration that it is made for; updates: gradient steps per decision; lead: share of an update's steps in which the
    critics learn alone; batch, learning_rate; blend: share of the Monte-Carlo return in what the critics learn; input_noise: standard
    deviation, of what the critics see; polyak: share of the critics that their slow copies take over at each step; prior: folder of
    episodes from before the run, empty: none; prior_share: theirs of a batch; shaping: of the rewards; gate."""

    plugin: str = ""
    policy: str = ""
    updates: float = field(default=0.5, metadata={"gt": 0})
    lead: float = field(default=0.5, metadata={"ge": 0, "lt": 1})
    batch: int = field(default=256, metadata={"ge": 2})
    learning_rate: float = field(default=1e-3, metadata={"gt": 0})
    blend: float = field(default=0.75, metadata={"ge": 0, "le": 1})
    input_noise: float = field(default=0.5, metadata={"ge": 0})
    polyak: float = field(default=0.02, metadata={"gt": 0, "le": 1})
    prior: str = ""
    prior_share: float = field(default=0.5, metadata={"ge": 0, "le": 1})
    shaping: Shaping = field(default_factory=Shaping)
    gate: GateConfig = field(default_factory=GateConfig)
    rounds: RoundsConfig = field(default_factory=RoundsConfig)


C = TypeVar("C", bound=ReplayConfig)


class ReplayLearner(RoundsLearner[int], Generic[C]):
    """Learns for as many gradient steps as the decisions that came allow.

    What a human did in the policy's place (interventions.py) counts among the run's own transitions and among those from before it, from
    which a part of every batch is drawn (HIL-SERL, arXiv 2410.21845).
    """

    corrects: ClassVar[bool] = True
    """Whether what a human did can be an action here; otherwise such decisions are left out."""

    def __init__(self, config: C, policy: Any, seed: int, salt: int) -> None:
        super().__init__(policy, config.gate, config.rounds)
        self.config = config
        self._rng = np.random.default_rng([seed, salt])
        self._generator = torch.Generator().manual_seed(seed)
        self._replay: list[Transitions] = []
        self._prior: list[Transitions] = []
        self._prior_unlabelled = 0
        self._memory: list[tuple[int, str]] = []

    def with_prior(self, source: str) -> Self:
        """Remember the episodes from before the run, where the configuration, read from `source`, names any. Raises ConfigError naming the
        folder where one is another policy's or none has rewards."""
        count, named = 0, f"{source}: key 'prior': {self.config.prior}"
        for rollout in read_prior(self.config.prior, self.policy.spec, source) if self.config.prior else ():
            count += 1
            try:
                made = self._made(rollout)
            except ConfigError as error:
                raise ConfigError(f"{named}: {error}") from None
            scored = np.isfinite(rollout.rewards[self.config.shaping.signal]).any()
            self._prior_unlabelled += made[0].unlabelled if scored else len(rollout.stamps)
            if scored:
                self._prior += made
        if count and not any(len(one) for one in self._prior):
            raise ConfigError(f"{named}: none of its {count} episodes has rewards; name those of a run")
        return self

    @abstractmethod
    def actions(self, rollout: Rollout) -> torch.Tensor:
        """(T, .) what the critics judge of an episode's decisions. Raises ConfigError where it is another policy's."""
        ...

    @abstractmethod
    def step(self, batch: Transitions, descent: Descent, actor: bool) -> dict[str, torch.Tensor]:
        """One gradient step of everything; actor: of what follows the critics too. Returns metrics."""
        ...

    def see(self, episodes: list[Rollout], iteration: int) -> tuple[dict[str, float], int | None]:
        for rollout in episodes:
            self.recall(rollout, iteration)
        new = self._replay[len(self._replay) - len(episodes) :]
        steps = round(self.config.updates * sum(len(one) for one in new)) if any(len(one) for one in new) else None
        metrics = {
            "unlabelled_steps": float(sum(one.unlabelled for one in new)),
            "intervened": float(sum(intervened(rollout).sum() for rollout in episodes)),
        }
        if self._prior:
            metrics["prior"] = float(sum(len(one) for one in self._prior))
        if self.config.prior:
            metrics["prior_unlabelled_steps"] = float(self._prior_unlabelled)
        return metrics, steps

    def recall(self, rollout: Rollout, iteration: int) -> None:
        own, *corrections = self._made(rollout)
        self._replay.append(own)
        self._prior += corrections
        self._memory.append((iteration, rollout.episode_id))

    def _made(self, rollout: Rollout) -> list[Transitions]:
        """What an episode teaches, and once more what of it a human did, if anything."""
        which, rollout = intervened(rollout), corrected(rollout)
        actions = self.actions(rollout)
        inputs = self.policy.encode(rollout.images, rollout.proprioception, rollout.actions, rollout.instruction)
        self.inputs = inputs.shape[1]
        seen, shaping = self.beside(rollout, inputs), self.config.shaping
        if not self.corrects:
            return [transitions(rollout, seen, actions, shaping, ~which)]
        whole = transitions(rollout, seen, actions, shaping)
        return [whole, transitions(rollout, seen, actions, shaping, which)] if which.any() else [whole]

    def beside(self, rollout: Rollout, inputs: torch.Tensor) -> torch.Tensor:
        """(T, .) what is kept of each decision for `step`: the inputs first, and what else does not change."""
        return inputs

    def memory(self) -> list[tuple[int, str]]:
        return self._memory

    def parts(self) -> dict[str, Any]:
        return {"rng": self._rng, "generator": self._generator}

    def learn(self, material: int) -> tuple[dict[str, float], str]:
        """Means of the last tenth of the steps, and how many were skipped."""
        prior = Transitions.joined(self._prior) if any(len(one) for one in self._prior) else None
        data, descent = Halves(Transitions.joined(self._replay), prior, self.config.prior_share), Descent(norm=NORM)
        self.begin(self.inputs)
        seen: list[dict[str, float]] = []
        for step in range(material):
            found = self.step(data.draw(self.config.batch, self._rng), descent, step >= self.config.lead * material)
            seen.append({name: float(one.detach()) for name, one in found.items()})
        descent.finish()
        return {**means(seen), "skipped_steps": float(descent.skipped)}, ""

    def blurred(self, inputs: torch.Tensor) -> torch.Tensor:
        """What critics see: some dozens of scenes are few, and a critic that knows each by its picture has no need to look at what was done
        there (held-out episodes' returns are ranked better so, docs/learners.md)."""
        return inputs + self.config.input_noise * torch.randn(inputs.shape, generator=self._generator)

    def wanted(self, batch: Transitions, value: torch.Tensor) -> torch.Tensor:
        """(B,) blend G + (1 - blend) (r + gamma (1 - done) value)."""
        blend, discount = self.config.blend, self.config.shaping.discount
        return blend * batch.returns + (1 - blend) * (batch.rewards + discount * (1 - batch.done) * value)

    def begin(self, inputs: int) -> None:
        """Before an update: make what depends on the number of inputs."""

    def follow(self, slow: torch.nn.Module, fast: torch.nn.Module) -> None:
        """Move the slow critics a little towards the fast ones."""
        with torch.no_grad():
            for one, other in zip(slow.parameters(), fast.parameters(), strict=True):
                one.lerp_(other, self.config.polyak)


def means(seen: Sequence[dict[str, float]]) -> dict[str, float]:
    """Of the last tenth, skipped steps left out."""
    tail = seen[-max(len(seen) // 10, 1) :]
    names: Iterable[str] = tail[0] if tail else ()
    return {name: float(np.nanmean([one[name] for one in tail])) for name in names}
