"""What each imitating learner weighs, and that all of them learn by it."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_flow import TinyConditioned, TinyPolicy, rollout

from learner_node import awr, ra_bc, shaping
from learner_node.awr import AWR
from learner_node.behaviour_cloning import BehaviourCloning
from learner_node.filtered_bc import FilteredBC
from learner_node.imitation import Kept
from learner_node.ra_bc import RABC
from learner_node.recap import RECAP
from learner_node.refinement import FlowRefinement
from learner_node.shaping import Shaping
from learner_node.top_awr import TOPAWR, top_awr_weights
from whetstone.config import load_yaml, root
from whetstone.contracts import Learner, Rollout
from whetstone.plugins import load_plugin

LEARNERS: dict[str, Any] = {one.name: one for one in (FlowRefinement, BehaviourCloning, FilteredBC, RABC, TOPAWR, AWR, RECAP)}
PROGRESS = st.lists(st.floats(0, 1, width=32) | st.just(float("nan")), min_size=2, max_size=12)


def kept(record: Rollout) -> Kept:
    count = len(record.stamps)
    return Kept(0, record, torch.zeros(count, 1), torch.zeros(count, 2))


def make(name: str, seed: int = 0, **changes: Any) -> Any:
    given = {"tensors": "all", "learning_rate": 1e-3, "steps": 150, "updates": 100.0, "batch": 64, "demonstration_share": 0.0, **changes}
    return LEARNERS[name].load({"value_steps": 40, **given} if name == "recap" else given, policy(name), seed)


def policy(name: str) -> TinyPolicy:
    return TinyConditioned(0) if name == "recap" else TinyPolicy(0)


@pytest.mark.parametrize("name", sorted(LEARNERS))
def test_the_shipped_configuration_is_the_plug_in_s_own(name: str) -> None:
    given = load_yaml(root() / "config" / "learners" / f"{name}.yaml")
    assert given["plugin"] == name and load_plugin("whetstone.learners", name) is LEARNERS[name]
    learner = LEARNERS[name].load(given, policy(name), 0)
    assert isinstance(learner, Learner)
    assert learner.config == LEARNERS[name].settings(plugin=name), "the file and the defaults in the code differ"


def test_weights_are_those_of_lerobot_s_code() -> None:
    """Gold: RABCWeights of lerobot 0.4.4 (Apache-2.0) run once on these episodes, chunk_size 1, its fallback weight 1 for NaN."""
    nan = float("nan")
    progress = [[0.01, 0.026, 0.031, 0.023, 0.024], [0.0, 0.001, 0.038, nan, 0.036, 0.056, 0.073], [0.012, 0.003, 0.013, 0.037]]
    gold = [1.0, 0.43778783082962036, 0.0, 0.3586212992668152, 0.3586212992668152, 1.0, 1.0, 1.0, 1.0, 1.0, 0.0, 0.5367459654808044, 1.0]
    batch = [1.49566650390625, 0.6547845602035522, 0.0, 0.5363778471946716, 0.5363778471946716, *[1.49566650390625] * 5]
    batch += [0.0, 0.8027929663658142, 1.49566650390625]
    found = np.concatenate(ra_bc.of_episodes([np.array(one) for one in progress], 0.01, 1e-6, unlabelled=1.0))
    np.testing.assert_allclose(found, gold, atol=1e-6, rtol=0)
    np.testing.assert_allclose(ra_bc.normalised(found), batch, atol=1e-6, rtol=0)


@given(gains=st.lists(st.floats(-1, 1) | st.just(float("nan")), max_size=30))
def test_ra_bc_weighs_by_progress(gains: list[float]) -> None:
    known = np.array(gains, float)
    weights = ra_bc.ra_bc_weights(known)
    assert ((weights >= 0) & (weights <= 1)).all()
    assert (weights[known > 0.01] == 1).all() and not weights[known < 0].any() and not weights[np.isnan(known)].any()
    order = np.argsort(known[np.isfinite(known)])
    assert (np.diff(weights[np.isfinite(known)][order]) >= 0).all(), "more progress, no less weight"


def test_top_awr_with_the_paper_s_figures_tells_only_loss_from_gain() -> None:
    np.testing.assert_allclose(top_awr_weights(np.array([-0.5, 0.0, 0.1, 0.9]), 2.0, 2.0), [2 * np.exp(-0.5), 2, 2, 2])
    found = top_awr_weights(np.array([-0.1, 0.0, 0.05, np.nan]), 1.0, 2.0, 0.1)
    np.testing.assert_allclose(found, [np.exp(-1), 1, np.exp(0.5), 0])


@pytest.mark.parametrize(
    ("kind", "expected"), [("held", [0.3, 0.6, 1.0]), ("increments", [0.3, 0.3, 0.4]), ("potential", [0.27, 0.24, 0.3])]
)
def test_shaping(kind: Any, expected: list[float]) -> None:
    chosen = Shaping(kind=kind, discount=0.9, bonus=2.0)
    assert shaping.rewards(rollout("timeout", (0, 0)), chosen).tolist() == pytest.approx(expected)
    assert shaping.rewards(rollout("success", (0, 0)), chosen).tolist() == pytest.approx([*expected[:2], expected[2] + 2.0])


def test_an_unlabelled_decision_has_no_reward_and_the_success_none_the_less_its_bonus() -> None:
    record = rollout("success", (0, 0), progress=(0.0, np.nan, 0.6, np.nan))
    found = shaping.rewards(record, Shaping(discount=1.0, bonus=1.0))
    np.testing.assert_array_equal(found, [np.nan, np.nan, 1.0])
    assert shaping.returns(found, 0.5).tolist() == [0.25, 0.5, 1.0]


@given(progress=st.lists(st.floats(0, 1), min_size=2, max_size=10), discount=st.floats(0.1, 1))
def test_potential_shaping_changes_a_return_by_the_first_potential_alone(progress: list[float], discount: float) -> None:
    """Ng et al. 1999: whatever happens between, the sum is gamma^T phi_T - phi_0."""
    record = rollout("timeout", (0, 0), progress=tuple(progress))
    phi = record.rewards["progress"].astype(float)
    total = shaping.returns(shaping.rewards(record, Shaping(discount=discount)), discount)[0]
    assert total == pytest.approx(discount ** (len(phi) - 1) * phi[-1] - phi[0], abs=1e-9)


def test_advantages_are_judged_by_other_episodes() -> None:
    """Where the input tells how an episode will go, going as expected is no advantage; where it does not, success is one."""
    successes = [rollout("success", (0, 0), seed=i) for i in range(20)]
    failures = [rollout("timeout", (0, 0), progress=(0.0, 0.1, 0.1, 0.1), seed=i) for i in range(20)]
    told = [Kept(0, one, torch.full((3, 1), float(one.outcome == "success")), torch.zeros(3, 2)) for one in successes + failures]
    wanted = [shaping.returns(shaping.rewards(one.rollout, Shaping()), 0.99) for one in told]
    order = np.random.default_rng(0).permutation(40)
    generator = torch.Generator().manual_seed(0)
    known = awr.values_by_halves([told[i] for i in order], [wanted[i] for i in order], 400, generator)
    left = np.concatenate([wanted[i] - value for i, value in zip(order, known, strict=True)])
    assert np.abs(left).mean() < 0.15 * np.concatenate(wanted).std()
    blind: Any = make("awr")
    weights = blind.weigh([kept(one) for one in successes + failures])
    assert min(one.min() for one in weights[:20]) > 2 * max(one.max() for one in weights[20:])


@settings(max_examples=30, deadline=None)
@given(episodes=st.lists(st.tuples(PROGRESS, st.sampled_from(["success", "timeout", "failure"])), min_size=1, max_size=5))
def test_what_is_not_labelled_weighs_nothing(episodes: list[tuple[list[float], str]]) -> None:
    records = [kept(rollout(outcome, (0, 0), progress=tuple(progress))) for progress, outcome in episodes]
    for name in sorted(set(LEARNERS) - {"behaviour_cloning"}):  # which reads no reward
        learner = make(name, value_steps=2) if name in ("awr", "recap") else make(name)
        weights = learner.weigh(records)
        for one, (progress, _) in zip(weights, episodes, strict=True):
            gains = np.diff(np.asarray(progress, np.float32).astype(float))
            assert one.shape == gains.shape and np.isfinite(one).all() and not one[np.isnan(gains)].any(), name


@pytest.mark.parametrize("name", sorted(LEARNERS))
def test_it_learns_by_its_weights(name: str) -> None:
    """Good episodes act one way, bad ones another: all but the one that reads no reward end nearer to the good ones."""
    learner = make(name)
    good = [rollout("success", (1.0, -1.0), seed=i) for i in range(6)]
    bad = [rollout("timeout", (-1.0, 1.0), progress=(0.3, 0.2, 0.1, 0.0), seed=9 + i) for i in range(6)]
    for iteration in range(3):
        assert learner.update(good + bad, iteration, False).deploy
    toward = float(learner.policy.mean() @ np.array([0.5, -0.5]))
    assert (abs(toward) < 0.35) if name == "behaviour_cloning" else (toward > 0.5), toward


@pytest.mark.parametrize("name", sorted(LEARNERS))
def test_the_same_seed_gives_the_same_weights(name: str) -> None:
    states = []
    for seed in (1, 1, 2):
        learner = make(name, seed, steps=20)
        learner.update([rollout("success", (1.0, 1.0), seed=i) for i in range(4)], 0, False)
        states.append(learner.trainable_state())
    assert all(np.array_equal(states[0][key], states[1][key]) for key in states[0])
    assert any(not np.array_equal(states[0][key], states[2][key]) for key in states[0])


@pytest.mark.parametrize("name", sorted(LEARNERS))
def test_losses_that_are_no_numbers_undo_the_update(name: str) -> None:
    """A few are skipped and counted; too many, and the weights in force before the update stay."""
    learner = make(name, input_noise=0.0)
    good = [rollout("success", (1.0, -1.0), seed=i) for i in range(30)]
    assert learner.update(good, 0, False).metrics["skipped_steps"] == 0
    before = learner.trainable_state()
    report = learner.update([*good, *(rollout("success", (np.nan, np.nan), seed=i) for i in range(30))], 1, False)
    assert not report.deploy and "update undone: 11 steps had no usable gradient" in report.reason
    assert all(np.array_equal(before[key], value) for key, value in learner.trainable_state().items())
