"""Weighted imitation of a policy's own episodes: what the learners of flow policies that differ in their weights have in common.

Role: a buffer of episodes, the training of the policy's flow head on chunks of it by the weight that an algorithm gives each, beside
replayed demonstrations of other tasks; the gate (gate.py) goes back to the best snapshot when the newest is worse, and at the end to what
the run began with where nothing better was seen. Vision and text stay frozen. An algorithm is one file that derives from FlowImitation
and says `weigh`. Depends on torch; knows nothing of ROS.

Which tensors: some dozens of noisy episodes are few against the demonstrations that taught the policy where to reach for what it
sees. Trained whole, the network learns the habit's cure and forgets that precision (measured: the spread of the grip over scenes grows
from 7 to 11 mm in two iterations); trained in its biases and norms alone (BitFit, Ben Zaken et al., arXiv 2106.10199) it keeps it.

Loss: with u = chunk - noise and x_t = (1 - t) noise + t chunk (Lipman et al., arXiv 2210.02747), over decisions (o, chunk) drawn with
probability |w(o, chunk)|, which is the weighted loss sum(w L) / sum(w) in expectation:
    w > 0: || v(x_t, t, o) - u ||^2              w < 0: || 2 v_old(x_t, t, o) - v(x_t, t, o) - u ||^2
where v_old is the policy as this update found it (flow_refinement alone has negative weights and says why).
"""

from __future__ import annotations

import copy
import math
from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Generic, Literal, Self, TypeVar

import numpy as np
import torch

from learner_node.descent import Descent
from learner_node.group import group
from learner_node.rounds import GateConfig, RoundsConfig
from learner_node.rounds_learner import RoundsLearner
from whetstone.config import parse
from whetstone.contracts import FlowPolicy, Rollout
from whetstone.errors import ConfigError
from whetstone.precision import autocast

WARM_UP = 30  # gradient steps until the learning rate is at its peak


@dataclass(frozen=True, kw_only=True)
class ImitationConfig:
    """tensors: which of the network's are trained: "biases" are all vectors (biases and the scales of norms). steps, batch,
    learning_rate (peak) of one update; updates: steps for each new decision, at most; demonstration_share of each batch; input_noise:
    standard deviation; memory: iterations kept."""

    plugin: str = ""
    tensors: Literal["biases", "all"] = "biases"
    steps: int = field(default=300, metadata={"ge": 1})
    updates: float = field(default=1.0, metadata={"gt": 0})
    batch: int = field(default=256, metadata={"ge": 2})
    learning_rate: float = field(default=3e-3, metadata={"gt": 0})
    demonstration_share: float = field(default=0.2, metadata={"ge": 0, "lt": 1})
    input_noise: float = field(default=0.02, metadata={"ge": 0})
    memory: int = field(default=2, metadata={"ge": 1})
    gate: GateConfig = field(default_factory=GateConfig)
    rounds: RoundsConfig = field(default_factory=RoundsConfig)


@dataclass(frozen=True)
class Kept:
    """One episode in the buffer. iteration: of the update that it came to; rollout: its record, without images; inputs (T, .) that the
    network saw; chunks (T, horizon * columns), normalised."""

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


