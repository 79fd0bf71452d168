"""Weight snapshots: the same arrays out as in, whatever happens to chunks on the way, or a clear refusal."""

from __future__ import annotations

import random
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from whetstone import snapshot
from whetstone.errors import InputError
from whetstone.snapshot import Assembler, Manifest

SIZE = 64


def state(seed: int = 0) -> dict[str, np.ndarray]:
    generator = np.random.default_rng(seed)
    return {
        "head.weight": generator.normal(size=(7, 5)).astype(np.float32),
        "head.bias": generator.normal(size=5).astype(np.float32),
        "count": np.array(3, np.int64),
        "empty": np.zeros((0, 4), np.float32),
    }


def assert_same(a: dict[str, np.ndarray], b: dict[str, np.ndarray]) -> None:
    assert sorted(a) == sorted(b)
    for name in a:
        assert a[name].dtype == b[name].dtype and a[name].shape == b[name].shape and a[name].tobytes() == b[name].tobytes()


def sent(version: int, seed: int = 0) -> tuple[Manifest, list[bytes]]:
    packed = snapshot.pack(state(seed))
    return snapshot.manifest_of(packed, version, SIZE), list(snapshot.chunks(packed.payload, SIZE))


types = st.sampled_from([np.float32, np.float16, np.float64, np.int64, np.int32, np.uint8])
arrays = hnp.arrays(types, hnp.array_shapes(min_dims=0, max_dims=3, min_side=0))


@given(st.dictionaries(st.text(max_size=8), arrays, max_size=4))
def test_round_trip(values: dict[str, np.ndarray]) -> None:
    packed = snapshot.pack(values)
    assert_same(values, snapshot.unpack(packed))
    assert b"".join(snapshot.chunks(packed.payload, 7)) == packed.payload


def test_unpacked_arrays_are_writable_and_their_own() -> None:
    out = snapshot.unpack(snapshot.pack(state()))
    out["head.bias"][:] = 0
    assert state()["head.bias"].any()


def test_order_of_insertion_and_layout_do_not_matter() -> None:
    values = state()
    turned = {name: np.asarray(values[name], order="F") for name in reversed(values)}
    turned["head.bias"] = turned["head.bias"].astype(">f4")
    assert snapshot.pack(turned) == snapshot.pack(values)


def test_types_without_a_name_are_refused() -> None:
    with pytest.raises(InputError, match=r"tensor 'c': type complex128"):
        snapshot.pack({"c": np.zeros(2, complex)})
    with pytest.raises(InputError, match=r"tensor 'o': type object"):
        snapshot.pack({"o": np.array([{}], dtype=object)})


@given(st.data())
def test_any_order_any_repetition_manifest_at_any_time(data: st.DataObject) -> None:
    manifest, pieces = sent(1)
    events: list[int | None] = [*range(len(pieces)), None]
    events += data.draw(st.lists(st.sampled_from(events), max_size=5))
    random.Random(data.draw(st.integers(0, 999))).shuffle(events)
    assembler = Assembler()
    for event in events:
        if event is None:
            assembler.announce(manifest)
        else:
            assembler.add(1, event, pieces[event])
    assert assembler.complete and assembler.missing() == []
    assert_same(assembler.result(), state())


def test_missing_chunks_are_named_and_can_come_later() -> None:
    manifest, pieces = sent(1)
    assembler = Assembler()
    assert not assembler.complete and assembler.missing() == []
    with pytest.raises(InputError, match=r"no manifest"):
        assembler.result()
    assert assembler.announce(manifest)
    for index in range(1, len(pieces)):
        assembler.add(1, index, pieces[index])
    assert assembler.missing() == [0] and not assembler.complete
    with pytest.raises(InputError, match=f"1 of {len(pieces)} chunks are missing"):
        assembler.result()
    assert assembler.add(1, 0, pieces[0]) and assembler.complete


