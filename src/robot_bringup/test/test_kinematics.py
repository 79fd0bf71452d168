"""Forward kinematics against the simulator's model, and the workspace of a profile."""

from __future__ import annotations

from dataclasses import replace

import mujoco
import numpy as np
import pytest

from robot_bringup.sim.model import Scene, build_model
from whetstone.errors import ConfigError
from whetstone.guard import Guard
from whetstone.kinematics import ForwardKinematics, Workspace
from whetstone.profile import Box, RobotProfile, load_profile


def with_box(profile: RobotProfile, lower: tuple[float, ...], upper: tuple[float, ...]) -> RobotProfile:
    return replace(profile, guard=replace(profile.guard, workspace=Box(lower, upper)))


@pytest.mark.parametrize("robot", ["franka", "so100"])
def test_the_end_effector_is_where_the_simulator_has_it(robot: str) -> None:
    profile = load_profile(robot)
    assert profile.sim is not None
    model = build_model(profile, Scene(**profile.sim.model["scene"]))
    data, kinematics, rng = mujoco.MjData(model), ForwardKinematics(profile), np.random.default_rng(0)
    for _ in range(5):
        joints = rng.uniform(profile.lower, profile.upper)
        for name, position in zip(profile.joint_names, joints, strict=True):
            joint = profile.sim.joints[name]
            data.qpos[model.joint(joint.model_joint).qposadr[0]] = joint.to_model(position)
        mujoco.mj_kinematics(model, data)
        np.testing.assert_allclose(kinematics.end_effector(joints), data.site("end_effector").xpos, atol=1e-9)


@pytest.mark.parametrize("robot", ["franka", "so100"])
def test_an_arm_told_to_go_through_the_table_stops_above_it(robot: str) -> None:
    plain = load_profile(robot)
    home = ForwardKinematics(plain).end_effector(plain.home)
    floor = home[2] - 0.05
    profile = with_box(plain, (-2.0, -2.0, floor), (2.0, 2.0, 2.0))
    guard, workspace, rng = Guard(profile), Workspace(profile), np.random.default_rng(1)
    assert workspace.excess(profile.home) == (0.0, "")
    reasons: set[str] = set()
    for _ in range(4):
        target = np.append(rng.uniform(profile.lower, profile.upper), 1.0)
        while workspace.excess(target[:-1])[0] < 0.1:
            target = np.append(rng.uniform(profile.lower, profile.upper), 1.0)
        previous, measured = None, np.append(profile.home, 1.0)
        for _ in range(80):
            previous = guard.check(target, measured, previous, profile.period)
            measured = previous.command
            reasons.update(previous.reasons)
            assert workspace.excess(measured[:-1])[0] < 2e-3
    assert f"workspace: z below {floor:g} m" in reasons


def test_a_box_that_is_none() -> None:
    with pytest.raises(ValueError, match="three numbers each"):
        Box((0.0, 0.0), (1.0, 1.0))
    with pytest.raises(ValueError, match="must be less than"):
        Box((0.0, 0.0, 0.5), (1.0, 1.0, 0.2))
    with pytest.raises(ConfigError, match="key 'sim' is missing: where its model is"):
        Guard(replace(with_box(load_profile("franka"), (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)), sim=None))
