"""RA-BC, reward-aligned behaviour cloning: a chunk is imitated by how much progress it made.

Role: the learner plug-in `ra_bc` (SARM, arXiv 2509.25358, equations 8 and 9). What it shares with others: imitation.py.

    r = progress behind the chunk - progress before it,  mu = max(mean r, 0),  sigma = std r over the buffer
    soft = clip((r - (mu - 2 sigma)) / (4 sigma + epsilon), 0, 1)
    w = 1 if r > kappa,  soft if 0 <= r <= kappa,  0 if r < 0

A chunk here is what of it was carried out, up to the next decision. An episode's end counts among the gains too, with r = 0, as in the
published code, where what a chunk lacks at the end is the last frame again. Decisions without a reward are left out (there they weigh 1,
`unlabelled`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from learner_node.imitation import FlowImitation, ImitationConfig, Kept


@dataclass(frozen=True, kw_only=True)
class RABCConfig(ImitationConfig):
    """kappa: progress per chunk above which it counts in full; epsilon: against division by zero."""

    kappa: float = field(default=0.01, metadata={"ge": 0})
    epsilon: float = field(default=1e-6, metadata={"gt": 0})


class RABC(FlowImitation[RABCConfig]):
    """See the module."""

    name = "ra_bc"
    settings = RABCConfig
    by_loss = True
    nothing = "no chunk made progress"

    def weigh(self, episodes: Sequence[Kept]) -> list[np.ndarray]:
        return of_episodes([kept.progress for kept in episodes], self.config.kappa, self.config.epsilon)


def of_episodes(progress: Sequence[np.ndarray], kappa: float, epsilon: float, unlabelled: float = 0.0) -> list[np.ndarray]:
    """(T,) weights for each episode, whose progress is (T + 1,)."""
    gains = [np.append(np.diff(one), 0.0) for one in progress]
    if not gains:
        return []
    weights = ra_bc_weights(np.concatenate(gains), kappa, epsilon, unlabelled)
    return [one[:-1] for one in np.split(weights, np.cumsum([len(gain) for gain in gains])[:-1])]


def ra_bc_weights(gains: np.ndarray, kappa: float = 0.01, epsilon: float = 1e-6, unlabelled: float = 0.0) -> np.ndarray:
    """(N,) weights in [0, 1] of the gains in progress (N,) of one data set; where a gain is NaN, `unlabelled`."""
    known = gains[np.isfinite(gains)]
    mean, spread = (max(float(known.mean()), 0.0), max(float(known.std()), epsilon)) if len(known) else (0.0, epsilon)
    soft = np.clip((gains - (mean - 2 * spread)) / (4 * spread + epsilon), 0.0, 1.0)
    weights = np.where(gains > kappa, 1.0, np.where(gains >= 0, soft, 0.0))
    return np.where(np.isfinite(gains), weights, unlabelled)


def normalised(weights: np.ndarray, epsilon: float = 1e-6) -> np.ndarray:
    """The weights of one batch so that they sum to its size, as the published code's loss has them."""
    return weights * len(weights) / (weights.sum() + epsilon)
