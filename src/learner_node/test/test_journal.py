"""What of a run outlives the learner."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from learner_node.journal import Done, Journal
from whetstone.contracts import UpdateReport
from whetstone.errors import InputError

IDENTITY = {"learner": "stand_in", "seed": "0"}


class Keeping:
    """A learner of one number."""

    def __init__(self, value: float = 0.0) -> None:
        self.value = value

    def trainable_state(self) -> dict[str, np.ndarray]:
        return {"value": np.full(1, self.value, np.float32)}

    def load_trainable_state(self, state: dict[str, np.ndarray]) -> None:
        self.value = float(state["value"][0])

    def best_state(self) -> dict[str, np.ndarray]:
        return {"value": np.full(1, 7.0, np.float32)}

    def checkpoint(self) -> dict[str, Any]:
        return {"value": self.value, "episodes": ["a", "b"]}

    def resume(self, state: dict[str, Any], read: Any) -> int:
        self.value = state["value"]
        return sum(read(name) is None for name in state["episodes"])


class Forgetful:
    """One that keeps no checkpoints."""

    def __init__(self, policy: Keeping) -> None:
        self.policy = policy

    def trainable_state(self) -> dict[str, np.ndarray]:
        return self.policy.trainable_state()


def done(iteration: int, version: int, deploy: bool = True) -> Done:
    return Done(iteration, version, version - deploy, UpdateReport(deploy, "so it is", {"loss": 0.5, "kl": float("nan")}), iteration + 1)


def test_it_goes_on_where_the_last_update_left_off(tmp_path: Path) -> None:
    journal = Journal(tmp_path, IDENTITY)
    assert journal.resume(Keeping(), Keeping(), lambda _: None) == (None, [])  # type: ignore[arg-type]
    journal.write(done(0, 1), Keeping(1.0))
    journal.write(done(1, 1, deploy=False), Keeping(2.0))
    learner = Keeping()
    found, notes = Journal(tmp_path, IDENTITY).resume(learner, Keeping(), {"a": object()}.get)  # type: ignore[arg-type]
    assert found is not None and (found.iteration, found.version, found.parent, found.report.deploy) == (1, 1, 1, False)
    assert found.report.reason == "so it is" and found.report.metrics["loss"] == 0.5
    assert learner.value == 2.0 and notes == ["1 episodes that it remembered are no longer on the disk"]
    assert journal.load(1)["value"] == 1.0


def test_the_newest_weights_and_the_best_stay(tmp_path: Path) -> None:
    journal = Journal(tmp_path, IDENTITY, keep=2)
    for count in range(5):
        journal.write(done(count, count + 1), Keeping(count))
    assert sorted(path.name for path in journal.weights.iterdir()) == ["000004.safetensors", "000005.safetensors", "best.safetensors"]
    everything = Journal(tmp_path / "all", IDENTITY, keep=0)
    for count in range(5):
        everything.write(done(count, count + 1), Keeping(count))
    assert len(list(everything.weights.iterdir())) == 6


def test_a_damaged_checkpoint_goes_back_to_the_one_before(tmp_path: Path) -> None:
    journal = Journal(tmp_path, IDENTITY)
    journal.write(done(0, 1), Keeping(1.0))
    journal.write(done(1, 2), Keeping(2.0))
    (tmp_path / "checkpoints" / "000002.safetensors").write_bytes(b"nothing")
    learner = Keeping()
    found, notes = journal.resume(learner, Keeping(), lambda _: None)  # type: ignore[arg-type]
    assert found is not None and found.version == 1 and learner.value == 1.0
    assert "000002.safetensors: not a usable checkpoint" in notes[0]


def test_another_run_s_checkpoint_is_refused(tmp_path: Path) -> None:
    Journal(tmp_path, IDENTITY).write(done(0, 1), Keeping())
    with pytest.raises(InputError, match="learner was 'stand_in', now it is 'ppo'"):
        Journal(tmp_path, {**IDENTITY, "learner": "ppo"}).resume(Keeping(), Keeping(), lambda _: None)  # type: ignore[arg-type]


def test_a_learner_without_checkpoints_begins_anew_from_the_weights_in_force(tmp_path: Path) -> None:
    journal = Journal(tmp_path, IDENTITY)
    journal.write(done(0, 1), Forgetful(Keeping(3.0)))
    policy = Keeping()
    found, notes = journal.resume(Forgetful(policy), policy, lambda _: None)  # type: ignore[arg-type]
    assert found is not None and policy.value == 3.0 and "begins anew from the weights in force" in notes[0]
