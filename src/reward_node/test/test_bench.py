"""The benchmark of rewards: its ways of scoring a video agree, so that its times are of the same work."""

from __future__ import annotations

import numpy as np
import pytest

from reward_node import bench
from reward_node.bench import SHARED, SUBJECTS, Case, measure, rows
from whetstone.errors import ConfigError


def test_all_ways_give_the_same_scores() -> None:
    found = {subject: measure(Case("tiny", 6, 32, subject, None, "cpu", 1)) for subject in SUBJECTS}
    found["streaming_int8"] = measure(Case("tiny", 6, 32, "streaming", "int8", "cpu", 1))
    for subject in SUBJECTS:
        np.testing.assert_allclose(found[subject].scores, found["recompute"].scores, atol=1e-4, err_msg=subject)
    drift = np.abs(found["streaming_int8"].scores - found["recompute"].scores)
    assert drift.max() > 1e-6 and found["streaming_int8"].weights < found["recompute"].weights
    made = {(row["subject"], row["metric"]): row["value"] for row in rows("tiny", 6, "32 px, cpu", found)}
    assert made["recompute", "speedup"] == 1.0 and made["streaming", "episode_time"] > 0
    assert made["streaming_int8", "max_abs_difference"] == pytest.approx(drift.max(), rel=1e-3)
    assert all(made[subject, "peak_memory"] >= 0 for subject in found)


def test_several_robots_are_scored_alike_in_one_pass_and_in_several() -> None:
    found = {subject: measure(Case("tiny", 6, 32, subject, None, "cpu", 1, 3)) for subject in SHARED}
    single = measure(Case("tiny", 6, 32, "streaming", None, "cpu", 1))
    np.testing.assert_allclose(found["together"].scores, found["alone"].scores, atol=1e-4)
    np.testing.assert_allclose(found["together"].scores[::3], single.scores, atol=1e-4)
    assert len(found["alone"].each) == 3 and len(set(found["alone"].scores)) == 9
    made = {(row["subject"], row["metric"]): row["value"] for row in rows("tiny", 6, "32 px, cpu, 3 robots", found)}
    assert made["alone", "speedup"] == 1.0 and made["together", "speedup"] > 0


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("models:=huge", "unknown model 'huge'"),
        ("frames:=7", "frames:= must be even numbers of at least 2"),
        ("frames:=many", "frames:= must be even numbers joined by commas"),
        ("pixels:=100", "pixels:= a multiple of 32"),
        ("robots:=0", "robots:= at least 1"),
        ("precisions:=int9", "unknown precision 'int9'; did you mean 'int8'"),
    ],
)
def test_wrong_words_are_named(word: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        bench.main([word])
