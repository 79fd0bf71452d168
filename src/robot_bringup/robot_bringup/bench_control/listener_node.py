"""Notes when commands reach the driver's topic and what the policy says of its chunks.

Role: for `make bench-control` alone, a process beside the graph. Writes control.json into the run directory when it is stopped: lists of
seconds and radians. A robot's own clock is not asked: all times are arrivals here.
"""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from sensor_msgs.msg import JointState
from trajectory_msgs.msg import JointTrajectory
from whetstone_msgs.msg import Action, Episode

from whetstone import jsonfile
from whetstone.profile import load_profile
from whetstone.ros import COMMAND, EPISODE, EVENT, WhetstoneNode, joints_qos, run_node, to_ns

RECORD = "control.json"
KEPT = 512
"""Arrivals of joint states that are remembered: an inference on an older one is too old to count."""


@dataclass(frozen=True)
class Parameters:
    """robot: name of its config file. run_dir: where control.json goes."""

    robot: str
    run_dir: str


class Listener(WhetstoneNode[Parameters]):
    """See the module."""

    def __init__(self) -> None:
        super().__init__("listener", Parameters)

    def configure(self) -> None:
        profile = load_profile(self.parameters.robot)
        self._arrivals: dict[int, float] = {}
        self._intervals: list[float] = []
        self._latencies: list[float] = []
        self._inferences: list[float] = []
        self._jumps: list[float] = []
        self._bends: list[float] = []
        self._running, self._last = False, 0.0
        self._recent: list[np.ndarray] = []
        self._awaited: float | None = None
        self._used: list[tuple[float, float]] = []  # moment, CPU seconds of policy and watchdog until then
        self.create_subscription(Episode, "episode", self._on_episode, EPISODE)
        self.create_subscription(JointState, profile.joint_states, self._on_joints, joints_qos(True))
        self.create_subscription(Action, "policy/action", self._on_action, EVENT)
        self.create_subscription(JointTrajectory, profile.command.topic, self._on_command, COMMAND)

    def activate(self) -> None:
        self._timer = self.create_timer(1.0, self._sample, clock=self.steady_clock)

    def deactivate(self) -> None:
        self.destroy_timer(self._timer)

    def _sample(self) -> None:
        if self._running:
            space = self.get_namespace()
            self._used.append((time.monotonic(), sum(cpu_seconds(name, space) for name in ("policy", "watchdog"))))

    def _on_episode(self, message: Episode) -> None:
        self._running, self._last, self._awaited, self._recent = message.phase == Episode.PHASE_RUNNING, 0.0, None, []

    def _on_joints(self, message: JointState) -> None:
        self._arrivals[to_ns(message.header.stamp)] = time.monotonic()
        if len(self._arrivals) > KEPT:
            self._arrivals.pop(min(self._arrivals))

    def _on_action(self, message: Action) -> None:
        if not self._running:
            return
        self._awaited = self._arrivals.get(to_ns(message.header.stamp))
        self._inferences.append(message.latency)
        if not np.isnan(message.seam_jump):
            self._jumps.append(message.seam_jump)

    def _on_command(self, message: JointTrajectory) -> None:
        now = time.monotonic()
        if not self._running:
            return
        if self._last:
            self._intervals.append(now - self._last)
        self._last = now
        if self._awaited is not None:
            self._latencies.append(now - self._awaited)
            self._awaited = None
        self._recent = [*self._recent[-2:], np.array([*message.points][0].positions)]
        if len(self._recent) == 3:
            before, here, after = self._recent
            self._bends.append(float(np.abs(after - 2 * here + before).max()))

    def cleanup(self) -> None:
        found = {
            "intervals": self._intervals,
            "latencies": self._latencies,
            "inferences": self._inferences,
            "seam_jumps": self._jumps,
            "bends": self._bends,
            "cpu": self._used,
        }
        jsonfile.write(Path(self.parameters.run_dir) / RECORD, found)


def cpu_seconds(node: str, namespace: str) -> float:
    """That the process of this node has used, 0 where there is none."""
    for process in Path("/proc").glob("[0-9]*"):
        try:
            words = (process / "cmdline").read_bytes().split(b"\0")
            if f"__node:={node}".encode() in words and f"__ns:={namespace}".encode() in words:
                fields = (process / "stat").read_text().rpartition(")")[2].split()
                return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
        except OSError:  # it ended meanwhile
            continue
    return 0.0


def main(args: list[str] | None = None) -> int:
    """`python -m robot_bringup.bench_control.listener_node`."""
    return run_node(Listener, args, autostart=True)


if __name__ == "__main__":
    raise SystemExit(main())
