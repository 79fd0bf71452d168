"""Refinement of a flow policy from its own episodes: negative-aware flow matching.

Role: the learner plug-in `flow_refinement` (contract: whetstone.contracts.Learner). Each iteration the episodes join a buffer; the
policy's flow head is drawn to the chunks of those that the reward model judged successful and away from those of the others (see
weighting.py), beside replayed demonstrations of other tasks; the gate (gate.py) goes back to the best snapshot when the newest is
worse, and at the end to what the run began with where nothing better was seen. Vision and text stay frozen. Depends on torch; knows
nothing of ROS.

Which tensors: some dozens of noisy episodes are few against the demonstrations that taught the policy where to reach for what it
sees. Trained whole, the network learns the habit's cure and forgets that precision (measured: the spread of the grip over scenes grows
from 7 to 11 mm in two iterations); trained in its biases and norms alone (BitFit, Ben Zaken et al., arXiv 2106.10199) it keeps it.

Loss: with u = chunk - noise and x_t = (1 - t) noise + t chunk (Lipman et al., arXiv 2210.02747), over decisions (o, chunk) drawn with
probability |w(o, chunk)|:
    w > 0: || v(x_t, t, o) - u ||^2              w < 0: || 2 v_old(x_t, t, o) - v(x_t, t, o) - u ||^2
where v_old is the policy as this update found it. That is DiffusionNFT (Zheng et al., arXiv 2509.16117) with beta = 1: the mirror image
of v in v_old is made to fit the failures, so v leaves them by as much as they differ from what it did, and by no more. Imitating
successes alone moves a policy that succeeds p of the time by the share 1 - p of the way from failures to successes: it stalls just
where it gets good, and every imitation's own error eats up the gain.
"""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import torch

from learner_node.gate import Gate
from learner_node.weighting import weigh
from whetstone.config import parse
from whetstone.contracts import FlowPolicy, Rollout, UpdateReport
from whetstone.errors import ConfigError
from whetstone.precision import autocast

WARM_UP = 30  # gradient steps until the learning rate is at its peak


@dataclass(frozen=True)
class GateConfig:
    """episodes: an iteration with fewer decides nothing; confidence: of the one-sided test that sends the policy back."""

    episodes: int = field(default=24, metadata={"ge": 1})
    confidence: float = field(default=0.95, metadata={"gt": 0.5, "lt": 1})


@dataclass(frozen=True)
class RefinementConfig:
    """tensors: which of the network's are trained: "biases" are all vectors (biases and the scales of norms). steps, batch,
    learning_rate (peak) of one update; demonstration_share of each batch; input_noise: standard deviation; failure_weight: of a
    failure's chunk against a success's (0: filtered imitation); regress_tolerance: progress a chunk of a success may lose; memory:
    iterations kept."""

    plugin: str = "flow_refinement"
    tensors: Literal["biases", "all"] = "biases"
    steps: int = field(default=300, metadata={"ge": 1})
    batch: int = field(default=256, metadata={"ge": 2})
    learning_rate: float = field(default=3e-3, metadata={"gt": 0})
    demonstration_share: float = field(default=0.2, metadata={"ge": 0, "lt": 1})
    input_noise: float = field(default=0.02, metadata={"ge": 0})
    failure_weight: float = field(default=0.5, metadata={"ge": 0})
    regress_tolerance: float = field(default=0.02, metadata={"ge": 0})
    memory: int = field(default=2, metadata={"ge": 1})
    gate: GateConfig = field(default_factory=GateConfig)


@dataclass(frozen=True)
class _Kept:
    """One episode in the buffer: inputs (T, .), chunks (T, horizon * columns), weights (T,)."""

    iteration: int
    inputs: torch.Tensor
    chunks: torch.Tensor
    weights: np.ndarray


