"""Going on with a run that was cut off: arguments, records, what is still to come."""

from __future__ import annotations

from contextlib import closing

import pytest
from hypothesis import given
from hypothesis import strategies as st

from robot_bringup import records, resuming, schedule
from robot_bringup.episode_machine import Deadlines, EpisodeMachine, Phase
from robot_bringup.plan import plan
from robot_bringup.preparation import Preparation
from robot_bringup.schedule import Segment
from whetstone import jsonfile
from whetstone.errors import ConfigError

GOOD = {"policy": "still", "reward": "constant"}
SEGMENTS = [
    Segment("evaluate", "base_greedy", 1, 2, 100, True),
    Segment("train", "", 2, 2, 0, False),
    Segment("evaluate", "refined", 1, 2, 100, True),
]


@pytest.fixture(autouse=True)
def own_temporary_folder(tmp_path, monkeypatch):
    (tmp_path / "tmp").mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "tmp"))


@pytest.fixture
def begun(root, tmp_path):
    """A run that was cut off before its first episode."""
    run_dir = tmp_path / "run"
    Preparation(plan("refine", {**GOOD, "seed": "3", "base_evaluation": "false", "run_dir": str(run_dir)})).close()
    return run_dir


def again(run_dir, **given):
    return plan("refine", {"resume": "true", "run_dir": str(run_dir), **given})


def test_a_run_goes_on_with_its_own_arguments(begun):
    planned = again(begun, domain_id="7", min_free_gb="0.1")
    assert planned.arguments["seed"] == 3 and planned.arguments["base_evaluation"] is False
    assert planned.arguments["policy"] == "still" and planned.domain_id == 7
    for name in ("learner", "episode_manager"):
        assert next(node for node in planned.nodes if node.name == name).parameters["resume"] is True
    with closing(Preparation(planned)):
        settings = jsonfile.read(begun / records.SETTINGS)
    assert settings["resumed"] == 1 and settings["arguments"]["domain_id"] == 0


def test_what_shapes_the_result_cannot_change(begun, root):
    with pytest.raises(ConfigError, match="argument seed:=4: the run was begun with seed:=3; a resumed run keeps it"):
        again(begun, seed="4")
    again(begun, seed="3")
    with pytest.raises(ConfigError, match="unknown argument 'sed'"):
        again(begun, sed="3")
    reward = root / "config" / "rewards" / "constant.yaml"
    reward.write_text(reward.read_text() + "# another word\n")
    again(begun)
    Preparation(again(begun)).close()  # a comment changes nothing
    reward.write_text(reward.read_text().replace("0.7", "0.6"))
    with pytest.raises(ConfigError, match=r"changed since the run began: .*constant\.yaml; put it back, or begin a new run"):
        Preparation(again(begun))


def test_there_must_be_a_run_that_is_not_over(begun, root, tmp_path):
    with pytest.raises(ConfigError, match="resume:=true needs run_dir:="):
        plan("refine", {"resume": "true"})
    with pytest.raises(ConfigError, match=r"holds no run to go on with \(run.json is missing\)"):
        again(tmp_path / "nowhere")
    with pytest.raises(ConfigError, match="holds a run of mode refine; use whetstone run refine"):
        plan("evaluate", {"resume": "true", "run_dir": str(begun)})
    with pytest.raises(ConfigError, match="already holds something; name a new folder, or go on with that run by resume:=true"):
        Preparation(plan("refine", {**GOOD, "run_dir": str(begun)}))
    jsonfile.write(begun / records.OUTCOME, {"result": "stopped", "reason": "interrupted"})
    Preparation(again(begun)).close()
    jsonfile.write(begun / records.OUTCOME, {"result": "finished", "reason": "all episodes are done"})
    with pytest.raises(ConfigError, match="this run is over: all episodes are done"):
        again(begun)


def note(run_dir, count, judged):
    """The records of the first `count` episodes of SEGMENTS, `judged` of them by the evaluator too."""
    for number, episode in enumerate(schedule.episodes(SEGMENTS)):
        record = {"episode_id": episode.episode_id, "mode": episode.mode, "outcome": "success"}
        if number < count:
            records.append(run_dir / records.EPISODES, record)
        if number < judged:
            records.append(run_dir / (records.EVALUATION if episode.mode == "evaluate" else records.TRUTH), record)


@given(count=st.integers(0, 8), judged=st.integers(0, 8))
def test_every_episode_is_done_once_whenever_the_run_was_cut_off(count, judged, tmp_path_factory):
    run_dir = tmp_path_factory.mktemp("run")
    note(run_dir, count, judged)
    resuming.tidy(run_dir)
    names = [record["episode_id"] for record in records.read_all(run_dir / records.EPISODES)]
    to_come, after = resuming.remaining(run_dir, schedule.episodes(SEGMENTS))
    planned = list(schedule.episodes(SEGMENTS))
    assert sorted([*names, *(one.episode_id for one in to_come)]) == sorted(one.episode_id for one in planned)
    for file in (records.EVALUATION, records.TRUTH):
        assert {record["episode_id"] for record in records.read_all(run_dir / file)} <= set(names)
    collected = [one for one in planned[:count] if one.mode == "train" and one.last]
    assert after == (collected[-1] if collected else None)


def test_half_lines_aborted_episodes_and_doubled_ones_go_and_logs_are_set_aside(begun):
    note(begun, 3, 3)
    records.append(begun / records.EPISODES, {"episode_id": "train-000-0001", "mode": "train", "outcome": "aborted"})
    records.append(begun / records.TRUTH, {"episode_id": "train-000-0000", "stage": 2})
    for _ in range(2):
        records.append(begun / records.UPDATES, {"iteration": 0, "version": 1})
    with (begun / records.EPISODES).open("a") as file:
        file.write('{"episode_id": "tra')
    (begun / "logs" / "learner.log").write_text("[ERROR] a: of the time before\n")
    Preparation(again(begun)).close()
    names = [record["episode_id"] for record in records.read_all(begun / records.EPISODES)]
    assert names == ["base_greedy-0000", "base_greedy-0001", "train-000-0000"]
    assert (begun / records.EPISODES).read_bytes().endswith(b"\n")
    assert [record.get("stage") for record in records.read_all(begun / records.TRUTH)] == [2]
    assert len(records.read_all(begun / records.UPDATES)) == 1
    assert not list((begun / "logs").iterdir()) and (begun / "logs-1" / "learner.log").is_file()


@pytest.mark.parametrize("deployed", [True, False])
def test_the_machine_asks_for_the_update_first_and_waits_for_its_weights(deployed):
    planned = list(schedule.episodes(SEGMENTS))
    machine = EpisodeMachine(iter(planned[4:]), rate=20.0, max_steps=8, completion=None, after=planned[3], deadlines=Deadlines(apply=5))
    machine.begin(0.0)
    (state,) = machine.take()
    assert (state.phase, state.episode) == (Phase.UPDATING, planned[3])
    machine.update(1.0, 0, 2, deployed)
    assert machine.state.phase == Phase.UPDATING, "the policy has begun anew: even weights that were kept must reach it"
    machine.acknowledge(2.0, 2, True, "")
    assert (machine.state.phase, machine.state.episode, machine.version) == (Phase.RESETTING, planned[4], 2)


def test_a_base_policy_that_stayed_needs_no_weights():
    planned = list(schedule.episodes(SEGMENTS))
    machine = EpisodeMachine(iter(planned[4:]), rate=20.0, max_steps=8, completion=None, after=planned[3])
    machine.begin(0.0)
    machine.update(1.0, 0, 0, False)
    assert machine.state.phase == Phase.RESETTING
