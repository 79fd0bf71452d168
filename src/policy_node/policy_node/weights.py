"""Receiving weights: what is accepted, when it is applied, what is answered.

Role: pure logic between the messages on weights/* and a policy. A snapshot is applied as a whole at an episode boundary or not at
all; every decision is an Acknowledgement with a reason. Does not depend on rclpy.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np

from whetstone.contracts import Policy
from whetstone.errors import InputError
from whetstone.snapshot import Assembler, Manifest, Tensor, pack

ATTEMPTS = 3
"""Times that a payload may arrive damaged before it is refused."""


@dataclass(frozen=True)
class Acknowledgement:
    """status as in whetstone_msgs/WeightsAck: applied, refused (nothing changed) or rolled back (it was tried)."""

    version: int
    status: Literal["applied", "refused", "rolled_back"]
    reason: str = ""


class WeightsReceiver:
    """Collects snapshots for one policy.

    self_test: proves after loading that the policy still acts; raises if not, and the weights before come back.
    patience: seconds without news after which missing chunks are asked for.
    version: of the weights in use; 0 is the base policy.
    """

    def __init__(self, policy: Policy, self_test: Callable[[], None], patience: float = 1.0) -> None:
        self.version = 0
        self._policy = policy
        self._self_test = self_test
        self._patience = patience
        self._table = pack(policy.trainable_state()).table
        self._previous: tuple[int, dict[str, np.ndarray]] | None = None
        self._assembler = Assembler()
        self._pending = False  # a snapshot is announced and neither applied nor refused
        self._damaged = 0
        self._news = 0.0

    def announce(self, manifest: Manifest, policy_id: str, config_hash: str, now: float) -> Acknowledgement | None:
        """A manifest came. Returns what to answer at once, or None while its chunks are on their way."""
        version = manifest.version
        if version == self.version:
            return Acknowledgement(version, "applied", "it is in use already")
        if self._pending and version == self._assembler.version:
            return None
        if version < max(self.version, self._assembler.version or 0):
            return Acknowledgement(version, "refused", f"version {version} is older than {max(self.version, self._assembler.version or 0)}")
        spec = self._policy.spec
        for name, theirs, ours in (("policy_id", policy_id, spec.policy_id), ("config_hash", config_hash, spec.config_hash)):
            if theirs != ours:
                return Acknowledgement(version, "refused", f"{name} is '{theirs}', this policy has '{ours}'")
        difference = table_difference(manifest.table, self._table)
        if difference:
            return Acknowledgement(version, "refused", difference)
        try:
            if not self._assembler.announce(manifest):
                return Acknowledgement(version, "refused", f"version {version} was refused before")
        except InputError as error:
            return Acknowledgement(version, "refused", str(error))
        self._pending, self._damaged, self._news = True, 0, now
        return None

    def add(self, version: int, index: int, data: bytes, now: float) -> None:
        """A chunk came, in any order, any number of times, perhaps before its manifest."""
        if self._assembler.add(version, index, data):
            self._news = now

    @property
    def ready(self) -> bool:
        """A whole snapshot waits to be applied."""
        return self._pending and self._assembler.complete

    def wanted(self, now: float) -> tuple[int, list[int]] | None:
        """(version, indices) to ask for again, at most once per patience; None: nothing, or not yet."""
        if not self._pending or self._assembler.complete or now - self._news < self._patience:
            return None
        self._news = now
        assert self._assembler.version is not None
        return self._assembler.version, self._assembler.missing()

    def apply(self, now: float) -> Acknowledgement | None:
        """Load the snapshot that is ready. To be called at an episode boundary. None: nothing to say yet (damaged, asked for again)."""
        if not self.ready:
            return None
        version = self._assembler.version
        assert version is not None
        try:
            state = self._assembler.result()
        except InputError as error:
            self._damaged += 1
            if self._damaged < ATTEMPTS:
                self._news = now - self._patience  # ask at once
                return None
            self._pending = False
            return Acknowledgement(version, "refused", f"{error}, {ATTEMPTS} times")
        self._pending = False
        self._assembler.release()
        before = self._policy.trainable_state()
        try:
            self._policy.load_trainable_state(state)
            self._self_test()
        except (ValueError, InputError) as error:
            self._policy.load_trainable_state(before)
            return Acknowledgement(version, "rolled_back", f"{error}; version {self.version} stays in use")
        self._previous = (self.version, before)
        self.version = version
        return Acknowledgement(version, "applied")

    def roll_back(self, reason: str) -> Acknowledgement | None:
        """Return to the weights before the ones in use. None where there are none."""
        if self._previous is None:
            return None
        refused = self.version
        self.version, state = self._previous
        self._previous = None
        self._policy.load_trainable_state(state)
        return Acknowledgement(refused, "rolled_back", f"{reason}; version {self.version} is back in use")


def table_difference(theirs: tuple[Tensor, ...], ours: tuple[Tensor, ...]) -> str:
    """The first tensor in which two tables differ, in words; empty when they agree."""
    known = {tensor.name: tensor for tensor in ours}
    for tensor in theirs:
        own = known.pop(tensor.name, None)
        if own is None:
            return f"tensor '{tensor.name}' is unknown to this policy"
        if tensor.shape != own.shape:
            return f"tensor '{tensor.name}' has shape {list(tensor.shape)}, this policy has {list(own.shape)}"
        if tensor.dtype != own.dtype:
            return f"tensor '{tensor.name}' has type {tensor.dtype}, this policy has {own.dtype}"
    return f"tensor '{next(iter(known))}' is missing" if known else ""
