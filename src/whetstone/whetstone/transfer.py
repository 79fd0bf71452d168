"""A snapshot on its way: its announcement, its chunks, and the place where they come together.

Role: pure. The payload is cut into chunks of equal size, each with a sha256 of its own, and the payload's identity is the hash of those:
so a chunk is proven when it comes, in any order, in any encoding, whoever sent it, and no second look at the whole is needed. Knows
neither topics nor policies. Depends on numpy and `encoding`.
"""

from __future__ import annotations

import hashlib
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from whetstone import encoding
from whetstone.errors import InputError
from whetstone.snapshot import Table, check_table, table_hash

CHUNK_SIZE = 512 * 1024
"""Bytes per chunk at most: larger DDS messages are lost or slow."""
MAX_PAYLOAD = 64 << 30
"""Bytes; a manifest that claims more is refused. Less than that is held against the machine's free memory."""
DIGEST = 32
"""Bytes of a sha256."""
Compression = Literal["none", "zstd"]


@dataclass(frozen=True)
class Manifest:
    """What is needed to receive a snapshot: whetstone_msgs/WeightsManifest without what only the receiver's policy judges.

    payload_size, chunk_size: bytes. chunk_sha256: the chunks' digests, 32 bytes each, one after the other; payload_sha256: hex, of those.
    compression: what a chunk may be encoded with. base_sha256: payload that differences can be had from; empty: none.
    host, path: where the payload also lies as a file, and the machine that has it; both empty: nowhere.
    """

    version: int
    table: Table
    payload_size: int
    chunk_size: int
    chunk_count: int
    table_sha256: str
    chunk_sha256: bytes
    payload_sha256: str
    compression: str = "none"
    base_sha256: str = ""
    host: str = ""
    path: str = ""

    @property
    def name(self) -> str:
        """For people: version and the first digits of the payload's hash."""
        return f"version {self.version} ({self.payload_sha256[:8]})"


def digests(payload: bytearray, chunk_size: int = CHUNK_SIZE) -> bytes:
    """sha256 of every chunk, 32 bytes each; on all cores, for hashing a gigabyte takes a second."""
    view = memoryview(payload)

    def digest(start: int) -> bytes:
        return hashlib.sha256(view[start : start + chunk_size]).digest()

    with ThreadPoolExecutor() as pool:
        return b"".join(pool.map(digest, range(0, len(payload), chunk_size)))


def identity(chunk_sha256: bytes) -> str:
    """Hex; what a payload with these chunks is known by."""
    return hashlib.sha256(chunk_sha256).hexdigest()


def manifest_of(
    payload: bytearray,
    table: Table,
    version: int,
    chunk_size: int = CHUNK_SIZE,
    compression: Compression = "none",
    base_sha256: str = "",
    host: str = "",
    path: str = "",
) -> Manifest:
    """The announcement of a payload."""
    parts = digests(payload, chunk_size)
    size, count = len(payload), len(parts) // DIGEST
    hashes = table_hash(table), parts, identity(parts)
    return Manifest(version, table, size, chunk_size, count, *hashes, compression, base_sha256, host, path)


def check_manifest(manifest: Manifest) -> None:
    """Raises InputError where a manifest contradicts itself or asks for too much. Nothing has been allocated by then."""
    name, size = f"manifest of version {manifest.version}", manifest.payload_size
    if not 0 <= size <= MAX_PAYLOAD:
        raise InputError(f"{name}: a payload of {size} bytes is refused (at most {MAX_PAYLOAD})")
    if not 0 < manifest.chunk_size <= CHUNK_SIZE or manifest.chunk_count != -(-size // manifest.chunk_size):
        raise InputError(f"{name}: {manifest.chunk_count} chunks of {manifest.chunk_size} bytes do not fit {size} bytes")
    if manifest.compression not in ("none", "zstd"):
        raise InputError(f"{name}: compression '{manifest.compression}' is unknown; known: none, zstd")
    check_table(manifest.table, size)
    if table_hash(manifest.table) != manifest.table_sha256:
        raise InputError(f"{name}: sha256 of the table differs")
    if len(manifest.chunk_sha256) != DIGEST * manifest.chunk_count or identity(manifest.chunk_sha256) != manifest.payload_sha256:
        raise InputError(f"{name}: sha256 of the payload differs from that of its chunks' hashes")


def check_memory(size: int) -> None:
    """Raises InputError where this many bytes are more than the machine has free."""
    free = _free_memory()
    if free is not None and size > free:
        raise InputError(f"the payload needs {size / 1e9:.2f} GB of memory, and {free / 1e9:.2f} GB are free")


def _free_memory() -> int | None:
    """Bytes (proc(5): MemAvailable); None where the system does not say."""
    try:
        line = next(line for line in Path("/proc/meminfo").read_text().splitlines() if line.startswith("MemAvailable"))
    except (OSError, StopIteration):
        return None
    return int(line.split()[1]) * 1024


class Assembler:
    """The place for one snapshot: chunks in any order and any number of times, nothing taken that is not proven.

    manifest: a checked one (`check_manifest`). base: the bytes that differences are from, of the payload's length; it is written over
    chunk by chunk, so that no second buffer is needed. Raises InputError where memory does not suffice.
    """

    def __init__(self, manifest: Manifest, base: bytearray | None = None) -> None:
        self.manifest = manifest
        self.has_base = base is not None
        if base is None:
            check_memory(manifest.payload_size)
        try:
            self.payload = bytearray(manifest.payload_size) if base is None else base
        except MemoryError:
            raise InputError(f"no memory for a payload of {manifest.payload_size} bytes") from None
        if len(self.payload) != manifest.payload_size:
            raise InputError(f"the base has {len(self.payload)} bytes, the payload {manifest.payload_size}")
        self.there = np.zeros(manifest.chunk_count, bool)
        """Which chunks have come."""
        self.count = 0
        """How many of them."""

    @property
    def complete(self) -> bool:
        """Every chunk is there, and every one is proven."""
        return self.count == self.manifest.chunk_count

    def add(self, index: int, how: int, data: encoding.Buffer) -> bool:
        """Take a chunk (how: its encoding). False where it is there already or does not exist. Raises InputError where it is damaged;
        nothing has changed then."""
        if not 0 <= index < self.manifest.chunk_count or self.there[index]:
            return False
        if how != encoding.RAW and self.manifest.compression == "none":
            raise InputError(f"chunk {index} is compressed; the manifest says none is")
        view = self._view(index)
        try:
            plain = encoding.decode(how, data, len(view), view if self.has_base else None)
        except InputError as error:
            raise InputError(f"chunk {index}: {error}") from None
        if hashlib.sha256(plain).digest() != self.manifest.chunk_sha256[index * DIGEST : (index + 1) * DIGEST]:
            raise InputError(f"chunk {index}: sha256 differs")
        view[:] = memoryview(plain).cast("B")
        self.there[index] = True
        self.count += 1
        return True

    def missing(self) -> np.ndarray:
        """Indices of chunks that have not come, ascending."""
        return np.flatnonzero(~self.there)

    def _view(self, index: int) -> memoryview:
        start = index * self.manifest.chunk_size
        return memoryview(self.payload)[start : start + self.manifest.chunk_size]
