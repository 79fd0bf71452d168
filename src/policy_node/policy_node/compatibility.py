"""Whether a policy fits the robot, and answers as it promises: looked at before anything moves.

Role: used by the node when it is configured and before new weights are taken. Does not depend on rclpy.
"""

from __future__ import annotations

import numpy as np

from whetstone.contracts import InpaintingPolicy, Observation, Policy, Underway
from whetstone.errors import ConfigError, InputError
from whetstone.profile import RobotProfile


def check_spec(policy: Policy, profile: RobotProfile, source: str) -> None:
    """Raises ConfigError naming both sides of what does not fit. source: the policy's file."""
    spec = policy.spec
    if spec.joints != profile.joint_names:
        theirs = ", ".join(profile.joint_names)
        raise ConfigError(f"{source}: the policy drives {', '.join(spec.joints)}; robot '{profile.name}' has {theirs}")
    if spec.rate != profile.rate:
        raise ConfigError(f"{source}: the policy acts at {spec.rate:g} Hz, robot '{profile.name}' at {profile.rate:g} Hz")
    for name in spec.cameras:
        camera = profile.camera(name)
        if spec.image_size is not None and (camera.height, camera.width) != tuple(spec.image_size):
            raise ConfigError(
                f"{source}: the policy needs {spec.image_size[1]}x{spec.image_size[0]} images, "
                f"but camera '{name}' of robot '{profile.name}' gives {camera.width}x{camera.height}"
            )


def inpainting(policy: Policy, source: str) -> InpaintingPolicy:
    """The policy as one that chunking:=rtc can ask. Raises ConfigError where it is none. source: the policy's file."""
    spec = policy.spec
    if not isinstance(policy, InpaintingPolicy):
        raise ConfigError(f"{source}: policy '{spec.policy_id}' cannot go on from another chunk; choose chunking:=switch or ensemble")
    if spec.action_space != "joint_position":
        raise ConfigError(
            f"{source}: chunking:=rtc needs joint targets; policy '{spec.policy_id}' acts in {spec.action_space}, "
            "where two chunks begin at different poses; choose chunking:=switch or ensemble"
        )
    return policy


def check_shape(policy: Policy, actions: np.ndarray) -> None:
    """Raises InputError where a chunk is not what the policy declares."""
    spec = policy.spec
    if actions.shape != (spec.horizon, spec.columns):
        raise InputError(f"the policy answers {actions.shape}, its horizon and action space say {(spec.horizon, spec.columns)}")


def self_test(policy: Policy, profile: RobotProfile, inpaints: bool) -> None:
    """An inference of each sort at the home pose before grey images: shape and values must be usable. Raises InputError.

    The first one also pays for what a library loads at its first use: with an arm in motion that would be a late command, and a
    gradient's first use took longer than the watchdog waits.
    """
    spec = policy.spec
    cameras = [profile.camera(name) for name in spec.cameras]
    grey = {camera.name: np.full((camera.height, camera.width, 3), 128, np.uint8) for camera in cameras}
    home = np.append(profile.home, 1.0).astype(np.float32)
    policy.reset("self-test", 0, "greedy")
    seen = Observation(0, grey, home)
    actions = policy.act(seen).actions
    if inpaints and isinstance(policy, InpaintingPolicy):
        actions = policy.inpaint(seen, Underway(actions[: spec.execute], 1)).actions
    check_shape(policy, actions)
    if not np.isfinite(actions).all():
        raise InputError("the policy answers values that are not finite")
