"""Weights are applied whole, at the right moment, or refused with a reason; whatever happens to them on the way."""

from __future__ import annotations

import dataclasses
import os
import random
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from policy_node import weights
from policy_node.weights import ATTEMPTS, WINDOW, WeightsReceiver
from whetstone import encoding, transfer
from whetstone.contracts import PolicySpec
from whetstone.handover import Handover, host_id
from whetstone.snapshot import Precision, pack, table_of
from whetstone.transfer import Manifest, identity, manifest_of

CHUNK = 64


class TinyPolicy:
    """Two tensors and nothing else. rounds: it keeps 16 bits of what it loads."""

    spec = PolicySpec("tiny", (), (1, 1), (), 1, 1, 20.0, "c0ffee")

    def __init__(self, rounds: bool = False) -> None:
        self.state = {"a": np.zeros((5, 7), np.float32), "b": np.zeros(30, np.float32)}
        self.rounds = rounds

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
        kept = np.float16 if self.rounds else np.float32
        self.state = {name: state[name].astype(kept).astype(np.float32) for name in self.state}


def state_of(value: float) -> dict[str, np.ndarray]:
    return {"a": np.full((5, 7), value, np.float32), "b": np.full(30, value, np.float32)}


class Sender:
    """A learner's side without a wire: manifests, and every chunk that is asked for."""

    def __init__(self, state: dict[str, np.ndarray], version: int, base: dict[str, np.ndarray] | None = None, **fields) -> None:
        precision: Precision = fields.pop("precision", "as_is")
        table = table_of(state, precision)
        self.payload = pack(state, table)
        self.base = pack(base, table) if base is not None else None
        known = identity(transfer.digests(self.base, CHUNK)) if self.base is not None else ""
        self.manifest: Manifest = manifest_of(self.payload, table, version, CHUNK, "zstd", known, **fields)

    def part(self, index: int, difference: bool = False) -> tuple[int, bytes]:
        span = slice(index * CHUNK, (index + 1) * CHUNK)
        how, data = encoding.encode(self.payload[span], self.base[span] if difference and self.base is not None else None)
        return how, bytes(data)

    def announce(self, receiver: WeightsReceiver, now: float = 0.0):
        return receiver.announce(self.manifest, "tiny", "c0ffee", now)

    def give(self, receiver: WeightsReceiver, index: int, now: float = 0.0, difference: bool = False):
        manifest = self.manifest
        return receiver.add(manifest.version, manifest.payload_sha256, index, *self.part(index, difference), now)

    def damage(self, receiver: WeightsReceiver, index: int, now: float = 0.0):
        data = bytes([self.payload[index * CHUNK] ^ 1]) + bytes(self.payload[index * CHUNK + 1 : (index + 1) * CHUNK])
        return receiver.add(self.manifest.version, self.manifest.payload_sha256, index, encoding.RAW, data, now)

    def serve(self, receiver: WeightsReceiver, now: float = 0.0) -> list[str]:
        """Until nothing more is asked for. Returns the bases that differences were asked from."""
        bases = []
        while (wanted := receiver.wanted(now)) is not None:
            assert (wanted.version, wanted.payload_sha256) == (self.manifest.version, self.manifest.payload_sha256)
            bases.append(wanted.base_sha256)
            for index in wanted.indices:
                self.give(receiver, index, now, bool(wanted.base_sha256))
        return bases


def receive(receiver: WeightsReceiver, value: float, version: int, now: float = 0.0):
    sender = Sender(state_of(value), version)
    answer = sender.announce(receiver, now)
    sender.serve(receiver, now)
    return answer


@pytest.fixture
def policy() -> TinyPolicy:
    return TinyPolicy()


@pytest.fixture
def receiver(policy: TinyPolicy) -> WeightsReceiver:
    return WeightsReceiver(policy, lambda: None)


