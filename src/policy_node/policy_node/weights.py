"""Receiving weights: what is accepted, what is asked for, when it is applied, what is answered.

Role: pure logic between the messages on weights/* and a policy. The receiver asks for what it lacks, a window at a time, so nothing
arrives that nobody can take. A snapshot is applied as a whole at an episode boundary or not at all; every decision is an
Acknowledgement with a reason. Does not depend on rclpy.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np

from whetstone import encoding
from whetstone.contracts import Policy
from whetstone.errors import InputError
from whetstone.handover import host_id, open_checked
from whetstone.snapshot import Table, pack, table_difference, table_of, unpack, widened
from whetstone.transfer import Assembler, Manifest, check_manifest, check_memory, digests, identity

ATTEMPTS = 3
"""Times that a chunk may arrive damaged before its snapshot is refused."""
WINDOW = 32
"""Chunks that are asked for and have not come, at most: 16 MiB."""
LONGEST_WAIT = 5.0
"""Seconds without news after which chunks are asked for again, at most."""
STALLED = 3
"""Waits without news after which a snapshot no longer keeps others out: whoever sent it is gone."""
_READ = 8  # chunks of a hand-over file that are read and proven at a time


@dataclass(frozen=True)
class Acknowledgement:
    """status as in whetstone_msgs/WeightsAck: applied, refused (nothing changed) or rolled back (it was tried)."""

    version: int
    status: Literal["applied", "refused", "rolled_back"]
    reason: str = ""
    payload_sha256: str = ""


@dataclass(frozen=True)
class Wanted:
    """A whetstone_msgs/RequestChunks. base_sha256: what differences may be from; empty: none."""

    version: int
    payload_sha256: str
    base_sha256: str
    indices: list[int]


class WeightsReceiver:
    """Collects snapshots for one policy.

    self_test: proves after loading that the policy still acts; raises if not, and the weights before come back.
    patience: seconds without news after which missing chunks are asked for again; longer where chunks come more slowly.
    version: of the weights in use; 0 is the base policy. note: what went wrong last without ending anything, for people.
    counts: of chunks "damaged" and "foreign" (of another snapshot), and of "bytes" that came.
    """

    def __init__(self, policy: Policy, self_test: Callable[[], None], patience: float = 1.0) -> None:
        self.version = 0
        self.note = ""
        self.counts = {"damaged": 0, "foreign": 0, "bytes": 0}
        self._policy = policy
        self._self_test = self_test
        self._patience = patience
        self._table = table_of(policy.trainable_state())
        self._in_use = ""  # payload_sha256 of the weights in use; empty: they did not come this way
        self._previous: tuple[int, str, dict[str, np.ndarray]] | None = None
        self._rolled_back: set[str] = set()
        self._coming: Assembler | None = None  # announced and neither applied nor refused
        self._file: int | None = None  # descriptor of its hand-over file while that is read
        self._news = 0.0  # when something of it came last
        self._forget_requests()

    # What comes.

    def announce(self, manifest: Manifest, policy_id: str, config_hash: str, now: float) -> Acknowledgement | None:
        """A manifest came. Returns what to answer at once, or None while its chunks are on their way."""
        if manifest.version == self.version and manifest.payload_sha256 == self._in_use:
            return _answer(manifest, "applied", "it is in use already")
        coming = self._coming.manifest if self._coming is not None else None
        if coming is not None and _same(coming, manifest):
            self._again(manifest, now)
            return None
        reason = self._rivalry(manifest, now) or self._misfit(manifest, policy_id, config_hash)
        if reason:
            return _answer(manifest, "refused", reason)
        try:
            check_manifest(manifest)
            self._drop()
            self._coming = self._begin(manifest)
        except InputError as error:
            return _answer(manifest, "refused", str(error))
        self._news = now
        self._open_file(manifest)
        return None

    def add(self, version: int, payload_sha256: str, index: int, how: int, data: encoding.Buffer, now: float) -> Acknowledgement | None:
        """A chunk came (how: its encoding), in any order, any number of times. Returns a refusal where it was damaged too often."""
        coming = self._coming
        if coming is None or (version, payload_sha256) != (coming.manifest.version, coming.manifest.payload_sha256):
            self.counts["foreign"] += 1
            return None
        self.counts["bytes"] += len(data)
        try:
            if coming.add(index, how, data):
                self._asked[index] = False
                self._wait = min(LONGEST_WAIT, max(self._patience, 2 * (now - self._news)))
                self._news = now
        except InputError as error:
            return self._damaged(index, how, error)
        return None

    def _damaged(self, index: int, how: int, error: InputError) -> Acknowledgement | None:
        """Ask again; for the weights themselves, where differences from ours do not lead there (a policy that rounds what it loads)."""
        assert self._coming is not None
        manifest = self._coming.manifest
        self.counts["damaged"] += 1
        self.note = f"{manifest.name}: {error}"
        if 0 <= index < manifest.chunk_count:
            self._asked[index] = False
            if how == encoding.DIFFERENCE:
                self._base = ""
            else:
                self._strikes[index] = self._strikes.get(index, 0) + 1
                if self._strikes[index] >= ATTEMPTS:
                    self._drop()
                    return _answer(manifest, "refused", f"{error}, {ATTEMPTS} times")
        return None

    # What is asked for.

    @property
    def ready(self) -> bool:
        """A whole snapshot waits to be applied."""
        return self._coming is not None and self._coming.complete

    @property
    def progress(self) -> str:
        """For people: what is on its way."""
        if self._coming is None:
            return ""
        return f"{self._coming.manifest.name}: {self._coming.count} of {self._coming.manifest.chunk_count} chunks"

    def wanted(self, now: float) -> Wanted | None:
        """What to ask for now: so much that a window is under way, everything again after a wait in vain. None: nothing, or not yet."""
        coming = self._coming
        if coming is None or coming.complete or self.reading:
            return None
        if self._asked.any() and now - max(self._news, self._asked_at) >= self._wait:
            self._asked[:] = False
            self._wait = min(LONGEST_WAIT, 2 * self._wait)
        under_way = int(self._asked.sum())
        if under_way > WINDOW // 2:
            return None
        indices = np.flatnonzero(~(coming.there | self._asked))[: WINDOW - under_way]
        if not len(indices):
            return None
        self._asked[indices] = True
        self._asked_at = now
        return Wanted(coming.manifest.version, coming.manifest.payload_sha256, self._base, [int(index) for index in indices])

    # The file of a sender on this machine.

    @property
    def reading(self) -> bool:
        """A hand-over file is open: `read` is to be called until it is not."""
        return self._file is not None

    def read(self, now: float) -> None:
        """A few chunks of the hand-over file, so that nobody waits for long. What is wrong there is asked for in messages."""
        if self._coming is None or self._file is None:
            return
        coming, size = self._coming, self._coming.manifest.chunk_size
        try:
            for index in coming.missing()[:_READ]:
                coming.add(int(index), encoding.RAW, os.pread(self._file, size, int(index) * size))
        except (OSError, InputError) as error:
            self.note = f"{coming.manifest.name}: hand-over file {coming.manifest.path}: {error}; asking for chunks instead"
            self._close_file()
        if coming.complete:
            self._close_file()
        self._news = now

    # What follows from it.

    def apply(self) -> Acknowledgement | None:
        """Load the snapshot that is ready. To be called at an episode boundary. None: nothing is."""
        if self._coming is None or not self._coming.complete:
            return None
        manifest = self._coming.manifest
        state = widened(unpack(self._coming.payload, manifest.table), self._table)
        self._drop()
        before = self._policy.trainable_state()
        try:
            self._policy.load_trainable_state(state)
            self._self_test()
        except (ValueError, InputError) as error:
            self._policy.load_trainable_state(before)
            self._rolled_back.add(manifest.payload_sha256)
            return _answer(manifest, "rolled_back", f"{error}; version {self.version} stays in use")
        self._previous = (self.version, self._in_use, before)
        self.version, self._in_use = manifest.version, manifest.payload_sha256
        return _answer(manifest, "applied", "")

    def roll_back(self, reason: str) -> Acknowledgement | None:
        """Return to the weights before the ones in use. None where there are none."""
        if self._previous is None:
            return None
        refused, payload = self.version, self._in_use
        self._rolled_back.add(payload)
        self.version, self._in_use, state = self._previous
        self._previous = None
        self._policy.load_trainable_state(state)
        return Acknowledgement(refused, "rolled_back", f"{reason}; version {self.version} is back in use", payload)

    def close(self) -> None:
        """Forget what is on its way."""
        self._drop()

    # Parts of these.

    def _rivalry(self, manifest: Manifest, now: float) -> str:
        """Why a snapshot must not take the place of the one in use or on its way; empty where it may."""
        version = manifest.version
        if manifest.payload_sha256 in self._rolled_back:
            return f"{manifest.name} was rolled back before"
        if version < self.version or version == self.version == 0:
            return f"version {version} is older than {self.version}" if version else "version 0 is the base policy"
        if version == self.version:
            return _two_of_one(manifest, self._in_use, "in use", f" Whoever sends it must go on from version {version + 1}")
        if self._coming is None:
            return ""
        coming = self._coming.manifest
        if not self._coming.complete and now - self._news >= STALLED * self._wait:
            return ""  # nobody sends that one any more
        if version < coming.version:
            return f"version {version} is older than {coming.version}"
        return _two_of_one(manifest, coming.payload_sha256, "on its way", "") if version == coming.version else ""

    def _misfit(self, manifest: Manifest, policy_id: str, config_hash: str) -> str:
        spec = self._policy.spec
        for name, theirs, ours in (("policy_id", policy_id, spec.policy_id), ("config_hash", config_hash, spec.config_hash)):
            if theirs != ours:
                return f"{name} is '{theirs}', this policy has '{ours}'"
        return table_difference(manifest.table, self._table)

    def _begin(self, manifest: Manifest) -> Assembler:
        """With our own weights as the base where they are the ones that differences are from."""
        own: bytearray | None = None
        if manifest.base_sha256 and (not self._in_use or self._in_use == manifest.base_sha256):
            check_memory(manifest.payload_size)
            own = self._own(manifest.table)
            if not self._in_use and identity(digests(own, manifest.chunk_size)) != manifest.base_sha256:
                own = None
        coming = Assembler(manifest, own)
        self._forget_requests(manifest.chunk_count)
        self._base = manifest.base_sha256 if own is not None else ""
        return coming

    def _own(self, table: Table) -> bytearray:
        return pack(self._policy.trainable_state(), table)

    def _again(self, manifest: Manifest, now: float) -> None:
        """Who sends it was restarted, or says it twice: go on with what has come, ask at once, and for the file where there is one."""
        assert self._coming is not None
        old = self._coming.manifest
        self._coming.manifest = manifest
        self._forget_requests(manifest.chunk_count)
        self._base = manifest.base_sha256 if self._coming.has_base and manifest.base_sha256 == old.base_sha256 else ""
        if not self._coming.complete and not self.reading:
            self._open_file(manifest)
        self._news = now

    def _open_file(self, manifest: Manifest) -> None:
        if not manifest.host or manifest.host != host_id():
            return
        try:
            self._file = open_checked(manifest.path, manifest.payload_size)
        except InputError as error:
            self.note = f"{manifest.name}: {error}; asking for chunks instead"

    def _close_file(self) -> None:
        if self._file is not None:
            os.close(self._file)
            self._file = None

    def _drop(self) -> None:
        self._close_file()
        self._coming = None
        self._forget_requests()

    def _forget_requests(self, count: int = 0) -> None:
        """count: chunks of what is on its way."""
        self._asked = np.zeros(count, bool)
        self._asked_at = 0.0
        self._base = ""  # payload_sha256 that differences are asked from; empty: none are
        self._strikes: dict[int, int] = {}  # index -> times that it came damaged
        self._wait = self._patience  # seconds without news after which chunks are asked for again


def _answer(manifest: Manifest, status: Literal["applied", "refused", "rolled_back"], reason: str) -> Acknowledgement:
    return Acknowledgement(manifest.version, status, reason, manifest.payload_sha256)


def _same(a: Manifest, b: Manifest) -> bool:
    """Of one payload: its chunks' digests and table are those of the other."""
    return all(getattr(a, name) == getattr(b, name) for name in ("version", "payload_sha256", "chunk_sha256", "chunk_size", "table"))


def _two_of_one(manifest: Manifest, other: str, where: str, advice: str) -> str:
    known = other[:8] or "one from a file"
    names = f"{known}, which is {where}, and {manifest.payload_sha256[:8]}"
    return f"two snapshots are called version {manifest.version}: {names}; do two learners send?{advice}"
