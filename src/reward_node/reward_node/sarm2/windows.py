"""Windows of frames for training: sampling, rewinding, pausing.

Role: frame indices only, so it can be tested without images. Does not depend on torch, ROS or the network.
"""

from __future__ import annotations

import numpy as np


def forward_window(newest: np.ndarray, stride: np.ndarray, recent: int) -> np.ndarray:
    """(B, recent) frame indices ending at `newest` (B,), `stride` (B,) frames apart; before the episode the first frame stands."""
    steps = np.arange(recent - 1, -1, -1)
    return np.maximum(newest[:, None] - steps * stride[:, None], 0)


def rewind(newest: np.ndarray, stride: np.ndarray, recent: int, reversed_frames: np.ndarray) -> np.ndarray:
    """Windows whose last `reversed_frames` (B,) entries run backwards from `newest`, so that the target decreases there.

    The rewind augmentation of SARM2 (arXiv 2606.10305): the motion is undone, and what is shown counts, not that time passed.
    0 reversed frames is the plain forward window.
    """
    place = np.arange(recent)[None, :]
    turn = recent - 1 - reversed_frames[:, None]
    return np.maximum(newest[:, None] - np.abs(turn - place) * stride[:, None], 0)


def pause(window: np.ndarray, held: np.ndarray) -> np.ndarray:
    """Windows (B, recent) that end in `held` (B,) more copies of their last frame: a robot that stalls makes no progress."""
    recent = window.shape[1]
    place = np.minimum(np.arange(recent)[None, :] + held[:, None], recent - 1)
    return np.take_along_axis(window, place, axis=1)
