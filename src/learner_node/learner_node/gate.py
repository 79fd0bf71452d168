"""The gate: keep what is better, go back from what is worse.

Role: remembers how often each snapshot's episodes ended in success (as the reward judged) and says when the newest is worse than the best.
Pure; knows nothing of networks or ROS.
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

    def judge(self, version: int, successes: int, episodes: int) -> tuple[bool, str]:
        """Add an iteration's outcome for the snapshot that made it. Returns (go back to `best`, why)."""
        tally = self.tallies.setdefault(version, Tally())
        tally.successes += successes
        tally.episodes += episodes
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
