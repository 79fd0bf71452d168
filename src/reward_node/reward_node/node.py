"""The reward node: camera frames in, `reward` out.

Role: ROS only. Loads and tests the reward model, and scores in a worker thread what the streams of its robots (stream.py) hand over.
What a reward is, the plug-in knows. One node may serve several robots of a kind: one copy of the weights, and one pass for the frames
that wait at the same time, where the model can do that.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from reward_node.stream import RobotStream, StreamSettings
from reward_node.worker import Job, Worker
from whetstone.config import find, show
from whetstone.contracts import PROPRIOCEPTION, RewardModel, RewardSample
from whetstone.errors import ConfigError, InputError
from whetstone.frame_sets import FrameSet
from whetstone.profile import load_profile
from whetstone.rewards import load_reward
from whetstone.ros import WhetstoneNode, run_node


@dataclass(frozen=True)
class Parameters:
    """robot, reward: names of configurations; realtime: false = lockstep, where no due frame may be dropped.

    robots: namespaces of the robots to serve, all of the kind `robot`; empty: the one in the node's own namespace. With several, a camera
    that is not there is said and leaves the others alone.
    deadline: s until a missing camera ends the process; patience: s after which, in real time, a frame set that is not whole
    is published as invalid (in lockstep nothing is lost, so it is waited for until the deadline);
    device: for the model, as torch names it; image_transport: compressed listens to <topic>/compressed, as image_transport has it;
    autostart: the node configures and activates itself, where no episode manager does.
    Episodes of evaluations are not scored: the evaluator judges them, and a slow model would only hold them up.
    """

    robot: str
    reward: str
    robots: list[str] = field(default_factory=list)
    realtime: bool = False
    deadline: float = field(default=20.0, metadata={"gt": 0})
    patience: float = field(default=1.0, metadata={"gt": 0})
    device: str = "cpu"
    image_transport: Literal["raw", "compressed"] = "raw"
    autostart: bool = False

    def __post_init__(self) -> None:
        for name in self.robots:
            if not re.fullmatch(r"[A-Za-z][A-Za-z0-9_]*(/[A-Za-z][A-Za-z0-9_]*)*", name):
                raise ValueError(f"key 'robots': '{name}' is no namespace; use letters, digits and _ (parts joined by /)")
        if len(set(self.robots)) != len(self.robots):
            raise ValueError("key 'robots' names one twice")


class RewardNode(WhetstoneNode[Parameters]):
    """See the module's docstring."""

    def __init__(self) -> None:
        super().__init__("reward", Parameters)
        self.autostart = self.parameters.autostart
        self.streams: list[RobotStream] = []
        self.workers: list[Worker] = []

    def configure(self) -> None:
        self.profile = load_profile(self.parameters.robot)
        path = find("rewards", self.parameters.reward)
        model = self._load()
        needs = model.needs
        for name in needs.cameras:
            camera = self.profile.camera(name)
            if (camera.height, camera.width) != tuple(needs.image_size):
                raise ConfigError(
                    f"{show(path)}: image_size is {needs.image_size[1]}x{needs.image_size[0]}, "
                    f"but camera '{name}' of robot '{self.profile.name}' gives {camera.width}x{camera.height}"
                )
        if needs.proprioception not in (0, len(self.profile.joints) + 1):
            raise ConfigError(
                f"{show(path)}: the model wants {needs.proprioception} numbers of proprioception, "
                f"but robot '{self.profile.name}' has {len(self.profile.joints)} joints and a gripper"
            )
        self._self_test(model)
        names = self.parameters.robots or [""]
        # Robots that share weights share the thread that uses them.
        self.shared = hasattr(model, "beside")
        models = [model, *(getattr(model, "beside", self._load)() for _ in names[1:])]
        copies = 1 if self.shared else len(names)
        self.counters.update(
            model=model.provenance.model_id,
            device=needs.device or "elsewhere",
            memory_mb=round(copies * needs.memory / 1e6, 1),
            images_per_score=needs.images * len(needs.cameras),
            scores_per_second=round(len(names) * self.profile.rate / needs.every, 2),
        )
        p = self.parameters
        patience = p.patience if p.realtime else p.deadline
        for index, (name, one) in enumerate(zip(names, models, strict=True)):
            settings = StreamSettings(index, name, p.image_transport, p.realtime, p.deadline, patience, strict=len(names) == 1)
            self.streams.append(RobotStream(self, self.profile, one, settings))

    def _load(self) -> RewardModel:
        return load_reward(self.parameters.reward, self.profile, self.parameters.device)

    def activate(self) -> None:
        count = 1 if self.shared else len(self.streams)
        self.workers = [Worker(self._work, newest_only=self.parameters.realtime) for _ in range(count)]
        for index, stream in enumerate(self.streams):
            stream.activate(self.workers[index % count])
        if self.parameters.robots:
            self.get_logger().info(f"scoring {', '.join(self.parameters.robots)}")

    def deactivate(self) -> None:
        for stream in self.streams:
            stream.deactivate()
        for worker in self.workers:
            worker.stop(2.0)
        self.workers = []

    def _self_test(self, model: RewardModel) -> None:
        """One score of a grey image: the model runs before the episode does."""
        needs = model.needs
        grey = np.full((*needs.image_size, 3), 128, np.uint8)
        model.reset("self-test", "self-test", 0)
        frames: dict[str, np.ndarray] = {name: grey for name in needs.cameras}
        if needs.proprioception:
            frames[PROPRIOCEPTION] = np.zeros(needs.proprioception, np.float32)
        sample = model.observe(frames, 0)
        if sample is not None and not sample.valid:
            raise ConfigError(f"reward '{self.parameters.reward}' failed its self-test: {sample.reason}")

    # The worker's thread.

    def _work(self, jobs: list[Job]) -> None:
        """At most one job of each robot."""
        try:
            ready: list[tuple[Job, FrameSet[bytes], dict[str, np.ndarray]]] = []
            for job in jobs:
                stream = self.streams[job.robot]
                if job.frames is None:
                    stream.begin_or_tell(job)
                    continue
                try:
                    ready.append((job, job.frames, stream.decode(job.frames)))
                except InputError as error:
                    stream.publish(job.episode_id, RewardSample(job.frames.stamp, valid=False, reason=str(error)), job.frames.arrived)
            for (job, frames, _), sample in zip(ready, self._score(ready), strict=True):
                if sample is not None:
                    self.streams[job.robot].publish(job.episode_id, sample, frames.arrived)
        except Exception as error:
            self.fail(error)

    def _score(self, ready: list[tuple[Job, FrameSet[bytes], dict[str, np.ndarray]]]) -> list[RewardSample | None]:
        models = [self.streams[job.robot].model for job, *_ in ready]
        if len(ready) > 1 and (together := getattr(models[0], "observe_together", None)) is not None:
            return together(models, [images for *_, images in ready], [frames.stamp for _, frames, _ in ready])
        samples: list[RewardSample | None] = []
        for model, (_, frames, images) in zip(models, ready, strict=True):
            try:
                samples.append(model.observe(images, frames.stamp))
            except InputError as error:
                samples.append(RewardSample(frames.stamp, valid=False, reason=str(error)))
        return samples


def main(args: list[str] | None = None) -> int:
    return run_node(RewardNode, args)
