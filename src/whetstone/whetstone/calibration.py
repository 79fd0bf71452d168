"""A reward model's calibration map: what it is, how it is stored, whom it is for; and a reward model behind one.

Role: from a model's own figure to progress, and from its completion to a probability, online. A map is made for one model at one precision
under one prompt, one robot and its cameras; used with another it would be a confident lie, so it is refused. It is fitted elsewhere
(reward_node.calibration). Does not depend on torch or ROS.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from whetstone import jsonfile
from whetstone.config import config_hash
from whetstone.contracts import Provenance, RewardModel, RewardSample
from whetstone.errors import AssetError, ConfigError, InputError

COMPARED = ("plugin", "model", "revision", "precision", "prompt")
"""Fields of Provenance that must be the same. The rest of the configuration (thresholds) may change."""
_FIX = "make one for it with `whetstone calibrate`, or take key 'calibration_map' out"


@dataclass(frozen=True)
class CalibrationMap:
    """progress: monotone and piecewise linear in the model's raw value, through `knots` (K, 2), flat outside them. completion: sigmoid of
    slope * logit(completion) + intercept (Platt 1999), slope > 0: neither changes an order, both are fixed before an episode begins."""

    knots: np.ndarray
    slope: float
    intercept: float

    def progress(self, raw: float) -> float:
        """In [0, 1]; NaN stays NaN."""
        return float(np.interp(raw, self.knots[:, 0], self.knots[:, 1])) if math.isfinite(raw) else math.nan

    def completion(self, stated: float) -> float:
        """In [0, 1]; NaN stays NaN."""
        if not math.isfinite(stated):
            return math.nan
        clipped = min(max(stated, 1e-6), 1 - 1e-6)
        return 1.0 / (1.0 + math.exp(-min(max(self.slope * math.log(clipped / (1 - clipped)) + self.intercept, -60.0), 60.0)))


def save(path: Path, found: CalibrationMap, provenance: Provenance, robot: str, cameras: tuple[str, ...], made: dict[str, Any]) -> None:
    """made: from what and how well, for people."""
    whose = {**{name: asdict(provenance)[name] for name in COMPARED}, "robot": robot, "cameras": list(cameras)}
    values = {"knots": found.knots.tolist(), "slope": found.slope, "intercept": found.intercept}
    jsonfile.write(path, {"provenance": whose, "map": values, "made": made})


def load(path: Path, provenance: Provenance, robot: str, cameras: tuple[str, ...]) -> CalibrationMap:
    """AssetError where the file is missing or damaged, ConfigError naming what differs where it was made for something else."""
    if not path.is_file():
        raise AssetError(f"calibration map '{path}' is missing; {_FIX}")
    try:
        data = jsonfile.read(path)
        whose, values = data["provenance"], data["map"]
        found = CalibrationMap(np.array(values["knots"], float), float(values["slope"]), float(values["intercept"]))
        usable = found.knots.ndim == 2 and found.knots.shape[1] == 2 and len(found.knots) > 0 and bool(np.isfinite(found.knots).all())
        if not usable or (np.diff(found.knots, axis=0) < 0).any() or not found.slope > 0 or not math.isfinite(found.intercept):
            raise ValueError("its numbers are no monotone map")
    except (InputError, KeyError, TypeError, ValueError) as error:
        raise AssetError(f"calibration map '{path}' cannot be used ({error}); {_FIX}") from error
    here = {**{name: asdict(provenance)[name] for name in COMPARED}, "robot": robot, "cameras": list(cameras)}
    for name, value in here.items():
        if whose.get(name) != value:
            raise ConfigError(f"calibration map '{path}' was made for another {name} ({whose.get(name)!r}, here {value!r}); {_FIX}")
    return found


class CalibratedReward:
    """inner: any reward model whose `total` is the mean of its signals; name: of the map's file, for provenance."""

    def __init__(self, inner: RewardModel, calibration: CalibrationMap, name: str) -> None:
        self._inner, self.calibration, self._name = inner, calibration, name
        self.provenance = replace(inner.provenance, config=config_hash([inner.provenance.config, name, calibration.knots.tolist()]))
        self.needs = inner.needs
        self.offline = getattr(inner, "offline", False)
        if (tell := getattr(inner, "tell", None)) is not None:  # whoever lacks it is told other words by a reset
            self.tell = tell
        if hasattr(inner, "beside"):
            self.beside = self._beside
        if hasattr(inner, "observe_together"):
            self.observe_together = self._observe_together

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

    def _beside(self) -> CalibratedReward:
        inner: Any = self._inner
        return CalibratedReward(inner.beside(), self.calibration, self._name)

    def _observe_together(
        self, models: Sequence[CalibratedReward], frames: Sequence[dict[str, np.ndarray]], stamps: Sequence[int]
    ) -> list[RewardSample | None]:
        inner: Any = self._inner
        samples = inner.observe_together([model._inner for model in models], frames, stamps)
        return [None if sample is None else model._map(sample) for model, sample in zip(models, samples, strict=True)]

    def _map(self, sample: RewardSample) -> RewardSample:
        if not sample.valid:
            return sample
        progress, completion = self.calibration.progress(sample.raw), self.calibration.completion(sample.completion)
        # The mean of the three signals, of which the contrastive one stays.
        combined = sample.total + (progress - sample.process + completion - sample.completion) / 3
        return replace(sample, progress=progress, process=progress, completion=completion, total=combined)
