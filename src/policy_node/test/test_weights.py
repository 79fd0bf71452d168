"""Weights are applied whole, at the right moment, or refused with a reason."""

from __future__ import annotations

import dataclasses
import random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from policy_node.weights import ATTEMPTS, WeightsReceiver
from whetstone.contracts import PolicySpec
from whetstone.snapshot import chunks, manifest_of, pack

CHUNK = 64


class TinyPolicy:
    """Two tensors and nothing else."""

    spec = PolicySpec("tiny", (), (1, 1), (), 1, 1, 20.0, "c0ffee")

    def __init__(self) -> None:
        self.state = {"a": np.zeros((5, 7), np.float32), "b": np.zeros(30, np.float32)}

    @classmethod
    def load(cls, config, profile, device="cpu"):
        return cls()

    def reset(self, instruction, seed, mode):
        pass

    def act(self, observation):
        raise NotImplementedError

    def trainable_state(self):
        return {name: array.copy() for name, array in self.state.items()}

    def load_trainable_state(self, state):
        self.state = {name: state[name].copy() for name in self.state}


def state_of(value: float) -> dict[str, np.ndarray]:
    return {"a": np.full((5, 7), value, np.float32), "b": np.full(30, value, np.float32)}


def sent(value: float, version: int):
    snapshot = pack(state_of(value))
    return manifest_of(snapshot, version, CHUNK), list(chunks(snapshot.payload, CHUNK))


def receive(receiver: WeightsReceiver, value: float, version: int, now: float = 0.0):
    manifest, parts = sent(value, version)
    answer = receiver.announce(manifest, "tiny", "c0ffee", now)
    for index, data in enumerate(parts):
        receiver.add(version, index, data, now)
    return answer


@pytest.fixture
def policy() -> TinyPolicy:
    return TinyPolicy()


@pytest.fixture
def receiver(policy: TinyPolicy) -> WeightsReceiver:
    return WeightsReceiver(policy, lambda: None)


@settings(max_examples=50)
@given(st.integers(0, 2**31))
def test_any_order_with_doubles(seed: int) -> None:
    policy = TinyPolicy()
    receiver = WeightsReceiver(policy, lambda: None)
    manifest, parts = sent(2.5, 3)
    events: list = [None, *range(len(parts)), *range(len(parts))]
    random.Random(seed).shuffle(events)
    for event in events:
        if event is None:
            assert receiver.announce(manifest, "tiny", "c0ffee", 0.0) is None
        else:
            receiver.add(3, event, parts[event], 0.0)
    assert receiver.ready
    assert policy.state["a"][0, 0] == 0  # not before apply()
    answer = receiver.apply(0.0)
    assert answer is not None and (answer.version, answer.status) == (3, "applied")
    assert receiver.version == 3 and not receiver.ready
    for name, array in state_of(2.5).items():
        np.testing.assert_array_equal(policy.state[name], array)


def test_missing_chunks_are_asked_for_again_and_not_too_often(receiver: WeightsReceiver) -> None:
    manifest, parts = sent(1.0, 1)
    receiver.announce(manifest, "tiny", "c0ffee", 10.0)
    for index in range(1, len(parts)):
        receiver.add(1, index, parts[index], 10.0)
    assert receiver.wanted(10.5) is None
    assert receiver.wanted(11.1) == (1, [0])
    assert receiver.wanted(11.2) is None
    assert receiver.apply(11.2) is None
    receiver.add(1, 0, parts[0], 11.3)
    assert receiver.ready and receiver.wanted(99.0) is None


def test_late_joiner_asks_for_everything(receiver: WeightsReceiver) -> None:
    manifest, parts = sent(1.0, 7)
    receiver.announce(manifest, "tiny", "c0ffee", 0.0)
    assert receiver.wanted(2.0) == (7, list(range(len(parts))))


