"""The bag recorder: one rosbag2 bag per episode of what a later evaluation or replay needs.

Role: ROS only. Listens with raw subscriptions and hands the bytes on (bags/routing.py says into which bag, bags/recording.py writes).
Nobody waits for it: it publishes nothing but diagnostics, and a disk that is slow, full or broken ends a bag, never the run.

Its subscriptions belong to a second node of this process that no executor spins: a thread takes from all of them what has come, fifty
times a second, in the order in which it came. rclpy's executors cost a wake-up per message, and its events executor cannot hand over a
message's number, which the audit is made of.
"""

from __future__ import annotations

import json
import os
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import rclpy
from rclpy.node import Node
from rclpy.qos import DurabilityPolicy, HistoryPolicy, QoSProfile, ReliabilityPolicy
from whetstone_msgs.msg import Episode

from robot_bringup import records
from robot_bringup.bags import metadata
from robot_bringup.bags.audit import Sequence
from robot_bringup.bags.definitions import definition
from robot_bringup.bags.folder import FOLDER, BagFolder
from robot_bringup.bags.recording import Heard, Recorder, Settings
from robot_bringup.bags.routing import EpisodeState, Router
from robot_bringup.bags.topics import RecordedTopic, extra_topics, topics_of
from robot_bringup.episode_machine import Phase
from whetstone import config, jsonfile, results
from whetstone.cdr import episode_id_of_raw
from whetstone.errors import InputError
from whetstone.profile import load_profile
from whetstone.ros import (
    COMMAND,
    EPISODE,
    EVENT,
    LATCHED,
    STATE,
    WhetstoneNode,
    camera_qos,
    deserialize,
    joints_qos,
    message_class,
    run_node,
    stamp_of_raw,
    to_ns,
)

POLL = 0.02
"""Seconds between two looks at the subscriptions."""
DISCOVERY = 0.5
"""Seconds between two looks for publishers of topics whose type or quality of service only they know."""
HISTORY = 0.5
"""Seconds in which what was latched before this node listened has come."""
JUMP = 10_000_000_000
"""ns by which an episode must begin before the newest stamp for robot time to have jumped back."""
DEPTH, DEPTH_BYTES = 1000, 64 * 1024 * 1024
"""Messages, and bytes of images, of one topic that may wait for the next look."""
LATE_LOCKSTEP, LATE_REAL = 2.0, 10.0
"""Seconds after an episode's end in which rewards and the like for it are waited for; in lockstep the simulator waits for them too."""
LAST_FRAMES = 1.0
"""Seconds in which frames may still come, when the node stops, that are known to have been published."""
LAST_WORDS = 2.0
"""Seconds that the disk has for what still waits when the node stops."""
_DDS = ("RMW_IMPLEMENTATION", "ROS_DOMAIN_ID", "ROS_AUTOMATIC_DISCOVERY_RANGE", "ROS_STATIC_PEERS")
_DDS_FILES = ("FASTRTPS_DEFAULT_PROFILES_FILE", "FASTDDS_DEFAULT_PROFILES_FILE", "CYCLONEDDS_URI")


@dataclass(frozen=True)
class Parameters:
    """robot, task, policy, reward, learner: names of config files, for the bag's metadata. run_dir: bags go to its folder `bags`.

    realtime: false = lockstep. wall_time: the bag's times are the wall clock's, as on a robot; else robot time, as in simulation.
    split_mb: MB after which a bag goes on in another file (0: never). budget_gb: of all bags of the run (0: any). queue_mb: MB that may
    wait for the disk. topics: more of them, as run_arguments.py has it. restarted: it was killed; it brings itself up again.
    """

    robot: str
    run_dir: str
    task: str = ""
    policy: str = ""
    reward: str = ""
    learner: str = ""
    realtime: bool = False
    wall_time: bool = False
    split_mb: float = field(default=1024.0, metadata={"ge": 0})
    budget_gb: float = field(default=0.0, metadata={"ge": 0})
    queue_mb: float = field(default=256.0, metadata={"gt": 0})
    topics: str = ""
    restarted: bool = False


