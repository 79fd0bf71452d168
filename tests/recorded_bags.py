"""One simulated episode, and the messages of a bag of it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from rosbags.typesys import Stores, get_typestore

from robot_bringup.offline import Acting, proprioception
from robot_bringup.sim.simulation import Simulation
from whetstone.bags.messages import fallback
from whetstone.contracts import Policy
from whetstone.profile import RobotProfile
from whetstone.task import load_task

SECOND = 1_000_000_000
START = 1_700_000_000 * SECOND
TASK = "pick_and_place"
CAMERAS = ("front", "wrist")


@dataclass(frozen=True)
class Episode:
    """stamps: (N,) ns; images: camera -> N images; measured: (N, joints + 1); commanded: (N - 1, joints + 1); chunks: stamp -> the
    policy's."""

    stamps: list[int]
    images: dict[str, list[np.ndarray]]
    measured: list[np.ndarray]
    commanded: list[np.ndarray]
    chunks: dict[int, np.ndarray]


def act(profile: RobotProfile, policy: Policy, steps: int, seed: int = 7) -> Episode:
    """The policy, greedy, for so many control steps, and the frame after the last."""
    sim = Simulation(profile)
    try:
        acting = Acting(sim, policy, load_task(TASK, profile.asset_name), seed, "greedy")
        episode = Episode([], {camera: [] for camera in CAMERAS}, [], [], {})
        for step in range(steps + 1):
            seen = sim.observe()
            episode.stamps.append(START + step * profile.period_ns)
            episode.measured.append(proprioception(seen))
            for camera, images in episode.images.items():
                images.append(seen.images[camera].copy())
            if step == steps:
                break
            if acting.due(step):
                episode.chunks[episode.stamps[-1]] = acting.decide(step, seen)[1].actions
            episode.commanded.append(acting.act(step, seen))
        return episode
    finally:
        sim.close()


def store(kind: Stores = Stores.ROS2_JAZZY) -> Any:
    found = get_typestore(kind)
    if kind == Stores.ROS2_JAZZY:
        found.register({name: fields for name, fields in fallback().items() if name.startswith("whetstone_msgs/")})
    return found


def told(episode: Episode, profile: RobotProfile, types: Any, own: bool = False, outcome: int = 1, joints: bool = True) -> Iterator[Any]:
    """Topic, log time, message, in order. own: with our episode and command topics, under a namespace."""
    space = f"/{profile.name}" if own else ""
    make = types.types

    def stamp(time: int) -> Any:
        return make["builtin_interfaces/msg/Time"](sec=time // SECOND, nanosec=time % SECOND)

    def header(time: int) -> Any:
        more = {"seq": 1} if "seq" in make["std_msgs/msg/Header"].__dataclass_fields__ else {}
        return make["std_msgs/msg/Header"](**more, stamp=stamp(time), frame_id="")

    def said(phase: int, time: int) -> Any:
        return make["whetstone_msgs/msg/Episode"](
            header=header(time), episode_id="train-000-0000", iteration=0, index=0, count=1, robot=profile.name, task=TASK,
            instruction=load_task(TASK, profile.asset_name).instruction, mode=0, phase=phase, outcome=outcome if phase == 3 else 0,
            reason="", label="", seed=7, greedy=True, start=stamp(START), max_steps=1000,
        )  # fmt: skip

    if own:
        yield f"{space}/episode", START - 3, said(2, START)
    names, _ = profile.joint_state(episode.measured[0])
    for place, time in enumerate(episode.stamps):
        if joints:
            position = np.array(profile.joint_state(episode.measured[place])[1])
            none = np.zeros(0)
            message = make["sensor_msgs/msg/JointState"](header=header(time), name=names, position=position, velocity=none, effort=none)
            yield f"{space}/joint_states", time, message
        for number, camera in enumerate(CAMERAS):
            pixels = episode.images[camera][place]
            height, width = pixels.shape[:2]
            message = make["sensor_msgs/msg/Image"](
                header=header(time), height=height, width=width, encoding="rgb8", is_bigendian=0, step=3 * width, data=pixels.reshape(-1)
            )
            yield f"{space}/camera/{camera}/image_raw", time + 1 + number, message
        if own and place < len(episode.commanded):
            position = np.array(profile.joint_state(episode.commanded[place])[1])
            yield (
                f"{space}/policy/command",
                time + 3,
                make["whetstone_msgs/msg/Command"](header=header(time), source=0, names=names, position=position),
            )
    if own:
        yield f"{space}/episode", episode.stamps[-1] + 4, said(3, episode.stamps[-1])