@settings(max_examples=50)
@given(st.integers(0, 2**31))
def test_any_order_with_doubles_losses_damage_and_strangers(seed: int) -> None:
    policy = TinyPolicy()
    receiver = WeightsReceiver(policy, lambda: None)
    sender, old, other = Sender(state_of(2.5), 3), Sender(state_of(9.0), 2), Sender(state_of(7.0), 3)
    assert sender.announce(receiver) is None
    count, chance, now = sender.manifest.chunk_count, random.Random(seed), 0.0
    while not receiver.ready:
        now += chance.choice([0.01, 2.0])
        wanted = receiver.wanted(now)
        for index in chance.sample(wanted.indices, len(wanted.indices)) if wanted else []:
            kind = chance.choice(["sent", "sent", "twice", "lost", "old", "other"])
            for source in {"sent": [sender], "twice": [sender, sender], "lost": [], "old": [old], "other": [other]}[kind]:
                assert source.give(receiver, index, now) is None
        if chance.random() < 0.2 and not receiver.ready:
            sender.damage(receiver, chance.randrange(count), now)
            if receiver.progress == "":  # damaged too often: refused by name
                return
    assert policy.state["a"][0, 0] == 0  # not before apply()
    answer = receiver.apply()
    assert answer is not None and (answer.version, answer.status, answer.payload_sha256) == (3, "applied", sender.manifest.payload_sha256)
    assert receiver.version == 3 and not receiver.ready and receiver.progress == ""
    for name, array in state_of(2.5).items():
        np.testing.assert_array_equal(policy.state[name], array)


def test_a_window_is_asked_for_at_a_time(receiver: WeightsReceiver, policy: TinyPolicy) -> None:
    policy.state = {"a": np.zeros((100, 40), np.float32)}
    receiver = WeightsReceiver(policy, lambda: None)
    sender = Sender({"a": np.random.default_rng(0).normal(size=(100, 40)).astype(np.float32)}, 1)
    assert sender.announce(receiver) is None and sender.manifest.chunk_count == 250
    first = receiver.wanted(0.0)
    assert first is not None and first.indices == list(range(WINDOW)) and receiver.wanted(0.1) is None
    for index in range(WINDOW // 2):
        assert receiver.wanted(0.1) is None
        sender.give(receiver, index, 0.1)
    second = receiver.wanted(0.1)
    assert second is not None and second.indices == list(range(WINDOW, WINDOW + WINDOW // 2))
    sender.serve(receiver, 0.2)
    assert not receiver.ready and receiver.progress.endswith("16 of 250 chunks")  # what was asked for is still under way
    sender.serve(receiver, 5.0)
    assert receiver.ready


def test_missing_chunks_are_asked_for_again_and_ever_less_often(receiver: WeightsReceiver) -> None:
    sender = Sender(state_of(1.0), 1)
    sender.announce(receiver, 10.0)
    count = sender.manifest.chunk_count
    assert receiver.wanted(10.0).indices == list(range(count))  # type: ignore[union-attr]
    for index in range(1, count):
        sender.give(receiver, index, 10.1)
    assert receiver.wanted(11.0) is None
    assert receiver.wanted(11.2).indices == [0]  # type: ignore[union-attr]
    assert receiver.wanted(12.5) is None
    assert receiver.wanted(13.3).indices == [0]  # type: ignore[union-attr]
    assert receiver.apply() is None
    sender.give(receiver, 0, 13.4)
    assert receiver.ready and receiver.wanted(99.0) is None


def test_a_damaged_chunk_is_asked_for_again_and_refused_after_three_times(receiver: WeightsReceiver, policy: TinyPolicy) -> None:
    sender = Sender(state_of(1.0), 1)
    sender.announce(receiver)
    wanted = receiver.wanted(0.0)
    assert wanted is not None
    for index in wanted.indices:
        if index != 2:
            sender.give(receiver, index)
    for attempt in range(1, ATTEMPTS + 1):
        answer = sender.damage(receiver, 2)
        if attempt < ATTEMPTS:
            assert answer is None and receiver.wanted(0.0).indices == [2]  # type: ignore[union-attr]
    assert answer is not None and answer.status == "refused" and "chunk 2: sha256 differs, 3 times" in answer.reason
    assert receiver.counts["damaged"] == 3 and "chunk 2" in receiver.note
    assert receiver.version == 0 and policy.state["a"].max() == 0 and not receiver.ready and receiver.wanted(9.0) is None
    receive(receiver, 4.0, 2)
    assert receiver.apply().status == "applied"  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"policy_id": "other"}, "policy_id is 'other'"),
        ({"config_hash": "beef"}, "config_hash is 'beef'"),
    ],
)
def test_other_policy_is_refused(receiver: WeightsReceiver, change: dict, word: str) -> None:
    manifest = Sender(state_of(1.0), 1).manifest
    answer = receiver.announce(manifest, **{"policy_id": "tiny", "config_hash": "c0ffee", "now": 0.0, **change})
    assert answer is not None and answer.status == "refused" and word in answer.reason


