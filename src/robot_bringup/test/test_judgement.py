"""The evaluator's bookkeeping."""

from __future__ import annotations

from robot_bringup.judgement import Judgement

PERIOD = 50_000_000
START = 5_000_000_000


def judge(flags, frames=3, max_steps=10, end=None, decides=True):
    judgement = Judgement(START, 20.0, max_steps, frames, decides)
    verdicts = {}
    for step, success in enumerate(flags):
        verdict = judgement.see(START + step * PERIOD, success, int(success), 1)
        if verdict is not None:
            verdicts[step] = verdict
    if end is not None:
        judgement.end(START + end * PERIOD)
    return judgement, verdicts


def test_success_needs_frames_in_a_row():
    judgement, verdicts = judge([0, 1, 1, 0, 1, 1, 1, 1], end=7)
    assert verdicts == {6: True}
    assert judgement.complete
    assert judgement.record() == {"success": True, "steps": 6, "ever": True, "stage": 1, "stages": 1}


def test_failure_is_said_once_at_the_last_step():
    judgement, verdicts = judge([0] * 13, end=10)
    assert verdicts == {10: False}
    assert judgement.record()["success"] is False
    assert judgement.record()["steps"] == 10


def test_success_on_the_very_last_step_counts_and_later_does_not():
    assert judge([0] * 8 + [1, 1, 1])[1] == {10: True}
    assert judge([0] * 9 + [1, 1, 1])[1] == {10: False}


def test_frames_after_the_end_do_not_count_even_if_seen_before_the_end_was_known():
    judgement, verdicts = judge([0, 0, 0, 0, 1, 1, 1], end=3, decides=False)
    assert verdicts == {}
    assert judgement.record() == {"success": False, "steps": 3, "ever": False, "stage": 0, "stages": 1}


def test_a_missing_frame_breaks_the_row_and_a_repeated_one_changes_nothing():
    judgement = Judgement(START, 20.0, 10, 3, True)
    for step in (0, 1, 1, 3, 4):
        assert judgement.see(START + step * PERIOD, True, 0, 1) is None
    assert judgement.see(START + 5 * PERIOD, True, 0, 1) is True


def test_frames_of_an_earlier_episode_do_not_count():
    judgement = Judgement(START, 20.0, 10, 1, True)
    assert judgement.see(START - PERIOD, True, 0, 1) is None
    assert not judgement.record()["ever"]


def test_complete_waits_for_the_last_frame():
    judgement, _ = judge([0, 0], end=2)
    assert not judgement.complete
    judgement.see(START + 2 * PERIOD, False, 0, 1)
    assert judgement.complete


def test_an_evaluation_s_success_stands_where_the_manager_counted_a_frame_less():
    assert judge([0, 1, 1, 1], end=2)[0].record() == {"success": True, "steps": 3, "ever": True, "stage": 1, "stages": 1}
