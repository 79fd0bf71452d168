"""LRM as a reward plug-in.

Role: entry point `lrm`: asks a vision-language model three questions about the newest frame. How a question becomes probabilities:
vlm/answers.py; how written answers are read: reading.py; the published models are LoRA adapters of Qwen3-VL-8B: adapters.py; their wording
belongs into the YAML. Does not depend on ROS.
"""

from __future__ import annotations

import math
from collections import deque
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from reward_node.frames import check_frames
from reward_node.instructions import checked
from reward_node.lrm.adapters import load_adapters, switch
from reward_node.lrm.reading import read
from reward_node.lrm.settings import LRMSettings, Question
from reward_node.signals import total
from reward_node.vlm.answers import Answers, Judgement, judge
from reward_node.vlm.layout import Segment
from reward_node.vlm.loading import VisionLanguageModel, load
from reward_node.vlm.prefix import Prefix
from whetstone.config import config_hash, parse, source_of
from whetstone.contracts import Provenance, RewardNeeds, RewardSample
from whetstone.model_folder import revision

_SOURCE = "config/rewards/lrm.yaml"


@dataclass(frozen=True)
class Answer:
    """value: of the answer, or expected; margin: log odds of the highest-valued answer against all others, nat; entropy: of the answers,
    nat; both NaN where text was generated."""

    value: float
    margin: float = math.nan
    entropy: float = math.nan


@dataclass(frozen=True)
class View:
    """Images in a cache, and the questions that are asked about them under one adapter (None: the model as it is)."""

    prefix: Prefix
    adapter: str | None
    questions: tuple[Question, ...]


