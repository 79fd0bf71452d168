"""A reward model behind its calibration map.

Role: the same contract, other numbers: progress, process and completion go through the map; raw values, the contrastive signal and
validity stay the model's. Does not depend on torch or ROS.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from reward_node.calibration.maps import CalibrationMap
from reward_node.signals import total
from whetstone.config import config_hash
from whetstone.contracts import RewardModel, RewardSample


class CalibratedReward:
    """inner: any reward model whose `total` is the mean of its signals; name: of the map's file, for provenance."""

    def __init__(self, inner: RewardModel, calibration: CalibrationMap, name: str) -> None:
        self._inner, self.calibration = inner, calibration
        self.provenance = replace(inner.provenance, config=config_hash([inner.provenance.config, name, calibration.knots.tolist()]))
        self.needs = inner.needs
        self.offline = getattr(inner, "offline", False)

    @property
    def counters(self) -> dict[str, Any]:
        return getattr(self._inner, "counters", {})

    def reset(self, episode_id: str, instruction: str, seed: int) -> None:
        self._inner.reset(episode_id, instruction, seed)

    def observe(self, images: dict[str, np.ndarray], stamp: int) -> RewardSample | None:
        sample = self._inner.observe(images, stamp)
        return None if sample is None else self._map(sample)

    def score_episode(self, frames: list[dict[str, np.ndarray]], stamps: list[int]) -> list[RewardSample]:
        return [self._map(sample) for sample in self._inner.score_episode(frames, stamps)]

    def _map(self, sample: RewardSample) -> RewardSample:
        if not sample.valid:
            return sample
        progress, completion = self.calibration.progress(sample.raw), self.calibration.completion(sample.completion)
        combined = total(progress, completion, sample.contrastive)
        return replace(sample, progress=progress, process=progress, completion=completion, total=combined)
