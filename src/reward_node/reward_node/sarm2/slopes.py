"""Human labels of a rollout: segments with a slope each, turned into a progress curve.

Role: the label file and its formula (rollout labels of SARM2, arXiv 2606.10305). Does not depend on torch, ROS or the network.

A person who watches a rollout says of every stretch of it how things went; the stretches become slopes of progress. The labels of
NAME.npz, a demonstration on disk, are in NAME.labels.json beside it:

    {
      "slope": 0.02,
      "segments": [
        {"first_frame": 0, "last_frame": 20, "label": "fast"},
        {"first_frame": 21, "last_frame": 27, "label": "mistake"},
        {"first_frame": 28, "last_frame": 59, "label": "slow"}
      ]
    }

slope: progress per frame of a stretch that goes slowly: 1 / (frames that the whole task takes when it goes slowly all along). Frames are
those that the demonstration keeps (F of them, from 0), both ends inclusive; the segments follow on each other and cover all of them.
label: fast, slow, adjust (nothing gained, nothing lost), mistake (something undone) or catastrophic (all is lost).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np

from whetstone import jsonfile
from whetstone.config import parse
from whetstone.errors import ConfigError, InputError

Label = Literal["fast", "slow", "adjust", "mistake", "catastrophic"]

SLOPES: dict[Label, float] = {"fast": 2.0, "slow": 1.0, "adjust": 0.0, "mistake": -1.0}
"""Of each label, times the base slope (arXiv 2606.10305); `catastrophic` has none: progress is 0."""


@dataclass(frozen=True)
class Segment:
    """Frames first_frame .. last_frame, both inclusive, that one label holds for."""

    first_frame: int = field(metadata={"ge": 0})
    last_frame: int = field(metadata={"ge": 0})
    label: Label


@dataclass(frozen=True)
class RolloutLabels:
    """The whole file. slope: progress per frame of a stretch labelled slow."""

    slope: float = field(metadata={"gt": 0, "le": 1})
    segments: tuple[Segment, ...]


def progress_curve(labels: RolloutLabels, frames: int) -> np.ndarray:
    """(frames,) float32 progress in [0, 1]: 0 at the first frame, then each frame adds the slope of its segment.

    Progress is kept within [0, 1] frame by frame: what is lost after the end is lost from 1, not from what was earned beyond it. A
    catastrophic segment is 0 from its first frame on, and what follows it begins there. ValueError names the first segment that leaves a
    gap, overlaps the one before, ends before it begins, or goes beyond the rollout, and the frames at its end that have no label.
    """
    curve = np.zeros(frames, np.float32)
    expected, progress = 0, 0.0
    for index, segment in enumerate(labels.segments):
        name = f"segments[{index}] (frames {segment.first_frame} to {segment.last_frame}, {segment.label})"
        if segment.first_frame != expected:
            raise ValueError(f"{name} must begin at frame {expected}: segments follow on each other, without gap or overlap")
        if not segment.first_frame <= segment.last_frame < frames:
            raise ValueError(f"{name} must end within frames {segment.first_frame} to {frames - 1}, the rollout's last")
        for frame in range(segment.first_frame, segment.last_frame + 1):
            if segment.label == "catastrophic":
                progress = 0.0
            elif frame > 0:
                progress = min(max(progress + SLOPES[segment.label] * labels.slope, 0.0), 1.0)
            curve[frame] = progress
        expected = segment.last_frame + 1
    if expected != frames:
        raise ValueError(f"segments[{len(labels.segments)}] is missing: frames {expected} to {frames - 1}, the last, have no label")
    return curve


def label_path(demonstration: Path) -> Path:
    """Where the labels of a demonstration are, if a person has given any: NAME.npz -> NAME.labels.json."""
    return demonstration.with_suffix(".labels.json")


def load_curve(path: Path, frames: int) -> np.ndarray | None:
    """progress_curve() of a label file, None where there is no such file. InputError names the file and the key or segment."""
    data = jsonfile.read(path)
    if data is None:
        return None
    try:
        return progress_curve(parse(RolloutLabels, data, str(path)), frames)
    except ConfigError as error:
        raise InputError(str(error)) from None
    except ValueError as error:
        raise InputError(f"{path}: {error}") from None
