"""LRM as a reward plug-in.

Role: entry point `lrm`: asks a vision-language model three questions about the newest frame. How a question becomes probabilities:
vlm/answers.py; how written answers are read: reading.py. The published models are LoRA adapters of Qwen3-VL-8B, merged into it by their
user; their wording belongs into the YAML. Does not depend on ROS.
"""

from __future__ import annotations

import math
from collections import deque
from typing import Any

import numpy as np

from reward_node.frames import check_images
from reward_node.lrm.reading import read
from reward_node.lrm.settings import LRMSettings, Question
from reward_node.signals import total
from reward_node.vlm.answers import Answers
from reward_node.vlm.layout import Segment
from reward_node.vlm.loading import VisionLanguageModel, load
from reward_node.vlm.prefix import Prefix
from whetstone.config import config_hash, parse
from whetstone.contracts import RewardNeeds, RewardSample

_SOURCE = "config/rewards/lrm.yaml"


class LRMReward:
    """process in [0, 1], completion in [0, 1], contrastive in [-1, 1] (0 without a pair).

    unreadable: generated answers so far that were none of the allowed ones; each counts as 0, as published.
    """

    def __init__(self, settings: LRMSettings, vlm: VisionLanguageModel, config: str) -> None:
        self.settings, self._vlm = settings, vlm
        self.model_id = f"lrm@{vlm.identity}"
        self.config_hash = config
        self.needs = RewardNeeds((settings.camera,), settings.image_size, settings.every)
        self.unreadable = 0
        questions = (settings.process, settings.completion, settings.contrastive)
        self._answers = {tuple(question.answers): Answers(vlm.tokenizer, list(question.answers)) for question in questions}
        stops = (vlm.tokenizer.eos_token_id, vlm.model.generation_config.eos_token_id)
        self._stops = [one for stop in stops for one in (stop if isinstance(stop, list) else [stop]) if one is not None]
        # The episode's first image stays in the one; the other holds the two that are compared.
        self._newest, self._pair = Prefix(vlm.model, vlm.images), Prefix(vlm.model, vlm.images)
        self.reset("", "", 0)

    @classmethod
    def load(cls, config: dict[str, Any], profile: Any, device: str = "cpu") -> LRMReward:
        """From config/rewards/lrm.yaml. ConfigError where no model is named, AssetError where it cannot be loaded."""
        settings = parse(LRMSettings, config, _SOURCE)
        return cls(settings, load(settings.model, settings.dtype, device, _SOURCE), config_hash(config))

    def reset(self, episode_id: str, instruction: str, seed: int) -> None:
        """Forget the last episode. Answers are deterministic: seed and episode_id change nothing."""
        self._instruction = instruction
        self._images: deque[Segment] = deque(maxlen=self.settings.interval)
        self._before: float | None = None  # process of the frame before
        self._newest.truncate(0)

    def observe(self, images: dict[str, np.ndarray], stamp: int) -> RewardSample:
        """Judge the newest frame. InputError where the camera is missing or its size is another."""
        check_images(images, self.needs)
        newest = self._vlm.images.frames([images[self.settings.camera]], [0.0])
        if self.settings.initial and self._newest.patches == 0:
            self._newest.extend([newest])
        self._newest.truncate(int(self.settings.initial))
        self._newest.extend([newest])
        earlier = self._images[0] if len(self._images) == self.settings.interval else None
        self._images.append(newest)
        try:
            process, _ = self._ask(self._newest, self.settings.process)
            completion, margin = self._ask(self._newest, self.settings.completion)
            contrast = self._compare(earlier, newest)
        except ValueError as error:
            return RewardSample(stamp, valid=False, reason=str(error), window=self._newest.patches)
        before, self._before = self._before, process
        return RewardSample(
            stamp,
            raw=process,
            progress=process,
            process=process,
            completion=completion,
            contrastive=contrast,
            total=self._total(process, before, completion, contrast),
            margin=margin,
            window=self._newest.patches,
        )

    def score_episode(self, frames: list[dict[str, np.ndarray]], stamps: list[int]) -> list[RewardSample]:
        """The samples of a whole episode, by the same path as live. Call reset() first."""
        return [self.observe(images, stamp) for images, stamp in zip(frames, stamps, strict=True)]

    def _compare(self, earlier: Segment | None, newest: Segment) -> float:
        """Which of two images is nearer to done: 1 the later one, -1 the earlier one."""
        if earlier is None:
            return 0.0
        self._pair.truncate(0)
        self._pair.extend([earlier, newest])
        return self._ask(self._pair, self.settings.contrastive)[0]

    def _ask(self, prefix: Prefix, question: Question) -> tuple[float, float]:
        """(value, log odds of the highest-valued answer against all others in nat, NaN where text was generated)."""
        text = question.text.replace("{instruction}", self._instruction)
        if self.settings.mode == "generate":
            tokens = prefix.generate(self._vlm.images.question(text, ""), self.settings.limit, self._stops)
            value = read(self._vlm.tokenizer.decode(tokens), question.answers)
            self.unreadable += value is None
            return value or 0.0, math.nan
        judgement = self._answers[tuple(question.answers)].judge(prefix, prefix.patches, self._vlm.images.question(text, question.start))
        values = np.array(list(question.answers.values()))
        best = float(judgement.probabilities[values.argmax()])
        return float(judgement.probabilities @ values), math.log(max(best, 1e-30)) - math.log(max(1.0 - best, 1e-30))

    def _total(self, process: float, before: float | None, completion: float, contrast: float) -> float:
        if self.settings.signal == "held":
            return total(process, completion, contrast)
        if before is None:
            return 0.0
        return process - before if self.settings.signal == "increments" else self.settings.discount * process - before
