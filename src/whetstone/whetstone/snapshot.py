"""Weight snapshots: named float arrays as bytes that can be cut, sent, checked and put together again.

Role: the payload of weights/manifest and weights/chunk, and the same as a .safetensors file. The table uses the names
of safetensors types and is hashed as canonical JSON, the payload as it is. Nothing in it is code. Depends on numpy, and on
safetensors for files.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, field

import numpy as np

from whetstone.errors import InputError

CHUNK_SIZE = 512 * 1024
"""Bytes per chunk: large DDS messages are lost or slow."""
MAX_PAYLOAD = 1 << 30
"""Bytes; a manifest that claims more is refused before anything is allocated."""

_DTYPES = {
    "F32": np.dtype("<f4"),
    "F16": np.dtype("<f2"),
    "F64": np.dtype("<f8"),
    "I64": np.dtype("<i8"),
    "I32": np.dtype("<i4"),
    "U8": np.dtype("u1"),
}
_NAMES = {dtype: name for name, dtype in _DTYPES.items()}
_MAX_VERSIONS_AHEAD = 2  # snapshots whose chunks are kept although their manifest has not come yet


@dataclass(frozen=True)
class Tensor:
    """One row of the table. offset, size: bytes from the start of the payload."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    offset: int
    size: int


@dataclass(frozen=True)
class Snapshot:
    """table: tensors in payload order; payload: their little-endian bytes, one after the other; hashes in hex."""

    table: tuple[Tensor, ...]
    payload: bytes
    table_sha256: str
    payload_sha256: str


@dataclass(frozen=True)
class Manifest:
    """What is needed to receive a snapshot: whetstone_msgs/WeightsManifest without what only the receiver's policy judges."""

    version: int
    table: tuple[Tensor, ...]
    payload_size: int
    chunk_size: int
    chunk_count: int
    table_sha256: str
    payload_sha256: str


def pack(state: dict[str, np.ndarray]) -> Snapshot:
    """Arrays (sorted by name) -> Snapshot. Raises InputError on a type that has no safetensors name here."""
    table, parts, offset = [], [], 0
    for name in sorted(state):
        array = np.asarray(state[name])
        dtype = array.dtype.newbyteorder("<")
        if dtype not in _NAMES:
            raise InputError(f"tensor '{name}': type {array.dtype} cannot be sent; supported: {', '.join(_DTYPES)}")
        data = array.astype(dtype, order="C", copy=False).tobytes()
        table.append(Tensor(name, _NAMES[dtype], tuple(array.shape), offset, len(data)))
        parts.append(data)
        offset += len(data)
    payload = b"".join(parts)
    return Snapshot(tuple(table), payload, table_hash(table), hashlib.sha256(payload).hexdigest())


def unpack(snapshot: Snapshot) -> dict[str, np.ndarray]:
    """Snapshot -> arrays of their own memory. Raises InputError unless hashes, sizes and offsets fit."""
    check_table(snapshot.table, len(snapshot.payload))
    if table_hash(snapshot.table) != snapshot.table_sha256:
        raise InputError("snapshot: sha256 of the table differs")
    if hashlib.sha256(snapshot.payload).hexdigest() != snapshot.payload_sha256:
        raise InputError("snapshot: sha256 of the payload differs")
    return {
        tensor.name: np.frombuffer(snapshot.payload, _DTYPES[tensor.dtype], math.prod(tensor.shape), tensor.offset)
        .reshape(tensor.shape)
        .astype(_DTYPES[tensor.dtype].newbyteorder("="))
        for tensor in snapshot.table
    }


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


def chunks(payload: bytes, size: int = CHUNK_SIZE) -> Iterator[bytes]:
    """The payload in pieces of `size` bytes, the last one shorter. An empty payload has none."""
    for start in range(0, len(payload), size):
        yield payload[start : start + size]


