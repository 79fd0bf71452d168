"""The refinement learner: what it imitates, what it leaves out, when it goes back."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_flow import TinyPolicy, rollout

from learner_node.gate import Gate, Tally, worse
from learner_node.imitation import labelled
from learner_node.refinement import FlowRefinement, weigh
from whetstone.contracts import FlowPolicy, Learner
from whetstone.errors import ConfigError


def learner(seed: int = 0, **settings) -> FlowRefinement:
    policy = TinyPolicy(settings.pop("demonstrations", 64))
    return FlowRefinement.load(
        {"tensors": "all", "learning_rate": 1e-3, "steps": 150, "updates": 100.0, "batch": 64, **settings}, policy, seed
    )


def test_it_is_a_learner_and_asks_for_a_flow_policy():
    assert isinstance(TinyPolicy(), FlowPolicy)
    assert isinstance(learner(), Learner)
    with pytest.raises(ConfigError, match="flow policy"):
        FlowRefinement.load({}, object(), 0)
    with pytest.raises(ConfigError, match="stepps"):
        FlowRefinement.load({"stepps": 3}, TinyPolicy(), 0)


def test_it_moves_towards_successes_and_not_towards_failures():
    taught = learner(demonstrations=0, failure_weight=0.0)
    episodes = [rollout("success", (1.0, -1.0), seed=i) for i in range(4)] + [
        rollout("timeout", (-3.0, 3.0), seed=9 + i) for i in range(12)
    ]
    for iteration in range(3):
        report = taught.update(episodes, iteration, False)
        assert report.deploy
    assert np.allclose(taught.policy.mean(), (1.0, -1.0), atol=0.3)
    assert report.metrics["reward_success_rate"] == 0.25


def practise(failure_weight: float, iterations: int = 2) -> np.ndarray:
    """A policy that starts as a standard normal and succeeds where its first column is above -0.5; its mean in the end."""
    taught = learner(demonstrations=0, failure_weight=failure_weight, steps=400, learning_rate=3e-3)
    known = np.random.default_rng(5).normal(0, 1, (200, 2))
    taught.update([rollout("success", tuple(point), seed=i) for i, point in enumerate(known)], 0, False)
    for iteration in range(1, iterations + 1):
        with torch.no_grad():
            noise = torch.randn(60, 2, generator=torch.Generator().manual_seed(iteration))
            points = taught.policy.network.sample(torch.zeros(60, 1), noise, 10, 1.0).numpy()
        played = [rollout("success" if point[0] > -0.5 else "timeout", tuple(point), seed=i) for i, point in enumerate(points)]
        taught.update(played, 10 * iteration, False)
    return taught.policy.mean()


def test_failures_drive_the_policy_away_and_so_faster_to_success():
    with_failures, without = practise(1.0), practise(0.0)
    assert with_failures[0] > without[0] + 0.1
    assert abs(with_failures[1]) < 0.5, "the column that does not matter stays"


def test_failures_alone_teach_nothing():
    taught = learner(failure_weight=1.0)
    report = taught.update([rollout("timeout", (1.0, 1.0), seed=i) for i in range(6)], 0, False)
    assert not report.deploy and report.metrics["avoided"] == 18


def test_biases_alone_move_the_policy_and_leave_every_matrix():
    taught = learner(demonstrations=0, tensors="biases", learning_rate=3e-3)
    before = taught.trainable_state()
    for iteration in range(3):
        taught.update([rollout("success", (1.0, -1.0), seed=i) for i in range(4)], iteration, False)
    after = taught.trainable_state()
    assert {name for name in before if not np.array_equal(before[name], after[name])} == {name for name in before if before[name].ndim == 1}
    assert np.allclose(taught.policy.mean(), (1.0, -1.0), atol=0.4)


def test_demonstrations_are_replayed():
    alone, beside = learner(demonstrations=0), learner(demonstrations=64, demonstration_share=0.5)
    for one in (alone, beside):
        for iteration in range(3):
            one.update([rollout("success", (1.0, 1.0), seed=i) for i in range(6)], iteration, False)
    assert np.linalg.norm(beside.policy.mean() - 0.5) < np.linalg.norm(alone.policy.mean() - 0.5)


def test_demonstrations_of_the_task_being_refined_are_left_out():
    """Its demonstrator may be worse than the policy by now."""
    taught = learner()
    taught.update([rollout("success", (1.0, 1.0))], 0, False)
    assert taught.policy.left_out == rollout("success", (1.0, 1.0)).instruction


def test_without_a_success_nothing_changes():
    taught = learner()
    before = taught.trainable_state()
    report = taught.update([rollout("timeout", (1.0, 1.0), seed=i) for i in range(6)], 0, False)
    assert not report.deploy and "no episode" in report.reason
    assert all(np.array_equal(before[name], value) for name, value in taught.trainable_state().items())


def test_same_seed_same_weights_other_seed_other_weights():
    states = []
    for seed in (1, 1, 2):
        taught = learner(seed)
        taught.update([rollout("success", (1.0, 1.0), seed=i) for i in range(3)], 0, False)
        states.append(taught.trainable_state())
    assert all(np.array_equal(states[0][name], states[1][name]) for name in states[0])
    assert any(not np.array_equal(states[0][name], states[2][name]) for name in states[0])


def test_unlabelled_decisions_are_left_out_and_counted():
    episode = rollout("success", (0, 0), progress=(0.0, np.nan, 0.6, 1.0))
    assert labelled(episode).tolist() == [False, False, True]
    assert weigh(episode, 0.02, 0.5).tolist() == [0, 0, 1]
    report = learner().update([rollout("success", (1, 1), progress=(0.0, np.nan, 0.6, 1.0))], 0, False)
    assert report.metrics["unlabelled_steps"] == 2


def test_a_chunk_that_loses_progress_is_not_imitated():
    assert weigh(rollout("success", (0, 0), progress=(0.3, 0.1, 0.6, 1.0)), 0.02, 0.5).tolist() == [0, 1, 1]


@settings(max_examples=50, deadline=None)
@given(
    st.lists(st.floats(0, 1, width=32) | st.just(float("nan")), min_size=2, max_size=12), st.sampled_from(["success", "timeout", "failure"])
)
def test_only_labelled_chunks_have_weight_and_only_those_of_successes_a_positive_one(progress, outcome):
    weights = weigh(rollout(outcome, (0, 0), progress=tuple(progress)), 0.02, 0.5)
    gain = np.diff(np.float32(progress).astype(float))
    assert labelled(rollout(outcome, (0, 0), progress=tuple(progress))).tolist() == np.isfinite(gain).tolist()
    if outcome != "success":
        assert weights.tolist() == [-0.5 if np.isfinite(value) else 0.0 for value in gain]
    assert not weights[np.isnan(gain)].any()


def test_the_gate_goes_back_only_beyond_chance():
    assert not worse(Tally(32, 18), Tally(32, 22), 0.95)
    assert worse(Tally(32, 8), Tally(32, 24), 0.95)
    gate = Gate(24, 0.95)
    assert gate.judge(0, 20, 32)[0] is False
    assert gate.judge(1, 26, 32)[0] is False and gate.best == 1
    back, said = gate.judge(2, 6, 32)
    assert back and "rolled back" in said


def test_a_collapse_is_rolled_back_to_the_best_weights():
    taught = learner(gate={"episodes": 8, "confidence": 0.95})
    good = [rollout("success", (1.0, 1.0), seed=i) for i in range(10)]
    taught.update(good, 0, False)
    taught.update(good, 1, False)
    best = {name: value.copy() for name, value in taught._rounds.states[taught._rounds.gate.best].items()}
    report = taught.update([rollout("timeout", (1.0, 1.0), seed=i) for i in range(10)], 2, False)
    assert "rolled back" in report.reason
    assert taught._rounds.gate.best in taught._rounds.states
    assert all(np.array_equal(best[name], taught._rounds.states[taught._rounds.gate.best][name]) for name in best)


@given(base=st.integers(0, 48), now=st.integers(0, 48))
def test_only_what_was_seen_to_be_better_is_handed_over(base, now):
    gate = Gate(24, 0.95)
    gate.judge(0, base, 48)
    gate.judge(1, now, 48)
    assert (gate.unproven(1) == "") == worse(Tally(48, base), Tally(48, now), 0.95)
    assert now > base or gate.unproven(1)
    assert gate.unproven(0), "after a roll-back to it: others were tried and are no better"


def test_what_could_not_be_judged_is_handed_over():
    gate = Gate(24, 0.95)
    gate.judge(0, 10, 48)
    assert gate.unproven(0) == "", "a single iteration"
    gate.judge(1, 5, 12)
    assert gate.unproven(1) == "", "too few episodes"


@pytest.mark.parametrize(("later", "improved"), [(10, False), (16, True)])
def test_the_last_update_hands_over_improvement_or_what_the_run_began_with(later, improved):
    """8 of 20 judged successful before, and then as many or 16."""
    taught = learner(gate={"episodes": 8, "confidence": 0.95})
    began = taught.trainable_state()

    def iteration(successes):
        return [rollout("success" if i < successes else "timeout", (1.0, 1.0), seed=i) for i in range(20)]

    assert taught.update(iteration(8), 0, False).deploy
    report = taught.update(iteration(later), 1, True)
    assert report.deploy
    left = taught.trainable_state()
    assert all(np.array_equal(began[name], left[name]) for name in began) != improved
    assert ("the policy that the run began with stays" in report.reason) != improved