def test_damaged_payload_is_asked_for_again_then_refused(receiver: WeightsReceiver, policy: TinyPolicy) -> None:
    manifest, parts = sent(1.0, 1)
    receiver.announce(manifest, "tiny", "c0ffee", 0.0)
    for attempt in range(ATTEMPTS):
        for index, data in enumerate(parts):
            receiver.add(1, index, b"\xff" + data[1:] if index == 1 else data, 0.0)
        answer = receiver.apply(0.0)
        if attempt + 1 < ATTEMPTS:
            assert answer is None
            assert receiver.wanted(0.0) == (1, list(range(len(parts))))
        else:
            assert answer is not None and answer.status == "refused" and "sha256" in answer.reason
    assert receiver.version == 0 and policy.state["a"].max() == 0
    receive(receiver, 4.0, 2)
    assert receiver.apply(0.0).status == "applied"  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"policy_id": "other"}, "policy_id is 'other'"),
        ({"config_hash": "beef"}, "config_hash is 'beef'"),
    ],
)
def test_other_policy_is_refused(receiver: WeightsReceiver, change: dict, word: str) -> None:
    manifest, _ = sent(1.0, 1)
    answer = receiver.announce(manifest, **{"policy_id": "tiny", "config_hash": "c0ffee", "now": 0.0, **change})
    assert answer is not None and answer.status == "refused" and word in answer.reason


@pytest.mark.parametrize(
    ("state", "word"),
    [
        ({"a": np.zeros((5, 8), np.float32), "b": np.zeros(30, np.float32)}, "tensor 'a' has shape [5, 8]"),
        ({"a": np.zeros((5, 7), np.float32)}, "tensor 'b' is missing"),
        ({"a": np.zeros((5, 7), np.float32), "b": np.zeros(30, np.float32), "c": np.zeros(1, np.float32)}, "tensor 'c' is unknown"),
        ({"a": np.zeros((5, 7), np.float64), "b": np.zeros(30, np.float32)}, "tensor 'a' has type F64"),
    ],
)
def test_other_table_is_refused_by_name(receiver: WeightsReceiver, state: dict, word: str) -> None:
    answer = receiver.announce(manifest_of(pack(state), 1), "tiny", "c0ffee", 0.0)
    assert answer is not None and answer.status == "refused" and word in answer.reason


def test_forged_table_hash_is_refused(receiver: WeightsReceiver) -> None:
    manifest, _ = sent(1.0, 1)
    answer = receiver.announce(dataclasses.replace(manifest, table_sha256="0" * 64), "tiny", "c0ffee", 0.0)
    assert answer is not None and answer.status == "refused" and "sha256" in answer.reason


def test_older_version_is_refused_and_the_same_one_acknowledged_again(receiver: WeightsReceiver) -> None:
    receive(receiver, 5.0, 5)
    receiver.apply(0.0)
    older, again = receive(receiver, 4.0, 4), receive(receiver, 5.0, 5)
    assert older is not None and older.status == "refused" and "older" in older.reason
    assert again is not None and again.status == "applied"


def test_newest_wins(receiver: WeightsReceiver, policy: TinyPolicy) -> None:
    receive(receiver, 1.0, 1)
    receive(receiver, 2.0, 2)
    assert receiver.apply(0.0).version == 2  # type: ignore[union-attr]
    assert policy.state["b"][0] == 2.0


def test_weights_that_fail_the_self_test_are_rolled_back(policy: TinyPolicy) -> None:
    def self_test() -> None:
        if not np.isfinite(policy.state["a"]).all():
            raise ValueError("actions are not finite")

    receiver = WeightsReceiver(policy, self_test)
    receive(receiver, 1.0, 1)
    receiver.apply(0.0)
    receive(receiver, float("nan"), 2)
    answer = receiver.apply(0.0)
    assert answer is not None and answer.status == "rolled_back" and "version 1 stays" in answer.reason
    assert receiver.version == 1 and policy.state["a"][0, 0] == 1.0


def test_roll_back_returns_to_the_weights_before(receiver: WeightsReceiver, policy: TinyPolicy) -> None:
    assert receiver.roll_back("bad") is None
    receive(receiver, 1.0, 1)
    receiver.apply(0.0)
    receive(receiver, 2.0, 2)
    receiver.apply(0.0)
    answer = receiver.roll_back("actions are not finite")
    assert answer is not None and (answer.version, answer.status) == (2, "rolled_back")
    assert receiver.version == 1 and policy.state["a"][0, 0] == 1.0
    receive(receiver, 3.0, 3)
    assert receiver.apply(0.0).status == "applied"  # type: ignore[union-attr]
