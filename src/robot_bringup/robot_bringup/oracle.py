"""A reward that knows the simulator's ground truth: what a learner could gain if nothing deceived it.

Role: a yardstick for `rehearse` (truth:=true), which tells a learner's failure from its reward's. No plug-in: nothing that runs on a robot
can choose it, and no figure of a refinement comes from it. Does not depend on ROS.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from robot_bringup.offline import Scorer
from robot_bringup.sim.simulation import Simulation
from whetstone.contracts import RewardSample


class Oracle:
    """Scores when and from what `inner` does, with progress and completion as the simulation knows them."""

    def __init__(self, inner: Scorer, sim: Simulation):
        self._inner, self._sim = inner, sim
        self.needs, self.provenance = inner.needs, replace(inner.provenance, model="ground truth")

    def reset(self, episode_id: str, instruction: str, seed: int) -> None:
        self._inner.reset(episode_id, instruction, seed)

    def observe(self, images: dict[str, np.ndarray], stamp: int) -> RewardSample | None:
        sample, truth = self._inner.observe(images, stamp), self._sim.truth()
        if sample is None:
            return None
        known = {"raw": truth.progress, "progress": truth.progress, "total": truth.progress, "completion": float(truth.success)}
        return replace(sample, valid=True, reason="", **known)
