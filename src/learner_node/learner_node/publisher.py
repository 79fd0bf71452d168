"""Publishing weights: announced to everybody, sent in chunks to whoever asks, kept as a file for those on this machine.

Role: pure bookkeeping around two publish functions, so that it is tested without a graph. Keeps the newest snapshot, and the newest one
that a robot is known to have: from that one differences are sent. Encodes chunks when they are sent, never ahead. Does not depend on rclpy.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from whetstone import encoding
from whetstone.errors import InputError
from whetstone.handover import SHARED_MEMORY, Handover, host_id
from whetstone.snapshot import Precision, pack, table_of
from whetstone.transfer import CHUNK_SIZE, Compression, Manifest, digests, identity, manifest_of

FARTHEST = 1 << 53
"""A version beyond this in an acknowledgement is taken for nonsense."""


@dataclass(frozen=True)
class Options:
    """How payloads are made and sent.

    precision: bf16 rounds F32 and F64 to 16 bits; the robot then acts with other weights than the learner's copy. compression: of chunks.
    differences: send them to robots that have the weights before (needs compression, and that payload's memory once more). file_above:
    bytes from which on a payload is also a file for receivers on this machine; 0: never. folder: where that file goes when /dev/shm has
    no room to spare; None: /dev/shm or nowhere.
    """

    precision: Precision = "as_is"
    compression: Compression = "zstd"
    differences: bool = True
    file_above: int = 0
    folder: Path | None = None
    chunk_size: int = CHUNK_SIZE


@dataclass(frozen=True)
class Pushed:
    """A snapshot that was announced. parent: version it was trained from; base: the payload that differences are from.

    warning: why there is no hand-over file although there should be one; empty: all is well.
    """

    manifest: Manifest
    parent: int
    iteration: int
    payload: bytearray
    base: bytearray | None = None
    warning: str = ""


class WeightsPublisher:
    """announce(pushed): publish its manifest (latched); send(pushed, index, encoding, data): publish one chunk.

    `prepare` may run in another thread than the rest. Nothing is sent but by `send_some`.
    """

    def __init__(
        self,
        announce: Callable[[Pushed], None],
        send: Callable[[Pushed, int, int, encoding.Buffer], None],
        options: Options | None = None,
    ) -> None:
        self.options = options or Options()
        self._announce = announce
        self._send = send
        self._newest: Pushed | None = None
        self._known: tuple[str, bytearray] | None = None  # identity and payload of what a robot has
        self._heard = 0
        self._resumed = False
        self._wanted: dict[tuple[int, bool], None] = {}  # (index, as a difference), in the order of asking
        self._sent = 0
        folder = self.options.folder
        self._handover = Handover([SHARED_MEMORY, *([folder] if folder else [])]) if self.options.file_above else None

    @property
    def version(self) -> int:
        """Newest version pushed; 0: none yet, everybody has the base policy."""
        return self._newest.manifest.version if self._newest else 0

    @property
    def next_version(self) -> int:
        """Newer than all that was pushed and than all that any robot said it has: a learner that was restarted goes on from there."""
        return max(self.version, self._heard) + 1

    @property
    def busy(self) -> bool:
        """Chunks wait to be sent."""
        return bool(self._wanted)

    @property
    def progress(self) -> str:
        """For people."""
        if self._newest is None:
            return "nothing pushed"
        return f"{self._newest.manifest.name}: {self._sent} chunks sent of {self._newest.manifest.chunk_count}, {len(self._wanted)} waiting"

    def start_from(self, state: dict[str, np.ndarray]) -> None:
        """The weights that robots have before anything is pushed: the first push, too, may go as a difference."""
        if self._differences:
            payload = pack(state, table_of(state, self.options.precision))
            self._known = identity(digests(payload, self.options.chunk_size)), payload

    def prepare(self, state: dict[str, np.ndarray], version: int, parent: int, iteration: int) -> Pushed:
        """Everything that takes time: the payload, its hashes, its file. Raises InputError on a tensor that cannot be sent."""
        options = self.options
        table = table_of(state, options.precision)
        payload = pack(state, table)
        host = path = warning = ""
        if self._handover is not None and len(payload) >= options.file_above:
            try:
                host, path = host_id(), str(self._handover.write(payload))
            except InputError as error:
                host, warning = "", f"weights {version}: no hand-over file, sending chunks instead: {error}"
        known, base = self._known or ("", None) if self._differences else ("", None)
        if base is not None and len(base) != len(payload):
            known, base = "", None
        manifest = manifest_of(payload, table, version, options.chunk_size, options.compression, known, host, path)
        return Pushed(manifest, parent, iteration, payload, base, warning)

    def publish(self, pushed: Pushed) -> None:
        """Announce it. Chunks of the one before are sent no more. Raises ValueError on a version that is not newer."""
        if pushed.manifest.version <= self.version:
            raise ValueError(f"version {pushed.manifest.version} is not newer than {self.version}")
        self._newest = pushed
        self._wanted.clear()
        self._sent = 0
        self._announce(pushed)

    def push(self, state: dict[str, np.ndarray], version: int, parent: int, iteration: int) -> None:
        """`prepare` and `publish`."""
        self.publish(self.prepare(state, version, parent, iteration))

    def resume(self, pushed: Pushed) -> None:
        """Announce again, after a restart, what was in use when its state was saved.

        The same state and version make the same manifest: a robot that has it, or parts of it, goes on from where it was. Robots that
        have newer weights of a lost past are given these under a version of their own; see `acknowledged`.
        """
        self._resumed = True
        self.publish(pushed)

    def acknowledged(self, version: int, payload_sha256: str) -> None:
        """A robot applied this version; it may be one of a learner before."""
        if version < FARTHEST:
            self._heard = max(self._heard, version)
        newest = self._newest
        if newest is None:
            return
        if payload_sha256 == newest.manifest.payload_sha256:
            self._resumed = False
            if self._differences:
                # The older base is held no longer: who still asks for differences gets the chunks themselves.
                self._known = payload_sha256, newest.payload
                self._newest = replace(newest, base=None)
        elif self._resumed and self._heard > newest.manifest.version:
            self.publish(replace(newest, manifest=replace(newest.manifest, version=self.next_version)))

    def request(self, version: int, payload_sha256: str, base_sha256: str, indices: Sequence[int]) -> str:
        """Chunks to be sent next. base_sha256: what the receiver has; differences where that is ours too. Returns why not, or an empty
        text."""
        if self._newest is None:
            return "no snapshot has been pushed"
        manifest = self._newest.manifest
        if (version, payload_sha256) != (manifest.version, manifest.payload_sha256):
            return f"version {version} ({payload_sha256[:8]}) is not here; the newest is {manifest.name}"
        unknown = [index for index in indices if not 0 <= index < manifest.chunk_count]
        if unknown:
            return f"chunk {min(unknown)} does not exist; version {version} has {manifest.chunk_count}"
        difference = bool(manifest.base_sha256) and base_sha256 == manifest.base_sha256
        self._wanted.update(dict.fromkeys((int(index), difference) for index in indices))
        return ""

    def send_some(self, seconds: float) -> bool:
        """Send chunks that wait, at least one and until that time is over. True while more wait."""
        end = time.perf_counter() + seconds
        while self._wanted:
            index, difference = next(iter(self._wanted))
            del self._wanted[index, difference]
            assert self._newest is not None
            self._send(self._newest, index, *self._encoded(self._newest, index, difference))
            self._sent += 1
            if time.perf_counter() >= end:
                break
        return bool(self._wanted)

    def close(self) -> None:
        """Remove the hand-over file."""
        if self._handover is not None:
            self._handover.close()

    @property
    def _differences(self) -> bool:
        return self.options.differences and self.options.compression != "none"

    def _encoded(self, pushed: Pushed, index: int, difference: bool) -> tuple[int, encoding.Buffer]:
        span = slice(index * pushed.manifest.chunk_size, (index + 1) * pushed.manifest.chunk_size)
        chunk = memoryview(pushed.payload)[span]
        if self.options.compression == "none":
            return encoding.RAW, chunk
        base = memoryview(pushed.base)[span] if difference and pushed.base is not None else None
        return encoding.encode(chunk, base)
