"""Filtered behaviour cloning: the episodes that the reward judged successful are imitated, the others are left out.

Role: the learner plug-in `filtered_bc`: the real-robot recipe of Large Reward Models (arXiv 2603.16065), completion as the filter. What it
shares with others: imitation.py.

    w(o, chunk) = 1 if completion held at the episode's end, else 0
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from learner_node.imitation import FlowImitation, ImitationConfig, Kept, labelled


class FilteredBC(FlowImitation[ImitationConfig]):
    """See the module."""

    name = "filtered_bc"
    settings = ImitationConfig
    by_loss = True

    def weigh(self, episodes: Sequence[Kept]) -> list[np.ndarray]:
        return [float(kept.success) * labelled(kept.rollout) for kept in episodes]
