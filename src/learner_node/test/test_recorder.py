"""The recorder joins by stamp whatever the order of arrival, and leaves unlabelled what nobody labelled."""

from __future__ import annotations

import random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from learner_node.recorder import Decision, EpisodeInfo, Recorder
from whetstone.contracts import REWARD_VALUES, RewardSample
from whetstone.labelling import back_label

PERIOD = 50_000_000
START = 3_000_000_000
INFO = EpisodeInfo("train-000-0000", 2, "pick", "put the cube in the bowl", 7)


def at(step: int) -> int:
    return START + step * PERIOD


def image(step: int, camera: int) -> np.ndarray:
    return np.full((2, 3, 3), 10 * camera + step, dtype=np.uint8)


def decision(step: int) -> Decision:
    return Decision(at(step), np.full((4, 3), step, dtype=np.float32), np.full(5, step, dtype=np.float32), float(step), 9)


def new_recorder(**settings) -> Recorder:
    return Recorder(("front", "wrist"), decode=lambda payload, camera: np.asarray(payload), **settings)


def events(steps: int, execute: int, every: int) -> list[tuple]:
    result: list[tuple] = []
    for step in range(steps + 1):
        result += [("image", "front", step, 1), ("image", "wrist", step, 2), ("joints", step)]
        if step % execute == 0:
            result.append(("action", step))
        if step % every == 0:
            result.append(("reward", step))
    return result


def play(recorder: Recorder, event: tuple) -> None:
    kind, *rest = event
    if kind == "image":
        camera, step, number = rest
        recorder.image(camera, at(step), image(step, number))
    elif kind == "joints":
        recorder.joints(at(rest[0]), np.array([rest[0], 0.5, 1.0]))
    elif kind == "action":
        recorder.action(INFO.episode_id, decision(rest[0]))
    else:
        recorder.reward(INFO.episode_id, RewardSample(at(rest[0]), total=rest[0] / 100, completion=0.5), "model@1")


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 5), st.integers(1, 24), st.integers(0, 2**32 - 1))
def test_any_order_of_arrival_gives_the_same_rollout(execute: int, steps: int, shuffle: int) -> None:
    recorder = new_recorder()
    recorder.begin(INFO)
    stream = events(steps, execute, execute)
    random.Random(shuffle).shuffle(stream)
    for event in stream:
        play(recorder, event)
    recorder.end(INFO.episode_id, at(steps), "success", "done", now=0.0)
    (rollout,) = recorder.ready(now=100.0)
    wanted = [step for step in range(0, steps + 1, execute) if step < steps]
    assert rollout.stamps.tolist() == [at(step) for step in wanted]
    assert rollout.images["wrist"][:, 0, 0, 0].tolist() == [20 + step for step in wanted]
    assert rollout.proprioception[:, 0].tolist() == wanted
    assert rollout.actions.shape == (len(wanted), 4, 3) and rollout.actions[:, 0, 0].tolist() == wanted
    assert rollout.latents is not None and rollout.latents.shape == (len(wanted), 5)
    expected = np.array([step / 100 for step in wanted] + [steps / 100 if steps % execute == 0 else np.nan], dtype=np.float32)
    np.testing.assert_array_equal(rollout.rewards["total"], expected)
    assert np.isnan(rollout.rewards["progress"]).all()
    assert rollout.last_images["front"][0, 0, 0] == 10 + steps
    assert rollout.last_proprioception is not None and rollout.last_proprioception[0] == steps
    assert (rollout.outcome, rollout.iteration, rollout.seed, rollout.reward_model_id) == ("success", 2, 7, "model@1")
    assert not recorder.recording


