"""Looking at a running robot, and moving it a little.

Role: the kit's ROS side: fills a Record (record.py) by listening, calling services and, where that is allowed, sending commands through the
guard. Judges nothing. One node for all robots that are looked at.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import rclpy
from rclpy.action import ActionClient
from rclpy.action.graph import get_action_names_and_types
from rclpy.context import Context
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from rclpy.qos import DurabilityPolicy, ReliabilityPolicy
from rosgraph_msgs.msg import Clock
from sensor_msgs.msg import Image, JointState
from std_msgs.msg import Float64MultiArray
from trajectory_msgs.msg import JointTrajectory
from whetstone_msgs.msg import Episode, Truth
from whetstone_msgs.srv import ResetScene

from robot_bringup.conformance.record import Beyond, End, Grip, Joints, Picture, Record, Reset, Swing, Tick
from robot_bringup.conformance.stream_checks import OVER
from robot_bringup.conformance.topic_checks import CLOCK_TOPIC, RESET_SERVICE, TRUTH_TOPIC
from whetstone.commands import ArmCommand, arm_command, gripper_action_type, gripper_goal, gripper_message
from whetstone.errors import InputError
from whetstone.guard import Guard, GuardResult
from whetstone.images import to_array
from whetstone.profile import RobotProfile
from whetstone.ros import CAMERA_LIVE, COMMAND, EPISODE, EVENT, STATE, to_ns

SWING = 0.06
"""rad that a joint is sent out by."""
OUT_AND_BACK, REST = 0.7, 0.3
"""Seconds of a swing, and after it."""
PAST = 0.15
"""rad behind a limit that a simulator is asked for."""
SLOW = 0.3
"""Of the profile's velocity, on the way there."""
GRIP_SECONDS = 5.0
SETTLE = 0.4
"""Seconds of the robot's clock after a reset before its picture is taken."""
PICTURES = 5.0
"""Seconds that cameras may be behind the joint states then."""
NO_TASK = "no_such_task"


class Observer:
    """Robots of one profile in the namespaces given ("" is the root), on one domain. close() when done."""

    def __init__(self, profile: RobotProfile, namespaces: list[str], domain: int, patience: float) -> None:
        """patience: s that a robot may take to appear and to be reset."""
        self._profile, self._patience = profile, patience
        self._context = Context()
        rclpy.init(args=[], context=self._context, domain_id=domain)
        self._node = Node("whetstone_conform", context=self._context, enable_rosout=False)
        self._executor = SingleThreadedExecutor(context=self._context)
        self._executor.add_node(self._node)
        self.robots = {name: _Robot(self, self._node, profile, name) for name in namespaces}

    def close(self) -> None:
        self._executor.shutdown()
        self._node.destroy_node()
        rclpy.shutdown(context=self._context)

    def until(self, condition: Callable[[], Any], seconds: float) -> bool:
        """Spin until it holds, or so long."""
        end = time.monotonic() + seconds
        while not condition():
            left = end - time.monotonic()
            if left <= 0:
                return False
            self._executor.spin_once(timeout_sec=min(left, 0.02))
        return True

    def spin(self, seconds: float) -> None:
        self.until(lambda: False, seconds)

    def look(self, seconds: float, scene: bool, tasks: str) -> None:
        """Everything that moves nothing; scene: also resets, to scenes of `tasks`."""
        for robot in self.robots.values():
            self.until(robot.there, self._patience)
            if scene:
                robot.reset_all(tasks, self._patience)
        for robot in self.robots.values():
            self.until(robot.streams, min(3.0, self._patience))
        begin = time.monotonic()
        self.spin(seconds)
        for robot in self.robots.values():
            robot.record.heard_from, robot.record.heard_to = begin, time.monotonic()
            robot.graph()

    def move(self, limits: bool) -> None:
        """Each robot in turn: every joint out and back, the gripper; limits: also a target out of range."""
        for name, robot in self.robots.items():
            begun = {other: len(their.record.joints) for other, their in self.robots.items()}
            robot.swing_all()
            for other, their in self.robots.items():
                if other != name:
                    robot.record.others[other] = their.record.joints[begun[other] :]
            if limits:
                robot.go_beyond()
            robot.grip_all()


