"""`whetstone episodes`: what is there, one of them, what stays, and what cannot be read."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

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
    ],
)
def test_wrong_words_are_named(words: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["episodes", *words]) == 2
    error = capsys.readouterr().err
    assert said in error and error.count("\n") == 1
