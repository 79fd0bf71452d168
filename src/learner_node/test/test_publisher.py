"""The publisher announces, sends what is asked for and nothing else, and goes on after a restart."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from learner_node import publisher as module
from learner_node.publisher import FARTHEST, Options, Pushed, WeightsPublisher
from whetstone import encoding
from whetstone.errors import InputError
from whetstone.handover import host_id
from whetstone.snapshot import pack, table_of, unpack
from whetstone.transfer import CHUNK_SIZE, Assembler, check_manifest

STATE = {"w": np.random.default_rng(0).normal(size=300_000).astype(np.float32), "b": np.ones(3, np.float32)}
CLOSE = {"w": STATE["w"] * np.float32(1.0001), "b": STATE["b"]}


class Wire:
    """Notes what was published, in order."""

    def __init__(self, **options) -> None:
        self.announced: list[Pushed] = []
        self.sent: list[tuple[str, int, int, bytes]] = []
        self.publisher = WeightsPublisher(self.announced.append, self.send, Options(**options))

    def send(self, pushed: Pushed, index: int, how: int, data) -> None:
        self.sent.append((pushed.manifest.payload_sha256, index, how, bytes(data)))

    def ask(self, indices: list[int], base: str = "") -> str:
        manifest = self.announced[-1].manifest
        return self.publisher.request(manifest.version, manifest.payload_sha256, base, indices)

    def deliver(self) -> None:
        while self.publisher.send_some(0.0):
            pass


def assembled(wire: Wire, base: bytearray | None = None) -> dict[str, np.ndarray]:
    manifest = wire.announced[-1].manifest
    check_manifest(manifest)
    assembler = Assembler(manifest, base)
    for _, index, how, data in wire.sent:
        assembler.add(index, how, data)
    assert assembler.complete
    return unpack(assembler.payload, manifest.table)


def same(result: dict[str, np.ndarray], state: dict[str, np.ndarray]) -> bool:
    return sorted(result) == sorted(state) and all(np.array_equal(result[name], state[name]) for name in state)


@pytest.mark.parametrize("compression", ["none", "zstd"])
def test_what_was_pushed_can_be_asked_for_and_put_together(compression: str) -> None:
    wire = Wire(compression=compression)
    wire.publisher.push(STATE, 3, parent=1, iteration=2)
    pushed = wire.announced[-1]
    assert (pushed.parent, pushed.iteration, wire.publisher.version, pushed.manifest.chunk_count) == (1, 2, 3, 3)
    assert wire.sent == [] and not wire.publisher.busy  # nobody has asked
    assert wire.ask([2, 0, 2]) == "" and wire.ask([0, 1]) == ""
    wire.deliver()
    assert [index for _, index, _, _ in wire.sent] == [2, 0, 1]  # once each, although asked for by two
    assert all(len(data) <= CHUNK_SIZE for *_, data in wire.sent)
    assert same(assembled(wire), STATE)


def test_one_chunk_at_least_and_no_more_than_there_is_time_for() -> None:
    wire = Wire()
    wire.publisher.push(STATE, 1, 0, 0)
    wire.ask([0, 1, 2])
    assert wire.publisher.send_some(0.0) and len(wire.sent) == 1
    assert not wire.publisher.send_some(60.0) and len(wire.sent) == 3 and not wire.publisher.send_some(60.0)
    assert "version 1" in wire.publisher.progress and "3 chunks sent of 3, 0 waiting" in wire.publisher.progress


def test_requests_say_why_not() -> None:
    wire = Wire()
    assert "no snapshot" in wire.publisher.request(1, "", "", [0])
    wire.publisher.push(STATE, 1, 0, 0)
    first = wire.announced[-1].manifest
    wire.publisher.push(CLOSE, 2, 1, 1)
    assert "version 1" in wire.publisher.request(1, first.payload_sha256, "", [0])
    assert "is not here; the newest is version 2" in wire.publisher.request(2, first.payload_sha256, "", [0])  # another learner's
    assert "chunk 9 does not exist" in wire.ask([0, 9])
    assert not wire.publisher.busy


def test_a_newer_version_ends_the_sending_of_the_older() -> None:
    wire = Wire()
    wire.publisher.push(STATE, 1, 0, 0)
    wire.ask([0, 1, 2])
    wire.publisher.send_some(0.0)
    wire.publisher.push(CLOSE, 2, 1, 1)
    assert not wire.publisher.send_some(60.0) and len(wire.sent) == 1
    with pytest.raises(ValueError, match="not newer"):
        wire.publisher.push(STATE, 2, 0, 0)


def test_differences_are_from_what_a_robot_is_known_to_have() -> None:
    """From version 2 that nobody applied there are none; and only who has the base is sent any."""
    wire = Wire()
    wire.publisher.start_from(STATE)
    base = pack(STATE, table_of(STATE))
    wire.publisher.push(CLOSE, 1, 0, 0)
    zero = wire.announced[-1].manifest.base_sha256
    assert zero
    wire.publisher.push({**CLOSE, "b": CLOSE["b"] * 2}, 2, 1, 1)
    assert wire.announced[-1].manifest.base_sha256 == zero
    wire.ask([0, 1, 2], zero)
    wire.deliver()
    assert {how for _, _, how, _ in wire.sent} == {encoding.DIFFERENCE}
    assert same(assembled(wire, bytearray(base)), {**CLOSE, "b": CLOSE["b"] * 2})
    wire.sent.clear()
    wire.ask([0, 1, 2])
    wire.deliver()
    assert encoding.DIFFERENCE not in {how for _, _, how, _ in wire.sent} and assembled(wire)
    wire.publisher.acknowledged(2, wire.announced[-1].manifest.payload_sha256)
    wire.sent.clear()
    wire.ask([0, 1, 2], zero)  # a second robot, late: the older base is gone by now
    wire.deliver()
    assert encoding.DIFFERENCE not in {how for _, _, how, _ in wire.sent} and assembled(wire)
    two = wire.announced[-1].manifest.payload_sha256
    wire.publisher.push(STATE, 3, 2, 2)
    assert wire.announced[-1].manifest.base_sha256 == two


@pytest.mark.parametrize("options", [{"compression": "none"}, {"differences": False}])
def test_differences_can_be_done_without(options: dict) -> None:
    wire = Wire(**options)
    wire.publisher.start_from(STATE)
    wire.publisher.push(CLOSE, 1, 0, 0)
    wire.publisher.acknowledged(1, wire.announced[-1].manifest.payload_sha256)
    wire.publisher.push(STATE, 2, 1, 0)
    assert wire.announced[-1].manifest.base_sha256 == ""


def test_weights_of_another_size_have_no_base() -> None:
    wire = Wire()
    wire.publisher.start_from({"w": STATE["w"]})
    wire.publisher.push(STATE, 1, 0, 0)
    assert wire.announced[-1].manifest.base_sha256 == ""


def test_a_restarted_learner_announces_the_very_same() -> None:
    before, after = Wire(), Wire()
    before.publisher.push(STATE, 7, 6, 3)
    after.publisher.resume(after.publisher.prepare({name: value.copy() for name, value in STATE.items()}, 7, 6, 3))
    assert after.announced[-1].manifest == before.announced[-1].manifest
    after.publisher.acknowledged(7, after.announced[-1].manifest.payload_sha256)
    assert len(after.announced) == 1 and after.publisher.next_version == 8


def test_a_learner_that_lost_versions_takes_its_robots_along() -> None:
    """Restarted from a checkpoint of version 5, it hears that a robot has 7: what it has is announced as 8, once, and 9 comes next."""
    wire = Wire()
    wire.publisher.resume(wire.publisher.prepare(STATE, 5, 4, 3))
    wire.publisher.acknowledged(6, "lost")
    wire.publisher.acknowledged(6, "lost")
    assert [pushed.manifest.version for pushed in wire.announced] == [5, 7]
    assert wire.announced[0].manifest.payload_sha256 == wire.announced[1].manifest.payload_sha256
    wire.publisher.acknowledged(7, wire.announced[-1].manifest.payload_sha256)
    wire.publisher.acknowledged(FARTHEST, "nonsense")
    assert wire.publisher.next_version == 8


def test_a_learner_that_begins_anew_does_not_begin_with_1_where_robots_have_more() -> None:
    wire = Wire()
    wire.publisher.acknowledged(6, "of somebody before")
    assert wire.publisher.next_version == 7 and wire.announced == []


def test_large_payloads_are_a_file_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "SHARED_MEMORY", tmp_path)
    wire = Wire(file_above=4 * 300_003)
    wire.publisher.push(STATE, 1, 0, 0)
    manifest = wire.announced[-1].manifest
    assert manifest.host == host_id() and Path(manifest.path).read_bytes() == wire.announced[-1].payload
    wire.publisher.push({"w": STATE["w"]}, 2, 1, 0)
    assert (wire.announced[-1].manifest.host, wire.announced[-1].manifest.path) == ("", "")
    wire.publisher.close()
    assert not list(tmp_path.iterdir())


def test_no_room_for_the_file_is_a_warning_and_chunks_do_instead(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(self, payload: bytearray) -> Path:
        raise InputError(f"{tmp_path}: No space left on device")

    monkeypatch.setattr(module.Handover, "write", full)
    wire = Wire(file_above=1)
    wire.publisher.push(STATE, 1, 0, 0)
    pushed = wire.announced[-1]
    assert pushed.manifest.path == pushed.manifest.host == ""
    assert f"no hand-over file, sending chunks instead: {tmp_path}: No space left" in pushed.warning
    wire.ask([0, 1, 2])
    wire.deliver()
    assert same(assembled(wire), STATE)


def test_in_16_bits_half_as_much_is_sent() -> None:
    wire = Wire(precision="bf16", compression="none")
    wire.publisher.push(STATE, 1, 0, 0)
    assert wire.announced[-1].manifest.payload_size == 2 * 300_003
    wire.ask([0, 1])
    wire.deliver()
    np.testing.assert_allclose(assembled(wire)["w"].astype(np.float32), STATE["w"], rtol=2**-8)
