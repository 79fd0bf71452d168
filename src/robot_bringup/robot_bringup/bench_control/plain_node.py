"""The naive way, for comparison: observe, think, send the rows of the chunk one after the other, begin again.

Role: stands in the policy node's place in `make bench-control` alone, as the usual script does: one loop, no guard, no watchdog; while it
thinks nothing is sent. Never for an arm.
"""

from __future__ import annotations

import array
import threading
import time
from dataclasses import dataclass

import numpy as np
from builtin_interfaces.msg import Duration
from sensor_msgs.msg import Image, JointState
from trajectory_msgs.msg import JointTrajectory, JointTrajectoryPoint
from whetstone_msgs.msg import Action, Episode

from whetstone.contracts import Observation, Policy
from whetstone.images import to_array
from whetstone.plugins import configured
from whetstone.profile import load_profile
from whetstone.ros import COMMAND, EPISODE, EVENT, WhetstoneNode, camera_qos, joints_qos, run_node, to_ns, to_stamp


@dataclass(frozen=True)
class Parameters:
    """robot, policy: names of config files."""

    robot: str
    policy: str


class PlainLoop(WhetstoneNode[Parameters]):
    """See the module."""

    def __init__(self) -> None:
        super().__init__("policy", Parameters)

    def configure(self) -> None:
        self._profile = load_profile(self.parameters.robot)
        plugin, settings = configured("whetstone.policies", self.parameters.policy)
        self._policy: Policy = plugin.load(settings, self._profile, "cpu")
        self._images: dict[str, Image] = {}
        self._joints: JointState | None = None
        self._episode: Episode | None = None
        self._alive = False
        self._commands = self.create_publisher(JointTrajectory, self._profile.command.topic, COMMAND)
        self._actions = self.create_publisher(Action, "policy/action", EVENT)
        self.create_subscription(Episode, "episode", self._on_episode, EPISODE)
        self.create_subscription(JointState, self._profile.joint_states, self._on_joints, joints_qos(True))
        for name in self._policy.spec.cameras:

            def on_image(message: Image, name: str = name) -> None:
                self._images[name] = message

            self.create_subscription(Image, self._profile.camera(name).topic, on_image, camera_qos(True))

    def activate(self) -> None:
        self._alive = True
        threading.Thread(target=self._loop, daemon=True).start()

    def deactivate(self) -> None:
        self._alive = False

    def _on_episode(self, message: Episode) -> None:
        self._episode = message

    def _on_joints(self, message: JointState) -> None:
        self._joints = message

    def _loop(self) -> None:
        begun, last = "", None
        while self._alive:
            episode, joints = self._episode, self._joints
            running = episode is not None and episode.phase == Episode.PHASE_RUNNING
            if not running or joints is None or len(self._images) < len(self._policy.spec.cameras):
                time.sleep(0.005)
                continue
            assert episode is not None
            stamp = to_ns(joints.header.stamp)
            if stamp < to_ns(episode.start):
                time.sleep(0.005)
                continue
            if episode.episode_id != begun:
                self._policy.reset(episode.instruction, int(episode.seed), "greedy")
                begun, last = episode.episode_id, None
            measured = self._profile.proprioception(list(joints.name), joints.position)
            images = {name: to_array(self._images[name], name) for name in self._policy.spec.cameras}
            began = time.perf_counter()
            rows = self._policy.act(Observation(stamp, images, measured)).actions
            self._say(stamp, rows, time.perf_counter() - began, last)
            for row in rows[: self._policy.spec.execute]:
                self._send(row)
                last = row
                time.sleep(self._profile.period)

    def _say(self, stamp: int, rows: np.ndarray, latency: float, last: np.ndarray | None) -> None:
        jump = float(np.abs(rows[0] - last)[:-1].max()) if last is not None else float("nan")
        message = Action(latency=latency, seam_jump=jump, delay=round(latency * self._profile.rate))
        message.header.stamp = to_stamp(stamp)
        self._actions.publish(message)

    def _send(self, row: np.ndarray) -> None:
        point = JointTrajectoryPoint(positions=array.array("d", row[:-1].astype(np.float64).tobytes()))
        point.time_from_start = Duration(nanosec=self._profile.period_ns)
        self._commands.publish(JointTrajectory(joint_names=list(self._profile.joint_names), points=[point]))


def main(args: list[str] | None = None) -> int:
    """`python -m robot_bringup.bench_control.plain_node`."""
    return run_node(PlainLoop, args)


if __name__ == "__main__":
    raise SystemExit(main())
