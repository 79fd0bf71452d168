"""Weighted imitation of a policy's own episodes: what the learners of flow policies that differ in their weights have in common.

Role: a buffer of episodes, the training of the policy's flow head on chunks of it by the weight that an algorithm gives each, beside
replayed demonstrations of other tasks and episodes from before the run (prior.py); the gate (gate.py) goes back to the best snapshot when
the newest is worse, and at the end to what the run began with where nothing better was seen. Vision and text stay frozen. An algorithm is
one file that derives from FlowImitation and says `weigh`. Depends on torch; knows nothing of ROS.

Interventions (interventions.py): where a human drove, what was commanded is the chunk, and it weighs as much as a success's, whatever came
of it; such decisions stay in the buffer when their episode has left it.

Which tensors: some dozens of noisy episodes are few against the demonstrations that taught the policy where to reach for what it
sees. Trained whole, the network learns the habit's cure and forgets that precision (measured: the spread of the grip over scenes grows
from 7 to 11 mm in two iterations); trained in its biases and norms alone (BitFit, Ben Zaken et al., arXiv 2106.10199) it keeps it.

Loss: with u = chunk - noise and x_t = (1 - t) noise + t chunk (Lipman et al., arXiv 2210.02747), over decisions (o, chunk) drawn with
probability |w(o, chunk)|, which is the weighted loss sum(w L) / sum(w) in expectation:
    w > 0: || v(x_t, t, o) - u ||^2              w < 0: || 2 v_old(x_t, t, o) - v(x_t, t, o) - u ||^2
where v_old is the policy as this update found it (flow_refinement alone has negative weights and says why).

A policy that is no flow of ours but knows its own training loss (contracts.ImitationPolicy: LeRobot's) is trained by that, in the tensors
that its own configuration names, on the images of the decisions drawn; `tensors` and `input_noise` are not for it.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Generic, Literal, Self, TypeVar

import numpy as np
import torch

from learner_node.descent import Descent
from learner_node.group import group
from learner_node.interventions import corrected, intervened
from learner_node.network_learner import NetworkLearner
from learner_node.prior import prior_count, read_prior
from learner_node.rounds import GateConfig, RoundsConfig
from whetstone import sharding
from whetstone.action_space import ActionConverter
from whetstone.config import parse, source_of
from whetstone.contracts import FlowPolicy, ImitationPolicy, Rollout
from whetstone.errors import ConfigError
from whetstone.precision import autocast

WARM_UP = 30  # gradient steps until the learning rate is at its peak
PRIOR = -1  # the iteration of episodes from before the run


@dataclass(frozen=True, kw_only=True)
class ImitationConfig:
    """tensors: which of the network's are trained: "biases" are all vectors (biases and the scales of norms). steps, batch,
    learning_rate (peak) of one update; updates: steps for each new decision, at most; demonstration_share of each batch; prior: folder of
    episodes from before the run, empty: none; prior_share: theirs of what demonstration_share leaves; input_noise: standard deviation;
    memory: iterations kept."""

    plugin: str = ""
    tensors: Literal["biases", "all"] = "biases"
    steps: int = field(default=300, metadata={"ge": 1})
    updates: float = field(default=1.0, metadata={"gt": 0})
    batch: int = field(default=256, metadata={"ge": 2})
    learning_rate: float = field(default=3e-3, metadata={"gt": 0})
    demonstration_share: float = field(default=0.2, metadata={"ge": 0, "lt": 1})
    prior: str = ""
    prior_share: float = field(default=0.5, metadata={"ge": 0, "le": 1})
    input_noise: float = field(default=0.02, metadata={"ge": 0})
    memory: int = field(default=2, metadata={"ge": 1})
    gate: GateConfig = field(default_factory=GateConfig)
    rounds: RoundsConfig = field(default_factory=RoundsConfig)


@dataclass(frozen=True)
class Kept:
    """One episode in the buffer. iteration: of the update that it came to, PRIOR: from before the run; rollout: its record, without images;
    inputs (T, .) that the network saw; chunks (T, horizon * columns), normalised: what was done, where a human intervened.

    Where the policy is trained by its own loss, the record keeps its images, inputs are (T, 2): number of the episode and its row, and
    chunks are as the policy gave them."""

    iteration: int
    rollout: Rollout
    inputs: torch.Tensor
    chunks: torch.Tensor

    @property
    def progress(self) -> np.ndarray:
        """(T + 1,) at the decisions and at the end; NaN where no reward came."""
        return progress(self.rollout)

    @property
    def success(self) -> bool:
        """As the reward judged: completion that held over several frames."""
        return self.rollout.outcome == "success"

    @property
    def demonstrated(self) -> bool:
        """A success that no reward model ever looked at: there is nothing to weigh it by, and it is good."""
        return self.success and not np.isfinite(self.progress).any()

    @property
    def intervened(self) -> np.ndarray:
        """(T,) bool."""
        return intervened(self.rollout)


class Pool:
    """Decisions to draw from, each with probability |w|. weights: (T,) of each episode. Its length: how many can be drawn at all."""

    def __init__(self, episodes: Sequence[Kept], weights: Sequence[np.ndarray]) -> None:
        joined = np.concatenate(weights) if weights else np.zeros(0)
        chosen = torch.from_numpy(np.flatnonzero(joined))
        self.weights = joined[chosen.numpy()]
        if len(self.weights):
            self._inputs, self._chunks = torch.cat([one.inputs for one in episodes]), torch.cat([one.chunks for one in episodes])
            self._inputs, self._chunks = self._inputs[chosen], self._chunks[chosen]
            self._chances = np.abs(self.weights) / np.abs(self.weights).sum()
            self._signs = torch.from_numpy(np.sign(self.weights)).float()

    def __len__(self) -> int:
        return len(self.weights)

    def draw(self, count: int, rng: np.random.Generator) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Inputs (count, .), chunks (count, .) and the signs of their weights (count,)."""
        index = torch.from_numpy(rng.choice(len(self), count, p=self._chances))
        return self._inputs[index], self._chunks[index], self._signs[index]


