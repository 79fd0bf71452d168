"""Checkpoints: a learner that goes on from one does what it would have done; a file is whole or refused."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from test_actor_critic import make, played
from tiny_flow import TinyConditioned, TinyPolicy, rollout

from learner_node import checkpoint
from learner_node.awr import AWR
from learner_node.checkpoint import Checkpoints, capture, put_back
from learner_node.recap import RECAP
from learner_node.refinement import FlowRefinement
from whetstone.contracts import Rollout
from whetstone.errors import InputError


def imitation(cls: Any, policy: Any = TinyPolicy) -> Any:
    return cls.load({"tensors": "all", "steps": 20, "updates": 100.0, "batch": 32, "gate": {"episodes": 4}}, policy(), 0)


LEARNERS: dict[str, Callable[[], Any]] = {
    "flow_refinement": lambda: imitation(FlowRefinement),
    "awr": lambda: imitation(AWR),
    "recap": lambda: imitation(RECAP, TinyConditioned),
    **{name: lambda name=name: make(name, gate={"episodes": 4, "confidence": 0.95}) for name in ("dsrl", "spiral", "ppo")},
}


def iteration(number: int) -> list[Rollout]:
    """Good ones first, then bad ones, so that the gate has something to go back from."""
    chosen = np.random.default_rng(number).normal(1.5 if number < 2 else -1.5, 0.3, (6, 2))
    made = [played(one, 100 * number + index) for index, one in enumerate(chosen)]
    made.append(rollout("timeout", (-3.0, 3.0), progress=(0.0, 0.1, 0.0), seed=100 * number + 50))
    made[-1].latents = np.zeros((2, 2), np.float32)
    return made


@pytest.mark.parametrize("name", sorted(LEARNERS))
def test_a_learner_goes_on_as_if_it_had_never_stopped(name: str, tmp_path: Path) -> None:
    whole, known = LEARNERS[name](), {}
    for number in range(2):
        known |= {one.episode_id: one for one in iteration(number)}
        whole.update(iteration(number), number, False)
    checkpoint.save(tmp_path / "state", whole.checkpoint())
    again = LEARNERS[name]()
    assert again.resume(checkpoint.load(tmp_path / "state"), known.get) == 0
    assert same(whole.trainable_state(), again.trainable_state()) and same(whole.best_state(), again.best_state())
    reasons: list[str] = []
    for number in range(2, 5):
        reports = [learner.update(iteration(number), number, number == 4) for learner in (whole, again)]
        assert same(reports[0].metrics, reports[1].metrics) and reports[0].reason == reports[1].reason
        assert same(whole.trainable_state(), again.trainable_state())
        reasons.append(reports[0].reason)
    assert any("rolled back" in reason for reason in reasons), reasons


@pytest.mark.parametrize("name", sorted(set(LEARNERS) - {"ppo"}))
def test_episodes_that_are_gone_are_counted(name: str) -> None:
    learner, again = LEARNERS[name](), LEARNERS[name]()
    learner.update(iteration(0), 0, False)
    known = {one.episode_id: one for one in iteration(0)[2:]}
    assert again.resume(learner.checkpoint(), known.get) == 2
    again.update(iteration(1), 1, False)


def test_nothing_in_a_checkpoint_follows_the_learner_any_more() -> None:
    learner = LEARNERS["dsrl"]()
    learner.update(iteration(0), 0, False)
    kept = learner.checkpoint()
    before = capture(kept)
    learner.update(iteration(1), 1, False)
    assert same(kept["parts"], before["parts"])


ARRAYS = st.sampled_from([np.zeros((0, 3), np.float32), np.arange(6).reshape(2, 3), np.array(2.5), np.array([True, False])])
LEAVES = st.none() | st.booleans() | st.integers(-(2**130), 2**130) | st.floats(allow_nan=False) | st.text() | ARRAYS
TREES = st.recursive(
    LEAVES | ARRAYS.map(torch.as_tensor),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text() | st.integers(), inner, max_size=3),
    max_leaves=8,
)


@settings(max_examples=60, deadline=None)
@given(tree=st.dictionaries(st.text(), TREES, max_size=3))
def test_whatever_is_kept_comes_back(tree: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> None:
    path = tmp_path_factory.getbasetemp() / "tree"
    checkpoint.save(path, tree)
    assert same(checkpoint.load(path), tree)


def same(one: Any, other: Any) -> bool:
    """Of one type, one shape and equal; NaN is equal to itself."""
    if isinstance(one, dict):
        return isinstance(other, dict) and one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    if isinstance(one, (list, tuple)):
        return type(one) is type(other) and len(one) == len(other) and all(same(*pair) for pair in zip(one, other, strict=True))
    if isinstance(one, (torch.Tensor, np.ndarray)):
        if type(one) is not type(other) or one.dtype != other.dtype or one.shape != other.shape:
            return False
        return bool(((one == other) | ((one != one) & (other != other))).all())
    return type(one) is type(other) and (one == other or (one != one and other != other))


def test_what_cannot_be_kept_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="function cannot be kept"):
        checkpoint.save(tmp_path / "state", {"a": [lambda: 0]})
    assert not list(tmp_path.iterdir())


def test_a_state_of_something_else_is_refused() -> None:
    with pytest.raises(InputError, match="checkpoint: .*size mismatch"):
        put_back(torch.nn.Linear(2, 3), torch.nn.Linear(3, 3).state_dict())
    with pytest.raises(InputError, match="checkpoint: 'rng'"):
        put_back({"rng": np.random.default_rng(0)}, {})


def test_the_newest_few_stay_and_a_damaged_one_is_passed_over(tmp_path: Path) -> None:
    kept = Checkpoints(tmp_path / "checkpoints", keep=2)
    assert kept.newest() == (None, [])
    for number in (1, 2, 10):
        kept.save(number, {"number": number})
    assert sorted(path.name for path in kept.folder.iterdir()) == ["000002.safetensors", "000010.safetensors"]
    assert kept.newest() == ({"number": 10}, [])
    newest = kept.folder / "000010.safetensors"
    newest.write_bytes(newest.read_bytes()[:-3])
    (kept.folder / "000011.safetensors.partial").write_bytes(b"half")
    state, wrong = kept.newest()
    assert state == {"number": 2} and len(wrong) == 1 and "000010.safetensors: not a usable checkpoint" in wrong[0]


def test_a_full_disk_leaves_the_older_ones(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kept = Checkpoints(tmp_path / "checkpoints")
    kept.save(1, {"number": 1})

    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(checkpoint.os, "fsync", full)
    with pytest.raises(InputError, match="cannot be written: No space left on device"):
        kept.save(2, {"number": 2})
    assert kept.newest() == ({"number": 1}, []) and len(list(kept.folder.iterdir())) == 1
