"""Phases, outcomes and deadlines of the episode manager, without ROS."""

from __future__ import annotations

import math
import random

import pytest

from robot_bringup import schedule
from robot_bringup.episode_machine import Deadlines, EpisodeMachine, Outcome, Phase, Score
from robot_bringup.schedule import Segment
from whetstone.completion import Completion

RATE = 20.0
PERIOD = 50_000_000
TRAIN = Segment("train", "", 2, 2, 0, False)
EVALUATE = Segment("evaluate", "refined", 1, 2, 100, True)


class Bench:
    """A machine with a hand on its clock: `phases` collects everything it said."""

    def __init__(self, *segments, max_steps=8, every=4, completion=Completion(0.8, 2), **more):  # noqa: B008 (frozen)
        self.machine = EpisodeMachine(
            schedule.episodes(segments), rate=RATE, max_steps=max_steps, completion=completion, reward_every=every,
            deadlines=Deadlines(reset=10, frame=20, update=30, apply=5, last=1), **more,
        )  # fmt: skip
        self.now = 0.0
        self.start = 1_000_000_000
        self.said = []

    def collect(self):
        new = self.machine.take()
        self.said += new
        return [state.phase for state in new]

    def begin(self):
        self.machine.begin(self.now)
        return self

    def run(self):
        """Answer the reset: the episode runs."""
        self.start += 60_000_000_000
        self.machine.reset_done(self.now, True, "", self.start)
        assert self.machine.state.phase == Phase.RUNNING
        return self

    def frame(self, step):
        self.machine.frame(self.now, self.start + step * PERIOD)

    def score(self, step, completion=0.0, **more):
        episode = self.machine.state.episode
        assert episode is not None
        self.machine.score(self.now, episode.episode_id, Score(self.start + step * PERIOD, completion=completion, **more))

    def time_out(self):
        for step in range(9):
            self.frame(step)
            if step % 4 == 0:
                self.score(step)

    def iteration(self):
        """Both episodes of an iteration of TRAIN run out of time."""
        for _ in range(2):
            self.run().time_out()
        return self

    def ended(self):
        self.collect()
        return [state for state in self.said if state.phase == Phase.ENDED][-1]


def test_a_whole_run_in_order():
    bench = Bench(EVALUATE, TRAIN).begin()
    for _ in range(2):
        bench.run().machine.success(0.0)
    for iteration in range(2):
        bench.iteration().machine.update(0.0, iteration, iteration + 1, True)
        bench.machine.acknowledge(0.0, iteration + 1, True, "")
    episode = [Phase.RESETTING, Phase.RUNNING, Phase.ENDED]
    assert bench.collect() == [*episode * 4, Phase.UPDATING, *episode * 2, Phase.UPDATING, Phase.FINISHED]
    assert bench.machine.result == ("finished", "all episodes are done")
    assert bench.machine.version == 2


def test_completion_needs_frames_in_a_row_and_the_deciding_stamp_is_the_score_s():
    bench = Bench(TRAIN, max_steps=40).begin().run()
    for step, completion in ((4, 0.9), (8, 0.5), (12, 0.85)):
        bench.score(step, completion)
    assert bench.machine.state.phase == Phase.RUNNING
    bench.frame(19)  # the robot went on while the score was on its way
    bench.score(16, 0.93)
    ended = bench.ended()
    assert (ended.outcome, ended.reason) == (Outcome.SUCCESS, "reward model: completion 0.93 on 2 frames")
    assert ended.stamp == bench.start + 16 * PERIOD
    assert ended.record["steps"] == 16


def test_progress_must_agree_where_it_is_asked():
    bench = Bench(TRAIN, completion=Completion(0.8, 2, progress=0.9), max_steps=40).begin().run()
    for step, progress in ((4, 0.5), (8, 0.95), (12, math.nan), (16, 0.9)):
        bench.score(step, 0.99, progress=progress)
        assert bench.machine.state.phase == Phase.RUNNING
    bench.score(20, 0.99, progress=1.0)
    assert bench.ended().outcome == Outcome.SUCCESS and bench.ended().record["steps"] == 20


@pytest.mark.parametrize("second", [{"valid": False}, {"completion": math.nan}], ids=["invalid", "nan"])
def test_a_score_without_a_completion_breaks_the_row(second):
    bench = Bench(TRAIN, max_steps=40).begin().run()
    bench.score(4, 0.9)
    bench.score(8, **{"completion": 0.9, **second})
    bench.score(12, 0.9)
    assert bench.machine.state.phase == Phase.RUNNING