def test_every_step_and_every_score_is_kept_beside_the_decisions() -> None:
    """What was measured and sent at each control step; scores between decisions, and invalid ones; nothing after the end."""
    recorder = new_recorder()
    recorder.begin(INFO)
    for event in events(8, 4, 2):
        play(recorder, event)
        if event[0] == "joints" and event[1] != 3:
            recorder.command(at(event[1]), np.full(3, event[1] + 0.5), human=event[1] in (4, 5))
    recorder.reward(INFO.episode_id, RewardSample(at(6), total=0.9, valid=False, reason="camera covered"))
    recorder.end(INFO.episode_id, at(6), "success", "done", now=0.0)
    recorder.joints(at(7), np.zeros(3))
    (rollout,) = recorder.ready(now=100.0)
    assert rollout.steps["stamps"].tolist() == [at(step) for step in range(7)]
    assert rollout.steps["measured"][:, 0].tolist() == list(range(7))
    expected = [0.5, 1.5, 2.5, np.nan, 4.5, 5.5, 6.5]
    np.testing.assert_array_equal(rollout.steps["commanded"][:, 0], np.array(expected, np.float32))
    assert rollout.steps["intervention"].tolist() == [False] * 4 + [True, True, False]
    assert rollout.scores["stamps"].tolist() == [at(step) for step in (0, 2, 4, 6, 8)]
    assert rollout.scores["valid"].tolist() == [True, True, True, False, True]
    assert rollout.scores["total"].tolist() == pytest.approx([0, 0.02, 0.04, 0.9, 0.08])