class FlowRefinement:
    """Owns a policy of its own; the one that drives the robot is another process's."""

    def __init__(self, config: RefinementConfig, policy: FlowPolicy, seed: int):
        self.config, self.policy = config, policy
        self._rng = np.random.default_rng([seed, 17])
        self._generator = torch.Generator().manual_seed(seed)
        self._buffer: list[_Kept] = []
        self._gate = Gate(config.gate.episodes, config.gate.confidence)
        trainable = policy.trainable_state()
        self._parameters = [
            value for name, value in policy.network.named_parameters() if name in trainable and (config.tensors == "all" or value.ndim < 2)
        ]
        self._optimiser = torch.optim.AdamW(self._parameters, lr=config.learning_rate, weight_decay=1e-4)
        self._demonstrations: tuple[torch.Tensor, torch.Tensor] | None = None
        self._replayed: str | None = None  # the instruction whose demonstrations are left out of them
        # Snapshots of the gate: which update made the weights in force, and the best ones.
        self._updates = 0
        self._current = 0
        self._states = {0: policy.trainable_state()}

    @classmethod
    def load(cls, config: dict[str, Any], policy: Any, seed: int) -> FlowRefinement:
        """Raises ConfigError for a bad key or a policy that is not a flow policy."""
        if not isinstance(policy, FlowPolicy):
            raise ConfigError(f"learner 'flow_refinement' needs a flow policy (network, encode, replay); '{type(policy).__name__}' is none")
        return cls(parse(RefinementConfig, config, "config/learners/flow_refinement.yaml"), policy, seed)

    def update(self, rollouts: list[Rollout], iteration: int, last: bool) -> UpdateReport:
        judged = [rollout for rollout in rollouts if rollout.outcome in ("success", "failure", "timeout")]
        successes = sum(rollout.outcome == "success" for rollout in judged)
        unlabelled = self._remember(judged, iteration)
        if judged and judged[0].instruction != self._replayed:
            # Of the task being refined only the policy's own successes: its demonstrator may be worse than the policy by now.
            self._replayed = judged[0].instruction
            self._demonstrations = self.policy.replay(without=self._replayed)
        metrics = {
            "episodes": float(len(judged)),
            "reward_success_rate": successes / max(len(judged), 1),
            "unlabelled_steps": float(unlabelled),
            "imitated": float(sum((kept.weights > 0).sum() for kept in self._buffer)),
            "avoided": float(sum((kept.weights < 0).sum() for kept in self._buffer)),
        }
        drove = self._current
        back, said = self._gate.judge(drove, successes, len(judged))
        if back:
            self._restore(self._gate.best)
        if last and (unproven := self._gate.unproven(self._current)):
            self._restore(0)
            return UpdateReport(drove != 0, f"{said}; {unproven}", metrics)
        loss = self._train()
        if loss is None:
            return UpdateReport(back, f"{said}; nothing to learn from: no episode was judged successful", metrics)
        metrics["loss"] = loss
        if not math.isfinite(loss):
            self._restore(self._gate.best)
            return UpdateReport(False, f"loss is {loss}: update undone", metrics)
        self._updates += 1
        self._current = self._updates
        kept = {key: self._states[key] for key in (0, self._gate.best)}
        self._states = {**kept, self._current: self.policy.trainable_state()}
        return UpdateReport(True, said, metrics)

    def trainable_state(self) -> dict[str, np.ndarray]:
        return self.policy.trainable_state()

    def _restore(self, key: int) -> None:
        self.policy.load_trainable_state(self._states[key])
        self._current = key
        self._optimiser = torch.optim.AdamW(self._parameters, lr=self.config.learning_rate, weight_decay=1e-4)

    def _remember(self, rollouts: list[Rollout], iteration: int) -> int:
        unlabelled = 0
        for rollout in rollouts:
            weighting = weigh(rollout, self.config.regress_tolerance, self.config.failure_weight)
            unlabelled += weighting.unlabelled
            if not weighting.weights.any():
                continue
            inputs = self.policy.encode(rollout.images, rollout.proprioception, rollout.actions, rollout.instruction)
            state = torch.from_numpy(rollout.proprioception).float().to(inputs.device)
            actions = torch.from_numpy(rollout.actions).float().to(inputs.device)
            with torch.no_grad():
                chunks = self.policy.network.normalise(actions, state)
            self._buffer.append(_Kept(iteration, inputs, chunks, weighting.weights))
        self._buffer = [kept for kept in self._buffer if kept.iteration > iteration - self.config.memory]
        return unlabelled

    def _train(self) -> float | None:
        """Mean loss of the last tenth of the steps; None where the buffer holds no success: failures alone tell no way to go."""
        if not any((kept.weights > 0).any() for kept in self._buffer):
            return None
        config, network = self.config, self.policy.network
        inputs, chunks = torch.cat([kept.inputs for kept in self._buffer]), torch.cat([kept.chunks for kept in self._buffer])
        weights = np.concatenate([kept.weights for kept in self._buffer])
        replayed = round(config.batch * config.demonstration_share) if self._demonstrations is not None else 0
        chances, signs = np.abs(weights) / np.abs(weights).sum(), torch.from_numpy(np.sign(weights)).float()
        old = copy.deepcopy(network).eval()
        losses = []
        network.train()
        for step in range(config.steps):
            rate = config.learning_rate * min(1.0, (step + 1) / WARM_UP) * 0.5 * (1 + math.cos(math.pi * step / config.steps))
            for group in self._optimiser.param_groups:
                group["lr"] = rate
            index = torch.from_numpy(self._rng.choice(len(weights), config.batch - replayed, p=chances))
            seen, wanted, sign = inputs[index], chunks[index], signs[index]
            if self._demonstrations is not None and replayed:
                index = torch.from_numpy(self._rng.integers(0, len(self._demonstrations[0]), replayed))
                seen, wanted = torch.cat([seen, self._demonstrations[0][index]]), torch.cat([wanted, self._demonstrations[1][index]])
                sign = torch.cat([sign, torch.ones(replayed)])
            seen = seen + config.input_noise * torch.randn(seen.shape, generator=self._generator).to(seen.device)
            with autocast(wanted.device.type):
                loss = _loss(network, old, seen, wanted, sign.to(seen.device), self._generator)
            self._optimiser.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(self._parameters, 1.0)
            self._optimiser.step()
            losses.append(float(loss.detach()))
        network.eval()
        return float(np.mean(losses[-max(config.steps // 10, 1) :]))


def _loss(
    network: Any, old: Any, inputs: torch.Tensor, chunks: torch.Tensor, signs: torch.Tensor, generator: torch.Generator
) -> torch.Tensor:
    """See the module. inputs (B, .), chunks (B, horizon * columns), signs (B,): 1 to imitate, -1 to avoid."""
    mixed, time, scale, wanted = network.mix(chunks, generator)
    velocity = network.velocity(inputs, mixed, time, scale)
    with torch.no_grad():
        before = old.velocity(inputs, mixed, time, scale)
    fitted = torch.where(signs[:, None] > 0, velocity, 2 * before - velocity)
    return (fitted - wanted).square().mean()
