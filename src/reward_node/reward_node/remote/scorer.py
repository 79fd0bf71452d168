"""Log-probabilities of answers about a growing video, of a model behind a server.

Role: between the window (which frames a score sees) and the server: holds the frames of the episode as PNG, and asks. Has the methods of
topreward/scorer.py, so that TOPReward is one code for both. Does not depend on ROS.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence

import numpy as np
from PIL import Image

from reward_node.remote.served import ServedModel
from reward_node.topreward.window import FixedWindow


class RemoteScorer:
    """frames: in every prompt, uniform over elapsed time. Each is one image of the prompt, so the model is told no times."""

    def __init__(self, served: ServedModel, frames: int) -> None:
        self._served, self._frames = served, frames
        self.begin([])

    def begin(self, questions: Sequence[str]) -> None:
        """A new video, about which each frame is asked all of `questions`."""
        self.ask(questions)
        self._window = FixedWindow(self._frames)
        self._count = 0
        self._images: dict[int, str] = {}
        self._waiting: list[list[str]] = []

    def ask(self, questions: Sequence[str]) -> None:
        """Other questions from the next frame on; call answers() before, if those of frames added so far are wanted."""
        self._questions = list(questions)

    def add(self, image: np.ndarray, time: float) -> int:
        """The next frame, (height, width, 3) uint8 RGB; returns how many images its score sees. `time` is not used: see the class."""
        self._images[self._count] = data_url(image)
        chosen = self._window.add(self._count)
        self._count += 1
        self._waiting.append([self._images[index] for index in chosen])
        self._images = {index: self._images[index] for index in self._window.kept}
        return len(chosen)

    def answers(self) -> np.ndarray:
        """(frames added since the last call, questions, answers) log-probabilities, nat. PeerError where the server gives none: the frames
        stay in the video, but that score is lost."""
        waiting, self._waiting = self._waiting, []
        values = [self._served.log_probabilities(images, question) for images in waiting for question in self._questions]
        return np.array(values, np.float64).reshape(len(waiting), len(self._questions), len(self._served.answers))


def data_url(image: np.ndarray) -> str:
    """(height, width, 3) uint8 RGB as a PNG in a URL, without loss."""
    file = io.BytesIO()
    Image.fromarray(image).save(file, format="PNG")
    return f"data:image/png;base64,{base64.b64encode(file.getvalue()).decode()}"
