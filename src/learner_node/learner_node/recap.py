"""RECAP: every chunk is learned together with the word whether it was better than usual; the policy then acts as if told that it is.

Role: the learner plug-in `recap` (pi*0.6, arXiv 2511.14759), for a policy that fulfils whetstone.contracts.ConditionedPolicy. What it
shares with others: imitation.py; its rewards: shaping.py; its value function: awr.py.

With V fitted to the discounted returns (each half of the episodes judged by the other's, awr.py), N decisions of `lookahead`:
    A_t = sum_{k < N} gamma^k r_{t+k} + gamma^N V(o_{t+N}) - V(o_t),     0 behind the last decision
    I_t = 1[A_t > epsilon],  epsilon of each instruction such that the share `positive_share` of its decisions is positive
    loss = || v(x_t, t, o, I) - u ||^2 over all labelled decisions, I left out of a share `dropout` of them
Corrections by a human and successful demonstrations are positive. Unlike weights, an indicator throws nothing away: what failed is learned
too, as what "negative" means.

Each update begins with the weights that the run began with and learns from all episodes in memory, as the paper's do (`restart`).
Departures: V is a small network under least squares instead of a vision-language model over 201 bins; rewards are shaped from the reward
model's progress instead of minus one a step, with a discount; the indicator is a learned vector instead of words.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from learner_node.awr import values_by_halves
from learner_node.imitation import FlowImitation, ImitationConfig, Kept, Pool, labelled
from learner_node.shaping import Shaping, returns, rewards
from whetstone.contracts import ConditionedPolicy
from whetstone.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class RECAPConfig(ImitationConfig):
    """policy: configuration that it is made for; positive_share, dropout, restart: see the module; lookahead: N, decisions; shaping: of the
    rewards; value_steps: of the value function's training in each update."""

    policy: str = "conditioned"
    positive_share: float = field(default=0.4, metadata={"gt": 0, "lt": 1})
    lookahead: int = field(default=50, metadata={"ge": 1})
    dropout: float = field(default=0.3, metadata={"ge": 0, "lt": 1})
    restart: bool = True
    shaping: Shaping = field(default_factory=Shaping)
    value_steps: int = field(default=200, metadata={"ge": 1})
    memory: int = field(default=20, metadata={"ge": 1})


class RECAP(FlowImitation[RECAPConfig]):
    """See the module. A weight here is the indicator: 1 positive, -1 negative, 0 unlabelled."""

    name = "recap"
    settings = RECAPConfig
    nothing = "no decision has a reward before and behind it that is better than another's"

    @classmethod
    def load(cls, config: dict[str, Any], policy: Any, seed: int) -> RECAP:
        """Raises ConfigError for a bad key, a policy without an indicator, or a prior that it cannot learn from."""
        if not isinstance(policy, ConditionedPolicy):
            wanted = config.get("policy", RECAPConfig.policy)
            raise ConfigError(f"learner 'recap' needs a policy that is told what is better; use policy:={wanted}")
        return super().load(config, policy, seed)

    def weigh(self, episodes: Sequence[Kept]) -> list[np.ndarray]:
        config, gamma = self.config, self.config.shaping.discount
        earned = [rewards(kept.rollout, config.shaping) for kept in episodes]
        wanted = [returns(one, gamma) for one in earned]
        values = values_by_halves(episodes, wanted, config.value_steps, self._generator)
        advantages = [n_step_advantages(one, value, gamma, config.lookahead) for one, value in zip(earned, values, strict=True)]
        known = [labelled(kept.rollout) for kept in episodes]
        found = [np.zeros(len(one)) for one in advantages]
        for instruction in {kept.rollout.instruction for kept in episodes}:
            those = [index for index, kept in enumerate(episodes) if kept.rollout.instruction == instruction]
            limit = threshold(np.concatenate([advantages[index][known[index]] for index in those]), config.positive_share)
            for index in those:
                shown = episodes[index].success and episodes[index].rollout.source == "demonstration"
                found[index] = np.where((advantages[index] > limit) | shown, 1.0, -1.0) * known[index]
        return found

    def learn(self, material: tuple[Pool, Pool]) -> tuple[dict[str, float], str]:
        if self.config.restart:
            self.policy.load_trainable_state(self._rounds.states[0])
            self.forget(failed=False)
            # What it learns from anew are all decisions, not the latest alone.
            self._new.fill_(sum(len(kept.inputs) for kept in self._buffer))
        return super().learn(material)

    def loss(self, old: Any, inputs: torch.Tensor, chunks: torch.Tensor, signs: torch.Tensor) -> torch.Tensor:
        told = torch.rand(len(signs), generator=self._generator).to(signs.device) >= self.config.dropout
        return super().loss(old, inputs, chunks, signs * told)

    def fitted(self, old: Any, points: tuple[torch.Tensor, ...], signs: torch.Tensor) -> torch.Tensor:
        return self.policy.network.velocity(*points, signs)


def n_step_advantages(earned: np.ndarray, values: np.ndarray, discount: float, lookahead: int) -> np.ndarray:
    """(T,) of one episode, see the module. earned, values: (T,); a missing reward (NaN) adds nothing."""
    sums, count = np.append(returns(earned, discount), 0.0), len(earned)
    ends = np.minimum(np.arange(count) + lookahead, count)
    bootstrapped = np.append(values, 0.0)[ends] - sums[ends]
    return sums[:-1] + discount ** (ends - np.arange(count)) * bootstrapped - values


def threshold(advantages: np.ndarray, share: float) -> float:
    """The advantage above which the share of the decisions lies, or less of them where several are equal."""
    return float(np.quantile(advantages, 1 - share, method="inverted_cdf")) if len(advantages) else 0.0
