"""The episode manager: brings the other nodes up and drives the episodes of a run.

Role: the ROS side of EpisodeMachine. Configures and activates the managed nodes, resets scenes, publishes `episode`, offers the
services start, pause, resume, stop, success and failure, and writes episodes.jsonl, updates.jsonl and outcome.json into the run
directory. Every wait has a deadline that names the missing peer. Reads no ground truth: in evaluation the evaluator calls
success or failure.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lifecycle_msgs.msg import Transition
from lifecycle_msgs.srv import ChangeState, GetState
from sensor_msgs.msg import JointState
from std_msgs.msg import Bool
from std_srvs.srv import Trigger
from whetstone_msgs.msg import Episode, Reward, Update, Watchdog, WeightsAck
from whetstone_msgs.srv import ResetScene

from robot_bringup import records, schedule
from robot_bringup.episode_machine import POINTS_AT_LOG, Deadlines, EpisodeMachine, Phase, Score, State
from robot_bringup.resuming import remaining
from whetstone import jsonfile
from whetstone.completion import Completion
from whetstone.profile import load_profile
from whetstone.ros import EPISODE, EVENT, LATCHED, STATE, WhetstoneNode, run_node, stamp_of_raw, to_ns, to_stamp
from whetstone.task import load_task

_MODES = {"train": Episode.MODE_TRAIN, "evaluate": Episode.MODE_EVALUATE}
_ASKING = 3.0
"""Seconds between two questions whether a peer has come as far as it was asked to, and until an answer counts as lost."""
_AGAIN = 0.25
"""Seconds between two questions whether a scene is back that a human or the arm brings back."""
_FAREWELL = 5.0
"""Seconds that the other nodes have, all together, to deactivate at the end of a run."""


@dataclass(frozen=True)
class Parameters:
    """robot, task: names of config files. schedule: segments as JSON. managed: nodes to bring up, in order. run_dir: for the records.

    max_steps: control steps until time-out. reward_every: steps between two scored frames (0: no reward model).
    success_threshold, success_frames: completion that ends a training episode (frames 0: never); success_progress: that it needs besides.
    await_learner: nothing begins before a learner hears this robot. simulated: else a human judges evaluations. await_start: an episode
    begins when a human calls `start`. resume: go on after what the records in run_dir say was done.
    *_deadline: seconds to wait for a node to configure, the scene, a frame, the learner, the policy's acknowledgement.
    """

    robot: str
    task: str
    schedule: str
    managed: list[str]
    run_dir: str
    max_steps: int = field(metadata={"ge": 1})
    reward_every: int = field(default=0, metadata={"ge": 0})
    success_threshold: float = field(default=0.8, metadata={"gt": 0, "le": 1})
    success_frames: int = field(default=0, metadata={"ge": 0})
    success_progress: float = field(default=0.0, metadata={"ge": 0, "le": 1})
    await_learner: bool = False
    simulated: bool = True
    await_start: bool = False
    resume: bool = False
    startup_deadline: float = field(default=180.0, metadata={"gt": 0})
    reset_deadline: float = field(default=30.0, metadata={"gt": 0})
    frame_deadline: float = field(default=60.0, metadata={"gt": 0})
    update_deadline: float = field(default=1800.0, metadata={"gt": 0})
    apply_deadline: float = field(default=60.0, metadata={"gt": 0})


class EpisodeManager(WhetstoneNode[Parameters]):
    """See the module."""

    def __init__(self) -> None:
        super().__init__("episode_manager", Parameters)

    def configure(self) -> None:
        p = self.parameters
        self._run_dir = Path(p.run_dir)
        self._run_dir.mkdir(parents=True, exist_ok=True)
        self._profile = load_profile(p.robot)
        self._task = load_task(p.task, self._profile.asset_name)
        self._instruction = self._task.tell()
        episodes, after = schedule.episodes(schedule.from_json(p.schedule)), None
        if p.resume:
            episodes, after = remaining(self._run_dir, episodes)
        updates = records.read_all(self._run_dir / records.UPDATES)
        self._updated = {record["iteration"] for record in updates if not record.get("interim")}
        self._machine = EpisodeMachine(
            episodes,
            rate=self._profile.rate,
            max_steps=p.max_steps,
            completion=Completion(p.success_threshold, p.success_frames, p.success_progress) if p.success_frames else None,
            reward_every=p.reward_every,
            deadlines=Deadlines(p.reset_deadline, p.frame_deadline, p.update_deadline, p.apply_deadline),
            after=after,
            simulated=p.simulated,
            await_start=p.await_start,
        )
        self._episode_began = time.monotonic()
        self._over = False
        # Depth 10: phases follow each other at once, and a slow subscriber must not miss one.
        self._publisher = self.create_publisher(Episode, "episode", EPISODE)
        self._reset = self.create_client(ResetScene, "scene/reset")
        self._transitions = {name: self.create_client(ChangeState, f"{name}/change_state") for name in p.managed}
        self._states = {name: self.create_client(GetState, f"{name}/get_state") for name in p.managed}
        self.create_subscription(JointState, self._profile.joint_states, self._on_frame, STATE, raw=True)
        self.create_subscription(Reward, "reward", self._on_reward, EVENT)
        self.create_subscription(Update, "learner/update", self._on_update, LATCHED)
        self.create_subscription(WeightsAck, "weights/ack", self._on_ack, EVENT)
        self.create_subscription(Watchdog, "watchdog", self._on_watchdog, LATCHED)
        self._stopped = self._held_by_watchdog = False
        machine = self._machine
        for name, action in (
            ("start", machine.start),
            ("pause", machine.pause),
            ("resume", machine.resume),
            ("stop", machine.stop),
            ("success", machine.success),
            ("failure", machine.failure),
        ):
            self.create_service(Trigger, f"episode_manager/{name}", lambda _, response, action=action: self._serve(action, response))

    def activate(self) -> None:
        self.create_timer(0.05, self._tick, clock=self.steady_clock)
        waiting = set(self.parameters.managed)
        if not waiting:
            self._begin()
        for name in self.parameters.managed:
            self._configure_peer(name, waiting)
        self._say_waiting(waiting)

    def deactivate(self) -> None:
        """Also the way of a Ctrl-C: the episode is aborted, and everybody hears that the run is over."""
        self._machine.stop(time.monotonic(), "interrupted")
        self._publish()

    def fail(self, error: BaseException | str) -> None:
        machine = getattr(self, "_machine", None)
        if machine is not None:
            machine.fail(str(error))
            self._publish()
        super().fail(error)

    # Bringing the others up and down.

    def _configure_peer(self, name: str, waiting: set[str]) -> None:
        """All peers configure at the same time, for loading takes long; they activate in order once all are ready."""

        def configured() -> None:
            waiting.discard(name)
            if waiting:
                self._say_waiting(waiting)
            else:
                self._activate_peers(list(self.parameters.managed))

        self._bring(name, Transition.TRANSITION_CONFIGURE, "inactive", "configured", configured)

    def _bring(self, name: str, transition: int, state: str, word: str, then: Callable[[], object]) -> None:
        """Ask a peer for a transition. Its answer may be lost where it has not met us yet (rmw then gives up after 100 ms and says so in
        the peer's log): so it is also asked now and then whether it is in that state."""
        seconds, polls = self.parameters.startup_deadline, []

        def ended(reached: bool) -> None:
            deadline.meet()
            for timer in polls:
                self.destroy_timer(timer)
            polls.clear()
            if reached:
                then()
            else:
                self.fail(f"{name} could not be {word}{POINTS_AT_LOG}")

        def answered(future: Any) -> None:
            if not deadline.met and future.result().current_state.label == state:
                ended(True)

        def ask() -> None:
            if not deadline.met and self._states[name].service_is_ready():
                self._states[name].call_async(GetState.Request()).add_done_callback(self.guarded(answered))

        polls.append(self.create_timer(_ASKING, ask, clock=self.steady_clock))
        deadline = self.call(self._transitions[name], _change(transition), name, seconds, lambda response: ended(response.success))

    def _say_waiting(self, waiting: set[str]) -> None:
        if waiting and not self._machine.result:
            names = dict.fromkeys((*self.parameters.managed, "learner"))
            self._machine.wait("waiting for " + ", ".join(name for name in names if name in waiting))
            self._publish()

    def _activate_peers(self, names: list[str]) -> None:
        if not names:
            self._begin()
            return
        name, rest = names[0], names[1:]

        self._bring(name, Transition.TRANSITION_ACTIVATE, "active", "activated", lambda: self._activate_peers(rest))

    def _begin(self) -> None:
        self.get_logger().info(f"all nodes are active: {', '.join(self.parameters.managed)}")
        if not self.parameters.await_learner:
            self._start()
            return
        self._say_waiting({"learner"})
        self._hearing = self.deadline(self.parameters.startup_deadline, "learner", "word that it hears this robot")
        self.create_subscription(Bool, "learner/listening", self._on_listening, LATCHED)

    def _on_listening(self, message: Bool) -> None:
        if message.data and not self._hearing.met:
            self._hearing.meet()
            self._start()

    def _start(self) -> None:
        self._machine.begin(time.monotonic())
        self._publish()

    def _end(self, result: str, reason: str) -> None:
        """The run is over: deactivate the others, then leave. A peer that does not answer any more changes nothing."""
        if self._over:
            return
        self._over = True
        jsonfile.write(self._run_dir / records.OUTCOME, {"result": result, "reason": reason})
        if result == "failed":
            super().fail(reason)
            return
        self.get_logger().info(f"run {result}: {reason}")
        waiting = set()
        for name in reversed(self.parameters.managed):
            client = self._transitions[name]
            if client.service_is_ready():
                waiting.add(name)

                def left(_: Any, name: str = name) -> None:
                    waiting.discard(name)
                    if not waiting:
                        self.finish(0)

                client.call_async(_change(Transition.TRANSITION_DEACTIVATE)).add_done_callback(left)
        if not waiting:
            self.finish(0)
        self.create_timer(_FAREWELL, lambda: self.finish(0), clock=self.steady_clock)

    # What the peers say.

    def _on_frame(self, data: bytes) -> None:
        self._machine.frame(time.monotonic(), stamp_of_raw(data))
        self._publish()

    def _on_reward(self, message: Reward) -> None:
        score = Score(to_ns(message.header.stamp), message.progress, message.completion, message.total, message.valid)
        self._machine.score(time.monotonic(), message.episode_id, score)
        self._publish()

    def _on_watchdog(self, message: Watchdog) -> None:
        """The episode waits until a human has released the arm; a pause by a human lasts until its own resume."""
        if message.stopped == self._stopped:
            return
        self._stopped, now = message.stopped, time.monotonic()
        if message.stopped:
            self._held_by_watchdog, _ = self._machine.pause(now, f"watchdog: {'; '.join(message.reasons)}")
        elif self._held_by_watchdog:
            self._held_by_watchdog = False
            self._machine.resume(now)
        release, episode = self.resolve_service_name("watchdog/release"), self._machine.state.episode
        record = {"stopped": message.stopped, "reasons": list(message.reasons), "episode_id": episode.episode_id if episode else ""}
        records.append(self._run_dir / records.STOPS, {**record, "release": release})
        self._publish()

    def _on_update(self, message: Update) -> None:
        if self._machine.state.phase != Phase.UPDATING and not message.interim:
            return  # latched: an update that the machine has dealt with
        record = {
            "iteration": message.iteration,
            "version": message.version,
            "deployed": message.deployed,
            "reason": message.reason,
            "metrics": dict(zip(message.names, message.values)),
        }
        if message.interim:
            records.append(self._run_dir / records.UPDATES, {**record, "interim": True})
            return
        if message.iteration not in self._updated:
            self._updated.add(message.iteration)
            records.append(self._run_dir / records.UPDATES, record | ({"stop": message.stop} if message.stop else {}))
        self._machine.update(time.monotonic(), message.iteration, message.version, message.deployed, message.stop)
        self._publish()

    def _on_ack(self, message: WeightsAck) -> None:
        applied = message.status == WeightsAck.STATUS_APPLIED
        left = message.status == WeightsAck.STATUS_ROLLED_BACK
        self._machine.acknowledge(time.monotonic(), message.version, applied, message.reason, left)
        self._publish()

    def _serve(self, action: Any, response: Trigger.Response) -> Trigger.Response:
        response.success, response.message = action(time.monotonic())
        self._publish()
        return response

    def _tick(self) -> None:
        self._machine.tick(time.monotonic())
        self._publish()

    # What the machine says.

    def _publish(self) -> None:
        for state in self._machine.take():
            if state.phase == Phase.ENDED and state.record is not None:
                seconds = round(time.monotonic() - self._episode_began, 3)
                records.append(self._run_dir / records.EPISODES, {**state.record, "seconds": seconds})
            self._publisher.publish(self._message(state))
            if state.phase == Phase.RESETTING:
                self._episode_began = time.monotonic()
                self._reset_scene(state)
        if self._machine.result is not None:
            self._end(*self._machine.result)

    def _reset_scene(self, state: State) -> None:
        episode = state.episode
        assert episode is not None
        request = ResetScene.Request(episode_id=episode.episode_id, task=self.parameters.task, seed=episode.seed)

        asked, waits_for = -math.inf, ""

        def wanted() -> bool:
            current = self._machine.state
            return current.phase == Phase.RESETTING and current.episode == episode and not self._machine.ready

        def ask() -> None:
            """Until it is back. An answer may be lost: so it is not waited for without end, and asked for again."""
            nonlocal asked
            if not wanted():
                for timer in polls:
                    self.destroy_timer(timer)
                polls.clear()
            elif time.monotonic() - asked > _ASKING and self._reset.service_is_ready():
                asked = time.monotonic()
                self._reset.call_async(request).add_done_callback(self.guarded(answered))

        def answered(future: Any) -> None:
            nonlocal asked, waits_for
            response = future.result()
            if not wanted():
                return
            if response.pending:
                asked = -math.inf
                if response.reason and response.reason != waits_for:
                    self.get_logger().warning(f"{episode.episode_id} waits for its scene: {response.reason}")
                waits_for = response.reason
                return
            self._machine.reset_done(time.monotonic(), response.ok, response.reason, to_ns(response.start))
            if self._machine.ready:
                service = self.resolve_service_name("episode_manager/start")
                text = f"{episode.episode_id}: '{self._instruction}'. To begin: ros2 service call {service} std_srvs/srv/Trigger"
                records.append(self._run_dir / records.PROMPTS, {"text": text})
            self._publish()

        polls = [self.create_timer(_AGAIN, ask, clock=self.steady_clock)]
        ask()

    def _message(self, state: State) -> Episode:
        message = Episode(
            robot=self._profile.name,
            task=self.parameters.task,
            instruction=self._instruction,
            phase=int(state.phase),
            outcome=int(state.outcome),
            reason=state.reason,
            start=to_stamp(state.start),
            max_steps=self.parameters.max_steps,
        )
        message.header.stamp = to_stamp(state.stamp)
        episode = state.episode
        if episode is not None:
            message.episode_id = episode.episode_id
            message.iteration, message.index, message.count = episode.iteration, episode.index, episode.count
            message.mode, message.label = _MODES[episode.mode], episode.label
            message.seed, message.greedy = episode.seed, episode.greedy
        return message


def _change(transition: int) -> ChangeState.Request:
    return ChangeState.Request(transition=Transition(id=transition))


def main(args: list[str] | None = None) -> int:
    """Executable `episode_manager`."""
    return run_node(EpisodeManager, args, autostart=True)


if __name__ == "__main__":
    raise SystemExit(main())
