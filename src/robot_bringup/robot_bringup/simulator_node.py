"""The simulated robot behind its driver's topics.

Role: ROS around sim.Simulation. Publishes what cameras and driver publish, takes what the driver takes (the profile's command topic, the
gripper's action or topic), resets the scene on request and tells ground truth on its own topic. Two clocks: in lockstep it steps when the
command for the frame it published has come (and, on request, the reward of the last scored frame); in real time it steps by the wall clock.
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from rosgraph_msgs.msg import Clock
from sensor_msgs.msg import Image, JointState
from whetstone_msgs.msg import Episode, Reward, Truth
from whetstone_msgs.srv import ResetScene

from robot_bringup.gripper_server import GripperServer
from robot_bringup.gripper_topic import GripperTopic
from robot_bringup.set_points import controller
from robot_bringup.sim.simulation import SimState, Simulation
from whetstone.errors import ConfigError, PeerError, WhetstoneError
from whetstone.images import to_message
from whetstone.profile import load_profile
from whetstone.ros import COMMAND, EPISODE, EVENT, STATE, WhetstoneNode, camera_qos, joints_qos, run_node, to_ns, to_stamp
from whetstone.task import load_task

REPUBLISH_AFTER = 1.0
"""Seconds of wall time after which a frame that nobody answered is published again."""
GAP = 1_000_000_000
"""Robot time (ns) between the last frame of an episode and the first of the next."""
QUIET = 4
"""Control periods without a command after which nobody moves the arm any more."""
SAID_AFTER = 2.0
"""s that a reset waits for that before it says so."""


@dataclass(frozen=True)
class Parameters:
    """robot, task: names of config files. realtime: step by the wall clock instead of in lockstep.

    deadline: seconds that lockstep waits for a peer before the run fails. wait_for_reward: lockstep also waits, at a scored frame, for
    the reward of the scored frame before it. reward_every: control steps between two scored frames (0: there is no reward model).
    pretty: render for people (slow) instead of for learning.
    """

    robot: str
    task: str
    realtime: bool = False
    deadline: float = field(default=20.0, metadata={"gt": 0})
    wait_for_reward: bool = False
    reward_every: int = field(default=0, metadata={"ge": 0})
    pretty: bool = False


class SimulatorNode(WhetstoneNode[Parameters]):
    """See the module."""

    def __init__(self) -> None:
        super().__init__("simulator", Parameters)

    def configure(self) -> None:
        p = self.parameters
        if p.wait_for_reward and not p.reward_every:
            raise ConfigError("parameter wait_for_reward needs reward_every > 0: control steps between two scored frames")
        self._profile = load_profile(p.robot)
        task = load_task(p.task, self._profile.asset_name)
        if self._profile.sim is None:
            raise ConfigError(f"robot '{self._profile.name}' has no 'sim' section: it cannot be simulated")
        self._simulation = Simulation(self._profile, pretty=p.pretty)
        self._simulation.reset(task, 0)
        self._simulation.observe()  # builds the renderer, so that a machine that cannot render says so now
        self._controller = controller(self._profile)
        self._period = self._profile.period_ns
        self._episode: Episode | None = None
        self._scene = ""  # id of the episode that the scene was reset for,
        self._asked: tuple[str, str, int] | None = None  # and how it was asked for
        self._told = -math.inf  # when the arm was commanded last, s
        self._pending: float | None = None  # since when a reset waits for who commands the arm, s
        self._max_steps = 0
        self._start = self._stamp = 0
        self._index = -1  # of the frame in hand; -1: not published yet
        self._answered = False
        self._shows = 0  # how often the frame in hand was published
        self._last_answer: Any = None  # a command without a stamp
        self._echoes = 0  # how often the policy may yet say again what it said to the frame before
        self._rewarded = 0  # stamp of the newest reward of this episode
        self._state: SimState | None = None
        self._shown = time.monotonic()
        self._waited_since = self._shown
        self._spent = dict.fromkeys(("physics", "render", "publish"), 0.0)

        self._clock_publisher = self.create_publisher(Clock, "/clock", STATE)
        qos = camera_qos(p.realtime)
        self._camera_publishers = {camera.name: self.create_publisher(Image, camera.topic, qos) for camera in self._profile.cameras}
        self._joint_publisher = self.create_publisher(JointState, self._profile.joint_states, joints_qos(p.realtime))
        self._truth_publisher = self.create_publisher(Truth, "truth", EVENT)
        by_action = self._profile.gripper.kind in ("gripper_command", "parallel_gripper_command")
        self._gripper = (GripperServer if by_action else GripperTopic)(self, self._profile)
        self.create_subscription(self._controller.message_type, self._profile.command.topic, self._on_command, COMMAND)
        self.create_subscription(Episode, "episode", self._on_episode, EPISODE)
        if p.wait_for_reward and not p.realtime:
            self.create_subscription(Reward, "reward", self._on_reward, EVENT)
        self.create_service(ResetScene, "scene/reset", self._on_reset)
        self._joint_message = self._new_joint_message()

    def activate(self) -> None:
        if self.parameters.realtime:
            self._timer = self.create_timer(self._profile.period, self._tick, clock=self.steady_clock)
        else:
            self._timer = self.create_timer(REPUBLISH_AFTER / 4, self._watch, clock=self.steady_clock)

    def deactivate(self) -> None:
        self.destroy_timer(self._timer)
        self._episode = None

    def cleanup(self) -> None:
        self._gripper.destroy()
        self._simulation.close()

    # Requests.

    def _on_reset(self, request: ResetScene.Request, response: ResetScene.Response) -> ResetScene.Response:
        """Asked twice for the scene of one episode, because the answer was lost or slow, it is the same scene and the same start."""
        asked = (request.episode_id, request.task, int(request.seed))
        if request.episode_id and asked == self._asked:
            response.ok, response.start = True, to_stamp(self._start)
            return response
        try:
            task = load_task(request.task, self._profile.asset_name)
        except WhetstoneError as error:
            response.reason = str(error)
            return response
        if self.parameters.realtime and self._commanded():
            response.pending, response.reason = True, self._who_moves()
            return response
        self._simulation.reset(task, int(request.seed))
        self._scene, self._asked, self._pending = request.episode_id, asked, None
        self._start = self._stamp = self._stamp + GAP
        self._index, self._answered, self._rewarded = -1, False, 0
        self._shows, self._last_answer, self._echoes = 0, None, 0
        self._state = self._simulation.observe(images=False)
        self._controller.hold(self._state.positions)
        self._gripper.reset(self._state.gripper_opening)
        response.ok = True
        response.start = to_stamp(self._start)
        return response

    def _commanded(self) -> bool:
        """Whether somebody moves the arm: a policy that brakes, a human. Put home now, it would be sent back by the next command."""
        return time.monotonic() - self._told < QUIET * self._profile.period

    def _who_moves(self) -> str:
        """Worth saying only where it is more than a brake. s of waiting count from the first answer that was pending."""
        now = time.monotonic()
        self._pending = now if self._pending is None else self._pending
        return "somebody still commands the arm" if now - self._pending > SAID_AFTER else ""

    def _on_episode(self, message: Episode) -> None:
        self._episode = message
        if not self._running():
            return
        self._waited_since = time.monotonic()
        if self.parameters.realtime:
            return
        if self._index < 0:
            self._index = 0
            self._max_steps = message.max_steps
            self._observe()
        self._publish()

    def _running(self) -> bool:
        episode = self._episode
        return episode is not None and episode.phase == Episode.PHASE_RUNNING and episode.episode_id == self._scene

    def _on_command(self, message: Any) -> None:
        if not self._scene:
            return
        if not self.parameters.realtime and (not self._running() or self._answered or not self._answers(message)):
            return
        self._told = time.monotonic()
        reason = self._controller.accept(message, self._stamp)
        if reason is not None:
            self.get_logger().warning(f"command ignored: {reason}", throttle_duration_sec=0.5)
            return
        if isinstance(self._gripper, GripperTopic) and self._controller.grip is not None:
            self._gripper.take([self._controller.grip])
        if not self.parameters.realtime:
            self._last_answer, self._echoes = message, self._shows - 1
            self._answered = True
            self._advance()

    def _answers(self, message: Any) -> bool:
        """Lockstep: whether this is the answer to the frame in hand, not one more to a frame that was published twice, nor of an episode
        that is over. A command without a stamp is, unless the policy may say again what it said to the frame before and this is just that:
        should it be the answer all the same, the frame is published again, and the same answer then counts."""
        if self._controller.stamped:
            return to_ns(message.header.stamp) == self._stamp
        if self._index < 0:
            return False
        if self._echoes > 0 and message == self._last_answer:
            self._echoes -= 1
            return False
        return True

    def _on_reward(self, message: Reward) -> None:
        if message.episode_id == self._scene:
            self._rewarded = max(self._rewarded, to_ns(message.header.stamp))
            if self._running():
                self._advance()

    # Stepping.

    def _advance(self) -> None:
        """Lockstep: go on by one period if everything that this frame waits for is there."""
        if not self._answered or self._missing_reward() or self._index >= self._max_steps:
            return
        self._step()
        self._index += 1
        self._answered, self._shows = False, 0
        self._waited_since = time.monotonic()
        self._publish()

    def _missing_reward(self) -> bool:
        every = self.parameters.reward_every
        judged = self._episode is not None and self._episode.mode == Episode.MODE_EVALUATE  # by the evaluator: nothing is scored
        if not self.parameters.wait_for_reward or judged or self._index < every or self._index % every:
            return False
        return self._rewarded < self._start + (self._index - every) * self._period

    def _step(self) -> None:
        began = time.perf_counter()
        self._simulation.step(self._controller.sample(self._stamp + self._period), self._gripper.opening)
        self._stamp += self._period
        self._spent["physics"] += time.perf_counter() - began
        self._observe()
        assert self._state is not None
        self._gripper.measured(self._state.gripper_opening)

    def _observe(self) -> None:
        began = time.perf_counter()
        self._state = self._simulation.observe()
        self._spent["render"] += time.perf_counter() - began

    def _tick(self) -> None:
        """Real time: one period of the wall clock has gone by."""
        if self._scene:
            self._step()
            self._publish()

    def _watch(self) -> None:
        """Lockstep: say the frame again when nobody answered, and give up by name."""
        if not self._running() or self._index < 0 or self._index >= self._max_steps:
            return
        now = time.monotonic()
        missing = (
            f"command on '{self._profile.command.topic}' from the policy node" if not self._answered else "reward from the reward node"
        )
        if now - self._waited_since > self.parameters.deadline:
            raise PeerError(f"no {missing} for the frame of step {self._index} within {self.parameters.deadline:g} s")
        if now - self._shown > REPUBLISH_AFTER:
            self.get_logger().info(f"no {missing} for the frame of step {self._index} yet; the frame is published again")
            self.counters["republished"] = self.counters.get("republished", 0) + 1
            self._publish()

    # Publishing.

    def _new_joint_message(self) -> JointState:
        assert self._profile.sim is not None
        message = JointState(name=list(self._profile.sim.joints))
        # Joints that are not the arm's are the fingers; they move together.
        self._columns = np.array(
            [self._profile.joint_names.index(name) if name in self._profile.joint_names else -1 for name in message.name]
        )
        return message

    def _publish(self) -> None:
        """The frame in hand: clock, images and truth first, joint states last (they complete the frame)."""
        state = self._state
        assert state is not None
        began = time.perf_counter()
        stamp = to_stamp(self._stamp)
        if self._clock_publisher.get_subscription_count():
            self._clock_publisher.publish(Clock(clock=stamp))
        for name, publisher in self._camera_publishers.items():
            publisher.publish(to_message(state.images[name], self._stamp, f"{name}_camera"))
        truth = self._simulation.truth()
        message = Truth(episode_id=self._scene, success=bool(truth.success), stage=int(truth.stage), stages=int(truth.stages))
        message.header.stamp = stamp
        self._truth_publisher.publish(message)
        joints = self._joint_message
        joints.header.stamp = stamp
        finger = self._profile.opening_to_position(state.gripper_opening)
        joints.position = np.append(state.positions, finger)[self._columns].tolist()
        joints.velocity = np.append(state.velocities, 0.0)[self._columns].tolist()
        self._joint_publisher.publish(joints)
        self._shown = time.monotonic()
        self._shows += 1
        self._spent["publish"] += time.perf_counter() - began
        self._count()

    def _count(self) -> None:
        steps = self.counters.get("frames", 0) + 1
        self.counters["frames"] = steps
        for name, seconds in self._spent.items():
            self.counters[f"{name}_ms"] = round(seconds * 1e3 / steps, 4)


def main(args: list[str] | None = None) -> int:
    """Executable `simulator`."""
    return run_node(SimulatorNode, args)


if __name__ == "__main__":
    raise SystemExit(main())
