"""GVL as a reward plug-in, for whole episodes only.

Role: entry point `gvl`: the baseline that other reward models are compared with (arXiv 2411.04549). A vision-language model is shown the
first frame of an episode as 0 % and others in random order, so that it cannot merely count up, and writes a percentage for each. How the
text is read: reading.py. The in-context examples that the paper offers besides are left out. Does not depend on ROS.
"""

from __future__ import annotations

import math
from dataclasses import asdict
from typing import Any

import numpy as np
import torch

from reward_node.frames import check_frames, side_by_side
from reward_node.gvl.reading import read
from reward_node.gvl.settings import GVLSettings
from reward_node.instructions import checked
from reward_node.signals import contrastive, total, uniform_window
from reward_node.vlm.layout import Segment
from reward_node.vlm.loading import VisionLanguageModel, load
from reward_node.vlm.prefix import Branch, Prefix
from whetstone.config import config_hash, parse, source_of
from whetstone.contracts import Provenance, RewardNeeds, RewardSample

_SOURCE = "config/rewards/gvl.yaml"


class _NoAnswer(Exception):
    """Why an episode has no values."""


class GVLReward:
    """process in [0, 1] as the model wrote it, for the frames that it was shown; linear in time between them. completion is the same
    figure: GVL has no other.

    offline: the scores of a frame follow from the frames after it too, so nothing may learn from them while an episode runs.
    counters: tokens: through the model so far; unreadable: episodes whose answer did not give every picture one
    percentage; all their samples are invalid.
    """

    offline = True

    def __init__(self, settings: GVLSettings, vlm: VisionLanguageModel, config: str) -> None:
        self.settings, self._vlm = settings, vlm
        words = config_hash(asdict(settings.prompt))
        self.provenance = Provenance("gvl", vlm.identity, vlm.revision, settings.dtype, words, config)
        self.needs = RewardNeeds(settings.cameras, settings.image_size, settings.every, settings.frames, vlm.memory, str(vlm.model.device))
        self.counters = {"unreadable": 0}
        self._prefix = Prefix(vlm.model, vlm.images, counters=self.counters)
        self.reset("", "", 0)

    @classmethod
    def load(cls, config: dict[str, Any], profile: Any, device: str = "cpu") -> GVLReward:
        """From config/rewards/gvl.yaml. ConfigError where no model is named, AssetError where it cannot be loaded."""
        source = source_of(config, _SOURCE)
        settings = parse(GVLSettings, config, source)
        return cls(settings, load(settings.model, settings.dtype, device, source, profile.asset_name), config_hash(config))

    def reset(self, episode_id: str, instruction: str, seed: int) -> None:
        """A new episode. The order in which its frames are shown follows from `seed` alone."""
        self._instruction, self._seed = checked(instruction), seed

    def observe(self, images: dict[str, np.ndarray], stamp: int) -> RewardSample:
        """Never a score: an invalid sample that says why."""
        reason = "GVL needs the whole episode and works offline only: whetstone evaluate-reward"
        return RewardSample(stamp, valid=False, reason=reason)

    def score_episode(self, frames: list[dict[str, np.ndarray]], stamps: list[int]) -> list[RewardSample]:
        """One sample a frame, all from one answer. Call reset() first. InputError where a camera is missing or an image unfit."""
        if not frames:
            return []
        for images in frames:
            check_frames(images, self.needs)
        shown = np.unique(uniform_window(len(frames), self.settings.frames))
        try:
            shares = self._ask([side_by_side(frames[index], self.needs.cameras) for index in shown])
        except _NoAnswer as error:
            return [RewardSample(stamp, valid=False, reason=str(error), window=len(shown)) for stamp in stamps]
        times = np.asarray(stamps, np.int64) - stamps[0]
        return self._samples(np.interp(times, times[shown], shares), stamps, len(shown))

    def segments(self, views: list[np.ndarray]) -> tuple[list[Segment], np.ndarray]:
        """The prompt behind its head, without the question, and the order: entry k is the index of the view shown as picture k + 1."""
        prompt, layout = self.settings.prompt, self._vlm.images
        # Not str.format: an instruction may hold braces.
        pieces = [self._text(prompt.opening.replace("{instruction}", self._instruction)), layout.frames(views[:1], [0.0])]
        pieces.append(self._text(prompt.first))
        order = 1 + np.random.default_rng(self._seed).permutation(len(views) - 1)
        for number, index in enumerate(order, start=1):
            pieces += [self._text(prompt.picture.replace("{number}", str(number))), layout.frames([views[index]], [0.0])]
        return pieces, order

    def _ask(self, views: list[np.ndarray]) -> np.ndarray:
        """(views,) shares in [0, 1], in the views' own order. _NoAnswer where the model's answer cannot be used."""
        shares = np.zeros(len(views))
        if len(views) < 2:
            return shares
        pieces, order = self.segments(views)
        question = self._vlm.images.question(self.settings.prompt.question.replace("{count}", str(len(order))), "")
        self._prefix.truncate(0)
        if np.isnan(self._prefix.extend(pieces, [Branch(len(pieces), (question,))], [0])).any():
            raise _NoAnswer("the language model gave a value that is not a number")
        tokens = self._prefix.generate(question, self.settings.limit, self._vlm.stops)
        found = read(self._vlm.tokenizer.decode(tokens), len(order))
        if found is None:
            self.counters["unreadable"] += 1
            raise _NoAnswer(f"the language model did not give each of the {len(order)} pictures one percentage")
        shares[order] = found
        return shares

    def _text(self, text: str) -> Segment:
        return Segment(torch.tensor(self._vlm.tokenizer.encode(text, add_special_tokens=False), dtype=torch.long))

    def _samples(self, shares: np.ndarray, stamps: list[int], window: int) -> list[RewardSample]:
        settings, samples = self.settings.contrastive, []
        for index, (stamp, share) in enumerate(zip(stamps, shares.tolist(), strict=True)):
            before = float(shares[index - settings.window]) if index >= settings.window else math.nan
            contrast = contrastive(share, before, settings.dead_zone)
            samples.append(
                RewardSample(
                    stamp, raw=share, progress=share, process=share, completion=share, contrastive=contrast,
                    total=total(share, share, contrast), window=window,
                )
            )  # fmt: skip
        return samples