def test_other_table_is_refused_by_name(receiver: WeightsReceiver) -> None:
    answer = Sender({**state_of(1.0), "a": np.zeros((5, 8), np.float32)}, 1).announce(receiver)
    assert answer is not None and answer.status == "refused" and "tensor 'a' has shape [5, 8]" in answer.reason


def test_forged_manifests_are_refused(receiver: WeightsReceiver, monkeypatch: pytest.MonkeyPatch) -> None:
    manifest = Sender(state_of(1.0), 1).manifest
    for change in ({"table_sha256": "0" * 64}, {"payload_sha256": "0" * 64}, {"chunk_size": 1 << 30}):
        answer = receiver.announce(dataclasses.replace(manifest, **change), "tiny", "c0ffee", 0.0)
        assert answer is not None and answer.status == "refused" and answer.reason
    monkeypatch.setattr(transfer, "_free_memory", lambda: 10)
    answer = receiver.announce(manifest, "tiny", "c0ffee", 0.0)
    assert answer is not None and answer.status == "refused" and "of memory" in answer.reason


def test_older_version_is_refused_and_the_same_one_acknowledged_again(receiver: WeightsReceiver) -> None:
    receive(receiver, 5.0, 5)
    receiver.apply()
    older, again = receive(receiver, 4.0, 4), receive(receiver, 5.0, 5)
    assert older is not None and older.status == "refused" and "older" in older.reason
    assert again is not None and again.status == "applied"


def test_newest_wins(receiver: WeightsReceiver, policy: TinyPolicy) -> None:
    first = Sender(state_of(1.0), 1)
    first.announce(receiver)
    first.give(receiver, 0)
    receive(receiver, 2.0, 2)
    assert first.announce(receiver).reason == "version 1 is older than 2"  # type: ignore[union-attr]
    first.give(receiver, 1)
    assert receiver.counts["foreign"] == 1
    assert receiver.apply().version == 2  # type: ignore[union-attr]
    assert policy.state["b"][0] == 2.0


# Two senders, and senders that come back.


def test_two_snapshots_of_one_version_do_not_mix(receiver: WeightsReceiver, policy: TinyPolicy) -> None:
    ours, theirs = Sender(state_of(1.0), 4), Sender(state_of(2.0), 4)
    ours.announce(receiver)
    ours.give(receiver, 0)
    answer = theirs.announce(receiver, 1.0)
    assert answer is not None and answer.status == "refused" and answer.payload_sha256 == theirs.manifest.payload_sha256
    for sender in (ours, theirs):
        assert sender.manifest.payload_sha256[:8] in answer.reason
    assert "two snapshots are called version 4" in answer.reason and "do two learners send?" in answer.reason
    for index in range(theirs.manifest.chunk_count):
        theirs.give(receiver, index, 1.0)
    assert not receiver.ready
    ours.serve(receiver, 1.0)
    assert receiver.apply().status == "applied" and policy.state["a"][0, 0] == 1.0  # type: ignore[union-attr]
    answer = theirs.announce(receiver, 2.0)
    assert answer is not None and answer.status == "refused" and "in use" in answer.reason and "from version 5" in answer.reason


def test_a_sender_that_came_back_goes_on_where_it_was(receiver: WeightsReceiver) -> None:
    sender = Sender(state_of(1.0), 2)
    sender.announce(receiver)
    receiver.wanted(0.0)
    sender.give(receiver, 0)
    assert Sender(state_of(1.0), 2).announce(receiver, 0.5) is None
    wanted = receiver.wanted(0.5)
    assert wanted is not None and wanted.indices == list(range(1, sender.manifest.chunk_count))


@pytest.mark.parametrize("version", [1, 2, 3])
def test_what_a_killed_sender_left_half_sent_does_not_keep_its_successor_out(receiver: WeightsReceiver, version: int) -> None:
    """It trains anew from an older checkpoint, so that its next snapshot has the same version or an older one, and other contents."""
    dead = Sender(state_of(1.0), 2)
    dead.announce(receiver)
    dead.give(receiver, 0)
    successor = Sender(state_of(3.0), version)
    assert version > 2 or successor.announce(receiver, 1.0).status == "refused"  # type: ignore[union-attr]
    assert successor.announce(receiver, 30.0) is None
    successor.serve(receiver, 30.0)
    assert receiver.apply().version == version  # type: ignore[union-attr]


# Differences, and 16 bits.


