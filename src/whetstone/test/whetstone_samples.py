"""A small robot and a small rollout for the tests of this package."""

from __future__ import annotations

from typing import Any

import numpy as np

from whetstone import config
from whetstone.contracts import Rollout
from whetstone.profile import RobotProfile

ROBOT = """
name: twolink
arm_id: t
rate: 20.0
joints:
  - {name: a, lower: -1.0, upper: 1.0, velocity: 1.0, acceleration: 5.0, home: 0.5}
  - {name: b, lower: -0.2, upper: 2.0, velocity: 2.0, acceleration: 10.0}
gripper: {joint: g, closed: 0.1, open: -0.3, kind: gripper_command, action: grip, scale: 2.0}
joint_states: joint_states
command: {kind: joint_trajectory, topic: arm/joint_trajectory}
cameras: [{name: front}]
guard: {max_step: 0.3, stale_after: 0.3}
sim:
  distribution: d
  module: m
  xml: x.xml
  joints: {a: {model_joint: ma, sign: -1, offset: 0.25}, b: {model_joint: mb}, g: {model_joint: mg}}
"""


def robot(**changes: Any) -> RobotProfile:
    return config.parse(RobotProfile, {**config.parse_yaml(ROBOT, "twolink.yaml"), **changes}, "twolink.yaml")


def rollout(episode_id: str = "train-000-0001", steps: int = 5, seed: int = 0) -> Rollout:
    random = np.random.default_rng(seed)

    def frames(count: int) -> np.ndarray:
        return random.integers(0, 256, (count, 8, 6, 3), np.uint8)

    return Rollout(
        episode_id=episode_id,
        iteration=3,
        task="pick",
        instruction="pick up the red cube – gently",
        seed=7,
        outcome="success",
        reason="reward model: completion 0.93 on 2 frames",
        stamps=np.arange(steps, dtype=np.int64) * 200_000_000 + 2**60,
        images={"front": frames(steps), "wrist": frames(steps)},
        proprioception=random.normal(size=(steps, 3)).astype(np.float32),
        actions=random.normal(size=(steps, 4, 3)).astype(np.float32),
        latents=random.normal(size=(steps, 2, 5)).astype(np.float32),
        log_probabilities=np.full(steps, np.nan, np.float32),
        policy_versions=np.full(steps, 2**63, np.uint64),
        rewards={"total": np.append(random.random(steps), np.nan).astype(np.float32)},
        last_images={"front": frames(1)[0]},
        last_proprioception=np.zeros(3, np.float32),
        reward_model_id="sarm2@1f3a9c",
        scores={
            "stamps": np.arange(steps + 1, dtype=np.int64) + 2**60,
            "valid": np.arange(steps + 1) != 2,
            "total": random.random(steps + 1).astype(np.float32),
        },
        steps={
            "stamps": np.arange(9, dtype=np.int64) * 50_000_000 + 2**60,
            "measured": random.normal(size=(9, 3)).astype(np.float32),
            "commanded": np.full((9, 3), np.nan, np.float32),
        },
    )


def recorded(
    episode_id: str = "train-000-0000",
    decisions: int = 4,
    execute: int = 4,
    seed: int = 0,
    cameras: tuple[str, ...] = ("front",),
    **changes: Any,
) -> Rollout:
    """An episode of `robot()` as a run records it at 20 Hz: every control step, a score at each decision, smooth images of 64 x 64."""
    random = np.random.default_rng(seed)
    count, period = decisions * execute, 50_000_000
    stamps = np.arange(count + 1, dtype=np.int64) * period + 2**60
    measured = random.uniform([-1, -0.2, 0], [1, 2, 1], (count + 1, 3)).astype(np.float32)
    commanded = np.concatenate([random.uniform([-1, -0.2, 0], [1, 2, 1], (count, 3)), np.full((1, 3), np.nan)]).astype(np.float32)
    chunk = np.minimum(np.arange(decisions)[:, None] * execute + np.arange(execute + 2), count - 1)
    progress = np.append(random.random(decisions), np.nan).astype(np.float32)
    values = {
        "episode_id": episode_id,
        "iteration": 1,
        "task": "pick",
        "instruction": "pick up the red cube – gently",
        "seed": 7,
        "outcome": "success",
        "reason": "",
        "stamps": stamps[:-1:execute],
        "images": {name: np.stack([picture(seed + 10 * place + row) for row in range(decisions)]) for place, name in enumerate(cameras)},
        "proprioception": measured[:-1:execute],
        "actions": commanded[chunk],
        "latents": None,
        "log_probabilities": np.full(decisions, np.nan, np.float32),
        "policy_versions": np.full(decisions, 3, np.uint64),
        "rewards": {"total": progress / 2, "progress": progress},
        "last_images": {name: picture(seed + 99) for name in cameras},
        "last_proprioception": measured[-1],
        "reward_model_id": "sarm2@1f3a9c",
        "scores": {"stamps": stamps[:-1:execute], "valid": np.ones(decisions, bool), "total": progress[:-1] / 2, "progress": progress[:-1]},
        "steps": {"stamps": stamps, "measured": measured, "commanded": commanded, "intervention": np.arange(count + 1) == 1},
        "end": int(stamps[-1]),
    }
    return Rollout(**{**values, **changes})


def picture(seed: int, size: int = 64) -> np.ndarray:
    """A smooth image, so that video hardly changes it."""
    corners = np.random.default_rng(seed).uniform(0, 255, (2, 2, 3))
    x = np.linspace(0, 1, size)
    rows = corners[0][None] * (1 - x)[:, None, None] + corners[1][None] * x[:, None, None]
    return np.rint(rows[:, :1] * (1 - x)[None, :, None] + rows[:, 1:] * x[None, :, None]).astype(np.uint8)
