"""`whetstone episodes`: what is there, one of them, what stays, and what cannot be read."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from recording_samples import QOS, STRING, text
from rich.console import Console

from robot_bringup.bags.folder import BagFolder
from robot_bringup.bags.writer import BagWriter
from robot_bringup.cli import main
from whetstone.contracts import Rollout
from whetstone.store import RolloutStore


def rollout(episode_id: str, outcome: str) -> Rollout:
    return Rollout(
        episode_id=episode_id,
        iteration=0,
        task="push",
        instruction="push the [red] cube",
        seed=1,
        outcome=outcome,
        reason="completion 0.93 on 2 frames",
        stamps=np.arange(2, dtype=np.int64) * 400_000_000,
        images={"front": np.zeros((2, 4, 6, 3), np.uint8)},
        proprioception=np.zeros((2, 3), np.float32),
        actions=np.full((2, 4, 3), 0.25, np.float32),
        latents=None,
        log_probabilities=np.full(2, np.nan, np.float32),
        policy_versions=np.array([3, 4], np.uint64),
        rewards={"progress": np.array([0.1, np.nan, 0.8], np.float32)},
        reward_model_id="sarm2@abc",
        scores={"stamps": np.arange(5, dtype=np.int64), "valid": np.array([True] * 4 + [False])},
        steps={
            "stamps": np.arange(3, dtype=np.int64),
            "measured": np.zeros((3, 3), np.float32),
            "commanded": np.array([[0] * 3, [np.nan] * 3, [0] * 3], np.float32),
        },
    )


@pytest.fixture
def run_dir(tmp_path: Path) -> Path:
    store = RolloutStore(tmp_path / "run" / "rollouts")
    for name, outcome in (("train-000-0000", "success"), ("train-000-0001", "timeout"), ("train-000-0002", "timeout")):
        store.write(rollout(name, outcome))
    (tmp_path / "run" / "rollouts" / "train-000-0001" / "meta.json").write_text("{")
    return tmp_path / "run"


@pytest.fixture(autouse=True)
def wide(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("robot_bringup.cli.Console", lambda: Console(width=160))


def test_a_list_names_what_is_there_and_sets_aside_what_cannot_be_read(run_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["episodes", "list", str(run_dir)]) == 0
    shown = capsys.readouterr().out
    assert "2 episodes, 1 judged successful" in shown and "0.80" in shown and "3,4" in shown
    assert "quarantined now: train-000-0001:" in shown and "meta.json: damaged" in shown
    assert main(["episodes", "list", str(run_dir / "rollouts")]) == 0
    assert "in quarantine: train-000-0001:" in capsys.readouterr().out


def test_what_a_killed_process_left_is_named(run_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    store = RolloutStore(run_dir / "rollouts")
    store.begin("train-000-0003").close()
    store.interrupt("train-000-0003", rollout("train-000-0003", "aborted"), "its recorder was killed")
    assert main(["episodes", "list", str(run_dir)]) == 0
    assert "interrupted: train-000-0003: its recorder was killed" in capsys.readouterr().out
    assert main(["episodes", "show", str(run_dir / "rollouts" / "interrupted"), "train-000-0003"]) == 0
    assert "aborted" in capsys.readouterr().out


def test_what_is_set_aside_is_counted_and_cleared_by_a_human(run_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["episodes", "list", str(run_dir)]) == 0
    root = run_dir / "rollouts"
    said = " ".join(capsys.readouterr().out.split())
    assert "quarantine: 1 folders, 0.0 MB, which count in the disk budget" in said
    assert f"`whetstone episodes clear {root} quarantine` deletes them" in said and "interrupted:" not in said
    assert main(["episodes", "clear", str(run_dir), "everything"]) == 2
    assert "'everything' cannot be cleared; there are interrupted and quarantine" in capsys.readouterr().err
    assert main(["episodes", "clear", str(run_dir), "quarantine"]) == 0
    assert "quarantine: 0.0 MB deleted" in capsys.readouterr().out and not list((root / "quarantine").iterdir())
    assert main(["episodes", "list", str(run_dir)]) == 0
    assert "quarantine" not in capsys.readouterr().out


def test_one_episode(run_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["episodes", "show", str(run_dir), "train-000-0000"]) == 0
    shown = capsys.readouterr().out
    for words in (
        "push: push the [red] cube",
        "success (completion 0.93",
        "front 6x4",
        "3, 2 with a command",
        "5, 1 invalid",
        "0.25 0.25 0.25",
    ):
        assert words in shown, words


def test_protected_episodes_stay_whatever_the_budget(run_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["episodes", "protect", str(run_dir), "train-000-0000"]) == 0
    assert main(["episodes", "prune", str(run_dir), "gb:=0"]) == 0
    assert "deleted: train-000-0002" in capsys.readouterr().out
    assert main(["episodes", "unprotect", str(run_dir), "train-000-0000"]) == 0
    assert main(["episodes", "prune", str(run_dir), "gb:=0"]) == 0
    assert RolloutStore(run_dir / "rollouts").list() == ["train-000-0001"], "the newest stays"


def test_the_bag_of_a_protected_episode_stays_too_and_one_that_has_not_ended_is_named(run_dir: Path, capsys: Any) -> None:
    folder = BagFolder(run_dir / "bags")
    for name in ("train-000-0000", "train-000-0002"):
        path = folder.begin(name)
        write_one(path)
        if name == "train-000-0000":  # its late words are still waited for
            assert main(["episodes", "protect", str(run_dir), name]) == 0
            assert f"and the bags in {run_dir / 'bags'}: {name}" in capsys.readouterr().out
        folder.finish(path)
    BagWriter(folder.begin("train-000-0003"), {}).abandon()
    assert main(["episodes", "list", str(run_dir)]) == 0
    shown = capsys.readouterr().out
    assert "2 bags in" in shown and f"not ended: bag train-000-0003 in {run_dir / 'bags' / 'running'}" in shown
    path = folder.begin("train-000-0004")
    write_one(path)
    folder.finish(path)
    assert folder.prune(0) == ["train-000-0002"]
    assert main(["episodes", "unprotect", str(run_dir), "train-000-0000"]) == 0
    assert folder.prune(0) == ["train-000-0000"]


def write_one(path: Path) -> None:
    writer = BagWriter(path, {})
    writer.add_topic("/words", STRING, QOS)
    writer.write("/words", 1, text(1))
    writer.close({})


def so100(episode_id: str, outcome: str, decisions: int = 3) -> Rollout:
    """What a run of the SO-100 records, small images."""
    count = decisions * 4
    stamps = np.arange(count + 1, dtype=np.int64) * 50_000_000
    moving = np.linspace([0.0] * 6, [0.5] * 6, count + 1, dtype=np.float32)
    return replace(
        rollout(episode_id, outcome),
        stamps=stamps[:-1:4],
        images={name: np.full((decisions, 128, 128, 3), 40, np.uint8) for name in ("front", "wrist")},
        proprioception=moving[:-1:4],
        actions=np.zeros((decisions, 4, 6), np.float32),
        log_probabilities=np.zeros(decisions, np.float32),
        policy_versions=np.zeros(decisions, np.uint64),
        rewards={name: np.linspace(0, 1, decisions + 1, dtype=np.float32) for name in ("total", "progress")},
        scores={},
        steps={"stamps": stamps, "measured": moving, "commanded": moving},
    )


def test_to_a_dataset_of_lerobots_and_back(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    store = RolloutStore(tmp_path / "run" / "rollouts")
    for index, outcome in enumerate(("success", "timeout", "success")):
        store.write(so100(f"train-000-000{index}", outcome))
    (tmp_path / "run" / "run.json").write_text('{"arguments": {"robot": "so100"}}')
    dataset = tmp_path / "dataset"
    assert main(["episodes", "export", str(tmp_path / "run"), f"to:={dataset}", "only:=success", "images:=png", "repo_id:=me/cubes"]) == 0
    shown = capsys.readouterr().out
    assert "2 episodes, 6 rows (decisions, 5 per second)" in shown and f'LeRobotDataset("me/cubes", root="{dataset}")' in shown
    assert main(["episodes", "import", f"from:={dataset}", "robot:=so100", f"to:={tmp_path / 'back'}"]) == 0
    assert "2 episodes: train-000-0000, train-000-0002" in capsys.readouterr().out
    back = RolloutStore(tmp_path / "back").read("train-000-0002")
    np.testing.assert_array_equal(back.images["wrist"], store.read("train-000-0002").images["wrist"])
    demos = tmp_path / "demos"
    assert main(["episodes", "import", f"from:={dataset}", "robot:=so100", f"to:={demos}", "sidecar:=false", "episodes:=1"]) == 2
    assert "5 rows per second, so100 is driven at 20 Hz; resample:=true" in capsys.readouterr().err
    arguments = ["sidecar:=false", "episodes:=1", "resample:=true", "prefix:=teleop", "execute:=2", "horizon:=4"]
    assert main(["episodes", "import", f"from:={dataset}", "robot:=so100", f"to:={demos}", *arguments]) == 0
    demo = RolloutStore(demos).read("teleop-000001")
    assert demo.source == "demonstration" and demo.outcome == "success" and demo.actions.shape == (4, 4, 6)
    assert main(["episodes", "show", str(demos), "teleop-000001"]) == 0
    assert "demonstration" in capsys.readouterr().out


def test_a_reward_model_scores_what_was_recorded(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    store = RolloutStore(tmp_path / "demos")
    demo = so100("demo-000000", "success")
    demo.rewards = {"progress": np.full(4, np.nan, np.float32)}
    store.write(demo)
    store.write(replace(rollout("other", "success"), steps={}))
    labelled = ["episodes", "label", str(store.root), "robot:=so100"]
    assert main([*labelled, "reward:=constant"]) == 0  # every 4 control steps, as the decisions
    shown = capsys.readouterr().out
    assert "1 episodes scored by constant" in shown and "left out: other: " in shown
    after = store.read("demo-000000")
    np.testing.assert_array_equal(after.rewards["progress"], [0.5, 0.5, 0.5, np.nan], err_msg="the last frame was not recorded")
    assert after.reward_model_id == "constant" and after.outcome == "success"
    assert main([*labelled, "reward:=constant", "only:=other"]) == 2
    assert "no episode could be scored: its control steps were not recorded" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["lst", "."], "unknown command of episodes 'lst'; did you mean 'list'?"),
        (["list"], "needs a folder"),
        (["list", "/nowhere"], "/nowhere: no such folder"),
        (["show", "."], "takes a folder and one episode"),
        (["show", ".", "train-9"], "'train-9' is not in"),
        (["protect", "."], "name the episodes"),
        (["prune", ".", "gb:=much"], "gb:=N"),
        (["prune", "."], "gb:=N"),
        (["list", ".", "more"], "not also 'more'"),
        (["label", ".", "robot:=so100"], "needs reward:=NAME"),
        (["export", "."], "needs to:=DATASET"),
        (["export", ".", "to:=x"], "say whose joints these are, robot:=NAME"),
        (["export", ".", "to:=x", "robot:=so100"], "no episode to export: none was chosen"),
        (["export", ".", "to:=x", "images:=gif"], "unknown value of images 'gif'"),
        (["export", ".", "to:=x", "format:=lerobt"], "did you mean 'lerobot'?"),
        (["import", "from:=x", "to:=y"], "needs robot:="),
        (["import", "from:=/nowhere", "to:=y", "robot:=so100"], "/nowhere: no LeRobotDataset"),
        (["import", "from:=x", "to:=y", "robot:=so100", "cameras:=front"], "ours=theirs"),
        (["import", "from:=x", "to:=y", "robot:=so100", "gripper:=1,1"], "CLOSED,OPEN"),
        (["import", "from:=x", "to:=y", "robot:=so100", "episodes:=last"], "0,2,5"),
        (["import", "from:=x", "to:=y", "robot:=so100", "execute:=20"], "at most horizon"),
    ],
)
def test_wrong_words_are_named(words: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["episodes", *words]) == 2
    error = capsys.readouterr().err
    assert said in error and error.count("\n") == 1