@dataclass
class _Ear:
    """One subscription. stamped: its messages begin with a header; named: and go on with the episode's id; clock: they tell robot time;
    latched: what was said before it listened comes too."""

    topic: str
    row: RecordedTopic
    type: Any
    subscription: Any
    stamped: bool
    named: bool
    clock: bool
    latched: bool
    numbers: Sequence = field(default_factory=Sequence)


class BagRecorder(WhetstoneNode[Parameters]):
    """See the module."""

    def __init__(self) -> None:
        super().__init__("bag_recorder", Parameters)
        self.autostart = self.parameters.restarted

    def configure(self) -> None:
        p = self.parameters
        profile = load_profile(p.robot)
        folder = BagFolder(Path(p.run_dir) / FOLDER)
        try:
            folder.root.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise InputError(f"{folder.root}: no bags can be written there: {error.strerror}") from None
        for line in folder.recover():
            self.get_logger().warning(line)
        self._listener = Node("bag_recorder_topics", start_parameter_services=False, enable_rosout=False)
        self._definitions: dict[str, Any] = {}
        self._ears: list[_Ear] = []
        self._undiscovered: dict[str, RecordedTopic] = {}
        settings = Settings(round(p.queue_mb * 1e6), round(p.split_mb * 1e6), round(p.budget_gb * 1e9))
        self._recorder = Recorder(folder, self._definitions, self._about(profile.name), settings, self._say)
        self.counters = self._recorder.counters
        self._rows: dict[str, RecordedTopic] = {}
        late, lead = (LATE_REAL, 1.0) if p.realtime else (LATE_LOCKSTEP, None)
        self._router = Router(self._recorder, self._rows, late, lead, self._about_episode, self._unmatched)
        self._sizes = {camera.topic: camera.width * camera.height * 3 for camera in profile.cameras}
        self._robot_time = 0
        for row in (*topics_of(profile), *extra_topics(p.topics)):
            topic = self._listener.resolve_topic_name(row.name)
            self._rows[topic] = row
            if row.kind in ("any", "static") or not row.type:
                self._undiscovered[topic] = row
            else:
                self._listen(topic, row, self._qos(row), row.type)
        self._router.absent.update({topic: "nobody published it" for topic in self._undiscovered})

    def activate(self) -> None:
        self._since, self._began = time.time_ns(), time.monotonic()
        self._past: tuple[EpisodeState, Heard] | None = None
        self._alive = True
        self._thread = threading.Thread(target=self._loop, name="ears", daemon=True)
        self._thread.start()

    def deactivate(self) -> None:
        self._alive = False
        self._thread.join()
        deadline = time.monotonic() + LAST_FRAMES
        self._take()
        while self._router.behind() and time.monotonic() < deadline:
            time.sleep(POLL)
            self._take()
        self._router.stop()
        if not self._recorder.stop(LAST_WORDS):
            self.get_logger().warning(
                f"the disk did not take the last messages within {LAST_WORDS:g} s; the next start recovers what is there"
            )

    def cleanup(self) -> None:
        self._recorder.stop(0.0)
        self._listener.destroy_node()

    # What the bag says of itself.

    def _about(self, robot: str) -> dict[str, str]:
        """For every bag: who acts, who scores, what made it, how it was heard."""
        p = self.parameters
        run = jsonfile.read(Path(p.run_dir) / records.SETTINGS) or {}
        dds = {name: os.environ.get(name, "") for name in _DDS} | {"rmw": rclpy.get_rmw_implementation_identifier()}
        for name in _DDS_FILES:
            path = os.environ.get(name, "")
            text = Path(path.removeprefix("file://"))
            dds[name] = text.read_text(encoding="utf-8", errors="replace") if path and text.is_file() else path
        return {
            "whetstone.robot": robot,
            "whetstone.robot_profile": config.find("robots", p.robot).read_text(encoding="utf-8"),
            "whetstone.task": p.task,
            "whetstone.policy": p.policy,
            "whetstone.reward": p.reward,
            "whetstone.learner": p.learner,
            "whetstone.configuration_hash": str(run.get("configuration_hash", "")),
            "whetstone.arguments": json.dumps(run.get("arguments", {}), ensure_ascii=False),
            "whetstone.commit": str(run.get("commit") or results.commit()),
            "whetstone.namespace": self.get_namespace(),
            "whetstone.time": "wall" if p.wall_time else "robot",
            "whetstone.lockstep": str(not p.realtime).lower(),
            "whetstone.dds": json.dumps(dds, ensure_ascii=False),
        }

    def _about_episode(self, episode_id: str) -> dict[str, str]:
        message = self._episode
        return {
            "whetstone.episode_id": episode_id,
            "whetstone.instruction": message.instruction,
            "whetstone.seed": str(message.seed),
            "whetstone.mode": {Episode.MODE_TRAIN: "train", Episode.MODE_EVALUATE: "evaluate"}.get(message.mode, ""),
        }

    def _say(self, line: str, bad: bool) -> None:
        if bad:
            self.get_logger().warning(line)
        else:
            self.get_logger().info(line)

    # Subscriptions.

    def _qos(self, row: RecordedTopic) -> QoSProfile:
        realtime = self.parameters.realtime
        if row.kind == "camera":
            return camera_qos(realtime)
        if row.kind == "joints":
            return joints_qos(realtime)
        return {"command": COMMAND, "event": EVENT, "latched": LATCHED, "episode": EPISODE, "state": STATE}[row.kind]

    def _listen(self, topic: str, row: RecordedTopic, offered: QoSProfile, name: str) -> None:
        """Every message as it is published, and room for those that come between two looks."""
        try:
            found, kind = definition(name), message_class(name)
        except InputError as error:
            self._router.absent[topic] = str(error)
            return
        size = self._sizes.get(row.name, 1)
        # The history of before is asked for as it is offered; more of it than one keeps is of no use.
        depth = (
            max(offered.depth, min(DEPTH, DEPTH_BYTES // size)) if row.kind not in ("latched", "static") else max(offered.depth, row.keeps)
        )
        qos = QoSProfile(
            history=HistoryPolicy.KEEP_LAST, depth=depth, reliability=offered.reliability, durability=offered.durability
        )  # fmt: skip
        subscription = self._listener.create_subscription(kind, topic, lambda _: None, qos, raw=True)
        fields = list(kind.get_fields_and_field_types().items())
        stamped = bool(fields) and fields[0] == ("header", "std_msgs/Header")
        named = stamped and len(fields) > 1 and fields[1] == ("episode_id", "string") and kind is not Episode
        clock = row.kind in ("camera", "joints") or name == "rosgraph_msgs/msg/Clock"
        reliable, latched = offered.reliability == ReliabilityPolicy.RELIABLE, offered.durability == DurabilityPolicy.TRANSIENT_LOCAL
        self._definitions[topic] = found, metadata.offered_qos(depth=offered.depth, reliable=reliable, latched=latched)
        self._ears.append(_Ear(topic, row, kind, subscription, stamped, named, clock, latched))
        self._router.absent.pop(topic, None)

    def _discover(self) -> None:
        """Topics whose publishers say how they publish."""
        for topic, row in list(self._undiscovered.items()):
            offers = self._listener.get_publishers_info_by_topic(topic)
            if not offers:
                continue
            del self._undiscovered[topic]
            reliable = all(one.qos_profile.reliability == ReliabilityPolicy.RELIABLE for one in offers)
            latched = all(one.qos_profile.durability == DurabilityPolicy.TRANSIENT_LOCAL for one in offers)
            qos = QoSProfile(
                history=HistoryPolicy.KEEP_LAST,
                depth=max(1, row.keeps, *(one.qos_profile.depth for one in offers)),
                reliability=ReliabilityPolicy.RELIABLE if reliable else ReliabilityPolicy.BEST_EFFORT,
                durability=DurabilityPolicy.TRANSIENT_LOCAL if latched else DurabilityPolicy.VOLATILE,
            )
            self._listen(topic, row, qos, row.type or offers[0].topic_type)

    def _unmatched(self) -> dict[str, int]:
        """Topic -> publishers that this process knows but cannot hear: their quality of service is another."""
        found = {}
        for ear in self._ears:
            missing = self._listener.count_publishers(ear.topic) - ear.subscription.get_publisher_count()
            if missing > 0:
                found[ear.topic] = missing
        return found

    # The listening thread.

    def _loop(self) -> None:
        try:
            looked = -DISCOVERY
            while self._alive:
                now = time.monotonic()
                if self._undiscovered and now - looked > DISCOVERY:
                    looked = now
                    self._discover()
                self._take()
                self._router.tick(now)
                time.sleep(POLL)
        except Exception as error:
            self.fail(error)

    def _take(self) -> None:
        """What has come since the last look, in the order in which it came, whatever its topic."""
        batch = []
        for ear in self._ears:
            handle = ear.subscription.handle
            with handle:
                while (taken := handle.take_message(ear.type, True)) is not None:
                    batch.append((taken[1]["received_timestamp"], len(batch), ear, *taken))
        batch.sort(key=lambda one: one[:2])
        now = time.monotonic()
        for received, _, ear, data, info in batch:
            self._hear(now, received, ear, data, info)
        if self._past is not None and now - self._began > HISTORY:
            # What was said last before this node listened still holds: it was started in the middle of a run.
            state, heard = self._past
            self._past = None
            self._router.episode(now, state, heard, 0, late=True)

    def _hear(self, now: float, received: int, ear: _Ear, data: bytes, info: dict[str, Any]) -> None:
        number = info.get("publication_sequence_number")
        missing = ear.numbers.hear(number, ear.subscription.get_publisher_count())
        stamp = None
        if ear.stamped or ear.clock:
            try:
                stamp = stamp_of_raw(data)
            except InputError:
                pass
        # Said before this node listened; of any other topic it would only say that the publisher's machine has a clock that is behind.
        old = ear.latched and info["source_timestamp"] < self._since
        if ear.clock and stamp is not None and not old:
            self._robot_time = max(self._robot_time, stamp)
        state = None
        if ear.row.kind == "episode":
            self._episode = message = deserialize(data, Episode)
            wall, lockstep = self.parameters.wall_time, not self.parameters.realtime
            end = to_ns(message.header.stamp) if lockstep else 0
            state = EpisodeState(message.episode_id, int(message.phase), 0 if wall else to_ns(message.start), end)
            if state.phase == Phase.RUNNING and not old:
                # Its first frame may come later; and a clock that is far ahead belongs to a simulator that is gone.
                ahead = self._robot_time > state.start + JUMP
                self._robot_time = state.start if ahead else max(self._robot_time, state.start)
        wall = self.parameters.wall_time
        published = (info["source_timestamp"] or received) if wall else (self._robot_time if stamp is None else stamp)
        heard = Heard(ear.topic, data, received if wall else self._robot_time, published, number or 0)
        if state is not None:
            self._past = (state, heard) if old else None
            if not old:
                self._router.episode(now, state, heard, missing)
        elif not old or ear.row.keeps:
            self._router.hear(now, heard, missing, episode_id_of_raw(data) if ear.named else "", stamp if ear.stamped and stamp else 0)


def main(args: list[str] | None = None) -> int:
    """Executable `bag_recorder`."""
    return run_node(BagRecorder, args)


if __name__ == "__main__":
    raise SystemExit(main())
