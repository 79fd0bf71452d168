"""TOPReward as a reward plug-in.

Role: entry point `topreward`: frames in, samples out. Which frames a score sees: window.py; what the model makes of them: scorer.py.
Needs no training and no weights of ours. Does not depend on ROS.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from reward_node.frames import check_frames, side_by_side
from reward_node.instructions import checked
from reward_node.signals import Contrast, total
from reward_node.topreward.scorer import VideoScorer
from reward_node.topreward.settings import TOPRewardSettings
from reward_node.vlm.loading import VisionLanguageModel, load
from whetstone.config import config_hash, parse, source_of
from whetstone.contracts import Provenance, RewardNeeds, RewardSample
from whetstone.errors import InputError

_SOURCE = "config/rewards/topreward.yaml"


class TOPReward:
    """log p(answer | frames, prompt), mapped to progress; p(answer) against p(contrary) as completion.

    counters: tokens: through the model so far.
    """

    def __init__(self, settings: TOPRewardSettings, vlm: VisionLanguageModel, config: str) -> None:
        self.settings, self._vlm = settings, vlm
        words = [settings.prompt, settings.answer, settings.contrary]
        self.provenance = Provenance("topreward", vlm.identity, vlm.revision, settings.dtype, config_hash(words), config)
        self.needs = RewardNeeds(
            settings.cameras, settings.image_size, settings.every, settings.window.frames, vlm.memory, str(vlm.model.device)
        )
        tokens = [vlm.token(settings.answer), vlm.token(settings.contrary)]
        self.scorer = VideoScorer(vlm.model, vlm.video, settings.window, tokens)
        self.counters = self.scorer.counters
        self.reset("", "", 0)

    @classmethod
    def load(cls, config: dict[str, Any], profile: Any, device: str = "cpu") -> TOPReward:
        """From config/rewards/topreward.yaml. ConfigError where no model is named, AssetError where it cannot be loaded."""
        source = source_of(config, _SOURCE)
        settings = parse(TOPRewardSettings, config, source)
        return cls(settings, load(settings.model, settings.dtype, device, source, profile.asset_name), config_hash(config))

    def reset(self, episode_id: str, instruction: str, seed: int) -> None:
        """Forget the last episode. Scores are deterministic: seed and episode_id change nothing."""
        self._begin([instruction])

    def tell(self, instruction: str) -> None:
        """Other words from the next score on, about all frames of the episode."""
        self.scorer.ask(self._prompts([instruction]))

    def _prompts(self, instructions: Sequence[str]) -> list[str]:
        # Not str.format: an instruction may hold braces.
        return [self.settings.prompt.replace("{instruction}", checked(text)) for text in instructions]

    def _begin(self, instructions: Sequence[str]) -> None:
        self.scorer.begin(self._prompts(instructions))
        self._first: int | None = None
        self._contrast = Contrast(self.settings.contrastive)

    def observe(self, images: dict[str, np.ndarray], stamp: int) -> RewardSample:
        """Score the newest frame against the episode so far. InputError where the camera is missing or its size is another."""
        window = self._add(images, stamp)
        return self._sample(stamp, window, self.scorer.answers()[0, 0])

    def beside(self) -> TOPReward:
        """The same weights, for another robot's video."""
        return TOPReward(self.settings, self._vlm, self.provenance.config)

    def observe_together(
        self, models: Sequence[TOPReward], frames: Sequence[dict[str, np.ndarray]], stamps: Sequence[int]
    ) -> list[RewardSample]:
        """observe() of each of `models`, which share their weights with this one, in one pass. A frame that cannot be scored gives a
        sample that says why, and does not disturb the others."""
        windows, refused = {}, {}
        for index, (model, images, stamp) in enumerate(zip(models, frames, stamps, strict=True)):
            try:
                windows[index] = model._add(images, stamp)
            except InputError as error:
                refused[index] = RewardSample(stamp, valid=False, reason=str(error))
        answers = VideoScorer.answer([models[index].scorer for index in windows])
        scored = {
            index: models[index]._sample(stamps[index], window, answer[-1, 0])
            for (index, window), answer in zip(windows.items(), answers, strict=True)
        }
        return [{**refused, **scored}[index] for index in range(len(models))]

    def score_episode(self, frames: list[dict[str, np.ndarray]], stamps: list[int]) -> list[RewardSample]:
        """The samples that observe() would give one by one, in as few passes as memory allows. Call reset() first."""
        windows = [self._add(images, stamp) for images, stamp in zip(frames, stamps, strict=True)]
        answers = self.scorer.answers()[:, 0]
        return [self._sample(stamp, window, answer) for stamp, window, answer in zip(stamps, windows, answers, strict=True)]

    def compare(self, frames: list[dict[str, np.ndarray]], stamps: list[int], instructions: Sequence[str]) -> np.ndarray:
        """(frames, instructions, 2) log-probabilities of answer and contrary, nat, for several instructions over one video: what a
        wrong instruction scores costs only its own words. Begins a new episode; call reset() afterwards."""
        self._begin(instructions)
        for images, stamp in zip(frames, stamps, strict=True):
            self._add(images, stamp)
        return self.scorer.answers()

    def _add(self, images: dict[str, np.ndarray], stamp: int) -> int:
        check_frames(images, self.needs)
        if self._first is None:
            self._first = stamp
        return self.scorer.add(side_by_side(images, self.needs.cameras), (stamp - self._first) / 1e9)

    def _sample(self, stamp: int, window: int, answers: np.ndarray) -> RewardSample:
        answer, contrary = (float(value) for value in answers)
        if not (math.isfinite(answer) and math.isfinite(contrary)):
            return RewardSample(stamp, valid=False, reason="the language model gave a value that is not a number", window=window)
        calibration = self.settings.calibration
        progress = min(max((answer + calibration.offset) / calibration.scale, 0.0), 1.0)
        contrast = self._contrast(progress)
        # p(True) against p(False): the only figure of this model that is a probability of being done.
        completion = 1.0 / (1.0 + math.exp(min(contrary - answer, 60.0)))
        return RewardSample(
            stamp,
            raw=answer,
            progress=progress,
            process=progress,
            completion=completion,
            contrastive=contrast,
            total=total(progress, completion, contrast),
            margin=answer - contrary,
            log_true=answer,
            log_false=contrary,
            window=window,
        )