class LRMReward:
    """process in [0, 1], completion in [0, 1], contrastive in [-1, 1] (0 without a pair).

    counters: tokens: through the model so far; unreadable: generated answers that were none of the allowed ones; each counts as 0, as
    published.
    """

    def __init__(self, settings: LRMSettings, vlm: VisionLanguageModel, config: str) -> None:
        self.settings, self._vlm = settings, vlm
        questions = (settings.process, settings.completion, settings.contrastive)
        words = config_hash([asdict(question) for question in questions])
        precision = f"{settings.dtype}-{settings.mode}"
        self.provenance = Provenance("lrm", vlm.identity, vlm.revision, precision, words, config)
        self.needs = RewardNeeds((settings.camera,), settings.image_size, settings.every, 2, vlm.memory, str(vlm.model.device))
        self.counters = {"unreadable": 0}
        self._answers = {tuple(question.answers): Answers(vlm.tokenizer, list(question.answers)) for question in questions}
        # Of single frames the episode's first stays in the cache. What an adapter makes of an image is its own, so each has a cache.
        single = [("process",), ("completion",)] if settings.adapters else [("process", "completion")]
        self._newest = [self._view(names) for names in single]
        self._pair = self._view(("contrastive",))
        self.reset("", "", 0)

    @classmethod
    def load(cls, config: dict[str, Any], profile: Any, device: str = "cpu") -> LRMReward:
        """From config/rewards/lrm.yaml. ConfigError where no model is named, AssetError where it or an adapter cannot be loaded."""
        source = source_of(config, _SOURCE)
        settings = parse(LRMSettings, config, source)
        vlm = load(settings.model, settings.dtype, device, source, profile.asset_name)
        if settings.adapters:
            load_adapters(vlm.model, settings.adapters, source)
            vlm = replace(vlm, revision=config_hash([vlm.revision, *(revision(Path(one)) for one in settings.adapters.values())]))
        return cls(settings, vlm, config_hash(config))

    def beside(self) -> LRMReward:
        """The same weights, for another robot's camera."""
        return LRMReward(self.settings, self._vlm, self.provenance.config)

    def _view(self, names: tuple[str, ...]) -> View:
        adapter = names[0] if self.settings.adapters else None
        switch(self._vlm.model, adapter)  # the prompt's head is computed at once
        return View(
            Prefix(self._vlm.model, self._vlm.images, counters=self.counters),
            adapter,
            tuple(getattr(self.settings, name) for name in names),
        )

    def reset(self, episode_id: str, instruction: str, seed: int) -> None:
        """Forget the last episode. Answers are deterministic: seed and episode_id change nothing."""
        self.tell(instruction)
        self._images: deque[Segment] = deque(maxlen=self.settings.interval)
        self._before: float | None = None  # process of the frame before
        for view in self._newest:
            view.prefix.truncate(0)

    def tell(self, instruction: str) -> None:
        """Other words from the next score on."""
        self._instruction = checked(instruction)

    def observe(self, images: dict[str, np.ndarray], stamp: int) -> RewardSample:
        """Judge the newest frame. InputError where the camera is missing or its size is another."""
        check_frames(images, self.needs)
        newest = self._vlm.images.frames([images[self.settings.camera]], [0.0])
        earlier = self._images[0] if len(self._images) == self.settings.interval else None
        self._images.append(newest)
        try:
            process, completion = (answer for view in self._newest for answer in self._look(view, newest))
            contrast = self._compare(earlier, newest)
        except ValueError as error:
            return RewardSample(stamp, valid=False, reason=str(error), window=self._seen)
        before, self._before = self._before, process.value
        return RewardSample(
            stamp,
            raw=process.value,
            progress=process.value,
            process=process.value,
            completion=completion.value,
            contrastive=contrast,
            total=self._total(process.value, before, completion.value, contrast),
            margin=completion.margin,
            entropy=process.entropy,
            window=self._seen,
        )

    def score_episode(self, frames: list[dict[str, np.ndarray]], stamps: list[int]) -> list[RewardSample]:
        """The samples of a whole episode, by the same path as live. Call reset() first."""
        return [self.observe(images, stamp) for images, stamp in zip(frames, stamps, strict=True)]

    @property
    def _seen(self) -> int:
        """Images of the newest answer."""
        return self._newest[0].prefix.patches

    def _look(self, view: View, newest: Segment) -> list[Answer]:
        """The answers of a view about the newest image, behind the episode's first."""
        switch(self._vlm.model, view.adapter)
        if self.settings.initial and view.prefix.patches == 0:
            view.prefix.extend([newest])
        view.prefix.truncate(int(self.settings.initial))
        return self._ask(view, [newest])

    def _compare(self, earlier: Segment | None, newest: Segment) -> float:
        """Which of two images is nearer to done: 1 the later one, -1 the earlier one."""
        if earlier is None:
            return 0.0
        switch(self._vlm.model, self._pair.adapter)
        self._pair.prefix.truncate(0)
        return self._ask(self._pair, [earlier, newest])[0].value

    def _ask(self, view: View, images: list[Segment]) -> list[Answer]:
        """Of each question about these images behind the view's; the images are added to them."""
        words = [question.text.replace("{instruction}", self._instruction) for question in view.questions]
        if self.settings.mode == "generate":
            view.prefix.extend(images)
            return [self._written(view.prefix, text, question) for text, question in zip(words, view.questions, strict=True)]
        asked = [
            (self._answers[tuple(question.answers)], self._vlm.images.question(text, question.start))
            for text, question in zip(words, view.questions, strict=True)
        ]
        return [_answer(one, question) for one, question in zip(judge(view.prefix, images, asked), view.questions, strict=True)]

    def _written(self, prefix: Prefix, text: str, question: Question) -> Answer:
        tokens = prefix.generate(self._vlm.images.question(text, ""), self.settings.limit, self._vlm.stops)
        value = read(self._vlm.tokenizer.decode(tokens), question.answers)
        self.counters["unreadable"] += value is None
        return Answer(value or 0.0)

    def _total(self, process: float, before: float | None, completion: float, contrast: float) -> float:
        if self.settings.signal == "held":
            return total(process, completion, contrast)
        if before is None:
            return 0.0
        return process - before if self.settings.signal == "increments" else self.settings.discount * process - before


def _answer(judgement: Judgement, question: Question) -> Answer:
    """The expectation over the answers' values."""
    values = np.array(list(question.answers.values()))
    best = float(judgement.probabilities[values.argmax()])
    odds = math.log(max(best, 1e-30)) - math.log(max(1.0 - best, 1e-30))
    return Answer(float(judgement.probabilities @ values), odds, judgement.entropy)