def test_repeated_and_foreign_scores_do_not_count():
    bench = Bench(TRAIN, max_steps=40).begin().run()
    bench.score(4, 0.9)
    bench.score(4, 0.9)
    bench.machine.score(0.0, "train-000-0099", Score(bench.start + 8 * PERIOD, completion=0.9))
    bench.score(-4, 0.9)
    bench.score(44, 0.9)
    assert bench.machine.state.phase == Phase.RUNNING


def test_time_out_waits_for_the_last_score_of_the_episode():
    bench = Bench(TRAIN).begin().run()
    bench.score(0)
    bench.frame(8)
    bench.score(4)
    assert bench.machine.state.phase == Phase.RUNNING
    bench.frame(9)
    bench.score(8)
    ended = bench.ended()
    assert (ended.outcome, ended.reason) == (Outcome.TIMEOUT, "no success in 8 steps")
    assert ended.stamp == bench.start + 8 * PERIOD


def test_a_last_score_may_still_make_it_a_success():
    bench = Bench(TRAIN).begin().run()
    bench.score(4, 0.9)
    bench.frame(8)
    bench.score(8, 0.9)
    assert bench.ended().outcome == Outcome.SUCCESS


def test_a_last_score_that_never_comes_ends_the_wait_and_not_the_run():
    bench = Bench(TRAIN).begin().run()
    bench.frame(8)
    bench.machine.tick(0.9)
    assert bench.machine.state.phase == Phase.RUNNING
    bench.machine.tick(1.1)
    assert bench.ended().outcome == Outcome.TIMEOUT
    assert bench.machine.result is None


@pytest.mark.parametrize("seed", range(20))
def test_outcome_does_not_depend_on_how_messages_interleave(seed):
    """Frames in order, scores in order, but the two streams merged at random with scores late."""
    completions = {0: 0.1, 4: 0.9, 8: 0.9, 12: 0.9}
    bench, rng = Bench(TRAIN, max_steps=12).begin().run(), random.Random(seed)
    frames, scores = list(range(13)), list(completions)
    while scores:
        if frames and (frames[0] <= scores[0] or rng.random() < 0.5):
            bench.frame(frames.pop(0))
        else:
            step = scores.pop(0)
            if bench.machine.state.phase == Phase.RUNNING:
                bench.score(step, completions[step])
    record = bench.ended().record
    assert (record["outcome"], record["steps"]) == ("success", 8)


def test_evaluation_ignores_the_reward_and_waits_for_the_evaluator_s_verdict():
    bench = Bench(EVALUATE).begin().run()
    bench.score(0, 1.0)
    bench.score(4, 1.0)
    bench.frame(8)
    assert bench.machine.state.phase == Phase.RUNNING
    assert bench.machine.failure(0.0) == (True, "time-out")
    assert bench.ended().outcome == Outcome.TIMEOUT
    bench.run().frame(3)
    assert bench.machine.success(0.0)[0]
    assert (bench.ended().outcome, bench.ended().reason) == (Outcome.SUCCESS, "evaluator: the task is done")


def test_the_evaluator_s_last_word_may_overtake_the_last_frames():
    bench = Bench(EVALUATE).begin().run()
    bench.frame(6)
    assert bench.machine.failure(0.0)[0]
    bench.frame(7)
    assert bench.machine.state.phase == Phase.RUNNING
    bench.frame(8)
    assert bench.ended().outcome == Outcome.TIMEOUT
    bench.run().frame(6)
    bench.machine.failure(0.0)
    bench.machine.tick(2.9)
    assert bench.machine.state.phase == Phase.RUNNING
    bench.machine.tick(3.1)
    assert (bench.ended().outcome, bench.ended().reason) == (Outcome.FAILURE, "evaluator: the task has failed")


def test_a_human_may_end_a_training_episode_either_way():
    bench = Bench(TRAIN).begin().run()
    bench.frame(3)
    assert bench.machine.failure(0.0) == (True, "failure")
    assert (bench.ended().outcome, bench.ended().reason) == (Outcome.FAILURE, "human: the task has failed")
    assert bench.machine.success(0.0) == (False, "no episode is running")  # the next one is being reset


def test_pause_holds_a_running_episode_and_resume_takes_it_up():
    bench = Bench(TRAIN).begin().run()
    bench.frame(3)
    assert bench.machine.pause(0.0) == (True, "paused")
    assert bench.machine.pause(0.0) == (False, "already paused")
    bench.machine.tick(10_000.0)  # no deadline runs while a human looks at the arm
    assert bench.machine.state.phase == Phase.PAUSED
    bench.now = 10_000.0
    assert bench.machine.resume(bench.now) == (True, "resumed")
    state = bench.machine.state
    assert state.episode is not None
    assert (state.phase, state.start, state.episode.episode_id) == (Phase.RUNNING, bench.start, "train-000-0000")
    bench.machine.tick(10_001.0)
    assert bench.machine.result is None
    bench.time_out()
    assert bench.ended().outcome == Outcome.TIMEOUT


