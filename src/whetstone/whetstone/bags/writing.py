"""An episode of a store as a bag.

Role: from a rollout back to the topics it came from, under the robot profile's names, in a rosbag2 (MCAP, zstd) that any tool reads and
that makes the same rollout again. rosbags writes it; messages are made of the definitions that it carries. Does not depend on rclpy.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from rosbags.interfaces import Nodetype
from rosbags.rosbag2 import CompressionFormat, CompressionMode, StoragePlugin, Writer
from rosbags.typesys import Stores, get_typestore
from rosbags.typesys.store import Typestore

from whetstone.bags.messages import fallback
from whetstone.contracts import REWARD_VALUES, Rollout
from whetstone.errors import InputError
from whetstone.frames import Frames
from whetstone.profile import RobotProfile

_SECOND = 1_000_000_000
_OUTCOMES = {"success": 1, "failure": 2, "timeout": 3, "aborted": 4}
_JOINT_STATE, _IMAGE = "sensor_msgs/msg/JointState", "sensor_msgs/msg/Image"
_EPISODE, _ACTION, _COMMAND, _REWARD = (f"whetstone_msgs/msg/{name}" for name in ("Episode", "Action", "Command", "Reward"))
Event = tuple[int, int, str, Any]
"""Log time, rank among those of one time, topic, what makes the message."""


@cache
def typestore() -> Typestore:
    """ROS 2 Jazzy's types and ours."""
    store = get_typestore(Stores.EMPTY)
    store.register(fallback())
    return store


def write_bag(rollout: Rollout, frames: Frames | None, profile: RobotProfile, folder: Path, metadata: dict[str, str]) -> Path:
    """Write one episode to a new folder. frames: of all control steps; images at decisions come from the rollout, bit for bit.

    Raises InputError where the folder is there already or cannot be written; what is half written is not left under its name.
    """
    if folder.exists():
        raise InputError(f"{folder}: is there already")
    partial = folder.with_name(f".partial-{os.getpid()}-{folder.name}")
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        shutil.rmtree(partial, ignore_errors=True)
        _write(_Made(rollout, frames, profile), partial, folder.name, metadata)
        partial.rename(folder)
    except OSError as error:
        raise InputError(f"{folder}: cannot be written: {error.strerror or error}") from None
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return folder


def _write(made: _Made, folder: Path, name: str, metadata: dict[str, str]) -> None:
    store = typestore()
    writer = Writer(folder, version=9, storage_plugin=StoragePlugin.MCAP)
    writer.set_compression(CompressionMode.STORAGE, CompressionFormat.ZSTD)
    with writer:
        for key, value in metadata.items():
            writer.set_custom_data(key, value)
        connections: dict[str, Any] = {}
        for time, _, topic, make in sorted(made.events(), key=lambda event: event[:2]):
            message = make()
            if topic not in connections:
                connections[topic] = writer.add_connection(topic, message.__msgtype__, typestore=store)
            writer.write(connections[topic], time, store.serialize_cdr(message, message.__msgtype__))


