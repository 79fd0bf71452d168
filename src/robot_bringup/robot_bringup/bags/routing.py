"""Which bag a message belongs to.

Role: a bag begins when its episode runs, and has what was said since the scene was reset and the state in which that began; it ends when
the episode's late words have had time to come. Messages that name their episode go to its bag, whatever runs by then. Does not depend
on ROS.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

from robot_bringup.bags.recording import Bag, Heard, Recorder
from robot_bringup.bags.topics import RecordedTopic
from robot_bringup.episode_machine import Phase

TAIL = 1.0
"""Seconds after an episode's end in which everything still goes into its bag, unless the next scene is reset before."""
PATIENCE = 10.0
"""Seconds that a bag is kept open for frames that are known to have been published: a lost packet is sent again after some."""
LEAD = 32 * 1024 * 1024
"""Bytes kept from before an episode runs, since its scene was reset."""


@dataclass(frozen=True)
class EpisodeState:
    """Of whetstone_msgs/Episode: its id and phase. start, end: bag's time (ns) of its first frame, and of the last one before this
    message; 0: not known in that time."""

    episode_id: str
    phase: int
    start: int = 0
    end: int = 0


@dataclass
class _Open:
    bag: Bag
    tail: float | None = None  # until when what names no episode is its; None: it runs
    close: float | None = None
    end: int = 0  # stamp of its last frame; 0: it runs, or is not known
    newest: dict[str, int] = field(default_factory=dict)  # of each topic of frames, its newest stamp

    def behind(self) -> list[str]:
        """Topics of frames that have not come as far as the episode did."""
        return sorted(topic for topic, stamp in self.newest.items() if stamp < self.end)


