"""RoboReward as a reward plug-in.

Role: entry point `roboreward`: asks a fine-tuned vision-language model how far a video got, on a rubric from 1 to 5. Weights come from
their user. Does not depend on ROS.

Read in the model's card (RoboReward-4B) and in a public evaluation that runs it (robometer/robometer), not tried on the published
weights: it is an ordinary Qwen3-VL folder; a video stands before the prompt, labelled as 1 frame a second; the answer is greedy
text, "ANSWER: " and a digit; the score is that of the state at the end. That evaluation scores prefixes of an episode, as here, and maps 1
to 0 and 5 to 1.

Ours: the probabilities of the five answers where the text gives one digit. `raw` and progress are the expected value, completion is the
probability of the highest answer. The size at which a frame is shown is the image processor's; what the training used was not found.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from reward_node.frames import check_frames, side_by_side
from reward_node.instructions import checked
from reward_node.roboreward.settings import RoboRewardSettings
from reward_node.signals import Contrast, total
from reward_node.topreward.window import FixedWindow
from reward_node.vlm.answers import Answers, Judgement, judge
from reward_node.vlm.loading import VisionLanguageModel, load
from reward_node.vlm.prefix import Prefix
from whetstone.config import config_hash, parse, source_of
from whetstone.contracts import Provenance, RewardNeeds, RewardSample

_SOURCE = "config/rewards/roboreward.yaml"
_INTERVAL = 1.0
"""Seconds between two frames as the prompt has it, whatever the true time."""


class RoboRewardReward:
    """The score of the episode so far, as if it ended with the newest frame."""

    def __init__(self, settings: RoboRewardSettings, vlm: VisionLanguageModel, config: str) -> None:
        self.settings, self._vlm = settings, vlm
        words = config_hash([settings.prompt, settings.start, settings.answers])
        self.provenance = Provenance("roboreward", vlm.identity, vlm.revision, settings.dtype, words, config)
        self.needs = RewardNeeds(settings.cameras, settings.image_size, settings.every, settings.frames, vlm.memory, str(vlm.model.device))
        self._answers = Answers(vlm.tokenizer, list(settings.answers))
        self._values = np.array(list(settings.answers.values()))
        self._prefix = Prefix(vlm.model, vlm.video)
        self.counters = self._prefix.counters
        self.reset("", "", 0)

    @classmethod
    def load(cls, config: dict[str, Any], profile: Any, device: str = "cpu") -> RoboRewardReward:
        """From config/rewards/roboreward.yaml. ConfigError where no model is named, AssetError where it cannot be loaded."""
        source = source_of(config, _SOURCE)
        settings = parse(RoboRewardSettings, config, source)
        return cls(settings, load(settings.model, settings.dtype, device, source, profile.asset_name), config_hash(config))

    def reset(self, episode_id: str, instruction: str, seed: int) -> None:
        """Forget the last episode. Scores are deterministic: seed and episode_id change nothing."""
        self.tell(instruction)
        self._window = FixedWindow(self.settings.frames)
        self._frames: dict[int, np.ndarray] = {}
        self._count = 0
        self._contrast = Contrast(self.settings.contrastive)

    def tell(self, instruction: str) -> None:
        """Other words from the next score on, about all frames of the episode."""
        # Not str.format: an instruction may hold braces.
        text = self.settings.prompt.replace("{instruction}", checked(instruction))
        self._question = self._vlm.video.question(text, self.settings.start)

    def observe(self, images: dict[str, np.ndarray], stamp: int) -> RewardSample:
        """Score the episode up to the newest frame. InputError where a camera is missing or its size is another."""
        check_frames(images, self.needs)
        self._frames[self._count] = side_by_side(images, self.needs.cameras)
        chosen = self._window.add(self._count)
        self._count += 1
        shown = [self._frames[index] for index in chosen]
        self._frames = {index: self._frames[index] for index in self._window.kept}
        try:
            judgement = self._judge(shown)
        except ValueError as error:
            return RewardSample(stamp, valid=False, reason=str(error), window=len(chosen))
        return self._sample(stamp, judgement)

    def score_episode(self, frames: list[dict[str, np.ndarray]], stamps: list[int]) -> list[RewardSample]:
        """The samples of a whole episode, by the same path as live. Call reset() first."""
        return [self.observe(images, stamp) for images, stamp in zip(frames, stamps, strict=True)]

    def _judge(self, images: list[np.ndarray]) -> Judgement:
        # Nearly every frame of a uniform window changes from score to score: nothing worth keeping.
        self._prefix.truncate(0)
        size, times = self._vlm.video.patch, [_INTERVAL * slot for slot in range(len(images))]
        video = [self._vlm.video.frames(images[at : at + size], times[at : at + size]) for at in range(0, len(images), size)]
        return judge(self._prefix, video, [(self._answers, self._question)])[0]

    def _sample(self, stamp: int, judgement: Judgement) -> RewardSample:
        value, best = float(judgement.probabilities @ self._values), float(judgement.probabilities[self._values.argmax()])
        contrast = self._contrast(value)
        return RewardSample(
            stamp,
            raw=value,
            progress=value,
            process=value,
            completion=best,
            contrastive=contrast,
            total=total(value, best, contrast),
            margin=math.log(max(best, 1e-30)) - math.log(max(1.0 - best, 1e-30)),
            entropy=judgement.entropy,
            window=self.settings.frames,
        )
