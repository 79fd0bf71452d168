"""Robots and tasks as data: the files in config/, and the conversions that follow from them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from whetstone_samples import robot

from whetstone import config
from whetstone.errors import ConfigError, InputError
from whetstone.kinematics import robot_spec
from whetstone.profile import SimJoint, load_profile
from whetstone.task import load_task

TWOLINK = robot()


@pytest.mark.parametrize("name", config.available("robots"))
def test_every_robot_file_loads(name: str) -> None:
    profile = load_profile(name)
    assert profile.name == name
    assert np.all(profile.lower < profile.upper) and np.all((profile.lower <= profile.home) & (profile.home <= profile.upper))
    assert [camera.name for camera in profile.cameras] == ["front", "wrist"]
    assert profile.period_ns == 50_000_000
    # One period at full speed must fit into the step from the measured position.
    assert np.all(profile.velocity * profile.period < profile.guard.max_step)
    assert profile.sim is not None and set(profile.joint_names) < set(profile.sim.joints)


def test_both_robots_are_there_with_their_drivers_names() -> None:
    franka, so100 = load_profile("franka"), load_profile("so100")
    assert franka.joint_names == tuple(f"fer_joint{i}" for i in range(1, 8))
    assert franka.command.topic == "fer_arm_controller/joint_trajectory" and franka.joint_states == "franka/joint_states"
    assert franka.opening_to_goal(1.0) == pytest.approx(0.04)  # half the width of the open hand
    assert so100.joint_names == ("shoulder_pan_joint", "shoulder_lift_joint", "elbow_flex_joint", "wrist_flex_joint", "wrist_roll_joint")
    assert so100.gripper.kind == "parallel_gripper_command" and so100.gripper.action == "gripper_controller/gripper_cmd"


@pytest.mark.parametrize("name", config.available("robots"))
def test_a_profile_that_shares_assets_has_the_joints_they_were_made_for(name: str) -> None:
    profile = load_profile(name)
    other = load_profile(profile.asset_name)
    assert other.assets == "" and profile.asset_joints == other.joint_names
    assert [camera.name for camera in profile.cameras] == [camera.name for camera in other.cameras]
    assert profile.sim is not None and other.sim is not None
    driven = [profile.sim.joints[joint] for joint in profile.joint_names]
    assert driven == [other.sim.joints[joint] for joint in other.joint_names], "the same number means the same pose"


def test_assets_of_an_arm_with_other_joints_are_refused() -> None:
    with pytest.raises(ConfigError, match="key 'assets' is franka, which has 7 joints; this one has 2"):
        _ = robot(assets="franka").asset_joints


@pytest.mark.parametrize("name", config.available("robots"))
def test_limits_lie_within_what_the_model_can_do(name: str) -> None:
    mujoco = pytest.importorskip("mujoco")
    profile = load_profile(name)
    model: Any = robot_spec(profile).compile()
    assert isinstance(model, mujoco.MjModel) and profile.sim is not None
    for joint in profile.joints:
        stands_for = profile.sim.joints[joint.name]
        lower, upper = sorted(map(stands_for.to_driver, model.joint(stands_for.model_joint).range))
        assert lower - 1e-3 <= joint.lower and joint.upper <= upper + 1e-3, joint.name


@given(st.floats(-10, 10))
def test_opening_and_position_are_each_others_inverse(value: float) -> None:
    clipped = min(max(value, 0.0), 1.0)
    assert TWOLINK.position_to_opening(TWOLINK.opening_to_position(value)) == pytest.approx(clipped, abs=1e-9)
    assert 0 <= TWOLINK.position_to_opening(value) <= 1
    assert -0.3 <= TWOLINK.opening_to_position(value) <= 0.1


def test_goal_is_scaled() -> None:
    assert TWOLINK.opening_to_goal(1.0) == pytest.approx(-0.6)


@given(st.floats(-3, 3), st.sampled_from([1, -1]), st.floats(-2, 2))
def test_simulator_joint_maps_both_ways(position: float, sign: int, offset: float) -> None:
    joint = SimJoint("m", sign, offset)  # type: ignore[arg-type]
    assert joint.to_driver(joint.to_model(position)) == pytest.approx(position)
    assert joint.to_driver(0.0) == offset


def test_a_command_as_a_joint_state_is_what_proprioception_reads() -> None:
    command = np.array([0.5, -0.1, 0.25])
    names, positions = robot().joint_state(command)
    assert names == ["a", "b", "g"]
    np.testing.assert_allclose(robot().proprioception(names, positions), command, rtol=1e-6)


def test_proprioception_reorders_and_ignores_strangers() -> None:
    row = TWOLINK.proprioception(["x", "g", "b", "a"], [9.0, -0.1, 2.0, 1.0])
    assert row.dtype == np.float32
    np.testing.assert_allclose(row, [1.0, 2.0, 0.5], atol=1e-6)


@pytest.mark.parametrize(
    ("names", "positions", "word"),
    [
        (["a", "g"], [0, 0], "'b'"),
        (["a", "b"], [0, 0], "'g'"),
        (["a", "b", "g"], [0, float("nan"), 0], "'b' is nan"),
        (["a", "b", "g"], [0, 0], "'g'"),
        ([], [], "'a'"),
    ],
)
def test_proprioception_names_the_joint_that_is_missing(names: list[str], positions: list[float], word: str) -> None:
    with pytest.raises(InputError, match=word):
        TWOLINK.proprioception(names, positions)


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"joints": []}, "at least one joint"),
        ({"joints": [{"name": "a", "lower": 1, "upper": 0, "velocity": 1, "acceleration": 1}]}, "lower 1.0 must be less than upper"),
        ({"joints": [{"name": "a", "lower": 0, "upper": 1, "velocity": 1, "acceleration": 1, "home": 2}]}, "home 2.0 must lie in"),
        ({"joints": [{"name": "a", "lower": 0, "upper": 1, "velocity": 1, "acceleration": 1}] * 2}, "joint 'a' is given twice"),
        ({"joints": [{"name": "c", "lower": 0, "upper": 1, "velocity": 1, "acceleration": 1}]}, "lacks joint 'c'"),
        ({"cameras": [{"name": "f"}, {"name": "f"}]}, "camera 'f' is given twice"),
        ({"rate": 0}, "key 'rate'"),
        ({"gripper": {"joint": "g", "closed": 0, "open": 0, "kind": "gripper_command", "action": "x"}}, "'closed' and 'open' must differ"),
        ({"gripper": {"joint": "g", "closed": 0, "open": 1, "kind": "gripper", "action": "x"}}, "did you mean 'gripper_command'"),
        ({"gripper": {"joint": "g", "closed": 0, "open": 1, "kind": "gripper_command"}}, "'action' is missing with kind gripper_command"),
        ({"gripper": {"joint": "g", "closed": 0, "open": 1, "kind": "forward"}}, "'topic' is missing with kind forward"),
        ({"gripper": {"joint": "g", "closed": 0, "open": 1, "kind": "with_arm", "topic": "x"}}, "'topic' is not used with kind with_arm"),
        (
            {"gripper": {"joint": "g", "closed": 0, "open": 1, "kind": "with_arm"}},
            "with_arm needs a 'command.kind' of forward or joint_state",
        ),
        ({"command": {"kind": "pose", "topic": "x"}}, "'frame' is missing with kind pose"),
        ({"command": {"kind": "forward", "topic": "x", "frame": "base"}}, "'frame' is not used with kind forward"),
    ],
)
def test_wrong_robots_are_refused(change: dict, word: str) -> None:
    with pytest.raises(ConfigError) as caught:
        robot(**change)
    assert word in str(caught.value) and str(caught.value).startswith("twolink.yaml")


def test_unknown_camera() -> None:
    assert TWOLINK.camera("front").topic == "camera/front/image_raw"
    with pytest.raises(ConfigError, match=r"unknown camera 'fornt'; did you mean 'front'"):
        TWOLINK.camera("fornt")


TASK = """
name: pick
description: d
instruction: "pick up the {colour} cube"
max_steps: 100
primitives: [reach, grasp]
scene: {cubes: {red: 1, blue: 1}, tray: 1}
robots: {so100: {max_steps: 200, scene: {cubes: {red: 2}}}}
"""


def write_task(folder: Path, text: str) -> str:
    path = folder / "pick.yaml"
    path.write_text(text)
    return str(path)


@pytest.mark.parametrize("name", config.available("tasks"))
def test_every_task_file_loads_for_every_robot(name: str) -> None:
    for robot_name in config.available("robots"):
        task = load_task(name, robot_name)
        assert task.name == name and task.max_steps > 0


def test_task_overrides_for_a_robot(tmp_path: Path) -> None:
    path = write_task(tmp_path, TASK)
    assert load_task(path, "franka").max_steps == 100
    task = load_task(path, "so100")
    assert task.max_steps == 200 and task.scene == {"cubes": {"red": 2, "blue": 1}, "tray": 1}
    assert task.fields() == ["colour"] and task.tell(colour="red") == "pick up the red cube"
    with pytest.raises(ConfigError, match=r"{colour} has no value"):
        task.tell(color="red")


@pytest.mark.parametrize(
    ("old", "new", "word"),
    [
        ("max_steps: 200", "max_step: 200", "key 'max_step' is unknown; did you mean 'max_steps'"),
        ("{max_steps: 200", "{name: other", "cannot change 'name'"),
        ("[reach, grasp]", "[]", "key 'primitives' is empty"),
        ('"pick up the {colour} cube"', '" "', "key 'instruction' is empty"),
        ("{colour}", "{colour", "key 'instruction'"),
    ],
)
def test_wrong_tasks_are_refused(tmp_path: Path, old: str, new: str, word: str) -> None:
    assert old in TASK
    with pytest.raises(ConfigError) as caught:
        load_task(write_task(tmp_path, TASK.replace(old, new, 1)), "so100")
    assert word in str(caught.value) and "pick.yaml" in str(caught.value)


def test_topics_of_one_of_several_robots() -> None:
    profile = load_profile("so100")
    assert profile.topic("joint_states", "") == "joint_states"
    assert profile.topic("joint_states", "lab/left") == "/lab/left/joint_states"
    assert profile.topic("/joint_states", "") == "/joint_states"
    with pytest.raises(ConfigError, match="robot 'so100' has the topic '/joint_states', which several robots would share"):
        profile.topic("/joint_states", "left")
