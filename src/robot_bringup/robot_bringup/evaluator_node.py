"""The evaluator: judges episodes by the simulator's ground truth.

Role: the only subscriber of `truth`. In evaluation it tells the episode manager success (the condition held on
`success_frames` frames in a row) or, at the last step, failure, and writes one line per episode into evaluation.jsonl. In
training it only notes the truth in truth.jsonl, for the report's curve; no node reads that file. Keeps camera frames of
the first episodes of each evaluation for the report's pictures.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from sensor_msgs.msg import Image
from std_srvs.srv import Trigger
from whetstone_msgs.msg import Episode, Truth

from robot_bringup import records
from robot_bringup.judgement import Judgement
from whetstone import images
from whetstone.profile import load_profile
from whetstone.ros import EPISODE, EVENT, WhetstoneNode, camera_qos, deserialize, run_node, stamp_of_raw, to_ns


@dataclass(frozen=True)
class Parameters:
    """success_frames: frames in a row on which the condition must hold. keep_episodes: per label, that keep pictures.

    picture_every: control steps between two pictures. camera: the camera they come from.
    """

    robot: str
    run_dir: str
    realtime: bool = False
    deadline: float = field(default=20.0, metadata={"gt": 0})
    success_frames: int = field(default=5, metadata={"ge": 1})
    keep_episodes: int = field(default=4, metadata={"ge": 0})
    picture_every: int = field(default=4, metadata={"ge": 1})
    camera: str = "front"


class Evaluator(WhetstoneNode[Parameters]):
    """See the module."""

    def __init__(self) -> None:
        super().__init__("evaluator", Parameters)

    def configure(self) -> None:
        p = self.parameters
        self._run_dir = Path(p.run_dir)
        self._profile = load_profile(p.robot)
        self._camera = self._profile.camera(p.camera) if p.keep_episodes else None
        self._episode: Episode | None = None
        self._judgement: Judgement | None = None
        self._pictures: list[np.ndarray] = []
        self._picture_subscription: Any = None
        self._success = self.create_client(Trigger, "episode_manager/success")
        self._failure = self.create_client(Trigger, "episode_manager/failure")

    def activate(self) -> None:
        self.create_subscription(Episode, "episode", self._on_episode, EPISODE)
        self.create_subscription(Truth, "truth", self._on_truth, EVENT)

    def cleanup(self) -> None:
        self._finish()

    def _on_episode(self, message: Episode) -> None:
        new = self._episode is None or message.episode_id != self._episode.episode_id
        if new:
            self._finish()
        self._episode = message
        if new and message.phase == Episode.PHASE_RESETTING:
            self._choose_pictures(message)
        if message.phase == Episode.PHASE_RUNNING and self._judgement is None:
            decides = message.mode == Episode.MODE_EVALUATE
            start, frames = to_ns(message.start), self.parameters.success_frames
            self._judgement = Judgement(start, self._profile.rate, message.max_steps, frames, decides)
        if message.phase == Episode.PHASE_ENDED and self._judgement is not None:
            self._judgement.end(to_ns(message.header.stamp))
            if self._judgement.complete:
                self._finish()
        if message.phase == Episode.PHASE_FINISHED:
            self._finish()

    def _on_truth(self, message: Truth) -> None:
        judgement, episode = self._judgement, self._episode
        if judgement is None or episode is None or message.episode_id != episode.episode_id:
            return
        verdict = judgement.see(to_ns(message.header.stamp), message.success, message.stage, message.stages)
        if verdict is not None and episode.phase == Episode.PHASE_RUNNING:
            (self._success if verdict else self._failure).call_async(Trigger.Request())
        if judgement.complete:
            self._finish()

    def _finish(self) -> None:
        """Write what is known of the episode, once."""
        judgement, episode = self._judgement, self._episode
        self._judgement = None
        if judgement is None or episode is None:
            return
        record = {
            "episode_id": episode.episode_id,
            "iteration": episode.iteration,
            "index": episode.index,
            "seed": episode.seed,
            "greedy": episode.greedy,
            **judgement.record(),
        }
        if episode.outcome == Episode.OUTCOME_ABORTED:
            self._close_pictures(None)
        elif episode.mode == Episode.MODE_EVALUATE:
            records.append(self._run_dir / records.EVALUATION, {"label": episode.label, **record})
            self._close_pictures(f"{episode.label}-{episode.index:04d}")
        else:
            records.append(self._run_dir / records.TRUTH, record)

    def _choose_pictures(self, episode: Episode) -> None:
        keep = self._keeps(episode)
        if keep and self._picture_subscription is None and self._camera is not None:
            on_image: Callable[[bytes], None] = self._on_image
            self._picture_subscription = self.create_subscription(
                Image, self._camera.topic, on_image, camera_qos(self.parameters.realtime), raw=True
            )
        elif not keep and self._picture_subscription is not None:
            self.destroy_subscription(self._picture_subscription)
            self._picture_subscription = None

    def _keeps(self, episode: Episode) -> bool:
        return episode.mode == Episode.MODE_EVALUATE and episode.index < self.parameters.keep_episodes

    def _on_image(self, data: bytes) -> None:
        episode, camera = self._episode, self._camera
        if episode is None or camera is None or episode.phase != Episode.PHASE_RUNNING or not self._keeps(episode):
            return
        stamp, start = stamp_of_raw(data), to_ns(episode.start)
        step = round((stamp - start) * self._profile.rate / 1e9)
        if stamp >= start and step % self.parameters.picture_every == 0:
            self._pictures.append(np.array(images.to_array(deserialize(data, Image), camera.name)))

    def _close_pictures(self, name: str | None) -> None:
        if self._pictures and name:
            folder = self._run_dir / "pictures"
            folder.mkdir(exist_ok=True)
            np.savez_compressed(folder / f"{name}.npz", frames=np.stack(self._pictures))
        self._pictures = []


def main(args: list[str] | None = None) -> int:
    """Executable `evaluator`."""
    return run_node(Evaluator, args)


if __name__ == "__main__":
    raise SystemExit(main())