class FlowImitation(RoundsLearner[list[np.ndarray]], Generic[C]):
    """Learns from the weights of all decisions in the buffer, (T,) for each episode."""

    name: ClassVar[str]
    """Of the plug-in and of its file in config/learners."""
    settings: ClassVar[type[Any]]
    """Its dataclass of configuration."""
    nothing = "no episode was judged successful"

    def __init__(self, config: C, policy: FlowPolicy, seed: int):
        super().__init__(policy, config.gate, config.rounds)
        self.config = config
        self._rng = np.random.default_rng([seed, 17])
        self._generator = torch.Generator().manual_seed(seed)
        self._buffer: list[Kept] = []
        self._new = torch.zeros((), dtype=torch.int64)
        """Decisions since the last update."""
        trainable = policy.trainable_state()
        self._parameters = [
            value for name, value in policy.network.named_parameters() if name in trainable and (config.tensors == "all" or value.ndim < 2)
        ]
        self.forget(failed=False)
        self._demonstrations: tuple[torch.Tensor, torch.Tensor] | None = None
        self._replayed: str | None = None  # the instruction whose demonstrations are left out of them

    @classmethod
    def load(cls, config: dict[str, Any], policy: Any, seed: int) -> Self:
        """Raises ConfigError for a bad key or a policy that is not a flow policy."""
        if not isinstance(policy, FlowPolicy):
            raise ConfigError(f"learner '{cls.name}' needs a flow policy (network, encode, replay); '{type(policy).__name__}' is none")
        return cls(parse(cls.settings, config, f"config/learners/{cls.name}.yaml"), policy, seed)

    @abstractmethod
    def weigh(self, episodes: Sequence[Kept]) -> list[np.ndarray]:
        """(T,) for each episode of the buffer: above 0: imitate, below 0: avoid, 0: leave out, as what is not labelled must be."""
        ...

    def see(self, episodes: list[Rollout], iteration: int) -> tuple[dict[str, float], list[np.ndarray] | None]:
        for rollout in episodes:
            self.recall(rollout, iteration)
        self._buffer = [kept for kept in self._buffer if kept.iteration > iteration - self.config.memory]
        self._new += sum(len(rollout.stamps) for rollout in episodes)
        weights = self.weigh(self._buffer)
        if episodes and episodes[0].instruction != self._replayed:
            # Of the task being refined only the policy's own successes: its demonstrator may be worse than the policy by now.
            self._replayed = episodes[0].instruction
            self._demonstrations = self.policy.replay(without=self._replayed)
        metrics = {
            "unlabelled_steps": float(sum((~labelled(rollout)).sum() for rollout in episodes)),
            "imitated": float(sum((one > 0).sum() for one in weights)),
            "avoided": float(sum((one < 0).sum() for one in weights)),
        }
        # What to avoid alone tells no way to go.
        return metrics, weights if metrics["imitated"] else None

    def forget(self, failed: bool) -> None:
        self._optimiser = torch.optim.AdamW(self._parameters, lr=self.config.learning_rate, weight_decay=1e-4)

    def memory(self) -> list[tuple[int, str]]:
        return [(kept.iteration, kept.rollout.episode_id) for kept in self._buffer]

    def parts(self) -> dict[str, Any]:
        return {"rng": self._rng, "generator": self._generator, "new": self._new, "optimiser": self._optimiser}

    def recall(self, rollout: Rollout, iteration: int) -> None:
        inputs = self.policy.encode(rollout.images, rollout.proprioception, rollout.actions, rollout.instruction)
        state = torch.from_numpy(rollout.proprioception).float().to(inputs.device)
        actions = torch.from_numpy(rollout.actions).float().to(inputs.device)
        with torch.no_grad():
            chunks = self.policy.network.normalise(actions, state)
        self._buffer.append(Kept(iteration, replace(rollout, images={}, last_images={}), inputs, chunks))

    def learn(self, material: list[np.ndarray]) -> tuple[dict[str, float], str]:
        """Mean loss of the last tenth of the steps, and how many were skipped."""
        config, network = self.config, self.policy.network
        inputs, chunks = torch.cat([kept.inputs for kept in self._buffer]), torch.cat([kept.chunks for kept in self._buffer])
        weights = np.concatenate(material)
        replayed = round(config.batch * config.demonstration_share) if self._demonstrations is not None else 0
        chances, signs = np.abs(weights) / np.abs(weights).sum(), torch.from_numpy(np.sign(weights)).float()
        old = copy.deepcopy(network).eval()
        losses, descent = [], Descent()
        steps = min(config.steps, math.ceil(config.updates * int(self._new)))
        self._new.zero_()
        network.train()
        for step in range(steps):
            rate = config.learning_rate * min(1.0, (step + 1) / WARM_UP) * 0.5 * (1 + math.cos(math.pi * step / steps))
            for trained in self._optimiser.param_groups:
                trained["lr"] = rate
            index = torch.from_numpy(self._rng.choice(len(weights), config.batch - replayed, p=chances))
            seen, wanted, sign = inputs[index], chunks[index], signs[index]
            if self._demonstrations is not None and replayed:
                index = torch.from_numpy(self._rng.integers(0, len(self._demonstrations[0]), replayed))
                seen, wanted = torch.cat([seen, self._demonstrations[0][index]]), torch.cat([wanted, self._demonstrations[1][index]])
                sign = torch.cat([sign, torch.ones(replayed)])
            seen = seen + config.input_noise * torch.randn(seen.shape, generator=self._generator).to(seen.device)
            with autocast(wanted.device.type):
                loss = _loss(network, old, seen, wanted, sign.to(seen.device), self._generator)
            losses.append(descent.step(self._optimiser, loss, self._parameters))
        network.eval()
        descent.finish()
        return {"loss": float(np.nanmean(losses[-max(steps // 10, 1) :])), "skipped_steps": float(descent.skipped)}, ""


def _loss(
    network: Any, old: Any, inputs: torch.Tensor, chunks: torch.Tensor, signs: torch.Tensor, generator: torch.Generator
) -> torch.Tensor:
    """See the module. inputs (B, .), chunks (B, horizon * columns), signs (B,): 1 to imitate, -1 to avoid."""
    mine = group().share(len(chunks))
    # Noise is drawn for the whole batch, whoever computes which part of it.
    mixed, time, scale, wanted = network.mix(chunks, generator)
    mixed, time, scale, wanted = mixed[mine], time[mine], scale[mine], wanted[mine]
    inputs, signs = inputs[mine], signs[mine]
    velocity = network.velocity(inputs, mixed, time, scale)
    fitted = velocity
    if (signs < 0).any():
        with torch.no_grad():
            before = old.velocity(inputs, mixed, time, scale)
        fitted = torch.where(signs[:, None] > 0, velocity, 2 * before - velocity)
    return (fitted - wanted).square().mean() * group().portion(len(wanted), len(chunks))
