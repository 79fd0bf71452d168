"""Snapshots on their way: whole and right, or not taken."""

from __future__ import annotations

import random
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from whetstone import encoding, transfer
from whetstone.errors import InputError
from whetstone.snapshot import pack, table_of
from whetstone.transfer import Assembler, Manifest, check_manifest, manifest_of

SIZE = 64


def payload_of(seed: int = 0) -> tuple[bytearray, tuple]:
    generator = np.random.default_rng(seed)
    state = {"w": generator.normal(size=(7, 20)).astype(np.float32), "n": np.array(3, np.int64)}
    table = table_of(state)
    return pack(state, table), table


def sent(seed: int = 0, base: bytearray | None = None) -> tuple[Manifest, list[tuple[int, bytes]], bytearray]:
    """Manifest, (encoding, data) of every chunk, payload."""
    payload, table = payload_of(seed)
    manifest = manifest_of(payload, table, 1, SIZE, "zstd")
    spans = [slice(start, start + SIZE) for start in range(0, len(payload), SIZE)]
    parts = [encoding.encode(bytes(payload[span]), bytes(base[span]) if base is not None else None) for span in spans]
    return manifest, [(how, bytes(data)) for how, data in parts], payload


@given(st.integers(0, 999), st.booleans())
def test_any_order_and_any_repetition(seed: int, from_base: bool) -> None:
    base = bytearray(payload_of(0)[0]) if from_base else None
    if base is not None:
        base[5] ^= 1  # all but the same
    manifest, parts, payload = sent(0, base)
    assert not from_base or any(how == encoding.DIFFERENCE for how, _ in parts)
    events = [*range(len(parts)), *random.Random(seed).choices(range(len(parts)), k=5)]
    random.Random(seed).shuffle(events)
    assembler = Assembler(manifest, base)
    for count, index in enumerate(events):
        assert assembler.add(index, *parts[index]) == (index not in events[:count])
        assert set(assembler.missing()) == set(range(len(parts))) - set(events[: count + 1])
    assert assembler.complete and assembler.payload == payload


def test_nothing_is_taken_that_is_not_proven() -> None:
    manifest, parts, payload = sent()
    assembler = Assembler(manifest)
    for index in range(len(parts)):
        plain = bytes(payload[index * SIZE : (index + 1) * SIZE])
        for at in range(0, len(plain), 7):
            flipped = bytearray(plain)
            flipped[at] ^= 4
            with pytest.raises(InputError, match=f"chunk {index}: sha256 differs"):
                assembler.add(index, encoding.RAW, flipped)
        with pytest.raises(InputError, match="instead of"):
            assembler.add(index, encoding.RAW, plain + b"x")
        with pytest.raises(InputError, match="not at hand"):
            assembler.add(index, encoding.DIFFERENCE, encoding.zstd.compress(plain))
    assert assembler.count == 0 and not any(assembler.payload)
    assert not assembler.add(-1, *parts[0]) and not assembler.add(len(parts), *parts[0])
    plain_only = Assembler(replace(manifest, compression="none"))
    with pytest.raises(InputError, match="the manifest says none is"):
        plain_only.add(0, encoding.ZSTD, encoding.zstd.compress(payload[:SIZE]))


def test_a_damaged_difference_leaves_the_base_and_the_rest_as_they_were() -> None:
    base = payload_of(0)[0]
    base[70] ^= 1
    manifest, parts, payload = sent(0, base)
    assembler = Assembler(manifest, base)
    wrong = encoding.encode(bytes(SIZE), bytes(range(SIZE)))[1]
    with pytest.raises(InputError, match="sha256 differs|instead|are not"):
        assembler.add(1, encoding.DIFFERENCE, wrong)
    for index, part in enumerate(parts):
        assembler.add(index, *part)
    assert assembler.payload == payload


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"payload_size": 1 << 40}, "refused"),
        ({"payload_size": 100}, "chunks of"),
        ({"chunk_size": 0}, "chunks of"),
        ({"chunk_size": 1 << 30}, "chunks of"),
        ({"chunk_count": 1}, "chunks of"),
        ({"table_sha256": "0" * 64}, "sha256 of the table differs"),
        ({"table": ()}, "the tensors take 0 bytes"),
        ({"payload_sha256": "0" * 64}, "differs from that of its chunks' hashes"),
        ({"chunk_sha256": bytes(32)}, "differs from that of its chunks' hashes"),
        ({"compression": "gzip"}, "compression 'gzip' is unknown"),
    ],
)
def test_a_manifest_that_cannot_be_right_is_refused(change: dict, words: str) -> None:
    manifest, _, _ = sent()
    check_manifest(manifest)
    with pytest.raises(InputError, match=words):
        check_manifest(replace(manifest, **change))


def test_more_than_the_memory_is_refused_before_it_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    manifest, _, _ = sent()
    monkeypatch.setattr(transfer, "_free_memory", lambda: 500)
    with pytest.raises(InputError, match="needs 0.00 GB of memory, and 0.00 GB are free"):
        Assembler(manifest)
    monkeypatch.setattr(transfer, "_free_memory", lambda: None)
    with pytest.raises(InputError, match="no memory for a payload of"):
        Assembler(replace(manifest, payload_size=1 << 62))


def test_an_empty_payload_is_complete() -> None:
    manifest = manifest_of(bytearray(), (), 1)
    check_manifest(manifest)
    assert Assembler(manifest).complete