@dataclass
class Router:
    """See the module. Time of the methods: monotonic s.

    topics: bag's topic name -> row. late: seconds after an episode's end in which messages that name it are waited for. lead: seconds
    before an episode that are kept; None: all since the scene was reset (in lockstep nothing goes on meanwhile). unmatched: asked at a
    bag's end for publishers that cannot be heard, topic -> count.
    """

    recorder: Recorder
    topics: Mapping[str, RecordedTopic]
    late: float
    lead: float | None
    about: Callable[[str], Mapping[str, str]]
    unmatched: Callable[[], Mapping[str, int]] = dict
    absent: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._kept: dict[str, deque[Heard]] = {}
        self._before: deque[tuple[float, Heard, int | None]] = deque()
        self._announced: list[tuple[Heard, int | None]] = []
        self._before_size = 0
        self._current: _Open | None = None
        self._ending: list[_Open] = []
        self._next = ""  # episode whose scene is being reset
        self._paused = False

    def hear(self, now: float, heard: Heard, missing: int | None, episode_id: str = "", stamp: int = 0) -> None:
        """episode_id: that the message names; empty: none. stamp: ns, of its header; 0: it has none."""
        if (topic := self.topics.get(heard.topic)) is not None and topic.keeps:
            self._kept.setdefault(heard.topic, deque(maxlen=topic.keeps)).append(heard)
        if episode_id and (found := self._named(episode_id)) is not None:
            self._put(found, heard, missing)
            return
        frames = topic is not None and topic.kind in ("camera", "joints")
        for one in self._ending:
            if stamp and stamp <= one.end:  # late: it belongs to what has ended
                if frames:
                    one.newest[heard.topic] = max(stamp, one.newest.get(heard.topic, 0))
                self._put(one, heard, missing)
                return
        current = self._current
        if current is not None and (current.tail is None or now < current.tail or 0 < stamp <= current.end):
            if frames:
                current.newest[heard.topic] = max(stamp, current.newest.get(heard.topic, 0))
            self._put(current, heard, missing)
        elif self._next:
            self._remember(now, heard, missing)

    def episode(self, now: float, state: EpisodeState, heard: Heard, missing: int | None, late: bool = False) -> None:
        """A message of the episode topic. late: it was said before this recorder listened."""
        running = state.phase in (Phase.RUNNING, Phase.PAUSED)
        current = self._current
        if running and (current is None or current.bag.episode_id != state.episode_id):
            self._leave(now)
            self._begin(state, heard.time, late)
        elif state.phase == Phase.RESETTING:
            self._leave(now)
            if state.episode_id != self._next:
                self._before.clear()
                self._announced.clear()
                self._before_size, self._next = 0, state.episode_id
        self._paused = state.phase == Phase.PAUSED
        current = self._current
        if current is None:
            if self._next:
                self._announced.append((heard, missing))
            return
        self._put(current, heard, missing)
        if running:
            current.tail, current.close, current.end = None, None, 0
        elif current.tail is None:
            current.tail, current.close, current.end = now + TAIL, now + max(self.late, TAIL), state.end

    def tick(self, now: float) -> None:
        """End the bags whose time has come."""
        if self._current is not None and self._current.close is not None and now >= self._current.close:
            self._ending.append(self._current)
            self._current = None
        for one in list(self._ending):
            if one.close is None or now >= one.close + (PATIENCE if one.behind() else 0.0):
                self._ending.remove(one)
                self._end(one)

    def behind(self) -> bool:
        """Whether a bag waits for frames that are known to have been published."""
        return any(one.behind() for one in (*self._ending, *([self._current] if self._current else ())))

    def stop(self) -> None:
        """End all bags: nothing more is heard."""
        for one in (*self._ending, *([self._current] if self._current else ())):
            if one.tail is None:
                one.bag.audit.fault("the recorder stopped before the episode ended")
            self._end(one)
        self._ending, self._current = [], None

    def _begin(self, state: EpisodeState, time: int, late: bool) -> None:
        bag = self.recorder.begin(state.episode_id, self.about(state.episode_id))
        if late:
            bag.audit.fault("the recorder was started in the middle of the episode")
        self._current = _Open(bag)
        lead = [(heard, missing) for _, heard, missing in self._before] if self._next == state.episode_id else []
        announced = self._announced if self._next == state.episode_id else []
        start = state.start or min((heard.time for heard, _ in lead), default=time)
        already = {id(heard) for heard, _ in lead}
        kept = [(heard, 0) for those in self._kept.values() for heard in those if id(heard) not in already]
        for heard, _ in lead:
            if (topic := self.topics.get(heard.topic)) is not None and topic.kind in ("camera", "joints"):
                self._current.newest[heard.topic] = heard.publish_time
        for heard, missing in (*kept, *announced, *lead):
            self._put(self._current, replace(heard, time=max(heard.time, start)), missing)
        self._before.clear()
        self._before_size, self._next, self._announced = 0, "", []

    def _leave(self, now: float) -> None:
        """Another episode comes: what names none is not the last one's any more."""
        current, self._current = self._current, None
        if current is None:
            return
        if current.close is None:  # its end was not heard
            current.close = now + self.late
            current.tail = now
        self._ending.append(current)

    def _end(self, one: _Open) -> None:
        bag = one.bag
        for topic in one.behind():
            bag.audit.fault(f"{topic}: nothing of the last {(one.end - one.newest[topic]) / 1e9:.2f} s came")
        bag.audit.absent.update(self.absent)
        for topic, count in self.unmatched().items():
            bag.audit.of(topic).unmatched = count
        self.recorder.end(bag)

    def _named(self, episode_id: str) -> _Open | None:
        everywhere = (*self._ending, *([self._current] if self._current else ()))
        return next((one for one in everywhere if one.bag.episode_id == episode_id), None)

    def _put(self, where: _Open, heard: Heard, missing: int | None) -> None:
        topic = self.topics.get(heard.topic)
        if self._paused and where is self._current and topic is not None and topic.kind == "camera":
            count = where.bag.audit.of(heard.topic)
            count.received, count.paused = count.received + 1, count.paused + 1
            return
        self.recorder.put(where.bag, heard, missing)

    def _remember(self, now: float, heard: Heard, missing: int | None) -> None:
        self._before.append((now, heard, missing))
        self._before_size += len(heard.data)
        while self._before and (self._before_size > LEAD or (self.lead is not None and now - self._before[0][0] > self.lead)):
            _, old, _ = self._before.popleft()
            self._before_size -= len(old.data)
