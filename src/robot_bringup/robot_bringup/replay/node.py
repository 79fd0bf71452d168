"""The replay: a bag's robot, said again to the real nodes.

Role: ROS only. Publishes clock, episode, images and joint states as the simulator does in lockstep, and goes on when those that must
answer have: the reward node with a reward of the frame's stamp, the policy node with a command of it. So nothing is lost, however slow they
are, and two replays are alike. It never commands an arm: it says what cameras and joints said.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from diagnostic_msgs.msg import DiagnosticArray
from rcl_interfaces.srv import GetParameters
from rosgraph_msgs.msg import Clock
from sensor_msgs.msg import Image, JointState
from whetstone_msgs.msg import Command, Episode, Reward

from robot_bringup.gripper_server import GripperServer
from robot_bringup.gripper_topic import GripperTopic
from robot_bringup.replay.script import Rebuilt, Script, Spoken, Step
from whetstone import config, jsonfile
from whetstone.bags.mapping import load_mapping
from whetstone.bags.reader import open_bag
from whetstone.bags.roles import find_roles
from whetstone.contracts import PROPRIOCEPTION, REWARD_VALUES
from whetstone.errors import ConfigError, InputError, PeerError
from whetstone.images import Resize, to_message
from whetstone.profile import load_profile
from whetstone.ros import EPISODE, EVENT, FRAME_LOCKSTEP, STATE, WhetstoneNode, run_node, to_ns, to_stamp

AGAIN = 1.0
"""Seconds after which a frame that nobody answered is said again."""
WHO = ("reward", "policy")


@dataclass(frozen=True)
class Parameters:
    """bags: folders or files, one episode each. robot: name of its profile. to: who must answer, of reward and policy.

    rate: times the bag's own speed; 0: as fast as they answer. every: control steps between two scored frames; 0: as the reward node's
    own configuration has it. mapping: name of a file of config/bags, for bags that are not ours; instruction: what the robot was told,
    where the bag does not say it; resize: of images of another size than the profile's. rewards: file that gets a JSON line per reward;
    empty: none.
    deadline: s that an answer may take.
    """

    bags: list[str]
    robot: str
    to: list[str] = field(default_factory=lambda: ["reward"])
    rate: float = field(default=0.0, metadata={"ge": 0})
    every: int = field(default=0, metadata={"ge": 0})
    mapping: str = ""
    instruction: str = ""
    resize: Resize = "no"
    rewards: str = ""
    deadline: float = field(default=20.0, metadata={"gt": 0})

    def __post_init__(self) -> None:
        for who in self.to:
            if who not in WHO:
                raise ValueError(config.unknown("to", who, WHO))


class ReplayNode(WhetstoneNode[Parameters]):
    """See the module."""

    autostart = True

    def __init__(self) -> None:
        super().__init__("replay", Parameters)

    def configure(self) -> None:
        p = self.parameters
        self._profile = profile = load_profile(p.robot)
        self._heard = threading.Condition()
        self._answers: dict[str, set[int]] = {who: set() for who in p.to}
        self._rewards: dict[int, Reward] = {}  # of the episode that is said, by stamp
        self._said: set[str] = set()  # names of episodes
        self._seen: dict[str, int] = {}  # frames of each camera that the reward node has taken, by its own word
        self._file = None
        if p.rewards:
            try:
                self._file = Path(p.rewards).open("w", encoding="utf-8")
            except OSError as error:
                raise InputError(f"rewards:={p.rewards}: cannot be written: {error.strerror}") from None
        self._clock_publisher = self.create_publisher(Clock, "/clock", STATE)
        self._episodes = self.create_publisher(Episode, "episode", EPISODE)
        self._parts = {camera.name: self.create_publisher(Image, camera.topic, FRAME_LOCKSTEP) for camera in profile.cameras}
        self._parts[PROPRIOCEPTION] = self.create_publisher(JointState, profile.joint_states, FRAME_LOCKSTEP)
        if "reward" in p.to:
            self.create_subscription(Reward, "reward", self._on_reward, EVENT)
            self.create_subscription(DiagnosticArray, "/diagnostics", self._on_diagnostics, STATE)
            self._reward_parameters = self.create_client(GetParameters, "reward/get_parameters")
        if "policy" in p.to:
            by_action = profile.gripper.kind in ("gripper_command", "parallel_gripper_command")
            self._gripper = (GripperServer if by_action else GripperTopic)(self, profile)  # the policy's commands wait for one
            self.create_subscription(Command, "policy/command", self._on_command, EVENT)
        self.counters.update(episodes=0, steps=0, rewards=0, said_again=0)

    def activate(self) -> None:
        self._alive = True
        self._thread = threading.Thread(target=self._run, name="replay", daemon=True)
        self._thread.start()

    def deactivate(self) -> None:
        with self._heard:
            self._alive = False
            self._heard.notify_all()
        if threading.current_thread() is not self._thread:
            self._thread.join(2.0)

    def cleanup(self) -> None:
        if "policy" in self.parameters.to:
            self._gripper.destroy()
        if self._file is not None:
            self._file.close()

    # Answers.

    def _on_reward(self, message: Reward) -> None:
        stamp = to_ns(message.header.stamp)
        with self._heard:
            if message.episode_id == self._running:
                if stamp not in self._rewards:
                    self._rewards[stamp] = message
                    self.counters["rewards"] += 1
                self._answers["reward"].add(stamp)
            self._heard.notify_all()

    def _on_command(self, message: Command) -> None:
        with self._heard:
            self._answers["policy"].add(to_ns(message.header.stamp))
            self._heard.notify_all()

    def _on_diagnostics(self, message: DiagnosticArray) -> None:
        own = self.get_namespace().rstrip("/") + "/reward"
        with self._heard:
            for status in message.status:
                if status.name == own:
                    found = {pair.key.removeprefix("frames_"): pair.value for pair in status.values if pair.key.startswith("frames_")}
                    self._seen = {name: int(value) for name, value in found.items()}
            self._heard.notify_all()

    def _until(self, condition: Callable[[], bool], seconds: float) -> bool:
        """Whether it came to be in time. Raises InterruptedError where the node is told to stop meanwhile."""
        deadline = time.monotonic() + seconds
        with self._heard:
            while not condition():
                if not self._alive:
                    raise InterruptedError
                left = deadline - time.monotonic()
                if left <= 0:
                    return False
                self._heard.wait(min(left, 0.05))
        return True

    # The thread that says it.

    def _run(self) -> None:
        try:
            self._running = ""
            for path in self.parameters.bags:  # what cannot be replayed is said before anybody is waited for
                with self._opened(path):
                    pass
            self._every = self._ask_every() if "reward" in self.parameters.to else 1
            self._meet()
            for index, path in enumerate(self.parameters.bags):
                self._replay(path, last=index == len(self.parameters.bags) - 1)
            self.get_logger().info(
                f"{self.counters['episodes']} episodes, {self.counters['steps']} control steps, {self.counters['rewards']} rewards"
            )
            self.finish(0)
        except InterruptedError:
            pass
        except Exception as error:
            self.fail(error)

    def _ask_every(self) -> int:
        """Control steps between two scored frames."""
        if self.parameters.every:
            return self.parameters.every
        seconds = self.parameters.deadline
        if not self._until(self._reward_parameters.service_is_ready, seconds):
            raise PeerError(f"no node '{self.get_namespace()}/reward' within {seconds:g} s; is a reward node running on this ROS domain?")
        future = self._reward_parameters.call_async(GetParameters.Request(names=["reward"]))
        if not self._until(future.done, seconds):
            raise PeerError(f"no answer of the reward node within {seconds:g} s to what its configuration is")
        name = future.result().values[0].string_value  # type: ignore[union-attr]
        every = config.load_yaml(config.find("rewards", name)).get("every")
        if type(every) is not int or every < 1:
            raise ConfigError(f"reward {name}: key 'every' is {every!r}; it must be an integer of at least 1 (control steps)")
        return every

    def _meet(self) -> None:
        """Those that must answer listen, and are listened to."""
        p = self.parameters
        for who, topic in (("reward", "reward"), ("policy", "policy/command")):
            if who in p.to and not self._until(lambda topic=topic: self.count_publishers(topic) > 0, p.deadline):
                raise PeerError(
                    f"no '{self.resolve_topic_name(topic)}' within {p.deadline:g} s; is a {who} node running on this ROS domain?"
                )
        if p.to and not self._until(lambda: self._episodes.get_subscription_count() >= len(p.to), p.deadline):
            raise PeerError(f"nobody listens to '{self._episodes.topic_name}' within {p.deadline:g} s")
        if "reward" in p.to and len(p.bags) > 1 and not self._until(lambda: bool(self._seen), p.deadline):
            raise PeerError(f"no diagnostics of '{self.get_namespace()}/reward' within {p.deadline:g} s")

    @contextmanager
    def _opened(self, path: str) -> Iterator[Script]:
        p = self.parameters
        mapping = load_mapping(p.mapping) if p.mapping else None
        with open_bag(path, mapping.definitions or None if mapping else None) as bag:
            yield Script(bag, find_roles(bag, self._profile, mapping), self._profile, p.instruction, p.resize)

    def _replay(self, path: str, last: bool) -> None:
        p = self.parameters
        with self._opened(path) as script:
            before, sent = dict(self._seen), dict.fromkeys(self._parts, 0)
            spoken, began, first, stamp = self._named_anew(script.spoken), time.monotonic(), None, script.spoken.start
            with self._heard:
                self._running, self._rewards = spoken.episode_id, {}
            self._say(spoken, Episode.PHASE_RESETTING, stamp)
            self._say(spoken, Episode.PHASE_RUNNING, stamp)
            for step in script.steps():
                stamp, first = step.stamp, step.stamp if first is None else first
                if p.rate:
                    self._until(lambda at=began + (stamp - first) / 1e9 / p.rate: time.monotonic() >= at, 3600.0)
                self._step(step, script, sent)
            self._say(spoken, Episode.PHASE_ENDED, stamp)
            self.counters["episodes"] += 1
            self._write(path)
            for warning in script.bag.warnings:
                self.get_logger().warning(warning)
            if script.late:
                self.get_logger().warning(f"{path}: {script.late} messages came too late to be in order, and were left out")
        if not last and "reward" in p.to and not self._until(lambda: self._taken(before, sent), p.deadline):
            raise PeerError(f"the reward node did not take all frames of {path} within {p.deadline:g} s")

    def _named_anew(self, spoken: Spoken) -> Spoken:
        """With a number where another bag's episode had its name: its frames would be taken for that one's, said again."""
        names = (spoken.episode_id, *(f"{spoken.episode_id}-{count}" for count in range(2, len(self.parameters.bags) + 1)))
        name = next(name for name in names if name not in self._said)
        self._said.add(name)
        return replace(spoken, episode_id=name)

    def _taken(self, before: dict[str, int], sent: dict[str, int]) -> bool:
        """Whether nothing is on its way to the reward node: the next episode's stamps may be the same ones."""
        return all(self._seen[name] - before.get(name, 0) >= count for name, count in sent.items() if name in self._seen)

    def _step(self, step: Step, script: Script, sent: dict[str, int]) -> None:
        """One control step: everything that the bag has of it, then the answers to it."""
        whole = len(step.parts) == len(script.order)
        waits = {"reward": whole and step.index % self._every == 0, "policy": whole}
        asked = [who for who in self.parameters.to if waits[who]]
        stamps = set(step.stamps.values())
        for answers in self._answers.values():
            answers.clear()
        deadline = time.monotonic() + self.parameters.deadline
        while True:
            self._clock_publisher.publish(Clock(clock=to_stamp(step.stamp)))
            for name in (name for name in script.order if name in step.parts):
                self._parts[name].publish(self._message(name, step.parts[name]))
                sent[name] += 1
            if not asked or self._until(lambda: all(self._answers[who] & stamps for who in asked), AGAIN):
                break
            if time.monotonic() > deadline:
                silent = next(who for who in asked if not self._answers[who] & stamps)
                raise PeerError(f"no answer of the {silent} node to the frame of step {step.index} within {self.parameters.deadline:g} s")
            self.counters["said_again"] += 1
        self.counters["steps"] += 1

    def _message(self, name: str, part: Any) -> Any:
        if not isinstance(part, Rebuilt):
            return part
        if part.image is not None:
            return to_message(part.image, part.stamp, f"{name}_camera")
        message = JointState(name=list(part.names), position=list(part.positions))
        message.header.stamp = to_stamp(part.stamp)
        return message

    def _say(self, spoken: Spoken, phase: int, stamp: int) -> None:
        message = Episode(
            episode_id=spoken.episode_id,
            iteration=spoken.iteration,
            count=1,
            robot=self._profile.name,
            instruction=spoken.instruction,
            # The reward node scores no evaluations, for the evaluator judges them; who replays one to it wants to know what it would say.
            mode=Episode.MODE_TRAIN if "reward" in self.parameters.to else spoken.mode,
            phase=phase,
            seed=spoken.seed,
            greedy=spoken.greedy,
            start=to_stamp(spoken.start),
            max_steps=spoken.steps,
            reason="replay",
        )
        message.header.stamp = to_stamp(stamp)
        self._episodes.publish(message)

    def _write(self, path: str) -> None:
        if self._file is None:
            return
        with self._heard:
            found = sorted(self._rewards.items())
        for stamp, one in found:
            values = {name: getattr(one, name) for name in REWARD_VALUES}
            line = {"bag": path, "episode_id": one.episode_id, "stamp": stamp, "valid": one.valid, "model_id": one.model_id, **values}
            self._file.write(json.dumps(jsonfile.plain(line), allow_nan=False) + "\n")
        self._file.flush()


def main(args: list[str] | None = None) -> int:
    """Executable `replay`."""
    return run_node(ReplayNode, args)


if __name__ == "__main__":
    raise SystemExit(main())
