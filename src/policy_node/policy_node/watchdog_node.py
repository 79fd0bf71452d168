"""The watchdog node: the one gate between the policy and the robot's driver.

Role: ROS only, a process of its own, without torch. The policy's commands go through it; when the policy dies, a camera or the joint states
go stale, the robot is in a mode that does not take commands, somebody else commands the arm too or a human presses stop, it brakes the arm
itself and lets nothing through until a human calls watchdog/release. If it dies itself, no command reaches the arm any more. Real time
only: a simulator that waits for each command cannot run away. What it judges by: watchdog.py.

The policy speaks of joints here whatever the driver takes; what was judged is said again in the driver's own words (whetstone.commands), so
nothing that was not judged goes through. To a driver that draws no way to a target the brake is a row of set-points, one a control period.
"""

from __future__ import annotations

import time
from collections import deque
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from sensor_msgs.msg import Image, JointState
from std_msgs.msg import Bool
from std_srvs.srv import Trigger
from trajectory_msgs.msg import JointTrajectory
from whetstone_msgs.msg import Command, Episode
from whetstone_msgs.msg import Watchdog as WatchdogMessage

from policy_node.camera_watch import CameraWatch
from policy_node.watchdog import LOOKS, MODE, POLICY, Watchdog, braking, set_points
from whetstone.commands import ARM_COMMAND, arm_command
from whetstone.errors import ConfigError, InputError
from whetstone.guard import put_elsewhere
from whetstone.profile import DriverMode, load_profile
from whetstone.ros import (
    CAMERA_LIVE,
    COMMAND,
    COMMAND_FROM_MANY,
    EPISODE,
    EVENT,
    LATCHED,
    WhetstoneNode,
    camera_qos,
    joints_qos,
    message_class,
    run_node,
    stamp_of_raw,
    to_ns,
    to_stamp,
)

SECOND = "second publisher: "
UNNAMED = "a node whose name is not known yet"


@dataclass(frozen=True)
class Parameters:
    """robot: name of its config file. patience: control periods of the policy's silence by which the arm is being stopped. hardware: the
    driver is a real one: the robot's mode (`mode:` in its profile) must be heard and be one that takes commands; simulators have none."""

    robot: str
    patience: float = field(default=2.0, metadata={"ge": 1.5})
    hardware: bool = False


