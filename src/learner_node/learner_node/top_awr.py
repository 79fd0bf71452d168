"""TOP-AWR: advantage-weighted regression on the rise of a zero-shot reward.

Role: the learner plug-in `top_awr` (TOPReward, arXiv 2602.19313). What it shares with others: imitation.py.

    w = clip(tau * exp(progress behind the chunk - progress before it), 0, limit)

With the paper's tau = limit = 2 every chunk that does not lose progress weighs exactly 2, and one that loses half of it 1.2: hardly more
than behaviour cloning. `temperature` (ours; 1 in the paper) divides the rise: the smaller, the more the progress counts.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from learner_node.imitation import FlowImitation, ImitationConfig, Kept


@dataclass(frozen=True, kw_only=True)
class TOPAWRConfig(ImitationConfig):
    """tau, limit: see the module; temperature: progress that makes a factor of e."""

    tau: float = field(default=1.0, metadata={"gt": 0})
    limit: float = field(default=2.0, metadata={"gt": 0})
    temperature: float = field(default=0.1, metadata={"gt": 0})


class TOPAWR(FlowImitation[TOPAWRConfig]):
    """See the module."""

    name = "top_awr"
    settings = TOPAWRConfig
    nothing = "no decision has a reward before and behind it"

    def weigh(self, episodes: Sequence[Kept]) -> list[np.ndarray]:
        config = self.config
        return [top_awr_weights(np.diff(kept.progress), config.tau, config.limit, config.temperature) for kept in episodes]


def top_awr_weights(gains: np.ndarray, tau: float, limit: float, temperature: float = 1.0) -> np.ndarray:
    """(T,) of the gains in progress (T,); 0 where a gain is NaN."""
    return np.where(np.isfinite(gains), np.clip(tau * np.exp(np.nan_to_num(gains) / temperature), 0.0, limit), 0.0)
