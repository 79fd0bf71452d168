"""When a reward model's word is a success."""

from __future__ import annotations

import math

import pytest

from whetstone.completion import Completion, first_success


@pytest.mark.parametrize(
    ("completion", "found"),
    [([0.9, 0.1, 0.9, 0.9], 3), ([0.9, 0.1, 0.9], -1), ([], -1), ([0.9, math.nan, 0.9], -1), ([0.8, 0.8], 1)],
)
def test_completion_has_to_hold_over_frames_in_a_row(completion: list[float], found: int) -> None:
    assert first_success(Completion(0.8, 2), completion, [math.nan] * len(completion)) == found


def test_progress_has_to_agree_where_it_is_asked() -> None:
    completion, progress = [0.9] * 5, [0.5, 0.95, math.nan, 0.9, 0.95]
    assert first_success(Completion(0.8, 2, 0.9), completion, progress) == 4
    assert first_success(Completion(0.8, 2), completion, progress) == 1
