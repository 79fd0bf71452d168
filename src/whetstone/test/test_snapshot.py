"""Weight snapshots: the same arrays out as in, or a clear refusal."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from whetstone import snapshot
from whetstone.errors import InputError
from whetstone.snapshot import BF16, pack, payload_size, table_difference, table_of, unpack, widened


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


types = st.sampled_from([np.float32, np.float16, np.float64, np.int64, np.int32, np.uint8])
arrays = hnp.arrays(types, hnp.array_shapes(min_dims=0, max_dims=3, min_side=0))


@given(st.dictionaries(st.text(max_size=8), arrays, max_size=4))
def test_round_trip(values: dict[str, np.ndarray]) -> None:
    table = table_of(values)
    payload = pack(values, table)
    assert len(payload) == payload_size(table)
    assert_same(values, unpack(payload, table))
    assert_same(values, widened(unpack(payload, table), table))


def test_unpacked_arrays_are_the_payload_itself() -> None:
    table = table_of(state())
    payload = pack(state(), table)
    unpack(payload, table)["head.bias"][:] = 0
    assert not unpack(payload, table)["head.bias"].any()


def test_arrays_at_odd_addresses_are_copied_before_anybody_computes_with_them() -> None:
    values = {"a": np.ones(3, np.uint8), "b": np.arange(5, dtype=np.float32)}
    out = unpack(pack(values, table_of(values)), table_of(values))
    assert not out["b"].flags.aligned
    assert widened(out, table_of(values))["b"].flags.aligned


def test_order_of_insertion_and_layout_do_not_matter() -> None:
    values = state()
    turned = {name: np.asarray(values[name], order="F") for name in reversed(values)}
    turned["head.bias"] = turned["head.bias"].astype(">f4")
    assert table_of(turned) == table_of(values)
    assert pack(turned, table_of(turned)) == pack(values, table_of(values))


def test_types_without_a_name_are_refused() -> None:
    with pytest.raises(InputError, match=r"tensor 'c': type complex128"):
        table_of({"c": np.zeros(2, complex)})
    with pytest.raises(InputError, match=r"tensor 'o': type object"):
        table_of({"o": np.array([{}], dtype=object)})


@given(hnp.arrays(np.float32, 9, elements=st.floats(width=32)))
def test_in_16_bits_floats_are_rounded_once_and_come_back_as_they_are(values: np.ndarray) -> None:
    """bfloat16 is the upper half of float32: to the nearest, ties to even (IEEE 754); what has been rounded is not changed again."""
    given_table = table_of({"a": values, "n": np.arange(3)})
    table = table_of({"a": values, "n": np.arange(3)}, "bf16")
    assert [tensor.dtype for tensor in table] == ["BF16", "I64"] and table_difference(table, given_table) == ""
    payload = pack({"a": values, "n": np.arange(3)}, table)
    out = widened(unpack(payload, table), given_table)
    assert out["a"].dtype == np.float32 and (out["n"] == np.arange(3)).all()
    bits = values.view(np.uint32).astype(np.uint64)
    nearest = ((bits + 0x7FFF + (bits >> 16 & 1)) >> 16 << 16).astype(np.uint32).view(np.float32)
    np.testing.assert_array_equal(out["a"][~np.isnan(values)], nearest[~np.isnan(values)])
    assert np.isnan(out["a"][np.isnan(values)]).all()
    assert pack(out, table) == payload or np.isnan(values).any()


def test_bfloat16_arrays_have_a_name() -> None:
    values = {"a": np.arange(4).astype(BF16)}
    assert table_of(values)[0].dtype == "BF16"
    assert_same(values, unpack(pack(values, table_of(values)), table_of(values)))


@pytest.mark.parametrize(
    ("theirs", "word"),
    [
        ({"a": np.zeros((5, 8), np.float32), "b": np.zeros(30, np.float32)}, "tensor 'a' has shape [5, 8]"),
        ({"a": np.zeros((5, 7), np.float32)}, "tensor 'b' is missing"),
        ({"a": np.zeros((5, 7), np.float32), "b": np.zeros(30, np.float32), "c": np.zeros(1)}, "tensor 'c' is unknown"),
        ({"a": np.zeros((5, 7), np.float64), "b": np.zeros(30, np.float32)}, "tensor 'a' has type F64"),
        ({"a": np.zeros((5, 7), np.float16), "b": np.zeros(30, np.float32)}, "tensor 'a' has type F16"),
        ({"a": np.zeros((5, 7), BF16), "b": np.zeros(30, np.float32)}, ""),
    ],
)
def test_the_first_difference_of_two_tables_is_named(theirs: dict[str, np.ndarray], word: str) -> None:
    ours = table_of({"a": np.zeros((5, 7), np.float32), "b": np.zeros(30, np.float32)})
    found = table_difference(table_of(theirs), ours)
    assert word in found and bool(word) == bool(found)


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
    table = list(table_of(state()))
    payload = pack(state(), tuple(table))
    index = [tensor.name for tensor in table].index("head.weight")
    table[index] = replace(table[index], **change)
    with pytest.raises(InputError, match=words):
        unpack(payload, tuple(table))


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
    with pytest.raises(OSError):
        snapshot.save(state(), str(tmp_path / "nowhere" / "1.safetensors"))
