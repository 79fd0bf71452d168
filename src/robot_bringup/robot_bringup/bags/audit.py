"""What a bag can honestly say of its own completeness.

Role: counts what came, by the number that the publisher's middleware gives each message, against what was written. Does not depend on ROS.

What is known: messages that a publisher sent after the first that was heard and before the last. What is not: those before the first (of a
topic that nobody keeps for late joiners), those after the last, and, where several publishers share a topic, how many are missing
in a gap, for a message does not say whose it is.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any


class Sequence:
    """The numbers of one topic's messages, as they came."""

    def __init__(self) -> None:
        self._ends: list[int] = []  # the last number of each publisher heard
        self.restarts = 0

    def hear(self, number: int | None, publishers: int) -> int | None:
        """How many messages are missing between this one and the one before of the same publisher; None: cannot be known.

        publishers: how many are known to publish the topic now.
        """
        if number is None:  # this middleware numbers nothing
            return None
        for index, end in enumerate(self._ends):
            if number == end + 1:
                self._ends[index] = number
                return 0
        if len(self._ends) < max(publishers, 1):
            self._ends.append(number)
            return 0
        if publishers > 1 or len(self._ends) > 1:
            self._ends = [*self._ends[1:], number]
            return None
        (end,), self._ends = self._ends, [number]
        if number <= end:  # it was started again, and counts from one
            self.restarts += 1
            return 0
        return number - end - 1


@dataclass
class TopicCount:
    """Of one topic in one bag. received: came to the recorder; written: of these, in the bag; dropped: not, for the disk or the processor
    was too slow; paused: images while the episode was paused, which are not kept; missing: sent but never came; uncertain: at least one gap
    whose size cannot be known; unmatched: publishers whose quality of service does not go with a subscription's; gap: longest time
    between two messages' stamps (ns)."""

    received: int = 0
    written: int = 0
    dropped: int = 0
    paused: int = 0
    missing: int = 0
    uncertain: bool = False
    unmatched: int = 0
    first: int | None = None
    last: int | None = None
    gap: int = 0

    def stamp(self, time: int) -> None:
        """A message of this time (ns) was received."""
        if self.first is None:
            self.first = time
        elif self.last is not None:
            self.gap = max(self.gap, time - self.last)
        self.last = max(time, self.last or time)

    def summary(self) -> dict[str, Any]:
        """For JSON. published: received and missing; None where the gaps' sizes are not known."""
        published = None if self.uncertain else self.received + self.missing
        return {
            "published": published,
            "received": self.received,
            "written": self.written,
            "dropped": self.dropped,
            "paused": self.paused,
            "missing": None if self.uncertain else self.missing,
            "unmatched_publishers": self.unmatched,
            "longest_gap_ns": self.gap,
        }


@dataclass
class Audit:
    """Of one bag. absent: topics that could not be listened to, and why; faults: what kept it from being whole."""

    topics: dict[str, TopicCount] = field(default_factory=dict)
    absent: dict[str, str] = field(default_factory=dict)
    faults: list[str] = field(default_factory=list)

    def of(self, topic: str) -> TopicCount:
        return self.topics.setdefault(topic, TopicCount())

    def fault(self, text: str) -> None:
        """Said once, however often it happens."""
        if text not in self.faults:
            self.faults.append(text)

    @property
    def complete(self) -> bool:
        """Whether all that is known to have been published, images of pauses aside, is in the bag."""
        counts = self.topics.values()
        lost = any(one.dropped or one.missing or one.uncertain or one.unmatched for one in counts)
        return not (lost or self.faults or any(one.received != one.written + one.paused for one in counts))

    def summary(self) -> dict[str, Any]:
        """For JSON, as the bag's metadata holds it."""
        topics = {name: count.summary() for name, count in sorted(self.topics.items())}
        return {"complete": self.complete, "line": self.line(), "faults": self.faults, "absent": self.absent, "topics": topics}

    def line(self) -> str:
        """For people."""
        counts = self.topics.values()
        written = sum(one.written for one in counts)
        words = [f"{written} messages of {sum(one.received > 0 for one in counts)} topics"]
        for what, word in (("dropped", "dropped here"), ("missing", "sent but never received")):
            found = {name: getattr(one, what) for name, one in sorted(self.topics.items()) if getattr(one, what)}
            if found:
                words.append(f"{sum(found.values())} {word} ({', '.join(f'{name} {count}' for name, count in found.items())})")
        unsure = sorted(name for name, one in self.topics.items() if one.uncertain)
        if unsure:
            words.append(f"gaps of unknown size on {', '.join(unsure)}")
        deaf = sorted(name for name, one in self.topics.items() if one.unmatched)
        if deaf:
            words.append(f"not heard for their quality of service: {', '.join(deaf)}")
        words += self.faults
        return "; ".join(words if not self.complete else [*words, "nothing known to be missing"])