def progress(rollout: Rollout) -> np.ndarray:
    """(T + 1,) float64. ValueError where the record has another length."""
    found = rollout.rewards["progress"].astype(np.float64)
    if len(found) != len(rollout.stamps) + 1:
        raise ValueError(f"episode {rollout.episode_id}: {len(found)} progress values for {len(rollout.stamps)} decisions and an end")
    return found


def labelled(rollout: Rollout) -> np.ndarray:
    """(T,) bool: whether progress is known before and after a decision. What is not is left out of every loss, and counted."""
    return np.isfinite(np.diff(progress(rollout)))


C = TypeVar("C", bound=ImitationConfig)


class FlowImitation(NetworkLearner[tuple[Pool, Pool]], Generic[C]):
    """Learns from the decisions in the buffer and those from before the run, by their weights."""

    name: ClassVar[str]
    """Of the plug-in and of its file in config/learners."""
    settings: ClassVar[type[Any]]
    """Its dataclass of configuration."""
    reads_reward: ClassVar[bool] = True
    """Whether its weights come from rewards."""
    by_loss: ClassVar[bool] = False
    """Whether it also trains an ImitationPolicy: all its weights are at least 0, and it asks the flow nothing."""
    nothing = "no episode was judged successful"

    def __init__(self, config: C, policy: Any, seed: int):
        self.config = config
        self._flows = isinstance(policy, FlowPolicy)
        self._episodes = 0  # remembered so far, and
        self._shown: dict[int, Rollout] = {}  # those of the update at work, by number: for a policy's own loss
        super().__init__(policy, config.gate, config.rounds, config.tensors if self._flows else "all")
        self._rng = np.random.default_rng([seed, 17])
        self._generator = torch.Generator().manual_seed(seed)
        self._buffer: list[Kept] = []
        self._prior: list[Kept] = []
        self._new = torch.zeros((), dtype=torch.int64)
        """Decisions since the last update."""
        self._demonstrations: tuple[torch.Tensor, torch.Tensor] | None = None
        self._replayed: str | None = None  # the instruction whose demonstrations are left out of them

    @classmethod
    def load(cls, config: dict[str, Any], policy: Any, seed: int) -> Self:
        """Raises ConfigError for a bad key, a policy that it cannot train, or a prior that it cannot learn from."""
        if not isinstance(policy, FlowPolicy) and not (cls.by_loss and isinstance(policy, ImitationPolicy)):
            kind = "a flow policy (network, encode, replay)" + (" or one with a loss of its own (losses)" if cls.by_loss else "")
            raise ConfigError(f"learner '{cls.name}' needs {kind}; '{type(policy).__name__}' is none")
        if not isinstance(policy, FlowPolicy) and not policy.trainable_state():
            raise ConfigError(f"learner '{cls.name}': policy '{policy.spec.policy_id}' trains nothing; set the key 'trained' in its YAML")
        learner = cls(parse(cls.settings, config, f"config/learners/{cls.name}.yaml"), policy, seed)
        if learner.config.prior:
            learner.read_prior(source_of(config, f"config/learners/{cls.name}.yaml"))
        return learner

    def read_prior(self, source: str) -> None:
        """Remember the episodes from before the run. Raises ConfigError naming the folder where none of them can be imitated."""
        found = [self._keep(rollout, PRIOR) for rollout in read_prior(self.config.prior, self.policy.spec, source, self._converter())]
        self._prior = [
            kept for kept in found if not self.reads_reward or kept.demonstrated or labelled(kept.rollout).any() or kept.intervened.any()
        ]
        if not self._prior:
            raise ConfigError(
                f"{source}: key 'prior': {self.config.prior}: none of its {len(found)} episodes can be imitated: they failed, "
                "and have no rewards"
            )

    @abstractmethod
    def weigh(self, episodes: Sequence[Kept]) -> list[np.ndarray]:
        """(T,) for each episode of the buffer: above 0: imitate, below 0: avoid, 0: leave out, as what is not labelled must be."""
        ...

    def see(self, episodes: list[Rollout], iteration: int) -> tuple[dict[str, float], tuple[Pool, Pool] | None]:
        for rollout in episodes:
            self.recall(rollout, iteration)
        oldest = iteration - self.config.memory + 1
        self._buffer = [kept for kept in self._buffer if kept.iteration >= oldest or kept.intervened.any()]
        self._new += sum(len(rollout.stamps) for rollout in episodes)
        prior, own = self._pools(oldest)
        if episodes and episodes[0].instruction != self._replayed:
            # Of the task being refined only the policy's own successes: its demonstrator may be worse than the policy by now.
            self._replayed = episodes[0].instruction
            self._demonstrations = self.policy.replay(without=self._replayed) if self._flows else None
        weights = np.concatenate([prior.weights, own.weights])
        metrics = {
            "unlabelled_steps": float(sum((~labelled(rollout)).sum() for rollout in episodes)),
            "intervened": float(sum(intervened(rollout).sum() for rollout in episodes)),
            "imitated": float((weights > 0).sum()),
            "avoided": float((weights < 0).sum()),
        }
        if self.config.prior:
            unlabelled = sum((~labelled(kept.rollout)).sum() for kept in self._prior if not kept.demonstrated)
            metrics |= {"prior": float(len(prior)), "prior_unlabelled_steps": float(unlabelled)}
        # What to avoid alone tells no way to go.
        return metrics, (prior, own) if metrics["imitated"] else None

    def _pools(self, oldest: int) -> tuple[Pool, Pool]:
        """What can be learned from of the prior and of the buffer. oldest: iteration whose episodes are still weighed."""
        weighed = [kept for kept in self._prior if not (self.reads_reward and kept.demonstrated)]
        weighed += [kept for kept in self._buffer if kept.iteration >= oldest]
        weights = {id(kept): one for kept, one in zip(weighed, self.weigh(weighed), strict=True)}
        good = np.concatenate([np.zeros(0), *(weights[id(kept)] for kept in weighed if kept.success)])
        of_success = float(good[good > 0].mean()) if (good > 0).any() else 1.0

        def final(kept: Kept) -> np.ndarray:
            given = weights.get(id(kept), np.full(len(kept.inputs), of_success * (kept.iteration == PRIOR)))
            return np.where(kept.intervened, of_success, given)

        return Pool(self._prior, [final(kept) for kept in self._prior]), Pool(self._buffer, [final(kept) for kept in self._buffer])

    def forget(self, failed: bool) -> None:
        self._optimiser = torch.optim.AdamW(self._parameters, lr=self.config.learning_rate, weight_decay=1e-4)

    def memory(self) -> list[tuple[int, str]]:
        return [(kept.iteration, kept.rollout.episode_id) for kept in self._buffer]

    def parts(self) -> dict[str, Any]:
        return {"rng": self._rng, "generator": self._generator, "new": self._new, "optimiser": self._optimiser}

    def recall(self, rollout: Rollout, iteration: int) -> None:
        self._buffer.append(self._keep(corrected(rollout, self._converter()), iteration))

    def _converter(self) -> ActionConverter | None:
        """From what was commanded to the policy's actions; a flow's chunks are joint targets."""
        if self._flows or self.policy.spec.action_space == "joint_position":
            return None
        return ActionConverter(self.policy.spec.action_space, self.policy.profile)

    def _keep(self, rollout: Rollout, iteration: int) -> Kept:
        if not self._flows:
            count = len(rollout.stamps)
            self._episodes += 1
            rows = torch.stack([torch.full((count,), self._episodes), torch.arange(count)], dim=1)
            chunks = torch.from_numpy(rollout.actions).float().flatten(1)
            return Kept(iteration, replace(rollout, last_images={}), rows, chunks)
        inputs = self.policy.encode(rollout.images, rollout.proprioception, rollout.actions, rollout.instruction)
        state = torch.from_numpy(rollout.proprioception).float().to(inputs.device)
        actions = torch.from_numpy(rollout.actions).float().to(inputs.device)
        with torch.no_grad():
            chunks = self.policy.network.normalise(actions, state)
        return Kept(iteration, replace(rollout, images={}, last_images={}), inputs, chunks)

    def learn(self, material: tuple[Pool, Pool]) -> tuple[dict[str, float], str]:
        """Mean loss of the last tenth of the steps, and how many were skipped."""
        config, network = self.config, self.policy.network
        prior, own = material
        if not self._flows:
            self._shown = {int(kept.inputs[0, 0]): kept.rollout for kept in (*self._prior, *self._buffer) if len(kept.inputs)}
        replayed = round(config.batch * config.demonstration_share) if self._demonstrations is not None else 0
        before = prior_count(config.batch - replayed, config.prior_share, len(prior), len(own))
        shares = [(pool, count) for pool, count in ((own, config.batch - replayed - before), (prior, before)) if count]
        old = sharding.copy_of(network).eval() if self._flows else None
        losses, descent = [], Descent()
        steps = min(config.steps, math.ceil(config.updates * int(self._new)))
        self._new.zero_()
        network.train()
        for step in range(steps):
            rate = config.learning_rate * min(1.0, (step + 1) / WARM_UP) * 0.5 * (1 + math.cos(math.pi * step / steps))
            for trained in self._optimiser.param_groups:
                trained["lr"] = rate
            drawn = [pool.draw(count, self._rng) for pool, count in shares]
            seen, wanted, sign = (torch.cat(parts) for parts in zip(*drawn, strict=True))
            if self._demonstrations is not None and replayed:
                index = torch.from_numpy(self._rng.integers(0, len(self._demonstrations[0]), replayed))
                seen, wanted = torch.cat([seen, self._demonstrations[0][index]]), torch.cat([wanted, self._demonstrations[1][index]])
                sign = torch.cat([sign, torch.ones(replayed)])
            if self._flows:
                seen = seen + config.input_noise * torch.randn(seen.shape, generator=self._generator).to(seen.device)
                with autocast(wanted.device.type):
                    loss = self.loss(old, seen, wanted, sign.to(seen.device))
            else:
                loss = self.own_loss(seen, wanted)
            losses.append(descent.step(self._optimiser, loss, self._parameters))
        network.eval()
        descent.finish()
        return {"loss": float(np.nanmean(losses[-max(steps // 10, 1) :])), "skipped_steps": float(descent.skipped)}, ""

    def loss(self, old: Any, inputs: torch.Tensor, chunks: torch.Tensor, signs: torch.Tensor) -> torch.Tensor:
        """Of this process's share of a batch. old: the network as the update found it; inputs (B, .), chunks (B, horizon * columns), signs
        (B,) of their weights."""
        mine = group().share(len(chunks))
        # Noise is drawn for the whole batch, whoever computes which part of it.
        mixed, time, scale, wanted = (one[mine] for one in self.policy.network.mix(chunks, self._generator))
        # Whether the old network is needed is a matter of the whole batch: where it is sharded, all processes ask it or none.
        fitted = self.fitted(None if (signs > 0).all() else old, (inputs[mine], mixed, time, scale), signs[mine])
        return (fitted - wanted).square().mean() * group().portion(len(wanted), len(chunks))

    def own_loss(self, rows: torch.Tensor, chunks: torch.Tensor) -> torch.Tensor:
        """The policy's own, of this process's share of a batch. rows (B, 2): as in Kept; chunks (B, horizon * columns)."""
        mine = group().share(len(rows))
        seed = int(torch.randint(2**31, (), generator=self._generator))
        shown = [(self._shown[episode], row) for episode, row in rows[mine].tolist()]
        losses = self.policy.losses(
            {camera: np.stack([rollout.images[camera][row] for rollout, row in shown]) for camera in self.policy.spec.cameras},
            np.stack([rollout.proprioception[row] for rollout, row in shown]),
            chunks[mine].unflatten(1, (self.policy.spec.horizon, -1)).numpy(),
            [rollout.instruction for rollout, _ in shown],
            seed,
        )
        return losses.mean() * group().portion(len(losses), len(rows))

    def fitted(self, old: Any, points: tuple[torch.Tensor, ...], signs: torch.Tensor) -> torch.Tensor:
        """(B, horizon * columns) that is made to fit the wanted velocity, see the module. old: None where all signs are positive; points:
        inputs, points of the flow, their times and scales."""
        velocity = self.policy.network.velocity(*points)
        if old is None:
            return velocity
        with torch.no_grad():
            before = old.velocity(*points)
        return torch.where(signs[:, None] > 0, velocity, 2 * before - velocity)
