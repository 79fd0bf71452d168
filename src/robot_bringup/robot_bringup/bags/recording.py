"""The thread that writes bags, and the bounded queue in front of it.

Role: nothing that the disk does reaches whoever hands messages over: `put` never waits. What does not fit into the queue is dropped and
counted, images first; a full disk ends the bag, not the run. Does not depend on ROS.
"""

from __future__ import annotations

import json
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from robot_bringup.bags.audit import Audit
from robot_bringup.bags.definitions import Definition
from robot_bringup.bags.folder import AUDIT, WHOLE, BagFolder
from robot_bringup.bags.writer import BagWriter
from whetstone.errors import InputError

LARGE = 64 * 1024
"""Bytes from which on a message must give way to smaller ones when the queue is full."""
KEPT_FOR_SMALL = 16 * 1024 * 1024
"""Bytes of queue that only smaller messages may use."""
FLUSH = 1.0
"""Seconds after which what was written is in the file, whatever its size: what a killed recorder loses."""
SPACE = 0.25
"""Seconds between two looks at the disk's free space."""


@dataclass(frozen=True)
class Heard:
    """One message. time, publish_time: ns; number: the publisher's, 0 where its middleware numbers nothing."""

    topic: str
    data: bytes
    time: int
    publish_time: int
    number: int = 0


@dataclass
class Bag:
    """A bag on its way to the disk. The writing thread alone touches writer and path."""

    episode_id: str
    audit: Audit = field(default_factory=Audit)
    writer: BagWriter | None = None
    path: Path | None = None
    broken: str = ""
    full: bool = False


@dataclass(frozen=True)
class Settings:
    """queue: bytes that may wait for the disk; split: bytes after which a bag goes on in another file; budget: bytes that all bags may
    take, 0: any."""

    queue: int
    split: int
    budget: int = 0