def test_the_newest_version_wins() -> None:
    assembler = Assembler()
    old, old_pieces = sent(1, seed=1)
    new, new_pieces = sent(2, seed=2)
    assembler.announce(old)
    assembler.add(1, 0, old_pieces[0])
    assembler.add(2, 1, new_pieces[1])  # ahead of its manifest
    assert assembler.announce(new) and assembler.version == 2
    assert not assembler.announce(old) and not assembler.announce(new)
    assert not assembler.add(1, 1, old_pieces[1])
    assert 1 not in assembler.missing()
    for index, piece in enumerate(new_pieces):
        assembler.add(2, index, piece)
    assert_same(assembler.result(), state(2))
    assembler.release()
    assert not assembler.complete and assembler.version == 2


def test_chunks_of_other_size_or_index_are_not_taken() -> None:
    manifest, pieces = sent(1)
    assembler = Assembler()
    for index, data in ((0, pieces[0] + b"x"), (len(pieces), pieces[0]), (-1, pieces[0]), (len(pieces) - 1, pieces[0] + b"xx")):
        assembler.add(1, index, data)
    assembler.announce(manifest)
    assert assembler.missing() == list(range(len(pieces)))
    assert not assembler.add(1, 0, pieces[0][:-1]) and not assembler.add(1, len(pieces), b"")


def test_what_comes_ahead_of_manifests_is_bounded() -> None:
    assembler = Assembler()
    for version in range(1, 50):
        assembler.add(version, 0, bytes(10))
    assert len(assembler._parts) <= 3
    manifest, pieces = sent(50)
    for index, piece in enumerate(pieces):
        assembler.add(50, index, piece)
    assembler.announce(manifest)
    assert_same(assembler.result(), state())


def test_a_flipped_bit_is_refused_and_all_chunks_asked_for_again() -> None:
    manifest, pieces = sent(1)
    assembler = Assembler()
    assembler.announce(manifest)
    for index, piece in enumerate(pieces):
        assembler.add(1, index, bytes([piece[0] ^ 1]) + piece[1:] if index == 2 else piece)
    with pytest.raises(InputError, match=r"sha256 of the payload differs"):
        assembler.result()
    assert assembler.missing() == list(range(len(pieces)))
    for index, piece in enumerate(pieces):
        assembler.add(1, index, piece)
    assert_same(assembler.result(), state())


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
    ],
)
def test_a_manifest_that_cannot_be_right_is_refused(change: dict, words: str) -> None:
    manifest, _ = sent(1)
    assembler = Assembler()
    with pytest.raises(InputError, match=words):
        assembler.announce(replace(manifest, **change))
    assert assembler.manifest is None


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"dtype": "PICKLE"}, "type 'PICKLE' is unknown"),
        ({"shape": (1,)}, "do not fit shape"),
        ({"shape": (-1, -5)}, "do not fit shape"),
        ({"offset": 4}, "begins at byte"),
        ({"name": "head.bias"}, "given twice"),
    ],
)
def test_a_table_that_lies_is_refused(change: dict, words: str) -> None:
    packed = snapshot.pack(state())
    index = [tensor.name for tensor in packed.table].index("head.weight")
    table = list(packed.table)
    table[index] = replace(table[index], **change)
    with pytest.raises(InputError, match=words):
        snapshot.unpack(replace(packed, table=tuple(table), table_sha256=snapshot.table_hash(table)))
    with pytest.raises(InputError):
        snapshot.unpack(replace(packed, table=tuple(table)))


def test_files(tmp_path: Path) -> None:
    path = str(tmp_path / "1.safetensors")
    snapshot.save(state(), path, {"parent": "0"})
    assert_same(snapshot.load(path), state())
    assert [file.name for file in tmp_path.iterdir()] == ["1.safetensors"]
    with pytest.raises(InputError, match=r"none.safetensors: no such file"):
        snapshot.load(str(tmp_path / "none.safetensors"))
    (tmp_path / "bad.safetensors").write_bytes(b"\x10" * 40)
    with pytest.raises(InputError, match=r"bad.safetensors: not a usable snapshot"):
        snapshot.load(str(tmp_path / "bad.safetensors"))