def test_commands_by_another_clock_are_joined_to_the_nearest_step() -> None:
    recorder = new_recorder(tolerance=PERIOD // 2)
    recorder.begin(INFO)
    for event in events(4, 4, 4):
        play(recorder, event)
    recorder.command(at(1) + 9_000_000, np.full(3, 7.0))
    recorder.command(at(3) - 9_000_000, np.full(3, 8.0))
    recorder.end(INFO.episode_id, at(4), "timeout", "", now=0.0)
    (rollout,) = recorder.ready(now=100.0)
    assert "intervention" not in rollout.steps  # nobody took over
    np.testing.assert_array_equal(rollout.steps["commanded"][:, 0], np.array([np.nan, 7, np.nan, 8, np.nan], np.float32))


def test_a_learner_that_is_seconds_behind_loses_nothing() -> None:
    """One topic's whole queue may be handed over before the first message of another: all images of 200 steps, then the actions."""
    steps = 200  # whetstone.ros.LOCKSTEP_DEPTH
    recorder = new_recorder(ring=256)
    recorder.begin(INFO)
    stream = events(steps - 1, 4, 4)
    for event in sorted(stream, key=lambda event: ("image", "joints", "reward", "action").index(event[0])):
        play(recorder, event)
    recorder.end(INFO.episode_id, at(steps - 1), "timeout", "", now=0.0)
    (rollout,) = recorder.ready(now=100.0)
    assert len(rollout.stamps) == steps // 4 and recorder.counters["dropped_decisions"] == 0


def test_late_reward_is_joined_to_its_own_step_and_a_missing_one_stays_unlabelled() -> None:
    recorder = new_recorder(grace=2.0)
    recorder.begin(INFO)
    for event in events(8, 4, 4):
        if event not in (("reward", 0), ("reward", 4)):
            play(recorder, event)
    recorder.end(INFO.episode_id, at(8), "timeout", "", now=10.0)
    assert recorder.ready(now=11.0) == []
    assert recorder.waiting() == [INFO.episode_id]
    play(recorder, ("reward", 0))
    (rollout,) = recorder.ready(now=12.0)
    assert rollout.rewards["total"][0] == 0.0
    assert np.isnan(rollout.rewards["total"][1])
    assert recorder.counters["unlabelled"] == 1
    play(recorder, ("reward", 4))
    assert recorder.counters["late_rewards"] == 1


def test_complete_episode_does_not_wait_for_the_grace() -> None:
    recorder = new_recorder(grace=1e9)
    recorder.begin(INFO)
    for event in events(8, 4, 4):
        play(recorder, event)
    recorder.end(INFO.episode_id, at(8), "timeout", "", now=0.0)
    assert len(recorder.ready(now=0.0)) == 1


def test_invalid_reward_is_unlabelled() -> None:
    recorder = new_recorder()
    recorder.begin(INFO)
    for event in events(4, 4, 4):
        play(recorder, event)
    recorder.reward(INFO.episode_id, RewardSample(at(0), total=0.9, valid=False, reason="camera covered"))
    recorder.end(INFO.episode_id, at(4), "timeout", "", now=0.0)
    (rollout,) = recorder.ready(now=0.0)
    assert np.isnan(rollout.rewards["total"]).tolist() == [True, False]


def test_decision_without_its_images_is_left_out_and_counted() -> None:
    recorder = new_recorder()
    recorder.begin(INFO)
    for event in events(8, 4, 4):
        if event != ("image", "wrist", 4, 2):
            play(recorder, event)
    recorder.end(INFO.episode_id, at(8), "timeout", "", now=0.0)
    (rollout,) = recorder.ready(now=100.0)
    assert rollout.stamps.tolist() == [at(0)]
    assert recorder.counters["dropped_decisions"] == 1


def test_decisions_after_the_end_are_left_out() -> None:
    recorder = new_recorder()
    recorder.begin(INFO)
    for event in events(12, 4, 4):
        play(recorder, event)
    recorder.end(INFO.episode_id, at(8), "success", "completion 0.93", now=0.0)
    (rollout,) = recorder.ready(now=0.0)
    assert rollout.stamps.tolist() == [at(0), at(4)]
    assert rollout.rewards["total"][-1] == np.float32(0.08)


def test_events_of_other_episodes_and_aborted_ones_leave_nothing() -> None:
    recorder = new_recorder()
    recorder.begin(INFO)
    for event in events(4, 4, 4):
        play(recorder, event)
    recorder.action("eval-0001", decision(0))
    recorder.discard(INFO.episode_id)
    assert recorder.ready(now=1e9) == []
    assert not recorder.recording
    assert recorder.counters["discarded_episodes"] == 1


def test_cameras_on_their_own_clock_are_matched_within_the_tolerance() -> None:
    recorder = new_recorder(tolerance=PERIOD // 2)
    recorder.begin(INFO)
    for camera, shift in (("front", -9_000_000), ("wrist", 12_000_000)):
        for step in range(3):
            recorder.image(camera, at(step) + shift, image(step, 1))
    for step in (0, 2):
        recorder.joints(at(step), np.zeros(3))
    recorder.action(INFO.episode_id, decision(0))
    recorder.end(INFO.episode_id, at(2), "timeout", "", now=0.0)
    (rollout,) = recorder.ready(now=100.0)
    assert rollout.images["front"][0, 0, 0, 0] == 10
    assert rollout.last_images["wrist"][0, 0, 0] == 12


def test_latents_of_unequal_size_are_not_stacked() -> None:
    recorder = new_recorder()
    recorder.begin(INFO)
    for event in events(4, 2, 2):
        if event != ("action", 2):
            play(recorder, event)
    recorder.action(INFO.episode_id, Decision(at(2), np.zeros((4, 3)), None, float("nan"), 9))
    recorder.end(INFO.episode_id, at(4), "timeout", "", now=0.0)
    (rollout,) = recorder.ready(now=0.0)
    assert rollout.latents is None
    assert np.isnan(rollout.log_probabilities[1])


@settings(max_examples=80, deadline=None)
@given(st.data(), st.integers(1, 3), st.integers(2, 16), st.booleans())
def test_late_rewards_label_what_they_would_have_labelled_in_time(data, execute: int, steps: int, exact: bool) -> None:
    """Where clocks differ a score has the stamp of its frame, half a period off the joint states' at most."""
    tolerance = 0 if exact else PERIOD // 2
    off = st.just(0) if exact else st.integers(-PERIOD, PERIOD)
    rewards = [
        RewardSample(at(step) + data.draw(off), total=step / 100, valid=data.draw(st.booleans())) for step in range(0, steps + 1, execute)
    ]
    late = data.draw(st.sets(st.sampled_from(range(len(rewards)))))

    def closed(in_time: list[RewardSample]):
        recorder = new_recorder(tolerance=tolerance)
        recorder.begin(INFO)
        for event in events(steps, execute, execute):
            if event[0] != "reward":
                play(recorder, event)
        for sample in in_time:
            recorder.reward(INFO.episode_id, sample, "model@1")
        recorder.end(INFO.episode_id, at(steps), "success", "done", now=0.0)
        return recorder.ready(now=100.0)[0]

    whole = closed(rewards)
    before = closed([sample for place, sample in enumerate(rewards) if place not in late])
    after = back_label(before, [(rewards[place], "model@1") for place in sorted(late)], tolerance)
    for name in REWARD_VALUES:
        np.testing.assert_array_equal(after.rewards[name], whole.rewards[name], name)
    for name, values in whole.scores.items():
        np.testing.assert_array_equal(after.scores[name], values, name)
