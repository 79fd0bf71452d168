"""Rewards that know nothing: the controls that every gain is measured against.

Role: `constant` gives every frame the same score; `shuffled` gives each frame the score of some other frame of another
episode, so that values are distributed as the real ones are but tell nothing about what was done. Does not depend on ROS.
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from reward_node.signals import total
from whetstone.assets import asset_path
from whetstone.completion import Completion
from whetstone.config import config_hash, parse, source_of
from whetstone.contracts import Provenance, RewardModel, RewardNeeds, RewardSample
from whetstone.errors import AssetError, ConfigError
from whetstone.rewards import load_reward


@dataclass(frozen=True)
class ConstantSettings:
    """config/rewards/constant.yaml. Every score: progress, completion, both in [0, 1], and contrastive."""

    plugin: str
    cameras: tuple[str, ...]
    image_size: tuple[int, int]
    every: int = field(metadata={"ge": 1})
    progress: float = field(default=0.5, metadata={"ge": 0, "le": 1})
    completion: float = field(default=0.0, metadata={"ge": 0, "le": 1})
    success: Completion = field(default_factory=Completion)


class ConstantReward:
    """Entry point `constant`: the same score for every frame."""

    def __init__(self, settings: ConstantSettings, config: str) -> None:
        self.settings = settings
        self.provenance = Provenance("constant", config=config)
        self.needs = RewardNeeds(settings.cameras, settings.image_size, settings.every)

    @classmethod
    def load(cls, config: dict[str, Any], profile: Any, device: str = "cpu") -> ConstantReward:
        return cls(parse(ConstantSettings, config, source_of(config, "config/rewards/constant.yaml")), config_hash(config))

    def reset(self, episode_id: str, instruction: str, seed: int) -> None:
        """Nothing to forget."""

    def observe(self, images: dict[str, np.ndarray], stamp: int) -> RewardSample:
        progress, completion = self.settings.progress, self.settings.completion
        return RewardSample(
            stamp, raw=progress, progress=progress, process=progress, completion=completion, contrastive=0.0,
            total=total(progress, completion, 0.0), window=1,
        )  # fmt: skip

    def score_episode(self, frames: list[dict[str, np.ndarray]], stamps: list[int]) -> list[RewardSample]:
        return [self.observe(images, stamp) for images, stamp in zip(frames, stamps, strict=True)]


@dataclass(frozen=True)
class ShuffledSettings:
    """config/rewards/shuffled.yaml.

    inner: name of the reward whose scores are shuffled; bank: file in assets/ with a tensor `control_bank`, (N, 3) scores
    (progress, completion, contrastive) of random frames; every: as the inner reward's.
    """

    plugin: str
    inner: str
    bank: str
    every: int = field(metadata={"ge": 1})
    success: Completion = field(default_factory=Completion)


class ShuffledReward:
    """Entry point `shuffled`: runs the inner reward, then publishes the score of a random other frame in its place.

    Same cost, same frames refused as invalid, same marginal distribution, no information: a control for the learner.
    The draw depends on the episode's seed and id alone.
    """

    def __init__(self, inner: RewardModel, bank: np.ndarray, config: str) -> None:
        self.inner = inner
        self.bank = bank
        self.provenance = replace(inner.provenance, plugin=f"shuffled({inner.provenance.plugin})", config=config)
        self.needs = inner.needs
        self.random = np.random.default_rng(0)

    @classmethod
    def load(cls, config: dict[str, Any], profile: Any, device: str = "cpu") -> ShuffledReward:
        """ConfigError where the inner reward is unknown or its `every` differs, AssetError where the bank is missing."""
        from safetensors import SafetensorError, safe_open

        source = source_of(config, "config/rewards/shuffled.yaml")
        settings = parse(ShuffledSettings, config, source)
        inner = load_reward(settings.inner, profile, device)
        if inner.needs.every != settings.every:
            raise ConfigError(f"{source}: key 'every' is {settings.every}, but that of {settings.inner} is {inner.needs.every}")
        path = asset_path(settings.bank.format(robot=profile.asset_name))
        try:
            with safe_open(path, framework="numpy") as file:
                bank = file.get_tensor("control_bank").astype(np.float64)
        except (SafetensorError, OSError) as error:
            raise AssetError(f"{path}: holds no 'control_bank' ({error}); make it again with `make assets`") from None
        return cls(inner, bank, config_hash([config, inner.provenance.config]))

    def reset(self, episode_id: str, instruction: str, seed: int) -> None:
        self.inner.reset(episode_id, instruction, seed)
        self.random = np.random.default_rng([seed, zlib.crc32(episode_id.encode())])

    def observe(self, images: dict[str, np.ndarray], stamp: int) -> RewardSample | None:
        sample = self.inner.observe(images, stamp)
        progress, completion, contrast = (float(value) for value in self.bank[self.random.integers(len(self.bank))])
        if sample is None or not sample.valid:
            return sample
        return replace(
            sample, raw=progress, progress=progress, process=progress, completion=completion, contrastive=contrast,
            total=total(progress, completion, contrast), margin=float("nan"),
        )  # fmt: skip

    def score_episode(self, frames: list[dict[str, np.ndarray]], stamps: list[int]) -> list[RewardSample]:
        samples = (self.observe(images, stamp) for images, stamp in zip(frames, stamps, strict=True))
        return [sample for sample in samples if sample is not None]
