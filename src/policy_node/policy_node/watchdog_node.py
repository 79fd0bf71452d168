"""The watchdog node: the one gate between the policy and the robot's driver.

Role: ROS only, a process of its own, without torch. The policy's commands go through it; when the policy dies, a camera or the joint states
go stale, the robot is in a mode that does not take commands, somebody else commands the arm too or a human presses stop, it brakes the arm
itself and lets nothing through until a human calls watchdog/release. If it dies itself, no command reaches the arm any more. Real time
only: a simulator that waits for each command cannot run away. What it judges by: watchdog.py.
"""

from __future__ import annotations

import importlib
import time
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from sensor_msgs.msg import Image, JointState
from std_msgs.msg import Bool
from std_srvs.srv import Trigger
from trajectory_msgs.msg import JointTrajectory
from whetstone_msgs.msg import Command, Episode
from whetstone_msgs.msg import Watchdog as WatchdogMessage

from policy_node.commands import ARM_COMMAND, ArmCommand
from policy_node.watchdog import LOOKS, POLICY, Watchdog, braking
from whetstone.errors import ConfigError
from whetstone.profile import DriverMode, load_profile
from whetstone.ros import (
    CAMERA_LIVE,
    COMMAND,
    EPISODE,
    EVENT,
    LATCHED,
    WhetstoneNode,
    camera_qos,
    joints_qos,
    run_node,
    to_ns,
    to_stamp,
)


@dataclass(frozen=True)
class Parameters:
    """robot: name of its config file. patience: control periods of the policy's silence by which the arm is being stopped."""

    robot: str
    patience: float = field(default=2.0, metadata={"ge": 1.5})


class WatchdogNode(WhetstoneNode[Parameters]):
    """See the module."""

    def __init__(self) -> None:
        super().__init__("watchdog", Parameters)

    def configure(self) -> None:
        self._profile = profile = load_profile(self.parameters.robot)
        self._watchdog = Watchdog(profile, self.parameters.patience)
        self._arm = ArmCommand(profile)
        self._measured: np.ndarray | None = None
        self._velocity = np.zeros(len(profile.joint_names))
        self._stamp = 0
        self._mode: int | None = None
        self._pressed = False
        self._running = False
        self._driver = self.create_publisher(JointTrajectory, profile.command.topic, COMMAND)
        self._state = self.create_publisher(WatchdogMessage, "watchdog", LATCHED)
        self.create_subscription(JointTrajectory, ARM_COMMAND, self._on_command, COMMAND)
        self.create_subscription(Command, "policy/command", self._on_sign_of_life, EVENT, raw=True)
        self.create_subscription(Episode, "episode", self._on_episode, EPISODE)
        self.create_subscription(JointState, profile.joint_states, self._on_joints, joints_qos(True))
        # Twice: who latches is heard whenever it spoke, and who promises neither that nor delivery must be heard as well.
        self.create_subscription(Bool, "e_stop", self._on_e_stop, LATCHED)
        self.create_subscription(Bool, "e_stop", self._on_e_stop, CAMERA_LIVE)
        for camera in profile.cameras:

            def on_image(_: bytes, part: str = f"camera '{camera.name}'") -> None:
                self._watchdog.heard(part, time.monotonic())

            self.create_subscription(Image, camera.topic, on_image, camera_qos(True), raw=True)
        if profile.mode is not None:
            self.create_subscription(_type_of(profile.mode), profile.mode.topic, self._on_mode, CAMERA_LIVE)
        self.create_service(Trigger, "watchdog/stop", self._on_stop)
        self.create_service(Trigger, "watchdog/release", self._on_release)

    def activate(self) -> None:
        self._timer = self.create_timer(self._profile.period / LOOKS, self._look, clock=self.steady_clock)
        self._say()

    def deactivate(self) -> None:
        self.destroy_timer(self._timer)

    # What is heard.

    def _on_episode(self, message: Episode) -> None:
        self._running = message.phase == Episode.PHASE_RUNNING
        if not self._running:
            self._watchdog.rest()

    def _on_sign_of_life(self, _: bytes) -> None:
        if self._running:
            self._watchdog.heard(POLICY, time.monotonic())

    def _on_joints(self, message: JointState) -> None:
        names, stamp = list(message.name), to_ns(message.header.stamp)
        positions = self._profile.proprioception(names, message.position)[:-1].astype(np.float64)
        velocity = dict(zip(names, message.velocity))
        if all(joint in velocity for joint in self._profile.joint_names):
            self._velocity = np.array([velocity[joint] for joint in self._profile.joint_names])
        elif self._measured is not None and stamp > self._stamp:
            self._velocity = (positions - self._measured) / ((stamp - self._stamp) / 1e9)
        self._measured, self._stamp = positions, stamp
        self._watchdog.heard("joint states", time.monotonic())

    def _on_mode(self, message: Any) -> None:
        assert self._profile.mode is not None
        self._mode = int(getattr(message, self._profile.mode.field))

    def _on_e_stop(self, message: Bool) -> None:
        self._pressed = message.data
        self._look()

    def _on_command(self, message: JointTrajectory) -> None:
        if self.state() != "active":
            return
        command = np.array([*message.points][0].positions if message.points else (), np.float64)
        before = self._watchdog.stopped
        if self._watchdog.passes(command, self._measured, self._running):
            self._driver.publish(message)
            return
        if self._watchdog.stopped != before:
            self._brake()
        self.counters["commands_held_back"] = self.counters.get("commands_held_back", 0) + 1

    # What follows from it.

    def _found(self) -> list[str]:
        """What is wrong, whether the arm moves or not."""
        found = ["e-stop: pressed"] if self._pressed else []
        mode = self._profile.mode
        if mode is not None and self._mode is not None and self._mode not in mode.commandable:
            found.append(f"robot mode: {mode.field} is {self._mode}, which takes no commands")
        topic = self._profile.command.topic
        own = (self.get_name(), self.get_namespace())
        others = {(one.node_name, one.node_namespace) for one in self.get_publishers_info_by_topic(topic)} - {own}
        if others:
            names = ", ".join(sorted(f"{space.rstrip('/')}/{name}" for name, space in others))
            found.append(f"second publisher: {names} commands the arm on '{topic}' too")
        return found

    def _look(self) -> None:
        if self.state() == "active" and self._watchdog.look(time.monotonic(), self._found()):
            self._brake()

    def _brake(self) -> None:
        """Tell the driver where to rest, and everybody why."""
        if self._measured is not None:
            positions, seconds = braking(self._profile, self._measured, self._velocity)
            self._driver.publish(self._arm.build(positions, np.zeros_like(positions), 0, round(seconds * 1e9)))
        self._say()
        release = self.resolve_service_name("watchdog/release")
        self.get_logger().error(
            f"stopped: {'; '.join(self._watchdog.stopped)}. When it is safe: ros2 service call {release} std_srvs/srv/Trigger"
        )

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
            self._say()
            self.get_logger().info("released by a human")
        return response


def _type_of(mode: DriverMode) -> Any:
    """The message class. Raises ConfigError where it is not installed."""
    package, _, name = mode.type.partition("/msg/")
    try:
        return getattr(importlib.import_module(f"{package}.msg"), name)
    except (ImportError, AttributeError):
        raise ConfigError(f"key 'mode': message type '{mode.type}' is not installed; install the robot's messages, {package}") from None


def main(args: list[str] | None = None) -> int:
    """Executable `watchdog`."""
    return run_node(WatchdogNode, args)


if __name__ == "__main__":
    raise SystemExit(main())