class _Robot:
    """One robot: what was heard of it, and the way to it."""

    def __init__(self, observer: Observer, node: Node, profile: RobotProfile, namespace: str) -> None:
        self.record = Record()
        self._observer, self._node, self._profile, self._namespace = observer, node, profile, namespace
        self._last: dict[str, tuple[int, np.ndarray]] = {}  # camera -> stamp and image, newest
        node.create_subscription(JointState, self._name(profile.joint_states), self._on_joints, STATE)
        for camera in profile.cameras:
            node.create_subscription(Image, self._name(camera.topic), partial(self._on_image, camera.name), CAMERA_LIVE)
        node.create_subscription(Clock, CLOCK_TOPIC, self._on_clock, CAMERA_LIVE)
        node.create_subscription(Truth, self._name(TRUTH_TOPIC), self._on_truth, EVENT)
        self._phase: int | None = None
        node.create_subscription(Episode, self._name("episode"), self._on_episode, EPISODE)
        self._arm: ArmCommand = arm_command(profile)
        self._guard = Guard(profile)
        self._grip = profile.opening_to_goal(1.0)
        self._commands: Any = None

    def _name(self, topic: str) -> str:
        return topic if topic.startswith("/") else f"{'/' + self._namespace if self._namespace else ''}/{topic}"

    # What is heard.

    def _on_joints(self, message: JointState) -> None:
        positions, velocities = np.array(message.position), np.array(message.velocity)
        self.record.joints.append(Joints(time.monotonic(), to_ns(message.header.stamp), tuple(message.name), positions, velocities))

    def _on_image(self, camera: str, message: Image) -> None:
        arrival, wrong, spread = time.monotonic(), "", 0.0
        try:
            image = to_array(message, camera)
            spread = float(image[::4, ::4].std())
            self._last[camera] = (to_ns(message.header.stamp), image)
        except InputError as error:
            wrong = str(error)
        picture = Picture(arrival, to_ns(message.header.stamp), message.width, message.height, message.encoding, wrong, spread)
        self.record.pictures.setdefault(camera, []).append(picture)

    def _on_clock(self, message: Clock) -> None:
        self.record.clock.append(Tick(time.monotonic(), to_ns(message.clock)))

    def _on_truth(self, message: Truth) -> None:
        self.record.truths.append(to_ns(message.header.stamp))

    def _on_episode(self, message: Episode) -> None:
        self._phase = message.phase

    def there(self) -> bool:
        """Whether somebody publishes its joint states or offers to reset its scene."""
        names = {name for name, _ in self._node.get_service_names_and_types()}
        return bool(self.record.joints) or self._name(RESET_SERVICE) in names

    def streams(self) -> bool:
        return bool(self.record.joints) and all(camera.name in self._last for camera in self._profile.cameras)

    def graph(self) -> None:
        """Who is at the ends of the profile's topics."""
        profile, node, record = self._profile, self._node, self.record
        topics = {profile.joint_states, profile.command.topic, TRUTH_TOPIC, CLOCK_TOPIC}
        topics |= {camera.topic for camera in profile.cameras}
        topics |= {profile.gripper.topic} - {""} | ({profile.mode.topic} if profile.mode else set())
        known = [name for name, _ in node.get_topic_names_and_types()]
        for topic in topics:
            own = f"{node.get_namespace().rstrip('/')}/{node.get_name()}"
            record.publishers[topic] = [end for end in map(_end, node.get_publishers_info_by_topic(self._name(topic))) if end.node != own]
            record.subscribers[topic] = [
                end for end in map(_end, node.get_subscriptions_info_by_topic(self._name(topic))) if end.node != own
            ]
            ending = "/" + topic.lstrip("/").rpartition("/")[2] if topic.count("/") < 2 else "/" + topic.lstrip("/")
            others = [name for name in known if name.endswith(ending) and name != self._name(topic)]
            record.elsewhere[topic] = [name for name in others if any(_end(e).node != own for e in _both(node, name))][:3]
        services = dict(node.get_service_names_and_types())
        record.services[RESET_SERVICE] = services.get(self._name(RESET_SERVICE), [])
        if profile.gripper.action:
            actions = dict(get_action_names_and_types(node))
            record.actions[profile.gripper.action] = actions.get(self._name(profile.gripper.action), [])
            tail = "/" + profile.gripper.action.rpartition("/")[2]
            record.elsewhere[profile.gripper.action] = [
                name for name in actions if name.endswith(tail) and name != self._name(profile.gripper.action)
            ][:3]

    # The scene.

    def reset_all(self, task: str, patience: float) -> None:
        """Two seeds, the first of them again, and a task that does not exist."""
        client = self._node.create_client(ResetScene, self._name(RESET_SERVICE))
        if self._observer.until(client.service_is_ready, 5.0):
            # A run that brings the scene back itself just now must be done with it: an episode manager, if there is one, says so.
            self._observer.until(lambda: self._phase is not None, 1.0)
            busy = (Episode.PHASE_WAITING, Episode.PHASE_RESETTING)
            self._observer.until(lambda: self._phase not in busy, patience)
            self.record.resets = [self._reset(client, task, seed, patience) for seed in (1, 2, 1)]
            self.record.resets.append(self._reset(client, NO_TASK, -1, patience))
        self._node.destroy_client(client)

    def _reset(self, client: Any, task: str, seed: int, patience: float) -> Reset:
        before = self.record.joints[-1].stamp if self.record.joints else 0
        request = ResetScene.Request(episode_id=f"conform-{time.monotonic_ns()}", task=task, seed=max(seed, 0))
        end, answer = time.monotonic() + patience, None
        while time.monotonic() < end:
            future = client.call_async(request)
            if not self._observer.until(future.done, end - time.monotonic()):
                client.remove_pending_request(future)
                break
            answer = future.result()
            if not answer.pending:
                break
            self._observer.spin(0.2)
        if answer is None or answer.pending:
            return Reset(task, seed, False, before=before)
        if not answer.ok:
            return Reset(task, seed, True, False, answer.reason, before=before)
        # By stamps: on a busy machine what comes now may be of before the reset, and the robot's time stand still while ours goes on.
        begun, settled = len(self.record.joints), to_ns(answer.start) + int(SETTLE * 1e9)
        self._observer.until(lambda: any(one.stamp >= settled for one in self.record.joints[begun:]), patience)
        self._observer.until(lambda: len(self._pictures(settled)) == len(self._profile.cameras), PICTURES)
        frames = tuple(one.stamp for one in self.record.joints[begun:])
        return Reset(task, seed, True, True, "", to_ns(answer.start), before, frames, self._here(), self._pictures(settled))

    def _pictures(self, since: int) -> dict[str, np.ndarray]:
        """The newest of each camera that are of `since`, a stamp, or later."""
        return {camera: image for camera, (stamp, image) in self._last.items() if stamp >= since}

    # Motion.

    def _here(self) -> np.ndarray | None:
        """(joints,) rad, newest; None where it is not known."""
        if not self.record.joints:
            return None
        newest = self.record.joints[-1]
        try:
            row = self._profile.proprioception(list(newest.names), newest.positions.tolist())
        except InputError:
            return None
        return row[:-1].astype(np.float64)

    def _rival(self) -> str:
        """Who else commands the robot, in words; empty: nobody."""
        self.graph()
        for part, topic in (("arm", self._profile.command.topic), ("gripper", self._profile.gripper.topic)):
            ends = self.record.publishers.get(topic)
            if ends:
                return f"somebody else commands the {part}: {', '.join(end.node for end in ends)}"
        return ""

    def _ready(self) -> str:
        """Why the arm is not to be moved; empty: it may be."""
        here = self._here()
        if here is None:
            return "where the arm is, is not known"
        rival = self._rival()
        if rival:
            return rival
        if not self.record.subscribers[self._profile.command.topic]:
            return "nobody hears its commands"
        outside = (here < self._profile.lower - OVER) | (here > self._profile.upper + OVER)
        if outside.any():
            return f"{self._profile.joint_names[int(outside.argmax())]} is outside its limits"
        if self._commands is None:
            self._commands = self._node.create_publisher(self._arm.message_type, self._name(self._profile.command.topic), COMMAND)
        matched = self._observer.until(self._commands.get_subscription_count, 5.0)
        return "" if matched else "the driver did not take our publisher in"

    def swing_all(self) -> None:
        """Each joint out towards the middle of its range and back, the others still, all of it through the guard."""
        why = self._ready()
        start = self._here()
        if why or start is None:
            self.record.untried["motion"] = self.record.untried["limits"] = why
            return
        profile, guarded = self._profile, None
        start = np.clip(start, profile.lower, profile.upper)
        count = round(OUT_AND_BACK * profile.rate)
        path = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(1, count + 1) / count)
        middle = (profile.lower + profile.upper) / 2
        for index, name in enumerate(profile.joint_names):
            by = SWING if start[index] <= middle[index] else -SWING
            begin = time.monotonic()
            rows = np.repeat(start[None], count + round(REST * profile.rate), axis=0)
            rows[:count, index] += by * path
            guarded = self._send(rows, guarded)
            self.record.swings.append(Swing(name, by, begin, time.monotonic()))

    def _send(self, rows: np.ndarray, guarded: GuardResult | None) -> GuardResult | None:
        """Rows (N, joints) at the control rate, through the guard."""
        for row, dt in self._paced(rows):
            measured = self._here()
            if measured is None:
                return guarded
            opening = self._profile.position_to_opening(self._grip / self._profile.gripper.scale)
            guarded = self._guard.check(np.append(row, opening), np.append(measured, opening), guarded, dt)
            self._say(guarded.command[:-1], guarded.velocity)
        return guarded

    def _paced(self, rows: np.ndarray) -> Any:
        """The rows, one a control period; with each the seconds since the last."""
        due = last = time.monotonic()
        for row in rows:
            due += self._profile.period
            self._observer.spin(max(0.0, due - time.monotonic()))
            now = time.monotonic()
            yield row, now - last
            last = now

    def _say(self, row: np.ndarray, velocity: np.ndarray) -> None:
        names = self._profile.command_names
        full = row if len(names) == len(row) else np.append(row, self._grip)
        self._commands.publish(self._arm.build(full, velocity, 0))

    def go_beyond(self) -> None:
        """The joint that is nearest to one of its limits, slowly past that and back. Not through the guard, which would not let it."""
        start = self._here()
        if start is None or "limits" in self.record.untried:
            return
        profile = self._profile
        to_lower, to_upper = start - profile.lower, profile.upper - start
        index = int(np.minimum(to_lower, to_upper).argmin())
        side = -1 if to_lower[index] < to_upper[index] else 1
        target = float((profile.lower if side < 0 else profile.upper)[index] + side * PAST)
        steps = max(2, int(np.ceil(abs(target - start[index]) / (SLOW * profile.velocity[index]) * profile.rate)))
        rest = np.full(round(REST * profile.rate), 1.0)
        share = np.concatenate([np.linspace(0, 1, steps), rest, np.linspace(1, 0, steps), 0 * rest, 0 * rest])
        rows = np.repeat(start[None], len(share), axis=0)
        rows[:, index] += share * (target - start[index])
        begin = time.monotonic()
        for row, _ in self._paced(rows):
            self._say(row, np.zeros(len(row)))
        self.record.beyond = Beyond(profile.joint_names[index], side, target, begin, time.monotonic())

    # The gripper.

    def grip_all(self) -> None:
        """Shut, then open."""
        rival = self._rival()
        if rival:
            self.record.untried["gripper"] = rival
            return
        if self._profile.gripper.kind == "with_arm":
            if self._commands is None or self._here() is None:
                self.record.untried["gripper"] = self.record.untried.get("motion", "the arm was not commanded")
                return
            go = self._grip_with_arm
        else:
            go = self._grip_by_action if self._profile.gripper.action else self._grip_by_topic
        self.record.grips = [Grip(wanted, go(wanted), self._opening()) for wanted in (0.0, 1.0)]

    def _opening(self) -> float:
        newest = self.record.joints[-1] if self.record.joints else None
        joint = self._profile.gripper.joint
        if newest is None or joint not in newest.names[: len(newest.positions)]:
            return float("nan")
        position = float(newest.positions[newest.names.index(joint)])
        return self._profile.position_to_opening(position) if np.isfinite(position) else float("nan")

    def _arrives(self, wanted: float) -> None:
        self._observer.until(lambda: abs(self._opening() - wanted) < 0.1, GRIP_SECONDS / 2)

    def _grip_with_arm(self, wanted: float) -> str:
        here = self._here()
        assert here is not None
        self._grip = self._profile.opening_to_goal(wanted)
        for row, _ in self._paced(np.repeat(np.clip(here, self._profile.lower, self._profile.upper)[None], 5, axis=0)):
            self._say(row, np.zeros(len(row)))
        self._arrives(wanted)
        return ""

    def _grip_by_topic(self, wanted: float) -> str:
        gripper = self._profile.gripper
        message_type: Any = Float64MultiArray if gripper.kind == "forward" else JointTrajectory
        publisher = self._node.create_publisher(message_type, self._name(gripper.topic), COMMAND)
        self._observer.until(publisher.get_subscription_count, 2.0)
        publisher.publish(gripper_message(self._profile, wanted))
        self._arrives(wanted)
        self._node.destroy_publisher(publisher)
        return ""

    def _grip_by_action(self, wanted: float) -> str:
        client = ActionClient(self._node, gripper_action_type(self._profile), self._name(self._profile.gripper.action))
        try:
            return self._goal(client, wanted)
        finally:
            client.destroy()

    def _goal(self, client: ActionClient, wanted: float) -> str:
        if not self._observer.until(client.server_is_ready, 2.0):
            return "none"
        sent: Any = client.send_goal_async(gripper_goal(self._profile, wanted))
        if not self._observer.until(sent.done, GRIP_SECONDS):
            return "none"
        handle = sent.result()
        if not handle.accepted:
            return "refused"
        ended: Any = handle.get_result_async()
        if not self._observer.until(ended.done, GRIP_SECONDS):
            return "none"
        result = ended.result().result
        if not (result.reached_goal or result.stalled):
            return "aborted"
        return "reached" if result.reached_goal else "stalled"


def _end(info: Any) -> End:
    qos = info.qos_profile
    return End(
        f"{info.node_namespace.rstrip('/')}/{info.node_name}",
        info.topic_type,
        qos.reliability != ReliabilityPolicy.BEST_EFFORT,
        qos.durability == DurabilityPolicy.TRANSIENT_LOCAL,
    )


def _both(node: Node, topic: str) -> list[Any]:
    return [*node.get_publishers_info_by_topic(topic), *node.get_subscriptions_info_by_topic(topic)]
