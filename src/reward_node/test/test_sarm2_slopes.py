"""Human labels of rollouts: the curve's properties, the label file, and that training reads it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from reward_node.sarm2.dataset import load_episodes
from reward_node.sarm2.slopes import SLOPES, RolloutLabels, Segment, label_path, load_curve, progress_curve
from whetstone.demonstrations import Demonstration
from whetstone.errors import InputError

LABELS = (*SLOPES, "catastrophic")

pieces = st.lists(st.tuples(st.integers(1, 12), st.sampled_from(LABELS)), min_size=1, max_size=8)
slopes = st.floats(1e-4, 1.0)


def tile(parts: list[tuple[int, Any]], slope: float) -> tuple[RolloutLabels, int]:
    """Labels of segments with these (lengths, labels), and how many frames that makes."""
    segments, first = [], 0
    for length, label in parts:
        segments.append(Segment(first, first + length - 1, label))
        first += length
    return RolloutLabels(slope, tuple(segments)), first


@given(pieces, slopes)
def test_every_step_has_the_slope_of_its_label(parts: list[tuple[int, Any]], slope: float) -> None:
    labels, frames = tile(parts, slope)
    curve = progress_curve(labels, frames)
    assert curve.shape == (frames,) and curve.dtype == np.float32
    assert curve[0] == 0.0 and curve.min() >= 0.0 and curve.max() <= 1.0
    for segment in labels.segments:
        for frame in range(max(1, segment.first_frame), segment.last_frame + 1):
            rise = float(curve[frame]) - float(curve[frame - 1])
            if segment.label == "catastrophic":
                assert curve[frame] == 0.0
            elif 0.0 < curve[frame] < 1.0:
                assert rise == pytest.approx(SLOPES[segment.label] * slope, abs=1e-6)
            else:  # at a bound: never against the label, never more than it says
                assert 0.0 <= rise * np.sign(SLOPES[segment.label]) <= abs(SLOPES[segment.label]) * slope + 1e-6


@given(pieces, pieces, slopes)
def test_the_curve_knows_no_later_label(one: list[tuple[int, Any]], two: list[tuple[int, Any]], slope: float) -> None:
    labels, frames = tile(one, slope)
    longer, more = tile([*one, *two], slope)
    assert np.array_equal(progress_curve(longer, more)[:frames], progress_curve(labels, frames))


@given(pieces, slopes)
def test_cutting_segments_changes_nothing(parts: list[tuple[int, Any]], slope: float) -> None:
    singles = [(1, label) for length, label in parts for _ in range(length)]
    assert np.array_equal(progress_curve(*tile(parts, slope)), progress_curve(*tile(singles, slope)))


def test_the_slopes_of_the_paper() -> None:
    curve = progress_curve(*tile([(3, "fast"), (3, "slow"), (2, "adjust"), (2, "mistake"), (1, "catastrophic"), (2, "fast")], 0.05))
    assert curve == pytest.approx([0.0, 0.1, 0.2, 0.25, 0.3, 0.35, 0.35, 0.35, 0.3, 0.25, 0.0, 0.1, 0.2])


def test_a_mistake_after_the_end_takes_from_one() -> None:
    assert progress_curve(*tile([(5, "fast"), (1, "mistake")], 0.3)) == pytest.approx([0.0, 0.6, 1.0, 1.0, 1.0, 0.7])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"segments": [(0, 3, "slow"), (5, 9, "fast")]}, r"segments\[1\] \(frames 5 to 9, fast\) must begin at frame 4"),
        ({"segments": [(0, 3, "slow"), (3, 9, "fast")]}, r"segments\[1\] \(frames 3 to 9, fast\) must begin at frame 4"),
        ({"segments": [(1, 9, "slow")]}, r"segments\[0\] \(frames 1 to 9, slow\) must begin at frame 0"),
        ({"segments": [(0, 3, "slow"), (4, 2, "fast")]}, r"segments\[1\] \(frames 4 to 2, fast\) must end within frames 4 to 9"),
        ({"segments": [(0, 10, "slow")]}, r"segments\[0\] \(frames 0 to 10, slow\) must end within frames 0 to 9"),
        ({"segments": [(0, 3, "slow")]}, r"segments\[1\] is missing: frames 4 to 9"),
        ({"segments": []}, r"segments\[0\] is missing: frames 0 to 9"),
        ({"segments": [(0, 9, "slowly")]}, r"key 'segments\[0\].label' must be one of fast, slow, .*did you mean 'slow'"),
        ({"segments": [(0.5, 9, "slow")]}, r"key 'segments\[0\].first_frame' must be an integer"),
        ({"slope": 0}, "key 'slope' must be greater than 0"),
        ({"slope": float("nan")}, "key 'slope' must be"),
        ({"slop": 1}, "key 'slop' is unknown; did you mean 'slope'"),
    ],
)
def test_a_wrong_label_file_names_itself_and_the_segment(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    data: dict[str, Any] = {"slope": 0.1, "segments": [(0, 9, "slow")], **change}
    keys = ("first_frame", "last_frame", "label")
    data["segments"] = [dict(zip(keys, one, strict=True)) for one in data["segments"]]
    path = tmp_path / "one.labels.json"
    path.write_text(json.dumps(data))
    with pytest.raises(InputError, match=rf"one.labels.json: {message}"):
        load_curve(path, 10)


def test_a_label_file_that_is_not_json_and_one_that_is_not_there(tmp_path: Path) -> None:
    path = tmp_path / "one.labels.json"
    assert load_curve(path, 10) is None
    path.write_text("{")
    with pytest.raises(InputError, match="one.labels.json: not JSON"):
        load_curve(path, 10)
    path.write_text("[]")
    with pytest.raises(InputError, match="one.labels.json: must be a mapping"):
        load_curve(path, 10)


def test_labels_replace_the_progress_of_their_demonstration(dots: list[Demonstration], tmp_path: Path) -> None:
    for episode in dots[:2]:
        shutil.copy(episode.path, tmp_path)
    first, second = sorted(tmp_path.glob("*.npz"))
    label = {"first_frame": 0, "last_frame": 23, "label": "slow"}
    label_path(first).write_text(json.dumps({"slope": 0.02, "segments": [label]}))
    labelled, plain = load_episodes(str(tmp_path), "toy")
    assert labelled.progress == pytest.approx(0.02 * np.arange(24))
    assert np.array_equal(plain.progress, next(one.progress for one in dots if one.path.name == second.name))
    label_path(first).write_text(json.dumps({"slope": 0.02, "segments": [{**label, "last_frame": 24}]}))
    with pytest.raises(InputError, match=rf"{first.stem}.labels.json: segments\[0\] \(frames 0 to 24, slow\) must end within"):
        load_episodes(str(tmp_path), "toy")