class Recorder:
    """Bags of several episodes at a time, each by `begin`, `put`..., `end`, from one thread."""

    def __init__(
        self,
        folder: BagFolder,
        topics: Mapping[str, tuple[Definition, str]],
        about: Mapping[str, str],
        settings: Settings,
        say: Callable[[str, bool], object],
    ) -> None:
        """topics: name -> definition and QoS (metadata.offered_qos); may grow. about: texts for every bag. say: takes a line, and whether
        it is bad news."""
        self.counters: dict[str, Any] = {
            "bags": 0,
            "received": 0,
            "written": 0,
            "dropped": 0,
            "missing": 0,
            "queued_mb": 0.0,
            "written_mb": 0.0,
        }
        self._folder, self._topics, self._about, self._settings, self._say = folder, topics, about, settings, say
        self._queue: deque[tuple[Bag, Heard | dict[str, str] | None]] = deque()
        self._queued = 0
        self._ready = threading.Condition()
        self._stopped = False
        self._open: list[Bag] = []
        self._flushed = self._looked = time.monotonic()
        self._room = True
        self._thread = threading.Thread(target=self._loop, name="bags", daemon=True)
        self._thread.start()

    # Whoever hears the messages.

    def begin(self, episode_id: str, about: Mapping[str, str]) -> Bag:
        """about: texts that are this bag's own."""
        bag = Bag(episode_id)
        self._give(bag, dict(about))
        return bag

    def put(self, bag: Bag, heard: Heard, missing: int | None = 0) -> None:
        """missing: messages of the topic that were sent before this one and never came; None: unknown."""
        count = bag.audit.of(heard.topic)
        count.received += 1
        count.stamp(heard.time)
        self.counters["received"] += 1
        if missing is None:
            count.uncertain = True
        elif missing:
            count.missing += missing
            self.counters["missing"] += missing
        limit = self._settings.queue if len(heard.data) >= LARGE else self._settings.queue + KEPT_FOR_SMALL
        if self._queued + len(heard.data) > limit:
            self._drop(bag, heard)
            bag.audit.fault("the disk or the processor was too slow")
        else:
            self._give(bag, heard)

    def end(self, bag: Bag) -> None:
        """Nothing more comes for this bag."""
        self._give(bag, None)

    def stop(self, seconds: float) -> bool:
        """Write what waits, for so long at most; whether all of it is written. A bag that is not over is left for the next start."""
        with self._ready:
            self._stopped = True
            self._ready.notify()
        self._thread.join(seconds)
        return not self._thread.is_alive()

    def _give(self, bag: Bag, what: Heard | dict[str, str] | None) -> None:
        with self._ready:
            self._queue.append((bag, what))
            if isinstance(what, Heard):
                self._queued += len(what.data)
            self._ready.notify()

    def _drop(self, bag: Bag, heard: Heard) -> None:
        bag.audit.of(heard.topic).dropped += 1
        self.counters["dropped"] += 1

    # The writing thread.

    def _loop(self) -> None:
        while True:
            with self._ready:
                if not self._queue and not self._stopped:
                    self._ready.wait(FLUSH / 2)
                taken = self._queue.popleft() if self._queue else None
                if taken is not None and isinstance(taken[1], Heard):
                    self._queued -= len(taken[1].data)
            if taken is None and self._stopped:
                return
            if taken is not None:
                self._do(*taken)
            self._tend()

    def _do(self, bag: Bag, what: Heard | dict[str, str] | None) -> None:
        try:
            if isinstance(what, dict):
                self._begin(bag, what)
            elif isinstance(what, Heard):
                self._write(bag, what)
            else:
                self._end(bag)
        except Exception as error:  # whatever it is, it is said, the bag is left as it is, and the next one is begun
            self._break(bag, error)
            if isinstance(what, Heard):
                self._drop(bag, what)

    def _begin(self, bag: Bag, about: dict[str, str]) -> None:
        self._look()
        if not self._room:
            bag.full = True
            return
        bag.path = self._folder.begin(bag.episode_id)
        bag.writer = BagWriter(bag.path, {**self._about, **about}, self._settings.split)
        self._open.append(bag)

    def _write(self, bag: Bag, heard: Heard) -> None:
        if bag.writer is None or bag.full or bag.broken:
            self._drop(bag, heard)
            return
        if not bag.writer.has(heard.topic):
            bag.writer.add_topic(heard.topic, *self._topics[heard.topic])
        bag.writer.write(heard.topic, heard.time, heard.data, publish_time=heard.publish_time, sequence=heard.number)
        bag.audit.of(heard.topic).written += 1
        self.counters["written"] += 1

    def _end(self, bag: Bag) -> None:
        if bag in self._open:
            self._open.remove(bag)
        if bag.full:
            bag.audit.fault("the disk is full")
        if bag.writer is None:
            self._say(f"no bag of episode {bag.episode_id}: {bag.broken or bag.audit.line()}", True)
            return
        assert bag.path is not None
        if not bag.broken:
            try:
                bag.writer.close({AUDIT: json.dumps(bag.audit.summary()), WHOLE: "true"})
            except Exception as error:  # the disk may refuse the last words alone
                self._break(bag, error)
        if bag.broken:
            target = self._folder.interrupt(bag.path, bag.broken)
            self._say(f"bag of episode {bag.episode_id}: {bag.broken}; what there is of it is in {target}", True)
            return
        size = bag.writer.size
        final = self._folder.finish(bag.path)
        self.counters["bags"] += 1
        self._say(f"bag {final} ({size / 1e6:.1f} MB): {bag.audit.line()}", not bag.audit.complete)
        if self._settings.budget:
            self._prune()

    def _prune(self) -> None:
        try:
            for name in self._folder.prune(self._settings.budget):
                self._say(f"bag {name} deleted: bag_budget_gb is spent", False)
        except OSError as error:
            self._say(f"bags are kept although bag_budget_gb is spent: {error.filename}: {error.strerror}", True)

    def _break(self, bag: Bag, error: Exception) -> None:
        """The disk refused: this bag is left as it is, and control does not hear of it."""
        text = str(error) if isinstance(error, InputError) else f"cannot be written: {getattr(error, 'strerror', None) or repr(error)}"
        if not bag.broken:
            bag.broken = text
            bag.audit.fault(text)
            self._say(f"bag of episode {bag.episode_id}: {text}; nothing more of it is recorded", True)
        if bag.writer is not None:
            bag.writer.abandon()

    def _tend(self) -> None:
        now = time.monotonic()
        if now - self._looked > SPACE:
            self._look()
            for bag in self._open:
                if not self._room and not bag.full:
                    bag.full = True
                    self._say(f"bag of episode {bag.episode_id}: the disk is full; nothing more of it is recorded", True)
        if now - self._flushed > FLUSH:
            self._flushed = now
            for bag in self._open:
                if bag.writer is not None and not bag.broken:
                    try:
                        bag.writer.flush()
                    except OSError as error:
                        self._break(bag, error)
            self.counters["written_mb"] = round(sum(bag.writer.size for bag in self._open if bag.writer and not bag.broken) / 1e6, 1)
        self.counters["queued_mb"] = round(self._queued / 1e6, 1)

    def _look(self) -> None:
        self._looked = time.monotonic()
        try:
            self._folder.root.mkdir(parents=True, exist_ok=True)
            self._room = self._folder.space() > 0
        except OSError:
            self._room = False
