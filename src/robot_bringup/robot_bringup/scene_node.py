"""Brings the scene back where our simulator does not: parks the arm, goes along a recorded way, has objects placed, asks a human.

Role: ROS only; in our simulator's place with sim:=none, and before Gazebo and Isaac Sim, whose objects it places (objects.py) and whose
ground truth it tells (sim/mirror.py). Answers `scene/reset` once everything that `reset:=` names is done, in that order.
It does not command the arm: it tells the policy node where it wants it (`scene/command`), so that guard and watchdog stand before it as
before everything else. While a human drives or the watchdog has stopped the arm it waits, and then begins that part again from where the
arm is. One client's scene at a time: who asks while it is brought back for another, or while an episode runs, has to wait.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from sensor_msgs.msg import JointState
from std_srvs.srv import Trigger
from whetstone_msgs.msg import Command, Episode, Truth, Watchdog
from whetstone_msgs.srv import ResetScene

from robot_bringup import records, resetting
from robot_bringup.objects import Objects
from whetstone.errors import InputError, PeerError, WhetstoneError
from whetstone.profile import load_profile
from whetstone.ros import COMMAND, EPISODE, EVENT, LATCHED, WhetstoneNode, joints_qos, run_node, to_ns, to_stamp
from whetstone.task import load_task

ARRIVED = 0.08
"""rad from the end of a way at which the arm is there."""
PATIENCE = 5.0
"""s that it may take for that after the last row, and that joint states may be away."""
HANDS_OFF = 0.5
"""s after a human's last command before the arm moves by itself again."""


@dataclass(frozen=True)
class Parameters:
    """robot, task: names of config files. reset: ways to bring the scene back, in this order, joined by commas: park, replay, prompt,
    place. reset_episode: folder of the episode that `replay` goes along. run_dir: where prompts are noted for the operator's terminal.
    objects: how `place` sets poses (objects.WAYS), empty where there is no simulator; world: Gazebo's name for its world."""

    robot: str
    task: str
    run_dir: str
    reset: str = "park,prompt"
    reset_episode: str = ""
    objects: str = ""
    world: str = ""