class _Made:
    """The messages of a rollout."""

    def __init__(self, rollout: Rollout, frames: Frames | None, profile: RobotProfile) -> None:
        self.rollout, self.frames, self.profile = rollout, frames, profile
        stamps = rollout.steps.get("stamps", np.empty(0, np.int64))
        last = [int(one[-1]) for one in (rollout.stamps, stamps) if len(one)]
        if not last:
            raise InputError(f"rollout '{rollout.episode_id}' has no steps: there is nothing to write")
        self.start = min(int(one[0]) for one in (rollout.stamps, stamps) if len(one))
        self.end = int(rollout.end) if rollout.end is not None else max(last) + profile.period_ns
        self._types = typestore().types

    def events(self) -> Iterator[Event]:
        """In any order; those of one time are ranked as they come about: pictures and joints, then the decision, its command, the score."""
        yield from self._phases()
        for camera in self.rollout.images:
            yield from self._images(camera)
        yield from self._joints()
        yield from self._decisions()
        yield from self._scores()

    def _phases(self) -> Iterator[Event]:
        rollout = self.rollout
        for rank, time, phase in ((-2, self.start, 1), (-1, self.start, 2), (9, self.end, 3)):
            ended = phase == 3
            values = {
                "episode_id": rollout.episode_id,
                "iteration": rollout.iteration,
                "robot": self.profile.name,
                "task": rollout.task,
                "instruction": rollout.instruction,
                "phase": phase,
                "outcome": _OUTCOMES.get(rollout.outcome, 0) if ended else 0,
                "reason": rollout.reason if ended else "",
                "seed": rollout.seed,
                "start": self._time(0 if phase == 1 else self.start),
            }
            yield time, rank, "/episode", lambda time=time, values=values: self._make(_EPISODE, time, **values)

    def _images(self, camera: str) -> Iterator[Event]:
        topic = f"/{self.profile.camera(camera).topic}"
        exact = {int(stamp): row for row, stamp in enumerate(self.rollout.stamps)}
        for stamp, row in exact.items():
            yield stamp, 0, topic, lambda stamp=stamp, row=row: self._image(camera, stamp, self.rollout.images[camera][row])
        if camera in self.rollout.last_images and self.end not in exact:
            exact[self.end] = -1
            yield self.end, 0, topic, lambda: self._image(camera, self.end, self.rollout.last_images[camera])
        frames = self.frames
        if frames is not None:
            for stamp in frames.stamps(camera).tolist():
                if stamp not in exact:
                    yield stamp, 0, topic, lambda stamp=stamp: self._image(camera, stamp, frames.read(camera, stamp))

    def _joints(self) -> Iterator[Event]:
        rollout, steps = self.rollout, self.rollout.steps
        topic = f"/{self.profile.joint_states.lstrip('/')}"
        measured = dict(zip(steps["stamps"].tolist(), steps["measured"])) if steps else {}
        if not measured:
            measured = dict(zip(rollout.stamps.tolist(), rollout.proprioception))
            if rollout.last_proprioception is not None:
                measured[self.end] = rollout.last_proprioception
        for stamp, row in measured.items():
            yield stamp, 1, topic, lambda stamp=stamp, row=row: self._joint_state(stamp, row)
        human = steps.get("intervention", np.zeros(len(steps.get("stamps", ())), bool)) if steps else []
        for stamp, row, by_human in zip(steps["stamps"].tolist(), steps["commanded"], human) if steps else ():
            if np.isfinite(row).all():
                yield stamp, 3, "/policy/command", lambda stamp=stamp, row=row, by=by_human: self._command(stamp, row, bool(by))

    def _decisions(self) -> Iterator[Event]:
        rollout = self.rollout
        for row, stamp in enumerate(rollout.stamps.tolist()):
            latent = np.empty(0, np.float32) if rollout.latents is None else rollout.latents[row].ravel()
            values = {
                "episode_id": rollout.episode_id,
                "policy_version": int(rollout.policy_versions[row]),
                "names": [*self.profile.joint_names, "gripper"],
                "horizon": rollout.actions.shape[1],
                "chunk": rollout.actions[row].astype(np.float32).ravel(),
                "latent": latent.astype(np.float32),
                "log_probability": float(rollout.log_probabilities[row]),
                "seam_jump": float("nan"),
            }
            yield stamp, 2, "/policy/action", lambda stamp=stamp, values=values: self._make(_ACTION, stamp, **values)

    def _scores(self) -> Iterator[Event]:
        """All that the reward model said; of an episode that kept only what was joined, that."""
        rollout, scores = self.rollout, self.rollout.scores
        if not len(scores.get("stamps", ())):
            stamps = np.append(rollout.stamps, self.end)
            known = [np.isfinite(one) for one in rollout.rewards.values()]
            some = np.any(known, axis=0) if known else np.zeros(len(stamps), bool)
            scores = {name: one[some] for name, one in rollout.rewards.items()} | {
                "stamps": stamps[some],
                "valid": np.ones(some.sum(), bool),
            }
        for row, stamp in enumerate(scores["stamps"].tolist()):
            values: dict[str, Any] = {name: float(scores[name][row]) if name in scores else float("nan") for name in REWARD_VALUES}
            values |= {"episode_id": rollout.episode_id, "model_id": rollout.reward_model_id, "valid": bool(scores["valid"][row])}
            yield stamp, 4, "/reward", lambda stamp=stamp, values=values: self._make(_REWARD, stamp, **values)

    # Messages.

    def _image(self, camera: str, stamp: int, pixels: np.ndarray) -> Any:
        height, width = pixels.shape[:2]
        data = np.ascontiguousarray(pixels).reshape(-1)
        values = {"height": height, "width": width, "encoding": "rgb8", "step": 3 * width, "data": data}
        return self._make(_IMAGE, stamp, frame=camera, **values)

    def _joint_state(self, stamp: int, row: np.ndarray) -> Any:
        names, positions = self.profile.joint_state(row.astype(np.float64))
        return self._make(_JOINT_STATE, stamp, name=names, position=np.array(positions))

    def _command(self, stamp: int, row: np.ndarray, human: bool) -> Any:
        names, positions = self.profile.joint_state(row.astype(np.float64))
        return self._make(_COMMAND, stamp, names=names, position=np.array(positions), source=int(human))

    def _time(self, stamp: int) -> Any:
        return self._types["builtin_interfaces/msg/Time"](sec=stamp // _SECOND, nanosec=stamp % _SECOND)

    def _make(self, kind: str, stamp: int, frame: str = "", **values: Any) -> Any:
        header = self._types["std_msgs/msg/Header"](stamp=self._time(stamp), frame_id=frame)
        return self._types[kind](**{**_blank(kind, self._types), **values, "header": header})


def _blank(kind: str, types: Any) -> dict[str, Any]:
    """Every field but the header, as ROS has it where nobody sets it."""
    found: dict[str, Any] = {}
    fields: Any = typestore().fielddefs[kind][1]
    for name, (node, rest) in fields:
        if node == Nodetype.BASE:
            found[name] = "" if rest[0] == "string" else False if rest[0] == "bool" else 0.0 if rest[0].startswith("float") else 0
        elif node == Nodetype.NAME and name != "header":
            found[name] = types[rest](**_blank(rest, types))
        elif node == Nodetype.SEQUENCE:
            (_, (item, _)), _ = rest
            found[name] = [] if item == "string" else np.zeros(0, item)
    return found
