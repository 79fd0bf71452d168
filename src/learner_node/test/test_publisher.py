"""The publisher announces first, sends everything once, and again what is asked for."""

from __future__ import annotations

import numpy as np
import pytest

from learner_node.publisher import WeightsPublisher
from whetstone.snapshot import CHUNK_SIZE, Assembler

STATE = {"w": np.random.default_rng(0).normal(size=300_000).astype(np.float32), "b": np.ones(3, np.float32)}


class Wire:
    """Notes what was published, in order."""

    def __init__(self) -> None:
        self.log: list = []
        self.publisher = WeightsPublisher(lambda pushed: self.log.append(pushed), lambda *chunk: self.log.append(chunk))


def test_pushed_snapshot_can_be_put_together() -> None:
    wire = Wire()
    wire.publisher.push(STATE, 3, parent=1, iteration=2)
    pushed, *parts = wire.log
    assert (pushed.parent, pushed.iteration, wire.publisher.version) == (1, 2, 3)
    assert len(parts) == pushed.manifest.chunk_count == 3
    assert all(len(data) <= CHUNK_SIZE for _, _, data in parts)
    assembler = Assembler()
    assembler.announce(pushed.manifest)
    for version, index, data in parts:
        assembler.add(version, index, data)
    result = assembler.result()
    for name, array in STATE.items():
        np.testing.assert_array_equal(result[name], array)


def test_resend_some_or_all() -> None:
    wire = Wire()
    wire.publisher.push(STATE, 1, 0, 0)
    first = {index: data for _, index, data in wire.log[1:]}
    wire.log.clear()
    assert wire.publisher.resend(1, [2, 0, 2]) == ""
    assert [(version, index) for version, index, _ in wire.log] == [(1, 0), (1, 2)]
    assert all(first[index] == data for _, index, data in wire.log)
    wire.log.clear()
    assert wire.publisher.resend(1, []) == ""
    assert len(wire.log) == 3


def test_resend_says_why_not() -> None:
    wire = Wire()
    assert "no snapshot" in wire.publisher.resend(1, [])
    wire.publisher.push(STATE, 1, 0, 0)
    wire.publisher.push(STATE, 2, 1, 1)
    wire.log.clear()
    assert "version 1 is gone" in wire.publisher.resend(1, [])
    assert "chunk 9 does not exist" in wire.publisher.resend(2, [0, 9])
    assert wire.log == []


def test_versions_grow() -> None:
    wire = Wire()
    wire.publisher.push(STATE, 2, 0, 0)
    with pytest.raises(ValueError, match="not newer"):
        wire.publisher.push(STATE, 2, 0, 0)
