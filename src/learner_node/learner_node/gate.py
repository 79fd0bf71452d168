"""The gate: keep what is better, go back from what is worse, hand over nothing that was not seen to be better.

Role: remembers how often each snapshot's episodes ended in success (as the reward judged) and says when the newest is worse than the best,
and whether one is better than the policy that the run began with. Pure; knows nothing of networks or ROS.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from statistics import NormalDist


@dataclass
class Tally:
    episodes: int = 0
    successes: int = 0

    @property
    def rate(self) -> float:
        return self.successes / self.episodes if self.episodes else 0.0


def worse(candidate: Tally, incumbent: Tally, confidence: float) -> bool:
    """One-sided two-proportion z-test with pooled variance (add-one smoothed, so that 0 of n and n of n have a variance)."""
    if not candidate.episodes or not incumbent.episodes:
        return False
    n, m = candidate.episodes, incumbent.episodes
    pooled = (candidate.successes + incumbent.successes + 1) / (n + m + 2)
    error = (pooled * (1 - pooled) * (1 / n + 1 / m)) ** 0.5
    return (incumbent.rate - candidate.rate) / error > NormalDist().inv_cdf(confidence)


@dataclass
class Gate:
    """episodes: fewer decide nothing. tallies: snapshot key -> its episodes."""

    episodes: int
    confidence: float
    tallies: dict[int, Tally] = field(default_factory=dict)
    best: int = 0

    def note(self, version: int, successes: int, episodes: int) -> Tally:
        """Add episodes to a snapshot's tally."""
        tally = self.tallies.setdefault(version, Tally())
        tally.successes += successes
        tally.episodes += episodes
        return tally

    def judge(self, version: int, successes: int, episodes: int) -> tuple[bool, str]:
        """Add an iteration's outcome for the snapshot that made it. Returns (go back to `best`, why)."""
        tally = self.note(version, successes, episodes)
        said = f"snapshot {version}: {tally.successes} of {tally.episodes} judged successful"
        if version == self.best or tally.episodes < self.episodes:
            return False, said
        best = self.tallies.get(self.best, Tally())
        if worse(tally, best, self.confidence):
            return True, f"{said}, worse than snapshot {self.best} ({best.successes} of {best.episodes}): rolled back"
        if tally.rate >= best.rate:
            self.best = version
            return False, f"{said}: the best so far"
        return False, f"{said}: not worse than snapshot {self.best} ({best.successes} of {best.episodes}) beyond chance"

    def unproven(self, version: int) -> str:
        """Why snapshot `version` must not take the place of snapshot 0, the policy that the run began with; empty where it may.

        Learning from a reward that says nothing moves a policy all the same, with luck to better, without it to worse. It may stay only
        where the reward itself has seen it succeed more often. Too few episodes, or a single iteration, can show nothing and are let pass.
        """
        tally, base = self.tallies.get(version, Tally()), self.tallies.get(0, Tally())
        if min(tally.episodes, base.episodes) < self.episodes or len(self.tallies) == 1:
            return ""
        if version and worse(base, tally, self.confidence):
            return ""
        return (
            f"not better than snapshot 0 ({base.successes} of {base.episodes}) beyond chance: the reward shows no improvement, "
            "so the policy that the run began with stays"
        )
