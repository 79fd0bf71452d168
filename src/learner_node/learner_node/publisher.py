"""Publishing weights: manifest first, chunks after it, and again on request.

Role: pure bookkeeping around two publish functions, so that it is tested without a graph. Keeps the newest snapshot alone: an older
one is of no use to anybody. Does not depend on rclpy.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from whetstone.snapshot import Manifest, chunks, manifest_of, pack


@dataclass(frozen=True)
class Pushed:
    """A snapshot that was announced. parent: version it was trained from."""

    manifest: Manifest
    parent: int
    iteration: int
    payload: bytes


class WeightsPublisher:
    """announce(pushed): publish its manifest (latched); send(version, index, data): publish one chunk."""

    def __init__(self, announce: Callable[[Pushed], None], send: Callable[[int, int, bytes], None]) -> None:
        self._announce = announce
        self._send = send
        self._newest: Pushed | None = None

    @property
    def version(self) -> int:
        """Newest version pushed; 0: none yet, everybody has the base policy."""
        return self._newest.manifest.version if self._newest else 0

    def push(self, state: dict[str, np.ndarray], version: int, parent: int, iteration: int) -> None:
        """Announce and send a snapshot. Raises ValueError on a version that is not newer, InputError on a tensor that cannot be sent."""
        if version <= self.version:
            raise ValueError(f"version {version} is not newer than {self.version}")
        packed = pack(state)
        self._newest = Pushed(manifest_of(packed, version), parent, iteration, packed.payload)
        self._announce(self._newest)
        for index, data in enumerate(chunks(packed.payload, self._newest.manifest.chunk_size)):
            self._send(version, index, data)

    def resend(self, version: int, indices: Sequence[int]) -> str:
        """Send chunks again, all of them where `indices` is empty. Returns why not, or an empty text."""
        if self._newest is None:
            return "no snapshot has been pushed"
        manifest = self._newest.manifest
        if version != manifest.version:
            return f"version {version} is gone; the newest is {manifest.version}"
        wanted = set(indices) or set(range(manifest.chunk_count))
        unknown = wanted - set(range(manifest.chunk_count))
        if unknown:
            return f"chunk {min(unknown)} does not exist; version {version} has {manifest.chunk_count}"
        for index in sorted(wanted):
            self._send(version, index, self._newest.payload[index * manifest.chunk_size : (index + 1) * manifest.chunk_size])
        return ""
