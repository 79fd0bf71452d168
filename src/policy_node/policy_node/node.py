"""The policy node: observations in, commands out.

Role: ROS only. Joins cameras and joint states into observations, runs the policy plug-in, executes its chunks, passes every command
through the guard, receives weights. In lockstep each joint state is answered with one command; in real time a timer commands at
the control rate and a worker thread infers, so that a slow policy never stops the control loop.
"""

from __future__ import annotations

import array
import math
import os
import queue
import threading
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from sensor_msgs.msg import Image, JointState
from whetstone_msgs.msg import Action, Command, Episode
from whetstone_msgs.msg import Guard as GuardMessage
from whetstone_msgs.msg import Watchdog as WatchdogMessage

from policy_node import compatibility
from policy_node.execution import ChunkExecution
from policy_node.gripper_link import gripper_link
from policy_node.pace import Pace
from policy_node.teleoperation import Teleoperation
from policy_node.weights import WeightsReceiver
from policy_node.weights_topics import WeightsTopics
from whetstone import config, snapshot
from whetstone.action_space import ActionConverter, Converted
from whetstone.commands import ARM_COMMAND, TrajectoryCommand, arm_command
from whetstone.contracts import Chunk, Observation, Policy, PolicyMode, Underway
from whetstone.errors import InputError, PeerError
from whetstone.gripper import GripperTrigger
from whetstone.guard import Guard, GuardResult, put_elsewhere
from whetstone.images import check_size, to_array
from whetstone.plugins import configured
from whetstone.profile import load_profile
from whetstone.ros import (
    COMMAND,
    EPISODE,
    EVENT,
    LATCHED,
    WhetstoneNode,
    camera_qos,
    deserialize,
    joints_qos,
    run_node,
    stamp_of_raw,
    to_ns,
    to_stamp,
)
from whetstone.signing import load_key

_BOUNDARY = (Episode.PHASE_WAITING, Episode.PHASE_ENDED, Episode.PHASE_UPDATING, Episode.PHASE_FINISHED)
TELEOP_COMMAND = "teleop/command"
"""Where a human's device says where it wants the arm: sensor_msgs/JointState, all joints of the arm and the gripper's."""
SCENE_COMMAND = "scene/command"
"""The same by whoever brings the scene back: between episodes, in real time, and where no human drives."""
_SPACES = {
    "joint_position": Action.SPACE_JOINT_POSITION,
    "joint_delta": Action.SPACE_JOINT_DELTA,
    "end_effector_pose": Action.SPACE_END_EFFECTOR_POSE,
    "end_effector_delta": Action.SPACE_END_EFFECTOR_DELTA,
}
REFUSED_FOR = 1.0
"""s after which a gripper that refused a goal is told again, in real time."""
_PATIENCE = 0.8
"""Share of the deadline after which a missing observation is reported here: before the simulator reports a missing command."""


@dataclass(frozen=True)
class Parameters:
    """robot, policy: names of config files. weights: snapshot (.safetensors) to start from; empty: the base policy.

    realtime: command by the wall clock instead of answering frames. deadline: seconds that a running episode waits for an
    observation before the node fails and names what is missing. device: torch device of the policy. weights_key: file of the key that
    announcements of weights must be signed with; empty: anybody's are taken. gated: commands go through the watchdog, not to the driver.
    inference, real time only: asynchronous: the arm goes on along its chunk while the policy thinks; synchronous: it rests meanwhile.
    chunking: what becomes of two chunks that speak of one step. switch: the newer one commands; rtc: it was made to go on from the other
    (real_time_chunking.py); ensemble: their mean, the older ones weighing more (ensemble_decay: m of exp(-m i)).
    """

    robot: str
    policy: str
    weights: str = ""
    weights_key: str = ""
    realtime: bool = False
    deadline: float = field(default=20.0, metadata={"gt": 0})
    device: str = "cpu"
    gated: bool = False
    inference: Literal["asynchronous", "synchronous"] = "asynchronous"
    chunking: Literal["switch", "rtc", "ensemble"] = "switch"
    ensemble_decay: float = field(default=0.01, metadata={"ge": 0})


@dataclass(frozen=True)
class Measured:
    """The newest joint state. arrival: time.monotonic() seconds."""

    stamp: int
    proprioception: np.ndarray
    arrival: float