@pytest.mark.parametrize("before", ["running", "resetting"])
def test_a_robot_s_clock_goes_on_in_a_pause_and_the_episode_does_not(before):
    """A human takes a minute to release the arm: the episode has the steps left that it had."""
    bench = Bench(TRAIN).begin()
    if before == "running":
        bench.run().frame(3)
        bench.machine.pause(0.0)
    else:
        bench.machine.pause(0.0)
        bench.start += 60_000_000_000
        bench.machine.reset_done(bench.now, True, "", bench.start)
    for step in range(4, 1204):
        bench.frame(step)
    bench.machine.resume(60.0)
    done = 3 if before == "running" else 0
    bench.frame(1203 + 8 - done - 1)
    assert bench.machine.state.phase == Phase.RUNNING and bench.machine.steps == 7
    bench.frame(1203 + 8 - done)
    bench.machine.tick(70.0)
    assert bench.ended().outcome == Outcome.TIMEOUT and bench.ended().record["steps"] == 8
    assert bench.ended().stamp == bench.start + (1203 + 8 - done) * PERIOD


@pytest.mark.parametrize("moment", ["resetting", "updating"])
def test_pause_between_episodes_begins_before_the_arm_moves(moment):
    bench = Bench(TRAIN).begin()
    if moment == "updating":
        bench.run().time_out()
        bench.run().time_out()
    assert bench.machine.pause(0.0) == (True, f"pauses after {moment}")
    if moment == "resetting":
        bench.machine.reset_done(0.0, True, "", bench.start)
    else:
        bench.machine.update(0.0, 0, 0, False)
    assert bench.machine.state.phase == Phase.PAUSED
    bench.machine.resume(0.0)
    assert bench.machine.state.phase == (Phase.RUNNING if moment == "resetting" else Phase.RESETTING)


def test_a_pause_that_has_not_begun_can_be_taken_back():
    bench = Bench(TRAIN).begin()
    bench.machine.pause(0.0)
    assert bench.machine.resume(0.0)[0]
    assert bench.machine.resume(0.0) == (False, "not paused")
    bench.run()


def test_an_episode_that_ends_in_a_pause_starts_no_other():
    bench = Bench(TRAIN).begin().run()
    bench.machine.pause(0.0)
    bench.machine.success(0.0)
    bench.collect()
    assert [state.phase for state in bench.said[-2:]] == [Phase.ENDED, Phase.PAUSED]


def test_an_episode_that_a_human_starts():
    """It begins with the robot's next state after the word, however long that took; not before the scene is back, and not in a pause."""
    bench = Bench(EVALUATE, simulated=False, await_start=True)
    assert bench.machine.start(0.0) == (False, "no episode waits for a start")
    bench.begin()
    assert bench.machine.start(0.0) == (False, "the scene is not back yet")
    bench.machine.reset_done(5.0, True, "", bench.start)
    assert bench.machine.ready and bench.collect() == [Phase.RESETTING], "nobody else hears of it"
    bench.machine.reset_done(5.0, True, "", bench.start)
    bench.frame(300)
    bench.machine.tick(14.0)  # its patience begins when the scene is back
    bench.machine.pause(14.0, "watchdog: e-stop: pressed")
    assert bench.machine.start(14.0) == (False, "watchdog: e-stop: pressed; resume first")
    bench.machine.resume(14.0)
    assert bench.machine.start(14.0) == (True, "the episode begins")
    assert bench.machine.start(14.0) == (False, "no episode waits for a start")
    assert bench.machine.state.phase == Phase.RUNNING and bench.machine.state.start == bench.start + 301 * PERIOD
    bench.frame(300)  # still under way, from before
    bench.frame(303)
    assert bench.machine.steps == 2
    assert bench.machine.failure(15.0) == (True, "failure")  # a human's word holds at once
    assert bench.ended().reason == "human: the task has failed"

    bench.machine.reset_done(20.0, True, "", bench.start + 400 * PERIOD)
    bench.machine.tick(29.0)
    assert bench.machine.result is None
    bench.machine.tick(31.0)
    assert bench.machine.result == ("failed", "nobody said start within 10 s")
    assert bench.machine.start(31.0) == (False, "no episode waits for a start")


