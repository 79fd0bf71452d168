"""The queue and its thread: a disk that is slow, full or broken; which bag a message goes to; what is counted."""

from __future__ import annotations

import errno
import json
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from recording_samples import QOS, STRING, read, text

from robot_bringup.bags import metadata, recording
from robot_bringup.bags.audit import Audit, Sequence
from robot_bringup.bags.folder import AUDIT, BagFolder
from robot_bringup.bags.recording import Bag, Heard, Recorder, Settings
from robot_bringup.bags.routing import EpisodeState, Router
from robot_bringup.bags.topics import Kind, RecordedTopic, extra_topics, topics_of
from robot_bringup.bags.writer import BagWriter
from robot_bringup.episode_machine import Phase
from whetstone.config import available
from whetstone.errors import ConfigError
from whetstone.profile import load_profile

MiB = 1 << 20


class Work:
    """A recorder in a folder, and what it said."""

    def __init__(self, root: Path) -> None:
        self.folder = BagFolder(root)
        self.said: list[tuple[str, bool]] = []
        self.made: list[Recorder] = []

    def recorder(self, queue: int = 64 * MiB, budget: int = 0) -> Recorder:
        topics = {name: (STRING, QOS) for name in ("/a", "/image", "/episode", "/latched", "/reward")}
        settings = Settings(queue, 0, budget)
        self.made.append(Recorder(self.folder, topics, {"whetstone.robot": "so100"}, settings, lambda *line: self.said.append(line)))
        return self.made[-1]

    def audit(self, name: str) -> dict:
        text = (self.folder.root / name / metadata.NAME).read_text()
        return json.loads(yaml.safe_load(text)["rosbag2_bagfile_information"]["custom_data"][AUDIT])


@pytest.fixture
def work(tmp_path: Path) -> Iterator[Work]:
    found = Work(tmp_path / "bags")
    yield found
    for one in found.made:
        one.stop(5)


def heard(number: int, topic: str = "/a", size: int = 0) -> Heard:
    return Heard(topic, text(number, size), number, number, number)


def record(recorder: Recorder, name: str, messages: list[Heard]) -> Bag:
    bag = recorder.begin(name, {"whetstone.episode_id": name})
    for message in messages:
        recorder.put(bag, message)
    recorder.end(bag)
    return bag


def test_bags_of_two_episodes_at_once_and_the_audit_in_them(work: Work) -> None:
    recorder = work.recorder()
    one, two = (recorder.begin(name, {}) for name in ("one", "two"))
    for number in range(100):
        recorder.put((one, two)[number % 2], heard(number), missing=3 if number == 51 else 0)
    for bag in (one, two):
        recorder.end(bag)
    assert recorder.stop(10)
    assert [time for _, time, _ in read(work.folder.root / "one")] == list(range(0, 100, 2))
    assert work.audit("one")["complete"] and work.audit("one")["line"] == "50 messages of 1 topics; nothing known to be missing"
    missed = work.audit("two")
    assert (
        not missed["complete"]
        and missed["topics"]["/a"] | {"published": 53, "received": 50, "written": 50, "missing": 3} == missed["topics"]["/a"]
    )
    assert [bad for _, bad in work.said] == [False, True] and "3 sent but never received (/a 3)" in work.said[1][0]
    assert recorder.counters["written"] == 100 and recorder.counters["missing"] == 3 and recorder.counters["bags"] == 2


