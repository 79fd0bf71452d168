"""What RECAP calls better than usual, and that the policy learns both sides of it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from test_imitation import kept, make
from tiny_flow import TinyPolicy, rollout

from learner_node.recap import RECAP, n_step_advantages, threshold
from learner_node.shaping import returns
from whetstone.errors import ConfigError

SMALL = {"steps": 200, "learning_rate": 3e-3, "value_steps": 40}


@given(
    earned=st.lists(st.floats(-1, 1) | st.just(float("nan")), min_size=1, max_size=9),
    lookahead=st.integers(1, 12),
    discount=st.floats(0.1, 1),
    seed=st.integers(0, 9),
)
def test_advantages_are_the_rewards_of_n_decisions_and_the_value_behind_them(
    earned: list[float], lookahead: int, discount: float, seed: int
) -> None:
    values = np.random.default_rng(seed).normal(size=len(earned))
    found = n_step_advantages(np.array(earned), values, discount, lookahead)
    for start in range(len(earned)):
        window = earned[start : start + lookahead]
        expected = sum(discount**k * reward for k, reward in enumerate(window) if np.isfinite(reward)) - values[start]
        if start + lookahead < len(earned):
            expected += discount**lookahead * values[start + lookahead]
        assert found[start] == pytest.approx(expected, abs=1e-9)
    if lookahead >= len(earned):
        np.testing.assert_allclose(found, returns(np.array(earned), discount) - values, atol=1e-9)


@given(advantages=st.lists(st.floats(-1, 1), min_size=1, max_size=50), share=st.floats(0.01, 0.99))
def test_no_more_than_the_share_is_positive_and_one_more_would_be_too_many(advantages: list[float], share: float) -> None:
    known = np.array(advantages)
    limit = threshold(known, share)
    positive = int((known > limit).sum())
    assert positive <= share * len(known) + 1e-6
    assert limit in known and positive + int((known == limit).sum()) > share * len(known) - 1e-6


def test_every_instruction_has_a_threshold_of_its_own() -> None:
    """One task's successes earn less than the other's failures: each has its share of positives all the same."""
    small: Any = make("recap", shaping={"bonus": 0.0}, positive_share=0.25)
    episodes = []
    for index in range(16):
        episodes.append(kept(rollout("success", (0, 0), progress=(0.0, 0.3 + 0.01 * index, 0.6, 0.9), seed=index)))
        other = rollout("timeout", (0, 0), progress=(0.0, 0.01, 0.02, 0.03 + 0.002 * index), seed=index)
        other.instruction = "something else"
        episodes.append(kept(other))
    found = small.weigh(episodes)
    for first in (0, 1):
        positive = float(np.mean(np.concatenate(found[first::2]) > 0))
        assert 0.15 < positive <= 0.25, positive


@settings(max_examples=20, deadline=None)
@given(episodes=st.lists(st.tuples(st.lists(st.floats(0, 1, width=32), min_size=2, max_size=6), st.booleans()), min_size=1, max_size=5))
def test_every_labelled_decision_is_either_positive_or_negative(episodes: list[tuple[list[float], bool]]) -> None:
    records = [kept(rollout("success" if good else "timeout", (0, 0), progress=tuple(progress))) for progress, good in episodes]
    found = np.concatenate(make("recap", value_steps=2).weigh(records))
    assert set(found.tolist()) <= {-1.0, 1.0}


def told(learner: Any, indicator: float) -> np.ndarray:
    """(2,) mean of what the policy does when it is told so."""
    network, count = learner.policy.network, 512
    chunk = torch.randn(count, 2, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        for step in range(10):
            time = torch.full((count,), step / 10)
            chunk = chunk + network.velocity(torch.zeros(count, 1), chunk, time, None, torch.full((count,), indicator)) / 10
    return chunk.mean(0).numpy()


def test_both_sides_are_learned_and_what_is_not_told_is_between_them() -> None:
    learner: Any = make("recap", **SMALL, positive_share=0.5)
    good = [rollout("success", (1.0, -1.0), seed=i) for i in range(12)]
    bad = [rollout("timeout", (-1.0, 1.0), progress=(0.3, 0.2, 0.1, 0.0), seed=50 + i) for i in range(12)]
    mixed = [episode for pair in zip(good, bad, strict=True) for episode in pair]
    report = learner.update([*mixed[:23:3], *mixed[1::3], *mixed[2::3]], 0, False)
    assert report.metrics["imitated"] + report.metrics["avoided"] == 24 * 3
    np.testing.assert_allclose(told(learner, 1.0), [1, -1], atol=0.45)
    np.testing.assert_allclose(told(learner, -1.0), [-1, 1], atol=0.45)
    assert np.abs(told(learner, 0.0)).max() < 0.6


def test_an_update_begins_with_the_weights_of_the_run_s_beginning() -> None:
    episodes = [rollout("success" if i % 3 else "timeout", (float(i % 2), 1.0), progress=(0.0, 0.2, 0.1 * i), seed=i) for i in range(9)]
    states = {}
    for restart in (True, False):
        for moved in (0.0, 0.3):
            learner: Any = make("recap", restart=restart, steps=5)
            state = {name: value + moved for name, value in learner.trainable_state().items()}
            learner.policy.load_trainable_state(state)
            learner.update(episodes, 0, False)
            states[restart, moved] = learner.trainable_state()
    equal = {one: all(np.array_equal(states[one, 0.0][key], value) for key, value in states[one, 0.3].items()) for one in (True, False)}
    assert equal == {True: True, False: False}


def test_a_policy_without_an_indicator_is_told_which_has_one() -> None:
    with pytest.raises(ConfigError, match="needs a policy that is told what is better; use policy:=conditioned"):
        RECAP.load({}, TinyPolicy(0), 0)


def test_a_successful_demonstration_is_positive_however_it_was_scored() -> None:
    learner: Any = make("recap", value_steps=2)
    own = [rollout("success", (0, 0), progress=(0.0, 0.5, 1.0), seed=i) for i in range(8)]
    shown = [replace(rollout(outcome, (0, 0), progress=(0.0, 0.01, 0.02)), source="demonstration") for outcome in ("success", "timeout")]
    found = learner.weigh([kept(one) for one in [*own, *shown]])
    assert (found[-2] > 0).all() and (found[-1] < 0).all()
