"""Chunks in any action space become joint targets: reached where they can be, the nearest where not, within the limits always."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

pytest.importorskip("mujoco")

import mujoco

from whetstone.action_space import ActionConverter, Converted
from whetstone.kinematics import ForwardKinematics
from whetstone.profile import RobotProfile, load_profile

ROBOTS = {name: load_profile(name) for name in ("franka", "so100")}
FORWARD = {name: ForwardKinematics(profile) for name, profile in ROBOTS.items()}
POSES = {name: ActionConverter("end_effector_pose", profile) for name, profile in ROBOTS.items()}
DELTAS = {name: ActionConverter("end_effector_delta", profile) for name, profile in ROBOTS.items()}


def inside(profile: RobotProfile, part: np.ndarray, middle: float = 0.9) -> np.ndarray:
    """Joints from shares in [0, 1] of the middle of each range."""
    span = profile.upper - profile.lower
    return profile.lower + span * (0.5 + middle * (part - 0.5))


def row(name: str, joints: np.ndarray, opening: float) -> np.ndarray:
    """The end effector's pose at these joints as an action."""
    position, quaternion = FORWARD[name].pose(joints)
    angle = 2 * np.arctan2(np.linalg.norm(quaternion[1:]), quaternion[0])
    axis = quaternion[1:] / max(float(np.linalg.norm(quaternion[1:])), 1e-12)
    return np.concatenate([position, angle * axis, [opening]])


def turn(first: np.ndarray, second: np.ndarray) -> float:
    """rad between two orientations."""
    return 2 * float(np.arccos(min(1.0, abs(first @ second))))


def check_limits(profile: RobotProfile, converted: Converted) -> None:
    actions = converted.actions
    assert actions.dtype == np.float32 and np.isfinite(actions).all()
    assert (actions[:, :-1] >= profile.lower - 1e-6).all() and (actions[:, :-1] <= profile.upper + 1e-6).all()


def test_joint_targets_stay_and_relative_ones_are_added_to_what_was_measured() -> None:
    profile = ROBOTS["so100"]
    actions = np.arange(12, dtype=np.float32).reshape(2, 6) / 10
    measured = np.append(profile.home, 0.7).astype(np.float32)
    np.testing.assert_array_equal(ActionConverter("joint_position", profile).convert(actions, measured).actions, actions)
    relative = ActionConverter("joint_delta", profile)
    converted = relative.convert(actions, measured).actions
    np.testing.assert_allclose(converted[:, :-1], actions[:, :-1] + profile.home, atol=1e-6)
    np.testing.assert_array_equal(converted[:, -1], actions[:, -1])
    assert relative.names == (*profile.joint_names, "gripper")
    assert POSES["so100"].names == ("x", "y", "z", "rx", "ry", "rz", "gripper")


@pytest.mark.parametrize("name", ROBOTS)
@settings(max_examples=60)
@given(data=st.data())
def test_a_pose_near_the_arm_is_reached(name: str, data: st.DataObject) -> None:
    profile, count = ROBOTS[name], len(ROBOTS[name].joints)
    start = inside(profile, np.array(data.draw(st.lists(st.floats(0, 1), min_size=count, max_size=count))))
    away = np.array(data.draw(st.lists(st.floats(-0.2, 0.2), min_size=count, max_size=count)))
    goal = np.clip(start + away, profile.lower, profile.upper)
    converted = POSES[name].convert(np.tile(row(name, goal, 0.25), (12, 1)), np.append(start, 1.0))
    check_limits(profile, converted)
    wanted, wanted_turn = FORWARD[name].pose(goal)
    found, found_turn = FORWARD[name].pose(converted.actions[-1, :-1])
    assert converted.out_of_reach == 0 and converted.actions[0, -1] == 0.25
    assert np.linalg.norm(found - wanted) < 5e-4
    if name == "franka":
        assert turn(found_turn, wanted_turn) < 5e-3


@pytest.mark.parametrize("name", ROBOTS)
def test_steps_of_the_end_effector_add_up(name: str) -> None:
    """Ten steps of 4 mm to the side, from where it is measured and not from where it was told to go."""
    profile = ROBOTS[name]
    step = np.array([0.0, 0.004, 0.0, 0.0, 0.0, 0.0, 1.0])
    converted = DELTAS[name].convert(np.tile(step, (10, 1)), np.append(profile.home, 1.0))
    begin, first = FORWARD[name].pose(profile.home)
    path = [FORWARD[name].pose(joints)[0] for joints in converted.actions[:, :-1]]
    np.testing.assert_allclose(path, begin + np.outer(np.arange(1, 11), step[:3]), atol=3e-4)
    if name == "franka":
        assert turn(FORWARD[name].pose(converted.actions[-1, :-1])[1], first) < 2e-3
        turning = np.array([0.0, 0.0, 0.0, 0.0, 0.0, 0.05, 1.0])
        turned = DELTAS[name].convert(np.tile(turning, (10, 1)), np.append(profile.home, 1.0))
        place, last = FORWARD[name].pose(turned.actions[-1, :-1])
        np.testing.assert_allclose(place, begin, atol=3e-4)
        assert turn(last, first) == pytest.approx(0.5, abs=3e-3)


