"""Scores of a reward model in an episode that is over: those that a live run would have joined."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from whetstone_samples import picture, recorded, robot

from whetstone.contracts import PROPRIOCEPTION, Provenance, RewardNeeds, RewardSample, Rollout
from whetstone.errors import InputError
from whetstone.frames import encode
from whetstone.labelling import label
from whetstone.store import RolloutStore

ROBOT = robot()


class Red:
    """Progress: the mean of red; completion: the first joint."""

    provenance = Provenance("red", "painted")

    def __init__(self, every: int, camera: str = "front") -> None:
        self.needs = RewardNeeds((camera,), (64, 64), every, proprioception=3)
        self.told: list[Any] = []

    @classmethod
    def load(cls, config: dict[str, Any], profile: Any, device: str = "cpu") -> Red:
        return cls(1)

    def reset(self, episode_id: str, instruction: str, seed: int) -> None:
        self.told = [episode_id, instruction, seed]

    def observe(self, images: dict[str, np.ndarray], stamp: int) -> RewardSample:
        red = float(images[self.needs.cameras[0]][..., 0].mean())
        return RewardSample(stamp, progress=red, completion=float(images[PROPRIOCEPTION][0]))

    def score_episode(self, frames: list[dict[str, np.ndarray]], stamps: list[int]) -> list[RewardSample]:
        return [self.observe(images, stamp) for images, stamp in zip(frames, stamps)]


def red(image: np.ndarray) -> np.float32:
    return np.float32(image[..., 0].mean())


@pytest.mark.parametrize("every", [1, 2, 3, 4])
def test_scores_are_those_of_every_so_many_steps_and_of_the_end(tmp_path: Path, every: int) -> None:
    rollout = recorded(decisions=3, execute=4)
    stamps = rollout.steps["stamps"].tolist()
    store = RolloutStore(tmp_path)
    store.write(rollout, (("front", stamp, encode(picture(500 + step), lossless=True)) for step, stamp in enumerate(stamps)))
    model = Red(every)
    done = label(store.read(rollout.episode_id), store.frames(rollout.episode_id), model, ROBOT)
    assert model.told == [rollout.episode_id, rollout.instruction, rollout.seed] and done.reward_model_id == "red@painted"
    steps = [*range(0, 12, every), 12]
    assert done.scores["stamps"].tolist() == [stamps[step] for step in steps]
    np.testing.assert_array_equal(done.scores["completion"], rollout.steps["measured"][steps, 0])
    # Decisions and the last frame are exact, other steps come from the file.
    exact = {0: rollout.images["front"][0], 4: rollout.images["front"][1], 8: rollout.images["front"][2], 12: rollout.last_images["front"]}
    np.testing.assert_array_equal(done.scores["progress"], [red(exact.get(step, picture(500 + step))) for step in steps])
    expected = [red(exact[step]) if step in steps else np.nan for step in (0, 4, 8, 12)]
    np.testing.assert_array_equal(done.rewards["progress"], np.array(expected, np.float32))
    assert np.isnan(done.rewards["total"]).all(), "nothing of the model before is left"


def test_without_an_episode_s_first_step_its_decisions_are_scored_all_the_same() -> None:
    """In real time the first decision comes at step 1, the others where the reward node scores: at 4, 8, 12."""
    whole = recorded(decisions=4, execute=4)
    late = whole.stamps[0] + (whole.stamps[1] - whole.stamps[0]) // 4
    steps = {name: values[1:] for name, values in whole.steps.items()}
    rollout = replace(whole, stamps=np.array([late, *whole.stamps[1:]]), steps=steps)
    assert steps["stamps"][0] == late
    done = label(rollout, None, Red(4), ROBOT)
    assert done.scores["stamps"].tolist() == [*whole.stamps[1:].tolist(), rollout.end]
    assert np.isnan(done.rewards["progress"]).tolist() == [True, False, False, False, False]


@pytest.mark.parametrize(
    ("rollout", "model", "said"),
    [
        (recorded(), Red(2), "red scores a frame in 2 control steps, and there is no image of 'front' 0.10 s after the first: record with"),
        (recorded(), Red(4, "side"), "it has no camera 'side', which red looks at; it has front"),
        (recorded(steps={}), Red(4), "its control steps were not recorded"),
    ],
)
def test_what_is_missing_is_named(rollout: Rollout, model: Red, said: str) -> None:
    with pytest.raises(InputError, match=said):
        label(rollout, None, model, ROBOT)
