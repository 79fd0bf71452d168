"""Weight snapshots: named arrays as one block of bytes with a table, and as a file.

Role: the table uses the names of safetensors types and is hashed as canonical JSON; the payload is the tensors' little-endian bytes, one
after the other. Nothing in it is code. How a payload travels is in `transfer`. Depends on numpy and ml_dtypes (bfloat16), and on
safetensors for files.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Literal

import ml_dtypes
import numpy as np

from whetstone import files
from whetstone.contracts import Policy
from whetstone.errors import InputError

BF16 = np.dtype(ml_dtypes.bfloat16)
_DTYPES = {
    "F32": np.dtype("<f4"),
    "BF16": BF16,
    "F16": np.dtype("<f2"),
    "F64": np.dtype("<f8"),
    "I64": np.dtype("<i8"),
    "I32": np.dtype("<i4"),
    "U8": np.dtype("u1"),
}
_NAMES = {dtype: name for name, dtype in _DTYPES.items()}
_HALVED = ("F32", "F64")
"""Types that are sent in 16 bits where that is asked for."""
Precision = Literal["as_is", "bf16"]


@dataclass(frozen=True)
class Tensor:
    """One row of the table. offset, size: bytes from the start of the payload."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    offset: int
    size: int


Table = tuple[Tensor, ...]


def table_of(state: Mapping[str, np.ndarray], precision: Precision = "as_is") -> Table:
    """The table that these arrays have, sorted by name. precision: bf16 makes BF16 of F32 and F64.

    Raises InputError on a type that has no safetensors name here.
    """
    table, offset = [], 0
    for name in sorted(state):
        array = np.asarray(state[name])
        dtype = _NAMES.get(array.dtype if array.dtype == BF16 else array.dtype.newbyteorder("<"))
        if dtype is None:
            raise InputError(f"tensor '{name}': type {array.dtype} cannot be sent; supported: {', '.join(_DTYPES)}")
        if precision == "bf16" and dtype in _HALVED:
            dtype = "BF16"
        size = array.size * _DTYPES[dtype].itemsize
        table.append(Tensor(name, dtype, tuple(array.shape), offset, size))
        offset += size
    return tuple(table)


def payload_size(table: Table) -> int:
    """Bytes."""
    return table[-1].offset + table[-1].size if table else 0


def pack(state: Mapping[str, np.ndarray], table: Table) -> bytearray:
    """The arrays' bytes in the table's order and types (rounded to the nearest where those are narrower)."""
    payload = bytearray(payload_size(table))
    for tensor in table:
        # An assignment, not tobytes: no second copy of anything.
        _view(payload, tensor)[...] = np.asarray(state[tensor.name])
    return payload


def unpack(payload: bytearray, table: Table) -> dict[str, np.ndarray]:
    """Arrays that share the payload's memory, and may be written to. Raises InputError unless sizes and offsets fit."""
    check_table(table, len(payload))
    return {tensor.name: _view(payload, tensor) for tensor in table}


def widened(arrays: Mapping[str, np.ndarray], table: Table) -> dict[str, np.ndarray]:
    """The arrays in the types of `table`, copied where those differ or where a tensor begins at an odd address."""
    return {tensor.name: np.require(arrays[tensor.name], _DTYPES[tensor.dtype], "A") for tensor in table}


def _view(payload: bytearray, tensor: Tensor) -> np.ndarray:
    return np.frombuffer(payload, _DTYPES[tensor.dtype], math.prod(tensor.shape), tensor.offset).reshape(tensor.shape)


def table_hash(table: Iterable[Tensor]) -> str:
    """sha256 (hex) of the table as canonical JSON."""
    rows = [{**asdict(tensor), "shape": list(tensor.shape)} for tensor in table]
    return hashlib.sha256(json.dumps(rows, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def check_table(table: Iterable[Tensor], payload_size: int) -> None:
    """Raises InputError unless the tensors fill the payload without gap or overlap, in order, each once."""
    end, seen = 0, set()
    for tensor in table:
        if tensor.dtype not in _DTYPES:
            raise InputError(f"tensor '{tensor.name}': type '{tensor.dtype}' is unknown; supported: {', '.join(_DTYPES)}")
        if tensor.name in seen:
            raise InputError(f"tensor '{tensor.name}' is given twice")
        if any(length < 0 for length in tensor.shape) or math.prod(tensor.shape) * _DTYPES[tensor.dtype].itemsize != tensor.size:
            raise InputError(f"tensor '{tensor.name}': {tensor.size} bytes do not fit shape {tensor.shape} of {tensor.dtype}")
        if tensor.offset != end:
            raise InputError(f"tensor '{tensor.name}': begins at byte {tensor.offset}, not {end}")
        seen.add(tensor.name)
        end += tensor.size
    if end != payload_size:
        raise InputError(f"snapshot: the tensors take {end} bytes, the payload has {payload_size}")


def table_difference(theirs: Table, ours: Table) -> str:
    """The first tensor in which two tables differ, in words; empty when they agree. BF16 fits where F32 or F64 is asked for: widening
    it loses nothing."""
    known = {tensor.name: tensor for tensor in ours}
    for tensor in theirs:
        own = known.pop(tensor.name, None)
        if own is None:
            return f"tensor '{tensor.name}' is unknown to this policy"
        if tensor.shape != own.shape:
            return f"tensor '{tensor.name}' has shape {list(tensor.shape)}, this policy has {list(own.shape)}"
        if tensor.dtype != own.dtype and not (tensor.dtype == "BF16" and own.dtype in _HALVED):
            return f"tensor '{tensor.name}' has type {tensor.dtype}, this policy has {own.dtype}"
    return f"tensor '{next(iter(known))}' is missing" if known else ""


def save(state: dict[str, np.ndarray], path: str, metadata: dict[str, str] | None = None) -> None:
    """Write a .safetensors file, whole or not at all. Raises OSError."""
    from safetensors import SafetensorError
    from safetensors.numpy import save_file

    try:
        with files.replacing(path) as partial:
            save_file({name: np.asarray(array, order="C") for name, array in state.items()}, partial, metadata)
    except SafetensorError as error:
        raise OSError(" ".join(str(error).split())) from None


def restore(policy: Policy, path: str) -> None:
    """Put the weights of a .safetensors file into a policy. Raises InputError naming it, also where they are another policy's."""
    try:
        policy.load_trainable_state(load(path))
    except ValueError as error:
        raise InputError(f"{path}: not weights of policy '{policy.spec.policy_id}': {error}") from None


def load(path: str) -> dict[str, np.ndarray]:
    """Read a .safetensors file. Raises InputError naming it."""
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    try:
        return load_file(path)
    except FileNotFoundError:
        raise InputError(f"{path}: no such file") from None
    except (OSError, ValueError, SafetensorError) as error:
        raise InputError(f"{path}: not a usable snapshot: {' '.join(str(error).split())}") from None
