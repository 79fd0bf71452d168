"""Parts of frame sets joined by control step, whatever their order, and made into what a model is shown."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from whetstone_samples import picture, robot

from whetstone.contracts import PROPRIOCEPTION, RewardNeeds
from whetstone.errors import InputError
from whetstone.frame_sets import FrameSets, decoded, parts_of

PERIOD = 50_000_000
START = 2**60


@given(st.permutations([(part, step) for part in ("front", "wrist") for step in range(9)]), st.integers(1, 4))
def test_every_due_set_is_whole_once_and_of_one_step(order: list[tuple[str, int]], every: int) -> None:
    sets: FrameSets[int] = FrameSets(("front", "wrist"), 20.0, every)
    sets.begin(START)
    whole, given_up = [], []
    for part, step in order:
        joined = sets.take(part, START + step * PERIOD + (7 if part == "wrist" else 0), step)
        assert joined.due or step % every or step <= max(whole, default=-1)
        given_up += [frames for frames in joined.given_up]
        if joined.whole is not None:
            assert set(joined.whole.parts.values()) == {step} and joined.whole.stamp == START + step * PERIOD
            whole.append(step)
    assert whole == sorted(set(whole)) and all(step % every == 0 for step in whole)
    assert {sets.missing(frames) for frames in given_up} <= {"front", "wrist"}
    # What was not whole was given up, or still waits behind the newest whole one.
    assert all(index > max(whole, default=-1) for index in sets.pending)


def test_what_waits_too_long_is_given_up_and_does_not_come_back() -> None:
    sets: FrameSets[str] = FrameSets(("front", "wrist"), 20.0, 1)
    sets.take("front", 0, "a")
    assert sets.give_up(sets.pending[0].arrived) == []
    (frames,) = sets.give_up(sets.pending[0].arrived + 1)
    assert sets.missing(frames) == "wrist"
    assert not sets.take("wrist", 0, "b").due


def test_what_later_steps_have_overtaken_is_given_up() -> None:
    sets: FrameSets[str] = FrameSets(("front", "wrist"), 20.0, 2)
    sets.begin(START)
    for step in range(0, 8, 2):
        sets.take("wrist", START + step * PERIOD, "a")
    assert [sets.index(frames.stamp) for frames in sets.overtaken(START + 4 * PERIOD)] == [0, 2]
    assert sorted(sets.pending) == [4, 6] and not sets.take("front", START + 2 * PERIOD, "b").due
    assert sets.take("front", START + 4 * PERIOD, "b").whole is not None


def test_messages_and_arrays_give_the_same() -> None:
    profile, image = robot(), picture(1, 8)
    joints = SimpleNamespace(name=["g", "b", "a"], position=[0.1, 0.5, -0.5])
    message = SimpleNamespace(height=8, width=8, encoding="rgb8", is_bigendian=0, step=24, data=image.tobytes())
    seen = decoded({"front": message, PROPRIOCEPTION: joints}, ("front",), (8, 8), profile)
    again = decoded({"front": image, PROPRIOCEPTION: seen[PROPRIOCEPTION]}, ("front",), (8, 8), profile)
    assert np.array_equal(seen["front"], image) and np.array_equal(again["front"], image)
    assert np.allclose(seen[PROPRIOCEPTION], [-0.5, 0.5, 0.0]) and again[PROPRIOCEPTION] is seen[PROPRIOCEPTION]
    with pytest.raises(InputError, match="camera 'front': image is 8x8, but 4x6 is needed"):
        decoded({"front": image}, ("front",), (6, 4), profile)
    assert decoded({"front": image}, ("front",), (6, 4), profile, "crop")["front"].shape == (6, 4, 3)
    assert parts_of(RewardNeeds(("front",), (8, 8), 4, proprioception=3)) == ("front", PROPRIOCEPTION)
