"""Robometer as a reward plug-in.

Role: entry point `robometer`: frames in, samples out. The network and its weights: network.py; what it is shown: prompt.py. Weights come
from their user; both files say what of the published model was read in its code and what was not. Does not depend on ROS.

A score sees the frames up to its own only, and is read at the newest: as published for single frames (frames uniform over the elapsed
time, `fixed`) or for whole videos (all frames so far, `growing`), where reading every token at once gives the same, the language model
being causal. Progress is the expectation over the progress values, success the sigmoid of its logit.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from reward_node.frames import check_frames, side_by_side
from reward_node.instructions import checked
from reward_node.robometer.network import RobometerNetwork, build
from reward_node.robometer.prompt import RobometerPrompt
from reward_node.robometer.settings import RobometerSettings
from reward_node.signals import Contrast, total
from reward_node.vlm.prefix import Branch, Prefix
from reward_node.weight_bytes import weight_bytes
from whetstone.config import config_hash, parse, source_of
from whetstone.contracts import Provenance, RewardNeeds, RewardSample
from whetstone.model_folder import loading, model_folder, revision

_SOURCE = "config/rewards/robometer.yaml"


class RobometerReward:
    """progress of the task and probability of success, both in [0, 1], at the newest frame."""

    def __init__(self, settings: RobometerSettings, network: RobometerNetwork, prompt: RobometerPrompt, folder: Path, config: str) -> None:
        self.settings, self._network, self._prompt = settings, network, prompt
        words = config_hash(settings.prompt)
        self.provenance = Provenance("robometer", folder.name, revision(folder), settings.dtype, words, config)
        self.needs = RewardNeeds(
            settings.cameras, settings.image_size, settings.every, settings.window.frames, weight_bytes(network), str(network.device)
        )
        self._columns = list(range(network.bins + 2))
        self.reset("", "", 0)

    @classmethod
    def load(cls, config: dict[str, Any], profile: Any, device: str = "cpu") -> RobometerReward:
        """From config/rewards/robometer.yaml. ConfigError where no model is named, AssetError where it cannot be loaded."""
        source = source_of(config, _SOURCE)
        settings = parse(RobometerSettings, config, source)
        folder = model_folder(settings.model, source, "reward model", "Robometer-4B")
        with loading(folder):
            network = build(folder, settings.dtype, device)
            prompt = RobometerPrompt.load(network, Path(settings.processor).expanduser() if settings.processor else folder)
        return cls(settings, network, prompt, folder, config_hash(config))

    def reset(self, episode_id: str, instruction: str, seed: int) -> None:
        """Forget the last episode. Scores are deterministic: seed and episode_id change nothing."""
        self.tell(instruction)
        self._window = self.settings.window.make()
        self._frames: dict[int, np.ndarray] = {}
        self._count = 0
        self._contrast = Contrast(self.settings.contrastive)

    def tell(self, instruction: str) -> None:
        """Other words from the next score on, about all frames of the episode: they stand first, so all is computed again."""
        # Not str.format: an instruction may hold braces.
        self._prompt.begin(self.settings.prompt.replace("{instruction}", checked(instruction)), self.settings.window.frames)
        self._prefix = Prefix(self._network, self._prompt)
        self.counters = self._prefix.counters
        self._held: list[int] = []  # frames in the cache, as they stand there

    def observe(self, images: dict[str, np.ndarray], stamp: int) -> RewardSample:
        """Score the newest frame. InputError where a camera is missing or its size is another."""
        check_frames(images, self.needs)
        self._frames[self._count] = side_by_side(images, self.needs.cameras)
        chosen = self._window.add(self._count)
        self._count += 1
        try:
            found = self._ask(chosen)
        finally:
            self._frames = {index: self._frames[index] for index in self._window.kept}
        try:
            reading = self._network.read(found)
        except ValueError as error:
            self._held.clear()  # what is not a number stays in the cache
            return RewardSample(stamp, valid=False, reason=str(error), window=len(chosen))
        contrast = self._contrast(reading.progress)
        return RewardSample(
            stamp,
            raw=reading.progress,
            progress=reading.progress,
            process=reading.progress,
            completion=reading.success,
            contrastive=contrast,
            total=total(reading.progress, reading.success, contrast),
            margin=reading.odds,
            entropy=reading.entropy,
            window=len(chosen),
        )

    def score_episode(self, frames: list[dict[str, np.ndarray]], stamps: list[int]) -> list[RewardSample]:
        """The samples of a whole episode, by the same path as live. Call reset() first."""
        return [self.observe(images, stamp) for images, stamp in zip(frames, stamps, strict=True)]

    def _ask(self, chosen: tuple[int, ...]) -> np.ndarray:
        """(bins + 2,) what the heads say of the last of these frames; those that the cache holds in their place are not computed again."""
        common = 0
        while common < min(len(chosen), len(self._held)) and chosen[common] == self._held[common]:
            common += 1
        del self._held[common:]
        self._prefix.truncate(common)
        new = [self._prompt.picture(self._frames[index], number) for number, index in enumerate(chosen[common:], start=common)]
        found = self._prefix.extend(new, [Branch(len(chosen), (self._prompt.answer(),))], self._columns)
        self._held = list(chosen)
        return found[0]