class WatchdogNode(WhetstoneNode[Parameters]):
    """See the module."""

    def __init__(self) -> None:
        super().__init__("watchdog", Parameters)

    def configure(self) -> None:
        self._profile = profile = load_profile(self.parameters.robot)
        self._watched_mode = profile.mode if self.parameters.hardware else None
        self._watchdog = Watchdog(profile, self.parameters.patience, () if self._watched_mode is None else (MODE,))
        self._arm = arm_command(profile)
        self._gripper_range = np.sort([profile.opening_to_goal(opening) for opening in (0.0, 1.0)])
        self._measured: np.ndarray | None = None
        self._heard = 0.0  # when, s
        self._velocity = np.zeros(len(profile.joint_names))
        self._grip = np.empty(0)  # what a gripper that travels with the arm was told last, else was measured at
        self._last: np.ndarray | None = None  # set-point of the arm in force,
        self._going = np.zeros(len(profile.joint_names))  # and the speed there, rad/s
        self._ahead: deque[np.ndarray] = deque()  # set-points of a brake
        self._stamp = 0
        self._mode: int | None = None
        self._pressed = False
        self._running = False
        self._driver = self.create_publisher(self._arm.message_type, profile.command.topic, COMMAND)
        self._state = self.create_publisher(WatchdogMessage, "watchdog", LATCHED)
        self.create_subscription(JointTrajectory, ARM_COMMAND, self._on_command, COMMAND_FROM_MANY)
        self.create_subscription(Command, "policy/command", self._on_sign_of_life, EVENT, raw=True)
        self.create_subscription(Episode, "episode", self._on_episode, EPISODE)
        self.create_subscription(JointState, profile.joint_states, self._on_joints, joints_qos(True))
        # Twice: who latches is heard whenever it spoke, and who promises neither that nor delivery must be heard as well.
        self.create_subscription(Bool, "e_stop", self._on_e_stop, LATCHED)
        self.create_subscription(Bool, "e_stop", self._on_e_stop, CAMERA_LIVE)
        for camera in profile.cameras:
            watch = CameraWatch(round(profile.guard.stale_after * 1e9), self.parameters.hardware)

            def on_image(data: bytes, part: str = f"camera '{camera.name}'", watch: CameraWatch = watch) -> None:
                self._hear(part, watch.wrong(stamp_of_raw(data), data, self._stamp))

            self.create_subscription(Image, camera.topic, on_image, camera_qos(True), raw=True)
        if self._watched_mode is not None:
            self.create_subscription(_type_of(self._watched_mode), self._watched_mode.topic, self._on_mode, CAMERA_LIVE)
        self.create_service(Trigger, "watchdog/stop", self._on_stop)
        self.create_service(Trigger, "watchdog/release", self._on_release)

    def activate(self) -> None:
        self._own_timers = [
            self.create_timer(self._profile.period / LOOKS, self._look, clock=self.steady_clock),
            self.create_timer(self._profile.period, self._brake_on, clock=self.steady_clock),
        ]
        self._say()

    def deactivate(self) -> None:
        for timer in self._own_timers:
            self.destroy_timer(timer)
        if self._going.any() and not self._watchdog.stopped:  # nobody's command goes through any more
            self._to_rest()
        while self._ahead:
            time.sleep(self._profile.period)
            self._set(self._ahead.popleft(), 0)

    # What is heard.

    def _on_episode(self, message: Episode) -> None:
        self._running = message.phase == Episode.PHASE_RUNNING
        if not self._running:
            self._watchdog.rest()

    def _on_sign_of_life(self, _: bytes) -> None:
        if self._running:
            self._watchdog.heard(POLICY, time.monotonic())

    def _hear(self, part: str, wrong: str) -> None:
        if wrong:
            self._watchdog.unfit(part, wrong, time.monotonic())
        else:
            self._watchdog.heard(part, time.monotonic())

    def _on_joints(self, message: JointState) -> None:
        names, stamp = list(message.name), to_ns(message.header.stamp)
        try:
            row = self._profile.proprioception(names, message.position).astype(np.float64)
        except InputError as error:  # who stops the arm must not fall for what the arm says
            self._hear("joint states", f"{error}; nothing better")
            return
        back = self._stamp - stamp if self._measured is not None else -1
        if 0 <= back <= self._profile.guard.stale_after * 1e9:
            self._hear("joint states", "stamps that do not advance")
            return
        positions = row[:-1]
        if len(self._profile.command_names) > len(positions) and not self._grip.size:
            self._grip = np.array([self._profile.opening_to_goal(row[-1])])
        velocity = dict(zip(names, message.velocity))
        if all(joint in velocity for joint in self._profile.joint_names):
            self._velocity = np.array([velocity[joint] for joint in self._profile.joint_names])
        elif self._measured is not None and stamp > self._stamp:
            self._velocity = (positions - self._measured) / ((stamp - self._stamp) / 1e9)
        if self._measured is not None and put_elsewhere(self._profile, self._measured, positions):
            self._watchdog.put_elsewhere(time.monotonic())
        self._measured, self._stamp, self._heard = positions, stamp, time.monotonic()
        self._watchdog.heard("joint states", time.monotonic())
        # What is a step of an episode, and what was seen when, holds no more.
        if back > 0 and self._running and self._watchdog.stop(f"joint states: their clock was set back by {back / 1e9:.1f} s"):
            self._brake()

    def _on_mode(self, message: Any) -> None:
        assert self._watched_mode is not None
        self._mode = int(getattr(message, self._watched_mode.field))
        self._watchdog.heard(MODE, time.monotonic())

    def _on_e_stop(self, message: Bool) -> None:
        self._pressed = message.data
        self._look()

    def _on_command(self, message: JointTrajectory) -> None:
        if self.state() != "active":
            return
        command, grip = self._read(message)
        before = self._watchdog.stopped
        if self._watchdog.passes(command, self._measured, self._running, time.monotonic(), message.header.frame_id):
            point = [*message.points][0]
            self._last, self._grip, self._going = command, grip, self._speed(point)
            within = max(self._profile.period_ns, point.time_from_start.sec * 1_000_000_000 + point.time_from_start.nanosec)
            self._driver.publish(self._arm.build(np.append(command, grip), self._going, to_ns(message.header.stamp), within))
            return
        if self._watchdog.stopped != before:
            self._brake()
        self.counters["commands_held_back"] = self.counters.get("commands_held_back", 0) + 1

    def _read(self, message: JointTrajectory) -> tuple[np.ndarray, np.ndarray]:
        """The arm's joints (n,) rad, and the gripper's (1,) in [closed, open] where it travels with them, else (0,). Not one point of just
        this arm's joints: NaN, which does not pass."""
        profile, names, points = self._profile, tuple(message.joint_names), [*message.points]
        count = len(profile.joint_names)
        if names != profile.command_names or len(points) != 1 or len(points[0].positions) != len(names):
            return np.full(count, np.nan), self._grip
        row = np.array(points[0].positions, np.float64)
        if not np.isfinite(row[count:]).all():
            return np.full(count, np.nan), self._grip
        return row[:count], np.clip(row[count:], *self._gripper_range)

    def _speed(self, point: Any) -> np.ndarray:
        """Velocities (joints,) rad/s of a point, within the limits; none where they are no such numbers."""
        limit = self._profile.velocity
        speed = np.array(point.velocities, np.float64)[: len(limit)]
        return np.clip(speed, -limit, limit) if speed.shape == limit.shape and np.isfinite(speed).all() else np.zeros_like(limit)

    # What follows from it.

    def _found(self) -> list[str]:
        """What is wrong, whether the arm moves or not."""
        found = ["e-stop: pressed"] if self._pressed else []
        mode = self._watched_mode
        if mode is not None and self._mode is not None and self._mode not in mode.commandable:
            found.append(f"robot mode: {mode.field} is {self._mode}, which takes no commands")
        topic = self._profile.command.topic
        own = (self.get_name(), self.get_namespace())
        # 0.03 ms, measured with 100 topics in the graph: at 8 looks a period of 20 Hz half a percent of a core.
        others = {(one.node_name, one.node_namespace) for one in self.get_publishers_info_by_topic(topic)} - {own}
        if others:
            # A publisher is discovered before the node that it belongs to has told its name: the arm does not wait for that.
            names = {UNNAMED if "NODE_NAME_UNKNOWN" in name else f"{space.rstrip('/')}/{name}" for name, space in others}
            found.append(f"{SECOND}{', '.join(sorted(names))} commands the arm on '{topic}' too")
        return found

    def _look(self) -> None:
        if self.state() != "active":
            return
        found = self._found()
        if self._watchdog.look(time.monotonic(), found):
            self._brake()
        elif self._watchdog.told_more(SECOND, UNNAMED, found):
            self._say()
            self.get_logger().error(f"stopped: {'; '.join(self._watchdog.stopped)}")

    def _brake(self) -> None:
        """Tell the driver where to rest, and everybody why."""
        self._to_rest()
        self._say()
        release = self.resolve_service_name("watchdog/release")
        self.get_logger().error(
            f"stopped: {'; '.join(self._watchdog.stopped)}. When it is safe: ros2 service call {release} std_srvs/srv/Trigger"
        )

    def _to_rest(self) -> None:
        """A driver that draws the way itself begins it where the arm is; else, and where joint states are too old to say where that is, the
        brake begins at the set-point in force, unless something keeps the arm far from there."""
        if self._measured is None:
            return
        old = time.monotonic() - self._heard > self._profile.guard.stale_after
        near = self._last is not None and (old or (np.abs(self._last - self._measured) <= self._profile.guard.max_step).all())
        last = self._last if near and self._last is not None else self._measured
        speed = self._going if old and near else self._velocity
        if self._arm.interpolates:
            positions, seconds = braking(self._profile, last if old else self._measured, speed)
            self._set(positions, round(seconds * 1e9))
        else:
            self._ahead = deque(set_points(self._profile, last, speed))
            self._set(self._ahead.popleft(), 0)

    def _brake_on(self) -> None:
        """The next set-point of the brake, until the last one, which the driver keeps."""
        if self._ahead and self._watchdog.stopped:
            self._set(self._ahead.popleft(), 0)

    def _set(self, positions: np.ndarray, within_ns: int) -> None:
        self._last, self._going = positions, np.zeros_like(positions)
        self._driver.publish(self._arm.build(np.append(positions, self._grip), np.zeros_like(positions), 0, within_ns))

    def _say(self) -> None:
        reasons = self._watchdog.stopped
        message = WatchdogMessage(stopped=bool(reasons), reasons=list(reasons))
        message.header.stamp = to_stamp(self._stamp)
        self._state.publish(message)
        self.counters["stopped"] = "; ".join(reasons)

    def _on_stop(self, _: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
        response.success = self._watchdog.stop("stopped by a human")
        response.message = "stopped" if response.success else f"stopped before: {'; '.join(self._watchdog.stopped)}"
        if response.success:
            self._brake()
        return response

    def _on_release(self, _: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
        response.success, response.message = self._watchdog.release(time.monotonic(), self._found())
        if response.success:
            self._ahead.clear()
            self._say()
            self.get_logger().info("released by a human")
        return response


def _type_of(mode: DriverMode) -> Any:
    """The message class. Raises ConfigError where it is not installed."""
    try:
        return message_class(mode.type, "the robot's messages")
    except InputError as error:
        raise ConfigError(f"key 'mode': {error}") from None


def main(args: list[str] | None = None) -> int:
    """Executable `watchdog`."""
    return run_node(WatchdogNode, args)


if __name__ == "__main__":
    raise SystemExit(main())