class PolicyNode(WhetstoneNode[Parameters]):
    """See the module."""

    def __init__(self) -> None:
        super().__init__("policy", Parameters)

    def configure(self) -> None:
        p = self.parameters
        self._profile = load_profile(p.robot)
        path = config.find("policies", p.policy)
        plugin, settings = configured("whetstone.policies", p.policy)
        self._policy: Policy = plugin.load(settings, self._profile, p.device)
        compatibility.check_spec(self._policy, self._profile, config.show(path))
        if p.weights:
            snapshot.restore(self._policy, p.weights)
        self._inpainting = compatibility.inpainting(self._policy, config.show(path)) if p.chunking == "rtc" else None
        self._watching: Callable[[Observation], None] | None = getattr(self._policy, "observe", None)
        self._shown = -1  # the control step of this episode that such a policy was shown last
        self._self_test()
        self._receiver = WeightsReceiver(self._policy, self._self_test)
        self._guard = Guard(self._profile)
        self._converter = ActionConverter(self._policy.spec.action_space, self._profile)
        # The watchdog tells two policies from one by the author; nothing else tells a dead process from one that commands besides.
        self._arm = TrajectoryCommand(self._profile, uuid.uuid4().hex) if p.gated else arm_command(self._profile)
        self._trigger = GripperTrigger(self._profile.gripper.hysteresis)
        self._teleoperation, self._scene = Teleoperation(), Teleoperation()
        spec = self._policy.spec
        ensemble = p.ensemble_decay if p.chunking == "ensemble" else None
        waits = p.realtime and p.inference == "synchronous"
        self._execution = ChunkExecution(spec.execute, spec.horizon, spec.rate, waits=waits, ensemble=ensemble)
        self._pace = Pace()
        self._commanded = math.nan  # when the last command of this episode left, s, in real time
        self._use = threading.RLock()  # of the execution, between the worker and the callbacks
        self._thinking = threading.Lock()  # held while the policy is used in real time
        self._episode: Episode | None = None
        self._begun = ""
        self._images: dict[str, tuple[int, float, bytes]] = {}
        self._measured: Measured | None = None
        self._unanswered = False
        self._previous: GuardResult | None = None
        self._previous_stamp = 0
        self._last_command: Any = None
        self._grip: float | None = None  # the opening that a gripper which travels with the arm was last sent to
        self._stopped = False  # by the watchdog
        self._refused: float | None = None  # when the gripper last refused one, s
        self._gripper_goal: object | None = None  # what the gripper has not accepted yet; in lockstep the arm's command waits for it
        self._broken = ""  # why the weights in use must go
        self._weights_due = False  # an episode is over since, but the arm was not at rest or the policy still thought
        self._observed = time.monotonic()
        self._action = self._new_action()
        self._create_interfaces()

    def _create_interfaces(self) -> None:
        p, profile = self.parameters, self._profile
        self._arm_commands = self.create_publisher(self._arm.message_type, ARM_COMMAND if p.gated else profile.command.topic, COMMAND)
        self._action_records = self.create_publisher(Action, "policy/action", EVENT)
        self._command_records = self.create_publisher(Command, "policy/command", EVENT)
        for topic, who in ((TELEOP_COMMAND, self._teleoperation), (SCENE_COMMAND, self._scene)):

            def on_target(message: JointState, topic: str = topic, who: Teleoperation = who) -> None:
                self._on_target(topic, who, message)

            self.create_subscription(JointState, topic, on_target, COMMAND)
        self._guard_reports = self.create_publisher(GuardMessage, "guard", EVENT)
        self._gripper = gripper_link(self, profile)
        if p.gated:
            self.create_subscription(WatchdogMessage, "watchdog", self._on_watchdog, LATCHED)
        self.create_subscription(Episode, "episode", self._on_episode, EPISODE)
        key = load_key(p.weights_key) if p.weights_key else b""
        self._weights = WeightsTopics(self, self._receiver, self._apply_weights, key, lambda: self._measured.stamp if self._measured else 0)
        for name in self._policy.spec.cameras:

            def on_image(data: bytes, name: str = name) -> None:
                self._on_image(name, data)

            self.create_subscription(Image, profile.camera(name).topic, on_image, camera_qos(p.realtime), raw=True)
        self.create_subscription(JointState, profile.joint_states, self._on_joints, joints_qos(p.realtime))

    def activate(self) -> None:
        self._jobs: queue.SimpleQueue[Callable[[], object] | None] = queue.SimpleQueue()
        self._own_timers = [self.create_timer(0.25, self._watch, clock=self.steady_clock)]
        if self.parameters.realtime:
            self._own_timers.append(self.create_timer(self._profile.period, self._tick, clock=self.steady_clock))
            threading.Thread(target=self._work, args=(self._jobs,), name="inference", daemon=True).start()
        if self._episode is not None:
            self._on_episode(self._episode)

    def deactivate(self) -> None:
        self._stop()
        for timer in self._own_timers:
            self.destroy_timer(timer)
        self._come_to_rest()
        self._jobs.put(None)
        self._jobs = queue.SimpleQueue()  # whatever the worker still does is nobody's any more

    def cleanup(self) -> None:
        if self._gripper is not None:
            self._gripper.destroy()
        self._receiver.close()
        self._watching = self._inpainting = None  # they hold the policy too
        del self._policy

    def _self_test(self) -> None:
        compatibility.self_test(self._policy, self._profile, self._inpainting is not None)

    # Episodes.

    def _on_episode(self, message: Episode) -> None:
        self._episode = message
        if self.state() not in ("activating", "active"):
            return
        if message.phase != Episode.PHASE_RUNNING:
            self._stop()
            self._apply_weights()
            return
        if message.episode_id == self._begun and self._execution.running:
            return
        with self._use:
            self._execution.start(to_ns(message.start))
            self._shown = -1
            if self.parameters.realtime and self._rests():
                self._previous = None  # whoever stopped the arm, or moved it by hand, it goes on from where it is measured
            if message.episode_id != self._begun:
                self._use_policy(lambda: self._policy.reset(message.instruction, int(message.seed), _mode(message)))
                self._begun = message.episode_id
                self._trigger.reset()
                self._last_command = self._grip = None
                if not self.parameters.realtime:
                    self._previous = None
        self._observed = time.monotonic()
        if not self.parameters.realtime:
            self._answer()

    def _stop(self) -> None:
        """The policy commands the arm no more; in real time it is braked from the next tick on (_between)."""
        with self._use:
            self._execution.stop()
            self._commanded = math.nan
            self._gripper_goal = None

    def _rests(self) -> bool:
        """As far as it was commanded from here."""
        return self._previous is None or not self._previous.velocity.any()

    def _come_to_rest(self) -> None:
        """The node is about to act no more: the brake that _between makes, within the seconds that it takes at most."""
        end = time.monotonic() + float((self._profile.velocity / self._profile.acceleration).max()) + 5 * self._profile.period
        while self.parameters.realtime and not self._rests() and self._measured is not None and time.monotonic() < end:
            time.sleep(self._profile.period)
            age = time.monotonic() - self._measured.arrival
            self._send(None, False, self._measured, self._measured.stamp + int(age * 1e9), age)
        self._previous = None

    def _on_watchdog(self, message: WatchdogMessage) -> None:
        """While the arm is stopped the gripper keeps its grip: no goal goes to it, and what it has not taken yet is taken back."""
        self._stopped = message.stopped
        self._previous = None  # let go on, the arm begins where it is, not where it was to be
        if self._stopped:
            self._gripper_goal = None
            self._trigger.reset()  # let go on, the arm's wish of then is sent

    def _use_policy(self, job: Callable[[], object]) -> None:
        """In real time where the policy thinks, after what it thinks about now: it is never used twice at a time."""
        if self.parameters.realtime:
            self._jobs.put(job)
        else:
            job()

    # A human at the arm, and whoever brings the scene back.

    def _on_target(self, topic: str, who: Teleoperation, message: JointState) -> None:
        try:
            target = self._profile.proprioception(list(message.name), message.position)
        except InputError as error:  # the arm does not lose its policy for it
            self.get_logger().warning(f"'{topic}': {error}; it counts for nothing", throttle_duration_sec=2.0)
            return
        who.hear(target, time.monotonic())

    def _human(self) -> np.ndarray | None:
        """What a human wants of the arm now, None where nobody drives. When one has let go, the policy begins with a fresh look."""
        before = self._teleoperation.active
        target = self._teleoperation.target(time.monotonic())
        if self._teleoperation.active and not before:
            self.get_logger().info("a human has taken over")
        elif before and not self._teleoperation.active:
            self.get_logger().info("the human has let go; the policy goes on")
            self._execution.forget()
            if hasattr(self._policy, "interrupted"):
                self._use_policy(lambda: self._policy.interrupted())  # type: ignore[attr-defined]
        self.counters["human"] = self._teleoperation.active
        return target

    # Observations.

    def _on_image(self, camera: str, data: bytes) -> None:
        self._images[camera] = (stamp_of_raw(data), time.monotonic(), data)
        if self.parameters.realtime:
            self._consider(together=True)
        elif self._unanswered:
            self._answer()

    def _on_joints(self, message: JointState) -> None:
        stamp = to_ns(message.header.stamp)
        try:
            proprioception = self._profile.proprioception(list(message.name), message.position)
        except InputError as error:
            if not self.parameters.realtime:
                raise
            # One bad word of a driver must not cost the run: the arm is held when it is the last for long, and the watchdog stops it.
            self.get_logger().warning(f"'{self._profile.joint_states}': {error}; it counts for nothing", throttle_duration_sec=2.0)
            return
        before, self._measured = self._measured, Measured(stamp, proprioception, time.monotonic())
        if before is not None and not self._execution.running:
            if put_elsewhere(self._profile, before.proprioception[:-1], proprioception[:-1]):
                self._previous = None  # a brake from where it was would send it back
        self._unanswered = True
        if self.parameters.realtime:
            self._consider(together=True)
        else:
            self._answer()

    def _decode(self, images: dict[str, tuple[int, float, bytes]]) -> dict[str, np.ndarray]:
        cameras = [self._profile.camera(name) for name in self._policy.spec.cameras]
        return {
            camera.name: check_size(
                to_array(deserialize(images[camera.name][2], Image), camera.name), camera.height, camera.width, camera.name
            )
            for camera in cameras
        }

    def _show(self, measured: Measured) -> None:
        """In real time: the newest observation, once a control step, to a policy that wants every step's. It is decoded and taken in where
        the policy thinks, in the order of steps; here it costs nothing."""
        watching, images, episode = self._watching, dict(self._images), self._begun
        step = self._execution.index(measured.stamp)
        if watching is None or step <= self._shown or any(name not in images for name in self._policy.spec.cameras):
            return
        self._shown = step

        def show() -> None:
            if episode == self._begun:
                watching(Observation(measured.stamp, self._decode(images), measured.proprioception))

        self._jobs.put(show)

    # Lockstep: one command for each frame.

    def _answer(self) -> None:
        measured = self._measured
        if measured is None or not self._unanswered or self._gripper_goal is not None or not self._execution.running:
            return
        index = self._execution.index(measured.stamp)
        if index < 0:
            return
        if self._last_command is not None and measured.stamp == self._previous_stamp:
            self._unanswered = False
            self._arm_commands.publish(self._last_command)  # the frame was published twice: the answer was lost or slow
            return
        due = self._execution.due(index)
        if due or self._watching is not None:
            if any(name not in self._images or self._images[name][0] != measured.stamp for name in self._policy.spec.cameras):
                return  # the other parts of this frame are still under way
            observation = Observation(measured.stamp, self._decode(self._images), measured.proprioception)
            if self._watching is not None:
                self._watching(observation)
        if due:
            self._execution.begin(index)
            self._finish(index, observation, self._think(observation, self._execution.underway(index)))
        self._unanswered = False
        self._observed = time.monotonic()
        self._command(index, measured, measured.stamp, 0.0)

    # Real time: one command per period.

    def _tick(self) -> None:
        measured = self._measured
        if measured is None:
            return
        now = time.monotonic()
        age = now - measured.arrival
        stamp = measured.stamp + int(age * 1e9)
        with self._use:
            if not self._execution.running or self._execution.index(measured.stamp) < 0 or self._weights_due:
                self._between(measured, stamp, age)
                return
            if age > self._profile.period / 2:
                self._consider(together=False)
            self._show(measured)
            self._pace.jitter.add(abs(now - self._commanded - self._profile.period))
            self._commanded = now
            self._command(self._execution.index(stamp), measured, stamp, age)

    def _between(self, measured: Measured, stamp: int, age: float) -> None:
        """No episode runs: the arm is a human's, or of whoever brings the scene back; where it is nobody's it comes to rest."""
        human = self._human()
        target = self._scene.target(time.monotonic()) if human is None else human
        if target is None and self._rests():
            self._previous = None  # whoever commands next begins where the arm is
        else:
            self._send(target, human is not None, measured, stamp, age)

    def _consider(self, together: bool) -> None:
        """Begin to think about what is seen, if a chunk is due. together: only where images and joint state are of one moment; without it
        the newest of each are taken, for cameras that are slower than the joint states."""
        measured, now = self._measured, time.monotonic()
        images = [self._images.get(name) for name in self._policy.spec.cameras]
        with self._use:
            if measured is None or not self._execution.running or self._weights_due:
                return
            seen = self._execution.index(measured.stamp)
            if seen < 0 or not self._execution.due(seen):
                return
            apart, limit = self._profile.period_ns // 2, self._profile.guard.stale_after
            old = measured.stamp - round(limit * 1e9)
            if any(
                one is None or now - one[1] > limit or one[0] < old or (together and abs(one[0] - measured.stamp) > apart) for one in images
            ):
                return
            self._observed = now
            self._execution.begin(seen)
            self._show(measured)
            observation = Observation(measured.stamp, self._decode(self._images), measured.proprioception)
            underway, era = self._execution.underway(seen), self._execution.era
            self._jobs.put(lambda: self._finish(seen, observation, self._think(observation, underway), era))

    def _work(self, jobs: queue.SimpleQueue[Callable[[], object] | None]) -> None:
        """The worker thread of real time."""
        while (job := jobs.get()) is not None:
            try:
                with self._thinking:
                    job()
            except Exception as error:
                if jobs is self._jobs:
                    self.fail(error)

    # Both.

    def _think(self, observation: Observation, underway: Underway | None) -> tuple[Chunk, Converted, float]:
        """A chunk, what it means for the joints, and the seconds that it took."""
        began = time.perf_counter()
        if self._inpainting is not None and underway is not None:
            chunk = self._inpainting.inpaint(observation, underway)
        else:
            chunk = self._policy.act(observation)
        compatibility.check_shape(self._policy, chunk.actions)
        converted = self._converter.convert(chunk.actions, observation.proprioception)
        return chunk, converted, time.perf_counter() - began

    def _finish(self, index: int, observation: Observation, thought: tuple[Chunk, Converted, float], era: int | None = None) -> None:
        """Take the chunk of this step's observation into use, unless it was begun in another era of the execution."""
        chunk, converted, latency = thought
        if not np.isfinite(chunk.actions).all() and self._receiver.version:
            self._broken = f"actions of version {self._receiver.version} are not finite"
        with self._use:
            if era is not None and era != self._execution.era:
                return
            if not self._execution.finish(index, converted.actions, self._next_step() if self.parameters.realtime else None):
                return
            self._publish_action(observation.stamp, chunk, latency)
            self._pace.inference.add(latency)
            self._pace.jump.add(self._execution.jump)
        self.counters["inferences"] = self.counters.get("inferences", 0) + 1
        self._count_reach(converted)
        spare = self._policy.spec.horizon - self._policy.spec.execute
        if self._execution.delay > spare and self.parameters.inference == "asynchronous":
            self.counters["chunks_too_late"] = self.counters.get("chunks_too_late", 0) + 1
            self.get_logger().warning(
                f"the policy took {self._execution.delay} control periods, but its chunks have only {spare} rows beside those that are "
                "run: the arm waited for it. Lower 'execute' in the policy's YAML, or give the policy a faster machine",
                throttle_duration_sec=10.0,
            )

    def _count_reach(self, converted: Converted) -> None:
        for name, rows in (("rows_out_of_reach", converted.out_of_reach), ("rows_not_finite", converted.refused)):
            if rows:
                self.counters[name] = self.counters.get(name, 0) + rows
        if converted.out_of_reach:
            self.get_logger().warning(
                f"{converted.out_of_reach} rows of the policy's chunk are out of the arm's reach, by {converted.furthest:.3f} m at most; "
                "the nearest that it reaches is commanded",
                throttle_duration_sec=10.0,
            )

    def _next_step(self) -> int:
        """The step that the next command is for."""
        measured = self._measured
        if measured is None or not self._execution.running:
            return 0
        return self._execution.index(measured.stamp + int((time.monotonic() - measured.arrival) * 1e9)) + 1

    def _command(self, index: int, measured: Measured, stamp: int, age: float) -> None:
        """Guard the row of this step, or what a human wants instead, and send it."""
        human = self._human()
        row = self._execution.row(index) if human is None else human
        why = f"the policy has no command for step {index} yet" if row is None else ""
        self._send(row, human is not None, measured, stamp, age, why)

    def _send(self, target: np.ndarray | None, human: bool, measured: Measured, stamp: int, age: float, why: str = "") -> None:
        """Guard what is wanted and send it. target: None: nothing is, so that the arm comes to rest; why: for the report, if it is one."""
        if self._stopped:
            self._previous = None  # what is commanded does not reach the arm
        dt = self._profile.period if self._previous is None else (stamp - self._previous_stamp) / 1e9
        here = measured.proprioception
        result = self._guard.check(here if target is None else target, here, self._previous, dt, age)
        if target is None and not result.held:
            result = self._guard.hold(why, here, self._previous, dt)
        if any(result.reasons):
            self._report(result, stamp)
        if not result.send:
            return
        self._record(result.command, stamp, human)
        again = (
            self.parameters.realtime
            and result.held
            and self._previous is not None
            and np.array_equal(result.command, self._previous.command)
            and not self._previous.velocity.any()
        )
        self._previous, self._previous_stamp = result, stamp
        if again:
            return  # a controller must not be given the same goal twice
        if self._refused is not None and self.parameters.realtime and time.monotonic() - self._refused > REFUSED_FOR:
            self._refused = None
            self._trigger.reset()
        opening = None if result.held or self._stopped else self._trigger.update(float(result.command[-1]))
        if opening is not None:
            self._grip = opening
        command = self._arm.build(self._targets(result), result.velocity, 0 if self.parameters.realtime else stamp)
        self._last_command = command
        if opening is None or self._gripper is None:
            self._arm_commands.publish(command)
        elif self.parameters.realtime:
            self._arm_commands.publish(command)
            self._send_gripper(opening, lambda: None)
        else:
            self._send_gripper(opening, lambda: self._arm_commands.publish(command))

    def _targets(self, result: GuardResult) -> np.ndarray:
        """What the arm's driver is told, for profile.command_names: joints, and the gripper's where it travels with them."""
        if self._gripper is not None:
            return result.command[:-1]
        opening = float(result.command[-1]) if self._grip is None else self._grip
        return np.append(result.command[:-1], self._profile.opening_to_goal(opening))

    def _send_gripper(self, opening: float, then: Callable[[], None]) -> None:
        """Give the gripper its goal as soon as its driver is there; `then` once it answered. A driver that does not answer is named.

        A newer goal or the end of the episode takes it back: it is not sent any more if it was not yet, and `then` is not called.
        """
        assert self._gripper is not None
        link, goal = self._gripper, object()
        self._gripper_goal = goal
        deadline = self.deadline(self.parameters.deadline * _PATIENCE, link.name, "acceptance of a gripper goal")
        polls: list[Any] = []

        def answered(accepted: bool) -> None:
            if not deadline.met:
                deadline.meet()
                self._refused = None if accepted else time.monotonic()
                if not accepted:
                    self.get_logger().warning(f"{link.name} refused a goal of opening {opening:.2f}")
                if self._gripper_goal is goal:
                    self._gripper_goal = None
                    then()

        def send() -> bool:
            if self._gripper_goal is not goal:
                deadline.meet()
                if self._gripper_goal is None:
                    self._trigger.reset()  # the gripper never heard of it
            if not deadline.met and not link.ready():
                return False
            for timer in polls:
                self.destroy_timer(timer)
            if not deadline.met:
                link.send(opening, answered)
            return True

        if not send():
            polls.append(self.create_timer(0.02, send, clock=self.steady_clock))

    def _record(self, command: np.ndarray, stamp: int, human: bool) -> None:
        """What the guard let through for this step, for whoever records."""
        names, positions = self._profile.joint_state(command)
        source = Command.SOURCE_HUMAN if human else Command.SOURCE_POLICY
        message = Command(source=source, names=names, position=positions)
        message.header.stamp = to_stamp(stamp)
        self._command_records.publish(message)

    def _report(self, result: GuardResult, stamp: int) -> None:
        message = GuardMessage(held=result.held, reasons=list(result.reasons))
        message.header.stamp = to_stamp(stamp)
        self._guard_reports.publish(message)
        name = "guard_holds" if result.held else "guard_changes"
        self.counters[name] = self.counters.get(name, 0) + 1

    def _new_action(self) -> Action:
        spec = self._policy.spec
        return Action(
            policy_id=spec.policy_id,
            space=_SPACES[spec.action_space],
            names=list(self._converter.names),
            horizon=spec.horizon,
            execute=spec.execute,
        )

    def _publish_action(self, stamp: int, chunk: Chunk, latency: float) -> None:
        message = self._action
        message.header.stamp = to_stamp(stamp)
        message.episode_id = self._begun
        message.policy_version = self._receiver.version
        message.chunk = _floats(chunk.actions)
        message.latent = _floats(chunk.latent) if chunk.latent is not None else array.array("f")
        message.log_probability = float(chunk.log_probability)
        message.latency = latency
        message.delay, message.seam_jump = self._execution.delay, self._execution.jump
        self._action_records.publish(message)

    def _watch(self) -> None:
        """Name what a running episode lacks, and say how it goes: percentiles here, for they cost more than a command ought to."""
        now = time.monotonic()
        self._apply_weights()
        with self._use:
            self.counters |= self._pace.figures()
        if self._execution.running and now - self._observed > self.parameters.deadline * _PATIENCE:
            self._name_missing(now)

    def _name_missing(self, now: float) -> None:
        """Raises PeerError where something is missing; lockstep that merely rests (a simulator at its last frame) is none of ours."""
        patience = self.parameters.deadline * _PATIENCE
        topics = {name: self._profile.camera(name).topic for name in self._policy.spec.cameras}
        if self._measured is None or (self.parameters.realtime and now - self._measured.arrival > patience):
            raise PeerError(f"no joint state on '{self._profile.joint_states}' for {patience:g} s: is the robot's driver running?")
        if not self._unanswered:
            return
        for name, topic in topics.items():
            stamp, arrival, _ = self._images.get(name, (0, 0.0, b""))
            if now - arrival > patience if self.parameters.realtime else stamp != self._measured.stamp:
                raise PeerError(f"no image on '{topic}' for {patience:g} s: is camera '{name}' running?")

    # Weights.

    def _apply_weights(self) -> None:
        """At an episode boundary only. In real time loading and the self-test hold everything up, and a policy that thinks must not be
        changed: so the arm has come to rest and the last thought is over before; the next episode waits for that."""
        if not (self._receiver.ready or self._broken) or self._episode is None:
            self._weights_due = False
            return
        self._weights_due = self._weights_due or self._episode.phase in _BOUNDARY
        moves = self.parameters.realtime and not self._rests()
        if not self._weights_due or moves or not self._thinking.acquire(blocking=False):
            return
        try:
            self._weights_due = False
            if self._broken:
                self._weights.acknowledge(self._receiver.roll_back(self._broken))
                self._broken = ""
            self._weights.acknowledge(self._receiver.apply())
        finally:
            self._thinking.release()


def _mode(episode: Episode) -> PolicyMode:
    if episode.greedy:
        return "greedy"
    return "exploring" if episode.mode == Episode.MODE_TRAIN else "sampled"


def _floats(values: np.ndarray) -> array.array:
    return array.array("f", np.asarray(values, np.float32).tobytes())


def main(args: list[str] | None = None) -> int:
    """Executable `policy_node`."""
    # One thread: the simulator and the reward model run beside; several would only take turns.
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    return run_node(PolicyNode, args)


if __name__ == "__main__":
    raise SystemExit(main())