def test_differences_from_the_weights_in_use(receiver: WeightsReceiver, policy: TinyPolicy) -> None:
    """From the base policy, from the version before, and not from one that it does not have."""
    base = policy.trainable_state()
    for version, value in ((1, 1.0), (2, 2.0)):
        sender = Sender(state_of(value), version, base)
        assert sender.announce(receiver) is None
        assert set(sender.serve(receiver)) == {sender.manifest.base_sha256}
        assert receiver.apply().status == "applied"  # type: ignore[union-attr]
        base = state_of(value)
    stranger = Sender(state_of(3.0), 3, state_of(1.0))
    stranger.announce(receiver)
    assert set(stranger.serve(receiver)) == {""}
    assert receiver.apply().status == "applied" and policy.state["b"][3] == 3.0  # type: ignore[union-attr]
    assert receiver.roll_back("bad") is not None and receiver.version == 2
    back = Sender(state_of(4.0), 4, state_of(2.0))
    back.announce(receiver)
    assert set(back.serve(receiver)) == {back.manifest.base_sha256}
    assert receiver.apply().status == "applied" and policy.state["b"][3] == 4.0  # type: ignore[union-attr]


def test_a_policy_that_rounds_what_it_loads_gets_the_weights_themselves() -> None:
    """Differences from what it kept lead nowhere: proven by the hash, not believed."""
    policy = TinyPolicy(rounds=True)
    receiver = WeightsReceiver(policy, lambda: None)
    one = {name: array / 3 for name, array in state_of(1.0).items()}
    sender = Sender(one, 1)
    sender.announce(receiver)
    sender.serve(receiver)
    receiver.apply()
    again = Sender({name: array * np.float32(1.001) for name, array in one.items()}, 2, one)
    again.announce(receiver)
    bases = again.serve(receiver)
    assert bases[0] and not bases[-1] and receiver.counts["damaged"] and receiver.ready
    assert receiver.apply().status == "applied"  # type: ignore[union-attr]
    np.testing.assert_allclose(policy.state["b"], 1.001 / 3, rtol=1e-3)


def test_16_bits_are_widened_and_differences_of_them_work(receiver: WeightsReceiver, policy: TinyPolicy) -> None:
    one = {name: array / 3 for name, array in state_of(1.0).items()}
    sender = Sender(one, 1, policy.trainable_state(), precision="bf16")
    assert sender.announce(receiver) is None
    assert set(sender.serve(receiver)) == {sender.manifest.base_sha256}
    assert receiver.apply().status == "applied"  # type: ignore[union-attr]
    assert policy.state["a"].dtype == np.float32
    np.testing.assert_allclose(policy.state["a"], 1 / 3, rtol=2**-8)
    two = Sender({name: array * np.float32(1.1) for name, array in one.items()}, 2, one, precision="bf16")
    two.announce(receiver)
    assert set(two.serve(receiver)) == {two.manifest.base_sha256} and receiver.counts["damaged"] == 0
    assert receiver.apply().status == "applied"  # type: ignore[union-attr]


# A file of a sender on this machine.


def test_a_file_is_read_a_little_at_a_time(tmp_path: Path, policy: TinyPolicy) -> None:
    policy.state = {"a": np.zeros((100, 40), np.float32)}
    receiver = WeightsReceiver(policy, lambda: None)
    state = {"a": np.random.default_rng(0).normal(size=(100, 40)).astype(np.float32)}
    path = Handover([tmp_path]).write(pack(state, table_of(state)))
    assert Sender(state, 1, host=host_id(), path=str(path)).announce(receiver) is None
    receiver.read(0.0)
    assert receiver.reading and receiver.wanted(9.0) is None and receiver.progress.endswith("8 of 250 chunks")
    while receiver.reading:
        receiver.read(0.0)
    assert receiver.ready and receiver.apply().status == "applied"  # type: ignore[union-attr]
    np.testing.assert_array_equal(policy.state["a"], state["a"])


def test_a_file_on_another_machine_is_not_looked_for(receiver: WeightsReceiver) -> None:
    Sender(state_of(1.0), 1, host="elsewhere", path="/dev/zero").announce(receiver)
    assert not receiver.reading and receiver.note == "" and receiver.wanted(0.0) is not None