@pytest.mark.parametrize("name", ROBOTS)
@settings(max_examples=60)
@given(data=st.data())
def test_whatever_comes_in_what_goes_out_is_finite_and_within_limits(name: str, data: st.DataObject) -> None:
    number = st.one_of(st.floats(width=32, allow_nan=True, allow_infinity=True), st.floats(-1, 1, width=32))
    chunk = np.array(data.draw(st.lists(st.lists(number, min_size=7, max_size=7), min_size=1, max_size=3)), np.float32)
    converter = data.draw(st.sampled_from([POSES[name], DELTAS[name]]))
    converted = converter.convert(chunk, np.append(ROBOTS[name].home, 1.0))
    check_limits(ROBOTS[name], converted)
    assert converted.refused == int((~np.isfinite(chunk).all(axis=1)).sum())


@pytest.mark.parametrize("name", ROBOTS)
def test_out_of_reach_is_the_nearest_and_is_counted(name: str) -> None:
    """A point two metres ahead: the arm stretches towards it, and comes nearer than it was."""
    profile = ROBOTS[name]
    begin, _ = FORWARD[name].pose(profile.home)
    target = row(name, profile.home, 0.0)
    target[:3] = [2.0, 0.0, 0.4]
    converted = POSES[name].convert(np.tile(target, (60, 1)), np.append(profile.home, 1.0))
    check_limits(profile, converted)
    assert converted.out_of_reach == 60
    reached = [float(np.linalg.norm(FORWARD[name].pose(joints)[0] - target[:3])) for joints in converted.actions[:, :-1]]
    assert reached[-1] < np.linalg.norm(begin - target[:3]) - 0.1
    assert 0 < converted.furthest <= reached[0] + 1e-6, "what is missing at the end, not on the way"


@pytest.mark.parametrize("name", ROBOTS)
def test_a_stretched_arm_does_not_swing(name: str) -> None:
    """Out past the edge of reach and back, 5 mm a row: near the singularity of a stretched arm no joint turns faster than it can, and all
    come back to where they were."""
    profile = ROBOTS[name]
    edge = {"franka": 0.95, "so100": 0.6}[name]
    begin = FORWARD[name].pose(profile.home)[0]
    out = np.arange(begin[0], edge, 0.005)
    target = row(name, profile.home, 0.0)
    chunk = np.tile(target, (2 * len(out), 1))
    chunk[:, 0] = np.concatenate([out, out[::-1]])
    converted = POSES[name].convert(chunk, np.append(profile.home, 1.0))
    check_limits(profile, converted)
    assert converted.out_of_reach > 0, "the edge is past the reach"
    steps = np.abs(np.diff(converted.actions[:, :-1], axis=0))
    assert (steps <= profile.velocity * profile.period + 1e-6).all(), f"row {steps.max(axis=1).argmax()}: {steps.max():.2f} rad"
    np.testing.assert_allclose(converted.actions[-1, :-1], profile.home, atol=0.05)
    np.testing.assert_allclose(FORWARD[name].pose(converted.actions[-1, :-1])[0], begin, atol=1e-3)


@pytest.mark.parametrize("name", ROBOTS)
@settings(max_examples=20, deadline=None)
@given(data=st.data())
def test_what_was_commanded_in_the_space_of_a_policy_is_commanded_again(name: str, data: st.DataObject) -> None:
    profile = ROBOTS[name]
    count = len(profile.joints)
    middle = inside(profile, np.array(data.draw(st.lists(st.floats(0.2, 0.8), min_size=count, max_size=count))), 0.5)
    steps = np.array(data.draw(st.lists(st.floats(-0.5, 0.5), min_size=3 * count, max_size=3 * count))).reshape(3, count)
    wanted = middle + np.cumsum(steps * profile.velocity * profile.period * 0.5, axis=0)
    rows, measured = np.column_stack([wanted, [1.0, 0.5, 0.0]]), np.append(middle, 1.0)
    for space in ("joint_position", "joint_delta"):
        converter = ActionConverter(space, profile)
        np.testing.assert_allclose(converter.convert(converter.of_joints(rows, measured), measured).actions, rows, atol=1e-5)
    # Joints are not the only ones for a pose, so the hand is compared; an arm of few joints reaches its own poses.
    for converter in (POSES[name], DELTAS[name]):
        chunk = converter.of_joints(rows, measured)
        position, quaternion = FORWARD[name].pose(middle)
        for row, action in zip(rows, chunk):
            there, turned = FORWARD[name].pose(row[:-1])
            rotation = np.zeros(4)
            length = float(np.linalg.norm(action[3:6]))
            mujoco.mju_axisAngle2Quat(rotation, action[3:6] / max(length, 1e-12), length)
            found = np.zeros(4)
            mujoco.mju_mulQuat(found, rotation, quaternion if converter is DELTAS[name] else np.array([1.0, 0, 0, 0]))
            np.testing.assert_allclose(action[:3] + (position if converter is DELTAS[name] else 0), there, atol=1e-5)
            assert turn(found, turned) < 2e-3 and action[6] == np.float32(row[-1])
            position, quaternion = there, turned