def test_a_slow_disk_drops_images_first_counts_them_and_never_waits(work: Work, monkeypatch: pytest.MonkeyPatch) -> None:
    slow = [True]
    write = BagWriter.write

    def slowly(self: BagWriter, *arguments, **options) -> None:
        while slow[0]:
            time.sleep(0.01)
        write(self, *arguments, **options)

    monkeypatch.setattr(BagWriter, "write", slowly)
    recorder = work.recorder(queue=2 * MiB)
    bag = recorder.begin("episode", {})
    began = time.monotonic()
    for number in range(30):
        recorder.put(bag, heard(number, "/image", MiB // 2))
        recorder.put(bag, heard(number))
    handed = time.monotonic() - began
    slow[0] = False
    recorder.end(bag)
    assert recorder.stop(20) and handed < 5.0  # the writer was stuck: whoever waited for it would be here still
    topics = work.audit("episode")["topics"]
    assert topics["/a"]["written"] == 30 and 3 <= topics["/image"]["written"] <= 5
    assert topics["/image"]["dropped"] == 30 - topics["/image"]["written"] == recorder.counters["dropped"]
    assert len(read(work.folder.root / "episode")) == 30 + topics["/image"]["written"]
    assert "too slow" in work.said[-1][0] and work.said[-1][1]


def test_a_full_disk_ends_the_bag_and_the_next_one_is_written_when_there_is_room(work: Work, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recording, "SPACE", 0.0)
    room = [MiB]
    monkeypatch.setattr(BagFolder, "space", lambda self: room[0])
    recorder = work.recorder()
    bag = recorder.begin("one", {})
    recorder.put(bag, heard(0))
    while recorder.counters["written"] < 1:
        time.sleep(0.01)
    room[0] = 0
    while not bag.full:
        time.sleep(0.01)
    recorder.put(bag, heard(1))
    recorder.end(bag)
    record(recorder, "two", [heard(2)])
    while len(work.said) < 3:
        time.sleep(0.01)
    room[0] = MiB
    record(recorder, "three", [heard(3)])
    assert recorder.stop(10)
    assert work.folder.list() == ["one", "three"] and len(read(work.folder.root / "one")) == 1
    audit = work.audit("one")
    assert not audit["complete"] and audit["faults"] == ["the disk is full"] and audit["topics"]["/a"]["dropped"] == 1
    assert any(line.startswith("no bag of episode two: ") and "the disk is full" in line for line, bad in work.said if bad)


def test_a_disk_that_refuses_leaves_what_there_is_to_be_read(work: Work, monkeypatch: pytest.MonkeyPatch) -> None:
    write = BagWriter.write

    def refuse(self: BagWriter, topic: str, number: int, *arguments, **options) -> None:
        if self.folder.name == "one" and number == 50:
            self.flush()
            raise OSError(errno.EIO, "Input/output error")
        write(self, topic, number, *arguments, **options)

    monkeypatch.setattr(BagWriter, "write", refuse)
    recorder = work.recorder()
    record(recorder, "one", [heard(number) for number in range(100)])
    record(recorder, "two", [heard(number) for number in range(100)])
    assert recorder.stop(10)
    assert work.folder.list() == ["two"] and recorder.counters["dropped"] == 50
    assert work.folder.interrupted() == {"one": "cannot be written: Input/output error"}
    assert len(read(work.folder.root / "interrupted" / "one")) == 50
    assert any("bag of episode one: cannot be written: Input/output error; nothing more of it" in line for line, _ in work.said)


def test_a_disk_that_refuses_the_end_of_a_bag_leaves_it_to_be_read_and_the_next_is_whole(
    work: Work, monkeypatch: pytest.MonkeyPatch
) -> None:
    close = BagWriter.close

    def refuse(self: BagWriter, *arguments) -> None:
        if self.folder.name == "one":
            raise OSError(errno.EDQUOT, "Disk quota exceeded")
        close(self, *arguments)

    monkeypatch.setattr(BagWriter, "close", refuse)
    recorder = work.recorder()
    for name in ("one", "two"):
        record(recorder, name, [heard(number) for number in range(100)])
    assert recorder.stop(10)
    assert work.folder.list() == ["two"] and work.folder.running() == []
    assert work.folder.interrupted() == {"one": "cannot be written: Disk quota exceeded"}
    assert any("what there is of it is in" in line and bad for line, bad in work.said)


def test_a_budget_that_cannot_be_kept_is_said_of_itself(work: Work, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(self: BagFolder, budget: int) -> list[str]:
        raise PermissionError(errno.EACCES, "Permission denied", "old")

    monkeypatch.setattr(BagFolder, "prune", refuse)
    recorder = work.recorder(budget=1)
    record(recorder, "one", [heard(1)])
    assert recorder.stop(10) and work.folder.list() == ["one"] and work.audit("one")["complete"]
    assert [line for line, bad in work.said if bad] == ["bags are kept although bag_budget_gb is spent: old: Permission denied"]


def test_the_budget_holds(work: Work) -> None:
    recorder = work.recorder(budget=100_000)
    for name in "abc":
        record(recorder, name, [heard(number, size=60_000) for number in range(3)])
        while name not in work.folder.list():
            time.sleep(0.01)
    assert recorder.stop(10) and work.folder.list() == ["c"]


# Which bag.


def route(recorder: Recorder, **options) -> Router:
    kinds: dict[str, Kind] = {"image": "camera", "latched": "latched", "reward": "event", "episode": "episode"}
    rows = {f"/{name}": RecordedTopic(name, "", kind) for name, kind in kinds.items()}
    return Router(recorder, rows, **{"late": 5.0, "lead": None, "about": lambda name: {}, **options})


def test_a_bag_has_its_lead_its_late_words_and_the_state_it_began_in(work: Work) -> None:
    recorder = work.recorder()
    router = route(recorder)
    clock = iter(range(1000))

    def say(now: float, name: str, phase: Phase) -> None:
        number = next(clock)
        router.episode(now, EpisodeState(name, phase, 0), heard(number, "/episode"), 0)

    def hear(now: float, topic: str, name: str = "") -> int:
        number = next(clock)
        router.hear(now, heard(number, topic), 0, name)
        return number

    hear(0, "/image")  # of nobody
    old, latched = hear(0, "/latched"), hear(0, "/latched")
    say(1, "one", Phase.RESETTING)
    first = hear(1.1, "/image")  # before the word that the episode runs
    say(1.2, "one", Phase.RUNNING)
    second = hear(1.3, "/image")
    say(1.4, "one", Phase.PAUSED)
    hear(1.5, "/image")
    told = hear(1.5, "/latched")
    say(1.6, "one", Phase.RUNNING)
    say(2, "one", Phase.ENDED)
    tail = hear(2.5, "/image")
    say(2.6, "two", Phase.RESETTING)
    ahead = hear(2.7, "/image")
    late = hear(2.8, "/reward", "one")
    say(3, "two", Phase.RUNNING)
    later = hear(3.1, "/reward", "one")
    router.tick(6.9)
    assert recorder.counters["bags"] == 0
    router.tick(7.1)
    lost = hear(7.2, "/reward", "one")  # nobody waits any longer: it is the running one's
    router.stop()
    assert recorder.stop(10)
    times = {
        name: {
            topic: [data for one, _, data in read(work.folder.root / name) if one == topic]
            for topic in ("/image", "/latched", "/reward", "/episode")
        }
        for name in ("one", "two")
    }

    def numbers(name: str, topic: str) -> list[int]:
        return [int(data[8:].split(b" ")[0]) for data in times[name][topic]]

    assert numbers("one", "/image") == [first, second, tail] and numbers("one", "/reward") == [late, later]
    assert numbers("one", "/latched") == [latched, told] and old not in numbers("one", "/latched")
    assert len(numbers("one", "/episode")) == 5
    assert numbers("two", "/image") == [ahead] and numbers("two", "/latched") == [told] and numbers("two", "/reward") == [lost]
    assert work.audit("one")["topics"]["/image"]["paused"] == 1 and work.audit("one")["complete"]
    assert work.audit("two")["faults"] == ["the recorder stopped before the episode ended"]


def test_frames_that_come_late_are_waited_for_and_said_to_be_missing_when_they_do_not_come(work: Work) -> None:
    recorder = work.recorder()
    router = route(recorder)
    for name, start in (("one", 10), ("two", 30)):
        router.episode(start, EpisodeState(name, Phase.RESETTING), heard(start, "/episode"), 0)
        router.episode(start, EpisodeState(name, Phase.RUNNING, start), heard(start, "/episode"), 0)
        router.hear(start, heard(start, "/image"), 0, stamp=start)
        router.episode(start + 1, EpisodeState(name, Phase.ENDED, start, start + 2), heard(start + 2, "/episode"), 0)
    router.tick(11 + 5.5)
    assert router.behind()
    router.hear(32, heard(11, "/image"), 0, stamp=11)
    router.hear(33, heard(12, "/image"), 0, stamp=12)  # of the one before, though another has run since
    router.tick(36.5)
    router.tick(45.9)
    assert router.behind()
    router.tick(46.1)
    router.tick(46.2)
    assert not router.behind() and recorder.stop(10)
    assert [time for topic, time, _ in read(work.folder.root / "one") if topic == "/image"] == [10, 11, 12]
    assert work.audit("one")["complete"] and work.audit("two")["faults"] == ["/image: nothing of the last 0.00 s came"]


def test_before_an_episode_in_real_time_only_the_last_second_is_kept(work: Work) -> None:
    recorder = work.recorder()
    router = route(recorder, lead=1.0)
    router.episode(0.0, EpisodeState("one", Phase.RESETTING), heard(0, "/episode"), 0)
    for number in range(100):
        router.hear(number / 10, heard(number + 1, "/image"), 0)
    router.episode(10.0, EpisodeState("one", Phase.RUNNING), heard(200, "/episode"), 0)
    router.stop()
    assert recorder.stop(10)
    found = read(work.folder.root / "one")
    assert [topic for topic, *_ in found] == ["/episode", *["/image"] * 11, "/episode"]
    assert found[0][1] == found[1][1], "what was said long before is as old as the first image"


# What is counted.


@given(
    st.lists(st.integers(1, 5), min_size=2, max_size=40),
    st.integers(1, 1000),
)
def test_of_one_publisher_every_gap_is_known(steps: list[int], begin: int) -> None:
    sequence, number, missing = Sequence(), begin, 0
    assert sequence.hear(number, 1) == 0
    for step in steps:
        number += step
        found = sequence.hear(number, 1)
        assert found is not None
        missing += found
    assert missing == number - begin - len(steps)
    assert sequence.hear(1, 1) == 0 and sequence.restarts == 1


@given(st.lists(st.integers(0, 2), min_size=1, max_size=60), st.tuples(*[st.integers(1, 50)] * 3))
def test_of_several_publishers_it_is_known_that_nothing_is_missing(order: list[int], begins: tuple[int, int, int]) -> None:
    sequence, ends = Sequence(), list(begins)
    for who in order:
        assert sequence.hear(ends[who], 3) == 0
        ends[who] += 1


def test_of_several_publishers_a_gap_s_size_is_not_known() -> None:
    sequence, audit = Sequence(), Audit()
    assert [sequence.hear(number, 2) for number in (1, 10, 2, 11)] == [0] * 4
    assert sequence.hear(5, 2) is None and sequence.hear(None, 1) is None
    audit.of("/tf").uncertain = True
    assert not audit.complete and audit.summary()["topics"]["/tf"]["published"] is None and "unknown size on /tf" in audit.line()


def test_every_robot_has_its_topics_and_further_ones_are_read() -> None:
    for robot in available("robots"):
        profile = load_profile(robot)
        names = [row.name for row in topics_of(profile)]
        assert {camera.topic for camera in profile.cameras} | {profile.joint_states, profile.command.topic, "episode", "reward"} <= set(
            names
        )
        assert len(set(names)) == len(names) and "weights/chunk" not in names
    assert [(row.name, row.type) for row in extra_topics(" /a/b, c=std_msgs/msg/Bool")] == [("/a/b", ""), ("c", "std_msgs/msg/Bool")]
    for words, reason in (("a b", "'a b' is no topic"), ("a=Bool", "'Bool' of topic 'a' is no message type")):
        with pytest.raises(ConfigError, match=reason):
            extra_topics(words)
