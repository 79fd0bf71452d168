"""The rehearsal: a whole refinement in one process with the real plug-ins, short."""

from __future__ import annotations

import re

import pytest

from robot_bringup import rehearse
from whetstone.errors import ConfigError


def test_a_short_rehearsal_evaluates_iterates_and_evaluates_again(capsys):
    rehearse.main(["robot:=so100", "iterations:=1", "episodes:=2", "evaluation_episodes:=1", "seed:=3"])
    lines = capsys.readouterr().out.splitlines()
    assert re.fullmatch(r"so100 pick_and_place, base policy: greedy \d+%, sampled \d+% of 1 development episodes", lines[0])
    assert re.match(r"iteration 0: (0|50|100)% of 2 episodes successful by the reward; ", lines[1])
    assert lines[2].startswith("after iteration 0: greedy")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["robots:=so100"], "robots"),
        (["episodes:=0"], "episodes"),
        (["reward:=nothing"], "nothing"),
        (["iterations:=few"], "few"),
        (["truth:=maybe"], "maybe"),
    ],
)
def test_wrong_words_are_named(words, said):
    with pytest.raises(ConfigError, match=said):
        rehearse.main(words)


def test_with_the_truth_for_a_reward_every_success_is_one(capsys):
    rehearse.main(["robot:=so100", "iterations:=1", "episodes:=4", "evaluation_episodes:=1", "seed:=3", "truth:=true"])
    line = capsys.readouterr().out.splitlines()[1]
    assert "; 0 of the reward's false, at progress " in line
    assert re.search(r" [1-4] of the reward's true, at progress 1.00", line), line
