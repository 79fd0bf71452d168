"""The controls know nothing of the frames."""

from __future__ import annotations

import numpy as np
import pytest
from reward_toy import random_frames, small_reward

from reward_node.controls import ConstantReward, ShuffledReward
from whetstone.config import find, load_yaml
from whetstone.errors import ConfigError

BANK = np.column_stack([np.linspace(0, 1, 50), np.linspace(1, 0, 50), np.tile([1.0, 0.0], 25)])


def test_constant_says_what_its_file_says() -> None:
    data = load_yaml(find("rewards", "constant"))
    reward = ConstantReward.load({**data, "progress": 0.25, "completion": 0.1}, None)
    reward.reset("a", "x", 0)
    samples = reward.score_episode(random_frames(5), list(range(5)))
    assert {(sample.progress, sample.completion, sample.contrastive) for sample in samples} == {(0.25, 0.1, 0.0)}
    assert [sample.stamp for sample in samples] == list(range(5))
    with pytest.raises(ConfigError, match="completion"):
        ConstantReward.load({**data, "completion": 2}, None)


def test_shuffled_scores_come_from_the_bank_and_not_from_the_frames() -> None:
    reward = ShuffledReward(small_reward(), BANK, "hash")
    runs = []
    for seed, frames in ((3, random_frames(200, 1)), (3, random_frames(200, 2)), (4, random_frames(200, 1))):
        reward.reset("train-000-0001", "x", seed)
        runs.append(np.array([(s.progress, s.completion, s.contrastive) for s in reward.score_episode(frames, list(range(200)))]))
    assert np.array_equal(runs[0], runs[1]), "other frames, same scores"
    assert not np.array_equal(runs[0], runs[2]), "another seed, other scores"
    rows = {tuple(row) for row in BANK.tolist()}
    assert all(tuple(row) in rows for row in runs[0].tolist())
    assert len({tuple(row) for row in runs[0].tolist()}) > 40


def test_shuffled_keeps_what_is_invalid() -> None:
    inner = small_reward()
    inner.encode = lambda images: np.nan * small_reward().encode(images)
    reward = ShuffledReward(inner, BANK, "hash")
    reward.reset("a", "x", 0)
    sample = reward.observe(random_frames(1)[0], 0)
    assert sample is not None and not sample.valid
