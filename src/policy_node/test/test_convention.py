"""Joint order, signs, units, gripper ranges and picture sizes: there and back."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from policy_node.convention import Convention, ConventionConfig, chosen_cameras, resized
from whetstone.config import parse
from whetstone.errors import ConfigError
from whetstone.profile import load_profile

SO100 = load_profile("so100")
NAMES = [*SO100.joint_names, "gripper"]


def convention(**given: Any) -> Convention:
    return Convention(parse(ConventionConfig, given, "my.yaml"), SO100, "my.yaml")


@given(
    order=st.permutations(NAMES),
    signs=st.lists(st.sampled_from([1, -1]), min_size=6, max_size=6),
    offsets=st.lists(st.floats(-180, 180), min_size=6, max_size=6),
    units=st.sampled_from(["rad", "deg"]),
    space=st.sampled_from(["joint_position", "joint_delta", "end_effector_pose", "end_effector_delta"]),
    closed=st.floats(-10, 10),
    width=st.floats(0.1, 100) | st.floats(-100, -0.1),
    seed=st.integers(0, 99),
)
def test_what_goes_there_comes_back(
    order: list[str], signs: list[int], offsets: list[float], units: str, space: str, closed: float, width: float, seed: int
) -> None:
    joints = [{"name": name, "sign": sign, "offset": offset} for name, sign, offset in zip(order, signs, offsets)]
    one = convention(joints=joints, units=units, action_space=space, gripper={"closed": closed, "open": closed + width})
    actions = np.random.default_rng(seed).uniform(-3, 3, (4, one.columns))
    actions[:, -1] = actions[:, -1].clip(0, 1)
    np.testing.assert_allclose(one.ours(one.theirs(actions)), actions, atol=1e-3)
    if space == "joint_position":
        np.testing.assert_array_equal(one.theirs(actions), one.state(actions))


def test_by_hand() -> None:
    """LeRobot's SO-100: degrees, gripper from 0 to 100."""
    joints: list[dict[str, Any]] = [{"name": name} for name in NAMES]
    joints[1] |= {"sign": -1, "offset": 90.0}
    one = convention(joints=joints, units="deg", gripper={"closed": 0.0, "open": 100.0})
    state = one.state(np.array([math.pi / 2, math.pi / 4, 0, 0, 0, 0.25]))
    np.testing.assert_allclose(state, [90, 45, 0, 0, 0, 25], atol=1e-4)
    np.testing.assert_allclose(one.ours(np.array([[90, 45, 0, 0, 0, 130]])), [[math.pi / 2, math.pi / 4, 0, 0, 0, 1]], atol=1e-6)


def test_a_difference_of_joints_has_no_offset() -> None:
    one = convention(joints=[{"name": name, "offset": 30.0, "sign": -1} for name in NAMES], action_space="joint_delta")
    np.testing.assert_allclose(one.ours(np.zeros((1, 6)))[0, :5], 0)
    np.testing.assert_allclose(one.ours(np.full((1, 6), 0.5))[0], [-0.5] * 5 + [0.5])


def test_the_actions_gripper_may_have_another_range_than_the_state_s() -> None:
    """OpenVLA on BridgeData: state from 0 to 1, command 1 open; LIBERO: command -1 open."""
    one = convention(action_space="end_effector_delta", action_gripper={"closed": 1.0, "open": -1.0})
    assert one.ours(np.array([[0, 0, 0, 0, 0, 0, -1.0]]))[0, -1] == 1
    assert one.state(np.zeros(6))[-1] == 0


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"joints": [{"name": NAMES[0]}]}, "lacks shoulder_lift_joint"),
        ({"joints": [{"name": name} for name in (*NAMES[:-1], "elbow")]}, "no place for 'elbow'"),
        ({"joints": [{"name": name} for name in (*NAMES[:-1], NAMES[0])]}, "each wanted once"),
        ({"rate": 50.0}, "50 Hz.*20 Hz"),
        ({"gripper": {"closed": 1.0, "open": 1.0}}, "must differ"),
    ],
)
def test_what_is_not_this_robot_s_is_refused(changed: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words) as error:
        convention(**changed)
    assert "my.yaml" in str(error.value)


def test_cameras_are_the_robot_s() -> None:
    with pytest.raises(ConfigError, match="no 'head'.*front"):
        chosen_cameras({"head": "top"}, SO100, "my.yaml")
    with pytest.raises(ConfigError, match="more than one"):
        chosen_cameras({"front": "top", "wrist": "top"}, SO100, "my.yaml")


def test_pictures_keep_their_proportions_or_not() -> None:
    image = np.full((30, 60, 3), 200, np.uint8)
    padded = resized(image, 40, 40)
    assert padded.shape == (40, 40, 3) and not padded[:10].any() and not padded[30:].any() and (padded[10:30] == 200).all()
    assert (resized(image, 40, 40, "stretch") == 200).all()
    assert resized(image, 40, 40, "none") is image and resized(image, 30, 60) is image