@pytest.mark.parametrize("fault", ["gone", "flipped", "short", "link"])
def test_what_is_wrong_with_a_file_comes_in_chunks(receiver: WeightsReceiver, policy: TinyPolicy, tmp_path: Path, fault: str) -> None:
    state = {name: np.arange(array.size, dtype=np.float32).reshape(array.shape) for name, array in state_of(0).items()}
    path = Handover([tmp_path]).write(pack(state, table_of(state)))
    sender = Sender(state, 1, host=host_id(), path=str(path))
    if fault == "gone":
        path.unlink()
    elif fault == "link":
        path.rename(tmp_path / "other")
        path.symlink_to(tmp_path / "other")
    sender_answer = sender.announce(receiver)
    if fault == "flipped":
        with path.open("r+b") as file:
            file.seek(3 * CHUNK)
            file.write(b"\xff")
    elif fault == "short":
        os.truncate(path, 2 * CHUNK)
    while receiver.reading:
        receiver.read(0.0)
    assert sender_answer is None and not receiver.ready and "asking for chunks instead" in receiver.note and str(path) in receiver.note
    wanted = receiver.wanted(0.0)
    kept = {"flipped": 3, "short": 2}.get(fault, 0)
    assert wanted is not None and wanted.indices == list(range(kept, sender.manifest.chunk_count))
    for index in wanted.indices:
        sender.give(receiver, index)
    assert receiver.apply().status == "applied"  # type: ignore[union-attr]
    np.testing.assert_array_equal(policy.state["a"], state["a"])


def test_no_descriptor_is_left_open(receiver: WeightsReceiver, tmp_path: Path) -> None:
    before = len(os.listdir("/proc/self/fd"))
    state = state_of(1.0)
    held = Handover([tmp_path])
    path = held.write(pack(state, table_of(state)))
    Sender(state, 1, host=host_id(), path=str(path)).announce(receiver)
    Sender(state, 2, host=host_id(), path=str(path)).announce(receiver)
    assert receiver.reading
    receiver.close()
    held.close()
    assert len(os.listdir("/proc/self/fd")) == before and not receiver.reading


# What is loaded is tried.


def test_weights_that_fail_the_self_test_are_rolled_back_and_not_tried_again(policy: TinyPolicy) -> None:
    def self_test() -> None:
        if not np.isfinite(policy.state["a"]).all():
            raise ValueError("actions are not finite")

    receiver = WeightsReceiver(policy, self_test)
    receive(receiver, 1.0, 1)
    receiver.apply()
    receive(receiver, float("nan"), 2)
    answer = receiver.apply()
    assert answer is not None and answer.status == "rolled_back" and "version 1 stays" in answer.reason
    assert receiver.version == 1 and policy.state["a"][0, 0] == 1.0
    again = receive(receiver, float("nan"), 3)
    assert again is not None and again.status == "refused" and "was rolled back before" in again.reason


def test_roll_back_returns_to_the_weights_before(receiver: WeightsReceiver, policy: TinyPolicy) -> None:
    assert receiver.roll_back("bad") is None
    receive(receiver, 1.0, 1)
    receiver.apply()
    receive(receiver, 2.0, 2)
    receiver.apply()
    answer = receiver.roll_back("actions are not finite")
    assert answer is not None and (answer.version, answer.status) == (2, "rolled_back")
    assert receiver.version == 1 and policy.state["a"][0, 0] == 1.0
    receive(receiver, 3.0, 3)
    assert receiver.apply().status == "applied"  # type: ignore[union-attr]


def test_what_arrives_is_not_held_twice(policy: TinyPolicy) -> None:
    """One buffer of the payload's size, no joined copy of its chunks."""
    import tracemalloc

    size = 8 << 20
    policy.state = {"a": np.zeros(size // 4, np.float32)}
    receiver = WeightsReceiver(policy, lambda: None)
    state = {"a": np.random.default_rng(0).normal(size=size // 4).astype(np.float32)}
    table = table_of(state)
    payload = pack(state, table)
    manifest = manifest_of(payload, table, 1)
    tracemalloc.start()
    receiver.announce(manifest, "tiny", "c0ffee", 0.0)
    for index in range(manifest.chunk_count):
        chunk = payload[index * manifest.chunk_size : (index + 1) * manifest.chunk_size]
        receiver.add(1, manifest.payload_sha256, index, encoding.RAW, chunk, 0.0)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert receiver.ready and peak < size + (2 << 20)


def test_the_window_fits_into_what_the_topic_holds() -> None:
    pytest.importorskip("rclpy")
    from whetstone.ros import WEIGHTS_CHUNK

    assert weights.WINDOW <= WEIGHTS_CHUNK.depth