class SceneNode(WhetstoneNode[Parameters]):
    """See the module."""

    def __init__(self) -> None:
        super().__init__("scene", Parameters)

    def configure(self) -> None:
        p = self.parameters
        self._profile = load_profile(p.robot)
        self._task = load_task(p.task, self._profile.asset_name)
        self._ways = resetting.ways(p.reset, p.reset_episode, simulated=bool(p.objects))
        self._objects: Objects | None = None
        if p.objects:
            from robot_bringup.sim.mirror import Mirror  # MuJoCo: nobody else's need here

            self._mirror, self._judging = Mirror(self._profile), False
            self._objects = Objects(self, self._mirror.objects, p.objects, p.world)
            self._truth = self.create_publisher(Truth, "truth", EVENT)
            self._judged = 0
        self._recorded = resetting.recorded_way(Path(p.reset_episode), self._profile) if p.reset_episode else None
        self._measured: np.ndarray | None = None
        self._stamp, self._heard = 0, 0.0
        self._unfit = ""  # what is wrong with the newest joint state
        self._stopped, self._human = False, -HANDS_OFF
        self._left: list[str] = []  # ways that are still to be gone, the present one first
        self._rows: np.ndarray | None = None
        self._row, self._ended = 0, 0.0
        self._episode = ""  # that the scene is, or was, brought back for
        self._running = ""  # episode that has begun and not ended
        self._targets = self.create_publisher(JointState, "scene/command", COMMAND)
        self.create_subscription(JointState, self._profile.joint_states, self._on_joints, joints_qos(True))
        self.create_subscription(Watchdog, "watchdog", self._on_watchdog, LATCHED)
        self.create_subscription(Episode, "episode", self._on_episode, EPISODE)
        self.create_subscription(Command, "policy/command", self._on_command, EVENT)
        self.create_service(ResetScene, "scene/reset", self._on_reset)
        self.create_service(Trigger, "scene/reset_done", self._on_done)

    def activate(self) -> None:
        self._timer = self.create_timer(self._profile.period, self._tick, clock=self.steady_clock)

    def deactivate(self) -> None:
        self.destroy_timer(self._timer)

    # What is heard.

    def _on_joints(self, message: JointState) -> None:
        try:
            measured = self._profile.proprioception(list(message.name), message.position).astype(np.float64)
        except InputError as error:  # a run must not end for it: as good as silence
            if not self._unfit:
                self.get_logger().warning(f"'{self._profile.joint_states}': {error}; it counts for nothing")
            self._unfit = str(error)
            return
        self._measured, self._unfit = measured, ""
        self._stamp, self._heard = to_ns(message.header.stamp), time.monotonic()
        self._judge()

    def _on_watchdog(self, message: Watchdog) -> None:
        self._stopped = message.stopped

    def _on_episode(self, message: Episode) -> None:
        paused = message.phase == Episode.PHASE_PAUSED and message.outcome == Episode.OUTCOME_UNKNOWN
        self._running = message.episode_id if message.phase == Episode.PHASE_RUNNING or paused else ""

    def _on_command(self, message: Command) -> None:
        if message.source == Command.SOURCE_HUMAN:
            self._human = time.monotonic()

    def _on_reset(self, request: ResetScene.Request, response: ResetScene.Response) -> ResetScene.Response:
        if request.episode_id != self._episode:
            if why := self._taken():
                response.pending, response.reason = True, why
                return response
            if self._objects is not None:
                try:
                    self._task = load_task(request.task, self._profile.asset_name)
                except WhetstoneError as error:
                    response.reason = str(error)
                    return response
                self._judging, self._seed = False, int(request.seed)
            self._episode, self._left, self._rows, self._ended = request.episode_id, list(self._ways), None, 0.0
            self._heard = time.monotonic()  # patience begins now
            self._measured = None  # it may have been moved by hand since
            self._asked()
        response.pending = bool(self._left)
        response.ok = not self._left
        response.start = to_stamp(self._stamp + self._profile.period_ns)
        return response

    def _taken(self) -> str:
        """Why nobody else's scene can be brought back now; empty: it can. Objects alone may be placed at any time."""
        if self._left:
            return f"the scene is being brought back for '{self._episode}'"
        if self._running and self._ways != (resetting.PLACE,):
            return f"episode '{self._running}' runs"
        return ""

    def _on_done(self, _: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
        response.success = bool(self._left) and self._left[0] == "prompt"
        response.message = "the episode begins" if response.success else "no human is waited for"
        if response.success:
            self._next()
        return response

    # What follows from it.

    def _tick(self) -> None:
        if not self._left or self._left[0] == "prompt":
            return
        now = time.monotonic()
        if self._stopped or now - self._human < HANDS_OFF:
            self._rows = None
            return
        if now - self._heard > PATIENCE:
            why = f"{self._unfit}." if self._unfit else "is the robot's driver running?"
            silent = f"no joint state on '{self._profile.joint_states}' for {PATIENCE:g} s: {why}"
            if self._objects is None:
                self._trouble(silent)
            else:  # a simulator may still be starting; the episode manager waits no longer than its deadline
                self.get_logger().warning(silent, throttle_duration_sec=PATIENCE)
            return
        if self._measured is None:
            return
        if self._left[0] == "place":
            self._place(now)
            return
        if self._rows is None:
            self._rows, self._row, self._ended = self._way(self._measured), 0, 0.0
        row, last = self._rows[self._row], self._row == len(self._rows) - 1
        self._send(row)
        away = np.abs(self._measured[:-1] - row[:-1])
        if not last and away.max() <= self._profile.guard.max_step:
            self._row, self._ended = self._row + 1, 0.0
            return
        # The way does not run ahead of an arm that does not follow: let go, it would hurry after it.
        self._ended = self._ended or now
        if last and away.max() <= ARRIVED:
            self._next()
        elif now - self._ended > PATIENCE:
            joint = self._profile.joint_names[int(away.argmax())]
            self._trouble(f"{self._left[0]}: the arm does not get there, {joint} is {away.max():.2f} rad off; is something in its way?")

    def _place(self, now: float) -> None:
        """The simulator is told where its objects belong, until they are there."""
        assert self._objects is not None and self._measured is not None
        if not self._ended:
            self._ended = now
            self._objects.place(self._mirror.layout(self._task, self._seed))
        if self._objects.placed(self._stamp):
            self._mirror.begin(self._task, self._measured, self._objects.poses)
            self._judging, self._judged, self._ended = True, 0, 0.0
            self._next()
        elif now - self._ended > PATIENCE:
            known = ", ".join(self._objects.poses) or "nothing"
            raise PeerError(
                f"{', '.join(self._objects.missing())} could not be placed within {PATIENCE:g} s; poses are heard of {known}. Is the "
                "simulator running with the scene of docs/simulators.md?"
            )

    def _judge(self) -> None:
        """Ground truth of this frame, at the control rate at most."""
        objects = self._objects
        if objects is None or not self._judging or self._stamp < self._judged + 0.9 * self._profile.period_ns:
            return
        assert self._measured is not None
        found, self._judged = self._mirror.update(self._measured, objects.poses), self._stamp
        message = Truth(episode_id=self._episode, success=bool(found.success), stage=int(found.stage), stages=int(found.stages))
        message.header.stamp = to_stamp(self._stamp)
        self._truth.publish(message)

    def _way(self, measured: np.ndarray) -> np.ndarray:
        if self._left[0] == "park":
            return resetting.to_home(measured, self._profile)
        assert self._recorded is not None
        return resetting.along(self._recorded, measured, self._profile)

    def _send(self, row: np.ndarray) -> None:
        names, positions = self._profile.joint_state(row)
        message = JointState(name=names, position=positions)
        message.header.stamp = to_stamp(self._stamp)
        self._targets.publish(message)

    def _next(self) -> None:
        self._left, self._rows, self._ended = self._left[1:], None, 0.0
        self._asked()

    def _trouble(self, reason: str) -> None:
        """The arm cannot do it alone: it stays where it is, and a human is asked."""
        self._left, self._rows = ["prompt"], None
        self._asked(f"{reason} Please look after it, and ")

    def _asked(self, before: str = "") -> None:
        """Tell the human, if it is their turn."""
        if self._left and self._left[0] == "prompt":
            done = self.resolve_service_name("scene/reset_done")
            what = f"bring the scene back for '{self._task.tell()}'"
            text = f"{before}{what}. When it is ready: ros2 service call {done} std_srvs/srv/Trigger"
            records.append(Path(self.parameters.run_dir) / records.PROMPTS, {"text": text})
            self.get_logger().warning(text)


def main(args: list[str] | None = None) -> int:
    """Executable `scene`."""
    return run_node(SceneNode, args)


if __name__ == "__main__":
    raise SystemExit(main())
