"""Log-probabilities of answers about a growing video, for every frame and every question, computing again only what a window changes.

Role: between the windows (which frames a score sees) and the language model's cache (vlm/prefix.py): finds what of a window the cache
already holds, adds what is new, and asks as many questions in one pass as fit. Adding frames one by one and adding an episode at once
give the same answers; what differs is the number of passes. Depends on torch by way of the cache; knows nothing of rewards or ROS.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import numpy as np

from reward_node.topreward.window import Window, WindowSettings
from reward_node.vlm.layout import Layout, Segment
from reward_node.vlm.prefix import Branch, Prefix, Work, together

TOGETHER = 2048
"""Tokens, those in the caches too, up to which videos share a pass. Each pays attention to all and hides the others', so that long ones
cost more than they save (2 CPU cores, 4 robots: 1.2 times as fast at 16 frames of a growing window, 0.7 times at 64)."""
_INTERVAL = 0.5
"""Seconds between two images of a fixed window as the prompt has it: the paper's 2 frames/s, whatever the true time."""


class VideoScorer:
    """answers: token ids whose log-probabilities are wanted. tokens: that one pass may hold, of patches and of questions."""

    def __init__(self, model: Any, layout: Layout, window: WindowSettings, answers: Sequence[int], tokens: int = 4096) -> None:
        self.layout = layout
        self._answers, self._tokens = list(answers), tokens
        self._settings = window
        self._prefix = Prefix(model, layout)
        self.counters = self._prefix.counters
        self.begin([])

    def begin(self, questions: Sequence[str]) -> None:
        """A new video, about which each frame is asked all of `questions`."""
        self.ask(questions)
        self._window: Window = self._settings.make()
        self._count = 0
        self._frames: dict[int, tuple[np.ndarray, float]] = {}
        self._held: list[tuple[int, ...]] = []  # frames of each patch in the cache, then of those that wait
        self._waiting: list[Segment] = []
        self._branches: list[Branch] = []
        self._done: list[np.ndarray] = []
        self._prefix.truncate(0)

    def ask(self, questions: Sequence[str]) -> None:
        """Other questions from the next frame on; call answers() before, if those of frames added so far are wanted."""
        self._questions = [self.layout.question(text) for text in questions]

    def add(self, image: np.ndarray, time: float) -> int:
        """The next frame, (height, width, 3) uint8 RGB, and its time in s; returns how many frames its score sees."""
        self._frames[self._count] = image, time
        chosen = self._window.add(self._count)
        self._count += 1
        size = self.layout.patch
        patches = [chosen[at : at + size] for at in range(0, len(chosen), size)]
        rest = patches.pop() if len(patches[-1]) < size else ()
        common = 0
        while common < min(len(patches), len(self._held)) and patches[common] == self._held[common]:
            common += 1
        if common < len(self._held):
            self._flush()
            self._prefix.truncate(common)
            del self._held[common:]
        for position in range(common, len(patches)):
            self._waiting.append(self._segment(patches[position], position))
            self._held.append(patches[position])
        behind = (self._segment(rest, len(patches)),) if rest else ()
        self._branches += [Branch(len(patches), (*behind, question)) for question in self._questions]
        self._frames = {index: self._frames[index] for index in self._window.kept}
        if self.waiting > self._tokens:
            self._flush()
        return len(chosen)

    @property
    def waiting(self) -> int:
        """Tokens that the next pass would hold."""
        return sum(len(one.ids) for one in self._waiting) + sum(one.tokens for one in self._branches)

    def answers(self) -> np.ndarray:
        """(frames added since the last call, questions, answers) log-probabilities, nat."""
        self._flush()
        done, self._done = self._done, []
        shape = (-1, len(self._questions), len(self._answers))
        return np.concatenate(done).reshape(shape) if done else np.empty((0, *shape[1:]))

    def _segment(self, patch: Sequence[int], position: int) -> Segment:
        images, times = zip(*(self._frames[index] for index in patch), strict=True)
        if self._settings.kind == "fixed":
            # The time in the prompt would tell the frames of a still apart.
            times = [(position * self.layout.patch + slot) * _INTERVAL for slot in range(len(patch))]
        return self.layout.frames(images, times)

    def _flush(self) -> None:
        with self._work() as work:
            if work.patches or work.branches:
                self._done.append(self._prefix.extend(work.patches, work.branches, self._answers))

    @contextmanager
    def _work(self) -> Iterator[Work]:
        """What waits; it waits no longer, whatever happens."""
        work = Work(self._prefix, self._waiting, self._branches)
        self._waiting, self._branches = [], []
        try:
            yield work
        except BaseException:
            del self._held[self._prefix.patches :]  # out of memory, perhaps: those scores are lost, the video is not
            raise

    @staticmethod
    def answer(scorers: Sequence[VideoScorer]) -> list[np.ndarray]:
        """answers() of each: videos of several robots under one model, in as few passes as pays."""
        group: list[VideoScorer] = []
        for scorer in scorers:
            if sum(one.waiting + one._prefix.places[-1].tokens for one in [*group, scorer]) > TOGETHER:
                _pass(group)
                group = []
            group.append(scorer)
        _pass(group)
        return [scorer.answers() for scorer in scorers]


def _pass(scorers: Sequence[VideoScorer]) -> None:
    """All that waits, in one pass. One video's own is cut into several where it is long (answers() does that)."""
    if len(scorers) < 2:
        return
    with ExitStack() as stack:
        works = [stack.enter_context(scorer._work()) for scorer in scorers]
        found = together(works, scorers[0]._answers)
        for scorer, answers in zip(scorers, found, strict=True):
            scorer._done.append(answers)
