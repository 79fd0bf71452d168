"""Rounds: who is credited with an episode while the robot goes on, when training ends early."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from tiny_flow import TinyPolicy, rollout

from learner_node.refinement import FlowRefinement
from whetstone.contracts import Rollout
from whetstone.errors import ConfigError


def make(**rounds: Any) -> FlowRefinement:
    given = {"steps": 4, "batch": 16, "gate": {"episodes": 4, "confidence": 0.9}, "rounds": rounds}
    return FlowRefinement.load(given, TinyPolicy(), 0)


def episodes(outcomes: str, version: int = 0) -> list[Rollout]:
    """One letter each: s a success, t a time-out; driven by that version."""
    made = [rollout("success" if one == "s" else "timeout", (1.0, -1.0), seed=index) for index, one in enumerate(outcomes)]
    for one in made:
        one.policy_versions = np.full(len(one.stamps), version, np.uint64)
    return made


def weights(learner: FlowRefinement) -> np.ndarray:
    return np.concatenate([one.ravel() for one in learner.trainable_state().values()])


def test_nothing_is_learned_before_the_base_policy_has_been_judged() -> None:
    learner = make(update_every=2)
    first = learner.update(episodes("st"), 0, False)
    assert not first.deploy and "4 are needed before anything is learned" in first.reason
    assert learner.update(episodes("st"), 0, False).deploy


def test_updates_count_as_one_snapshot_until_it_has_driven_enough_and_late_episodes_go_to_the_weights_that_drove_them() -> None:
    learner = make(update_every=2)
    learner.update(episodes("stst"), 0, False)  # version 1
    learner.update(episodes("tt", version=0), 0, False)  # still on their way when version 1 came; version 2
    tallies = learner._rounds.gate.tallies
    assert (tallies[0].episodes, tallies[0].successes) == (6, 2) and 1 not in tallies or tallies[1].episodes == 0
    learner.update(episodes("ss", version=1), 0, False)  # version 3
    learner.update(episodes("ss", version=2), 0, False)
    assert (tallies[1].episodes, tallies[1].successes) == (4, 4) and learner._rounds.gate.best == 1
    report = learner.update(episodes("ss", version=3), 0, False)
    assert report.deploy and learner._rounds.current == 2, "the next update is another snapshot"


def test_weights_that_turn_out_worse_go_back_while_the_robot_goes_on() -> None:
    learner = make(update_every=4)
    began = weights(learner)
    learner.update(episodes("ssss"), 0, False)
    assert not np.array_equal(weights(learner), began)
    report = learner.update(episodes("tttt", version=1), 0, True)
    assert report.deploy and "rolled back" in report.reason and np.array_equal(weights(learner), began)


def test_a_target_ends_training_early_with_weights_that_were_seen_to_reach_it() -> None:
    learner = make(target=0.75)
    assert not learner.update(episodes("tttttttt"), 0, False).stop
    learner.update(episodes("stttssst"), 1, False)
    driving = weights(learner)
    report = learner.update(episodes("sssssssssssssss"), 2, False)
    assert "the target is 0.75" in report.stop and report.stop in report.reason
    assert not report.deploy and np.array_equal(weights(learner), driving), "what reached the target stays as it is"


def test_patience_ends_training_with_the_best() -> None:
    learner = make(patience=2)
    learner.update(episodes("sttttttt"), 0, False)
    best = weights(learner)
    learner.update(episodes("sssssssst"), 1, False)
    assert not learner.update(episodes("ssssssstt"), 2, False).stop
    report = learner.update(episodes("ssssssstt"), 3, False)
    assert report.stop == "no better snapshot in 2 iterations" and report.deploy
    assert np.array_equal(weights(learner), best)


def test_an_early_end_without_improvement_leaves_what_the_run_began_with() -> None:
    learner = make(patience=1)
    began = weights(learner)
    learner.update(episodes("sstt" * 3), 0, False)
    learner.update(episodes("ssst" * 3), 1, False)
    report = learner.update(episodes("sstt" * 3), 2, False)
    assert report.stop and report.deploy and "the policy that the run began with stays" in report.reason
    assert np.array_equal(weights(learner), began)


def test_a_checkpoint_knows_who_drove_what() -> None:
    learner, again = make(update_every=2), make(update_every=2)
    history = [("stst", 0), ("ss", 1), ("tt", 0)]
    known = {one.episode_id: one for outcomes, _ in history for one in episodes(outcomes)}
    for outcomes, version in history:
        learner.update(episodes(outcomes, version), 0, False)
    again.resume(learner.checkpoint(), known.get)
    for one in (learner, again):
        one.update(episodes("ss", 2), 0, False)
    assert learner._rounds.gate.tallies == again._rounds.gate.tallies


def test_who_learns_on_policy_does_not_learn_while_the_robot_goes_on() -> None:
    from test_actor_critic import make as actor_critic

    with pytest.raises(ConfigError, match="update_every is 4, but PPO learns on-policy; set it to 0"):
        actor_critic("ppo", rounds={"update_every": 4})


def test_steps_are_bounded_by_the_decisions_that_came() -> None:
    learner = FlowRefinement.load({"steps": 100, "batch": 16, "updates": 0.5}, TinyPolicy(), 0)
    steps: list[int] = []
    begin = learner.forget

    def counting(failed: bool) -> None:
        begin(failed)
        step = learner._optimiser.step

        def count(*given: Any) -> Any:
            steps.append(1)
            return step(*given)

        learner._optimiser.step = count  # type: ignore[method-assign]

    counting(False)
    learner.update(episodes("st"), 0, False)
    assert len(steps) == 3, "six decisions came"