@pytest.mark.parametrize("phase", ["waiting", "resetting", "running", "paused", "updating"])
def test_stop_ends_the_run_from_anywhere(phase):
    bench = Bench(TRAIN)
    if phase != "waiting":
        bench.begin()
    if phase in ("running", "paused"):
        bench.run()
    if phase == "paused":
        bench.machine.pause(0.0)
    if phase == "updating":
        bench.run().time_out()
        bench.run().time_out()
    assert bench.machine.stop(0.0) == (True, "stopped by a human")
    bench.collect()
    assert bench.said[-1].phase == Phase.FINISHED
    aborted = any(state.outcome == Outcome.ABORTED for state in bench.said if state.phase == Phase.ENDED)
    assert aborted == (phase in ("resetting", "running", "paused"))
    assert bench.machine.result == ("stopped", "stopped by a human")
    assert bench.machine.stop(0.0) == (False, "the run is over")
    assert bench.machine.pause(0.0) == (False, "the run is over")


def test_deadlines_name_the_missing_peer():
    def reason(prepare, now):
        bench = Bench(TRAIN).begin()
        prepare(bench)
        bench.machine.tick(now - 0.2)
        assert bench.machine.result is None
        bench.machine.tick(now)
        return bench.machine.result

    def updating(bench):
        bench.run().time_out()
        bench.run().time_out()

    def applying(bench):
        updating(bench)
        bench.machine.update(0.0, 0, 1, True)

    assert reason(lambda bench: None, 10.1) == ("failed", "nobody brought the scene back within 10 s")
    assert reason(lambda bench: bench.run(), 20.1) == ("failed", "simulator sent no frame for 20 s")
    assert reason(updating, 30.1) == ("failed", "learner did not report an update within 30 s")
    assert reason(applying, 5.1) == ("failed", "policy did not acknowledge weights version 1 within 5 s")


def test_a_reset_that_fails_ends_the_run_with_the_simulator_s_reason():
    bench = Bench(TRAIN).begin()
    bench.machine.reset_done(0.0, False, "unknown task 'foo'", 0)
    assert bench.machine.result == ("failed", "the scene could not be brought back: unknown task 'foo'")


@pytest.mark.parametrize("ack_first", [False, True])
def test_the_next_iteration_waits_for_update_and_acknowledgement_in_any_order(ack_first):
    bench = Bench(TRAIN).begin().iteration()
    if ack_first:
        bench.machine.acknowledge(0.0, 1, True, "")
    bench.machine.update(0.0, 7, 9, True)  # of another iteration
    bench.machine.update(0.0, 0, 1, True)
    if not ack_first:
        assert bench.machine.state.phase == Phase.UPDATING
        bench.machine.acknowledge(0.0, 1, True, "")
    assert bench.machine.state.phase == Phase.RESETTING
    assert bench.machine.version == 1


def test_refused_weights_end_the_run_with_the_policy_s_reason():
    bench = Bench(TRAIN).begin().iteration()
    bench.machine.update(0.0, 0, 1, True)
    bench.machine.acknowledge(0.0, 1, False, "config_hash differs")
    assert bench.machine.result == ("failed", "policy refused weights version 1: config_hash differs")


def test_weights_in_use_that_the_policy_leaves_end_the_run():
    bench = Bench(TRAIN).begin().iteration()
    bench.machine.update(0.0, 0, 1, True)
    bench.machine.acknowledge(0.0, 1, True, "")
    bench.run()
    bench.machine.acknowledge(0.0, 1, False, "actions of version 1 are not finite; version 0 is back in use")
    reason = "policy left weights version 1: actions of version 1 are not finite; version 0 is back in use"
    assert bench.machine.result == ("failed", reason)


def test_another_sender_s_weights_that_are_refused_do_not_end_the_run():
    bench = Bench(TRAIN).begin().iteration()
    bench.machine.update(0.0, 0, 1, True)
    bench.machine.acknowledge(0.0, 1, True, "")
    bench.run()
    bench.machine.acknowledge(0.0, 1, False, "weights 1 are not signed", left=False)
    assert bench.machine.result is None


def test_reward_summary_leaves_out_what_was_not_given():
    bench = Bench(TRAIN).begin().run()
    bench.score(0, 0.1, progress=0.2, total=0.4)
    bench.score(4, 0.3, progress=0.6, total=math.nan)
    bench.score(8, 0.9, progress=0.9, total=1.0, valid=False)
    bench.frame(8)
    assert bench.ended().record["reward"] == {"samples": 3, "invalid": 1, "max_progress": 0.6, "max_completion": 0.3, "mean_total": 0.4}


def test_phases_and_outcomes_are_those_of_the_message():
    message = pytest.importorskip("whetstone_msgs.msg").Episode
    for phase in Phase:
        assert getattr(message, f"PHASE_{phase.name}") == phase
    for outcome in Outcome:
        assert getattr(message, f"OUTCOME_{outcome.name}") == outcome
