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
class RoundsConfig:
    """update_every: episodes after which an update is made while the robot goes on; 0: after an iteration alone, while it waits. target:
    share of successes, as the reward judges, at which training ends early; 0: never. patience: iterations without a new best snapshot
    after which it does; 0: never."""

    update_every: int = field(default=0, metadata={"ge": 0})
    target: float = field(default=0.0, metadata={"ge": 0, "le": 1})
    patience: int = field(default=0, metadata={"ge": 0})


@dataclass(frozen=True)
class Verdict:
    """drove: the snapshot whose episodes were judged; back: the best one was put back; final: nothing more is to be learned, for the run
    ends with what it began with; said: why."""

    drove: int
    back: bool
    final: bool
    said: str


class Rounds:
    """Snapshots of one policy. Number 0 is what the run began with; each update that is kept makes the next.

    Where the robot goes on while updates are made, none of them would drive enough episodes to be judged: then all updates count as one
    snapshot until its episodes are enough.
    """

    def __init__(self, config: GateConfig, policy: Any, settings: RoundsConfig | None = None) -> None:
        self._policy = policy
        self.settings = settings or RoundsConfig()
        self._drives = {0: 0}  # version that a robot reports -> snapshot
        self._stale = 0  # judgements since the best snapshot was found
        self.gate = Gate(config.episodes, config.confidence)
        self.current = 0
        self._updates = 0
        self.states: dict[int, dict[str, np.ndarray]] = {0: policy.trainable_state()}

    def judge(self, judged: Sequence[Rollout], last: bool) -> Verdict:
        """An iteration's episodes have come; puts other weights in force where these are worse, or at the end not seen to be better."""
        drove, best = self.current, self.gate.best
        own = []
        for rollout in judged:
            if self.drove(rollout) == drove:
                own.append(rollout)
            else:
                self.gate.note(self.drove(rollout), int(rollout.outcome == "success"), 1)
        back, said = self.gate.judge(drove, sum(rollout.outcome == "success" for rollout in own), len(own))
        enough = self.tally(drove).episodes >= self.gate.episodes
        self._stale = 0 if self.gate.best != best or not drove else self._stale + enough
        if back:
            self.restore(self.gate.best)
        return self.end(Verdict(drove, back, False, said)) if last else Verdict(drove, back, False, said)

    def drove(self, rollout: Rollout) -> int:
        """The snapshot that an episode is credited to."""
        if not self.settings.update_every or not len(rollout.policy_versions):
            return self.current
        return self._drives.get(int(rollout.policy_versions[-1]), self.current)

    def tally(self, key: int) -> Tally:
        return self.gate.tallies.get(key, Tally())

    def deployed(self) -> None:
        """The weights in force are on their way to the robot."""
        self._drives[len(self._drives)] = self.current

    @property
    def early(self) -> bool:
        """Whether the policy that the run began with has driven too few episodes to be compared with, while updates do not wait."""
        return bool(self.settings.update_every) and self.tally(0).episodes < self.gate.episodes

    def enough(self) -> str:
        """Why training may end early; empty where it may not."""
        tally = self.tally(self.current)
        if self.settings.target and tally.episodes >= self.gate.episodes and tally.rate >= self.settings.target:
            return f"{tally.successes} of {tally.episodes} judged successful, the target is {self.settings.target:g}"
        if self.settings.patience and self._stale >= self.settings.patience:
            return f"no better snapshot in {self._stale} iterations"
        return ""

    def end(self, verdict: Verdict) -> Verdict:
        """No episodes follow: what the run began with is put in force where nothing better was seen."""
        if unproven := self.gate.unproven(self.current):
            self.restore(0)
            return Verdict(verdict.drove, verdict.back, True, f"{verdict.said}; {unproven}")
        return verdict

    def take(self) -> None:
        """The policy has learned: its weights are the next snapshot."""
        pooled = self.settings.update_every and self.current and self.tally(self.current).episodes < self.gate.episodes
        if not pooled:
            self._updates += 1
            self.current = self._updates
        kept = {key: self.states[key] for key in (0, self.gate.best)}
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
        return {
            "drives": self._drives,
            "stale": self._stale,
            "current": self.current,
            "updates": self._updates,
            "best": self.gate.best,
            "tallies": tallies,
            "states": self.states,
        }

    def resume(self, state: dict[str, Any]) -> None:
        """Go on from what `checkpoint` gave. Raises ValueError where it is another policy's."""
        self.states = dict(state["states"])
        self._updates, self.gate.best = state["updates"], state["best"]
        self._drives, self._stale = dict(state["drives"]), state["stale"]
        self.gate.tallies = {key: Tally(episodes, successes) for key, (episodes, successes) in state["tallies"].items()}
        self.restore(state["current"])


def judged(rollouts: Sequence[Rollout]) -> list[Rollout]:
    """Those whose end says something: not the aborted ones."""
    return [rollout for rollout in rollouts if rollout.outcome in ("success", "failure", "timeout")]