def manifest_of(snapshot: Snapshot, version: int, chunk_size: int = CHUNK_SIZE) -> Manifest:
    """The announcement of a snapshot."""
    size = len(snapshot.payload)
    return Manifest(version, snapshot.table, size, chunk_size, -(-size // chunk_size), snapshot.table_sha256, snapshot.payload_sha256)


@dataclass
class Assembler:
    """Puts a snapshot together from a manifest and chunks, whatever their order and however often they come. The newest version wins.

    Feed `announce` and `add`; when `complete`, take `result()`. `missing()` says what to ask for again.
    `add` and `announce` never raise on old, doubled or foreign data; `announce` raises InputError on a manifest that cannot be right.
    """

    manifest: Manifest | None = None
    _parts: dict[int, dict[int, bytes]] = field(default_factory=dict)

    @property
    def version(self) -> int | None:
        """Version being assembled."""
        return self.manifest.version if self.manifest else None

    @property
    def complete(self) -> bool:
        """Every chunk of the announced version is there."""
        return self.manifest is not None and not self.missing()

    def announce(self, manifest: Manifest) -> bool:
        """Begin with this snapshot; False where it is not newer than the one in hand."""
        if self.manifest is not None and manifest.version <= self.manifest.version:
            return False
        name = f"manifest of version {manifest.version}"
        if not 0 <= manifest.payload_size <= MAX_PAYLOAD:
            raise InputError(f"{name}: a payload of {manifest.payload_size} bytes is refused (at most {MAX_PAYLOAD})")
        if not 0 < manifest.chunk_size <= CHUNK_SIZE or manifest.chunk_count != -(-manifest.payload_size // manifest.chunk_size):
            pieces = f"{manifest.chunk_count} chunks of {manifest.chunk_size} bytes"
            raise InputError(f"{name}: {pieces} do not fit {manifest.payload_size} bytes")
        check_table(manifest.table, manifest.payload_size)
        if table_hash(manifest.table) != manifest.table_sha256:
            raise InputError(f"{name}: sha256 of the table differs")
        self.manifest = manifest
        early = self._parts.get(manifest.version, {})
        self._parts = {version: parts for version, parts in self._parts.items() if version >= manifest.version}
        self._parts[manifest.version] = {index: data for index, data in early.items() if self._fits(index, data)}
        return True

    def add(self, version: int, index: int, data: bytes) -> bool:
        """Take a chunk; True where it was of use (of the announced version, or of a newer one whose manifest is yet to come)."""
        if self.manifest is not None and version < self.manifest.version:
            return False
        if self.manifest is not None and version == self.manifest.version:
            if not self._fits(index, data) or index in self._parts[version]:
                return False
        elif not 0 <= index < MAX_PAYLOAD // CHUNK_SIZE or len(data) > CHUNK_SIZE or not self._room(version):
            return False
        self._parts.setdefault(version, {})[index] = bytes(data)
        return True

    def missing(self) -> list[int]:
        """Indices of chunks that have not come."""
        if self.manifest is None:
            return []
        parts = self._parts[self.manifest.version]
        return [index for index in range(self.manifest.chunk_count) if index not in parts]

    def result(self) -> dict[str, np.ndarray]:
        """The arrays. Raises InputError while chunks are missing or where a hash differs (then all chunks are to be sent again)."""
        if self.manifest is None:
            raise InputError("snapshot: no manifest has come")
        missing = self.missing()
        if missing:
            raise InputError(f"snapshot {self.manifest.version}: {len(missing)} of {self.manifest.chunk_count} chunks are missing")
        parts = self._parts[self.manifest.version]
        payload = b"".join(parts[index] for index in range(self.manifest.chunk_count))
        try:
            return unpack(Snapshot(self.manifest.table, payload, self.manifest.table_sha256, self.manifest.payload_sha256))
        except InputError:
            parts.clear()
            raise

    def release(self) -> None:
        """Forget the chunks of the version in hand (it stays the newest one known)."""
        if self.manifest is not None:
            self._parts[self.manifest.version] = {}

    def _fits(self, index: int, data: bytes) -> bool:
        assert self.manifest is not None
        if not 0 <= index < self.manifest.chunk_count:
            return False
        last = index == self.manifest.chunk_count - 1
        return len(data) == (self.manifest.payload_size - index * self.manifest.chunk_size if last else self.manifest.chunk_size)

    def _room(self, version: int) -> bool:
        """Chunks ahead of their manifest: of the newest few versions only."""
        floor = self.manifest.version if self.manifest else -1
        ahead = sorted((known for known in self._parts if known > floor), reverse=True)
        if version in ahead or len(ahead) < _MAX_VERSIONS_AHEAD:
            return True
        if version < ahead[-1]:
            return False
        del self._parts[ahead[-1]]
        return True


def save(state: dict[str, np.ndarray], path: str, metadata: dict[str, str] | None = None) -> None:
    """Write a .safetensors file, whole or not at all."""
    from safetensors.numpy import save as serialise

    partial = f"{path}.partial"
    with open(partial, "wb") as file:
        file.write(serialise({name: np.asarray(array, order="C") for name, array in state.items()}, metadata))
        file.flush()
        os.fsync(file.fileno())
    os.replace(partial, path)


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
