"""Rounds of episodes and updates: which weights drove, which are the best so far, which are handed over.

Role: the gate (gate.py) together with the snapshots that it decides about; the same for every learner. Knows a policy only as something
whose trainable state can be taken and put back. Does not depend on torch or ROS.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from learner_node.gate import Gate, Tally
from whetstone.contracts import Rollout


@dataclass(frozen=True)
class GateConfig:
    """episodes: an iteration with fewer decides nothing; confidence: of the one-sided test that sends the policy back."""

    episodes: int = field(default=24, metadata={"ge": 1})
    confidence: float = field(default=0.95, metadata={"gt": 0.5, "lt": 1})


@dataclass(frozen=True)
class Verdict:
    """drove: the snapshot whose episodes were judged; back: the best one was put back; final: nothing more is to be learned, for the run
    ends with what it began with; said: why."""

    drove: int
    back: bool
    final: bool
    said: str


class Rounds:
    """Snapshots of one policy. Number 0 is what the run began with; each update that is kept makes the next."""

    def __init__(self, config: GateConfig, policy: Any) -> None:
        self._policy = policy
        self.gate = Gate(config.episodes, config.confidence)
        self.current = 0
        self._updates = 0
        self.states: dict[int, dict[str, np.ndarray]] = {0: policy.trainable_state()}

    def judge(self, judged: Sequence[Rollout], last: bool) -> Verdict:
        """An iteration's episodes have come; puts other weights in force where these are worse, or at the end not seen to be better."""
        drove = self.current
        successes = sum(rollout.outcome == "success" for rollout in judged)
        back, said = self.gate.judge(drove, successes, len(judged))
        if back:
            self.restore(self.gate.best)
        if last and (unproven := self.gate.unproven(self.current)):
            self.restore(0)
            return Verdict(drove, back, True, f"{said}; {unproven}")
        return Verdict(drove, back, False, said)

    def take(self) -> None:
        """The policy has learned: its weights are the next snapshot."""
        self._updates += 1
        kept = {key: self.states[key] for key in (0, self.gate.best)}
        self.current = self._updates
        self.states = {**kept, self.current: self._policy.trainable_state()}

    def undo(self) -> None:
        """An update failed: the weights that were in force before it are again."""
        self.restore(self.current)

    def restore(self, key: int) -> None:
        self._policy.load_trainable_state(self.states[key])
        self.current = key

    @property
    def best(self) -> dict[str, np.ndarray]:
        """The snapshot whose episodes were judged best."""
        return self.states[self.gate.best]

    def checkpoint(self) -> dict[str, Any]:
        tallies = {key: [tally.episodes, tally.successes] for key, tally in self.gate.tallies.items()}
        return {"current": self.current, "updates": self._updates, "best": self.gate.best, "tallies": tallies, "states": self.states}

    def resume(self, state: dict[str, Any]) -> None:
        """Go on from what `checkpoint` gave. Raises ValueError where it is another policy's."""
        self.states = dict(state["states"])
        self._updates, self.gate.best = state["updates"], state["best"]
        self.gate.tallies = {key: Tally(episodes, successes) for key, (episodes, successes) in state["tallies"].items()}
        self.restore(state["current"])


def judged(rollouts: Sequence[Rollout]) -> list[Rollout]:
    """Those whose end says something: not the aborted ones."""
    return [rollout for rollout in rollouts if rollout.outcome in ("success", "failure", "timeout")]
