"""The reward models that the repository carries: they fit their configuration, and hold on a still of a real size."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from reward_node.controls import ShuffledReward
from reward_node.sarm2 import SARM2Reward
from whetstone.assets import asset_path
from whetstone.config import find, load_yaml
from whetstone.errors import AssetError
from whetstone.profile import load_profile

ROBOTS = ("franka", "so100")


def frames(count: int) -> list[dict[str, np.ndarray]]:
    random = np.random.default_rng(0)
    return [{name: random.integers(0, 256, (128, 128, 3), dtype=np.uint8) for name in ("front", "wrist")} for _ in range(count)]


@pytest.mark.parametrize("robot", ROBOTS)
def test_weights_fit_the_configuration_and_a_still_does_not_rise(robot: str) -> None:
    reward = SARM2Reward.load(load_yaml(find("rewards", "sarm2")), load_profile(robot))
    assert reward.needs.every == 4 and reward.provenance.model_id.startswith("sarm2@")
    reward.reset("a", "put the red cube in the tray", 0)
    samples = reward.score_episode(frames(1) * 12, list(range(12)))
    assert len({(sample.progress, sample.completion) for sample in samples}) == 1
    assert all(sample.valid and 0.0 <= sample.progress <= 1.0 and 0.0 <= sample.completion <= 1.0 for sample in samples)
    reward.reset("b", "put the red cube in the tray", 0)
    clip = frames(8)
    before = reward.score_episode(clip, list(range(8)))
    reward.reset("c", "put the red cube in the tray", 0)
    assert reward.score_episode([*clip[:5], *clip[:3]], list(range(8)))[:5] == before[:5]


@pytest.mark.parametrize("robot", ROBOTS)
def test_the_shuffled_control_draws_from_the_bank_of_the_asset(robot: str) -> None:
    reward = ShuffledReward.load(load_yaml(find("rewards", "shuffled")), load_profile(robot))
    assert len(reward.bank) > 500 and reward.bank.shape[1] == 3
    done = float((reward.bank[:, 1] >= 0.6).mean())
    assert 0.02 < done < 0.5, "some random frames must look completed, or no episode of the control ever ends in success"
    assert reward.provenance.model_id.startswith("shuffled(sarm2)@")


def test_weights_of_another_configuration_are_refused(tmp_path: Path) -> None:
    config = load_yaml(find("rewards", "sarm2"))
    config["network"] = {**config["network"], "experts": 4}
    with pytest.raises(AssetError, match="reward_franka.safetensors: made with another network"):
        SARM2Reward.from_file(config, "franka", asset_path("reward_franka.safetensors"))
    with pytest.raises(AssetError, match="make assets"):
        SARM2Reward.load({**config, "weights": "reward_nobody.safetensors"}, load_profile("franka"))
