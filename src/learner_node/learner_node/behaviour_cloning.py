"""Behaviour cloning: every chunk that was carried out is imitated, whatever came of it.

Role: the learner plug-in `behaviour_cloning`, the baseline that reads no reward. What it shares with others: imitation.py.

    w(o, chunk) = 1
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from learner_node.imitation import FlowImitation, ImitationConfig, Kept


class BehaviourCloning(FlowImitation[ImitationConfig]):
    """See the module."""

    name = "behaviour_cloning"
    settings = ImitationConfig
    by_loss = True
    reads_reward = False
    nothing = "there was no episode"

    def weigh(self, episodes: Sequence[Kept]) -> list[np.ndarray]:
        return [np.ones(len(kept.inputs)) for kept in episodes]
