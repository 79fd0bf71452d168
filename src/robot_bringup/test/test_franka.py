"""What franka_bringup is told: the controllers fit the profiles, and what cannot be brought up is named."""

from __future__ import annotations

import pytest

from robot_bringup.franka import bringup, controllers
from whetstone import config
from whetstone.errors import ConfigError
from whetstone.profile import load_profile


@pytest.mark.parametrize("fake", [False, True])
@pytest.mark.parametrize("robot", ["franka", "fr3"])
def test_the_controllers_are_those_of_the_profile(robot: str, fake: bool) -> None:
    profile, plan = load_profile(robot), bringup(robot, "10.0.0.2", "left", fake)
    assert f"{plan.controller}/joint_trajectory" == profile.command.topic
    assert plan.arguments["controllers_yaml"] == str(controllers(fake)) and plan.arguments["use_fake_hardware"] == str(fake).lower()
    assert plan.arguments["robot_type"] == profile.arm_id and plan.arguments["namespace"] == "left"
    file = config.load_yaml(controllers(fake))
    types = file["/**/controller_manager"]["ros__parameters"]
    assert types[plan.controller]["type"] == "joint_trajectory_controller/JointTrajectoryController"
    assert "joint_state_broadcaster" in types and ("franka_robot_state_broadcaster" in types) is not fake
    settings = file[f"/**/{plan.controller}"]["ros__parameters"]
    assert settings["joints"] == list(profile.joint_names)
    assert settings["command_interfaces"] == ["position" if fake else "effort"]
    assert settings["allow_nonzero_velocity_at_trajectory_end"] is True, "every command ends at speed"
    if fake:
        assert "gains" not in settings
    else:
        assert list(settings["gains"]) == list(profile.joint_names)
        assert all(gain["p"] > 0 and gain["d"] > 0 for gain in settings["gains"].values())


def test_what_cannot_be_brought_up_is_named() -> None:
    with pytest.raises(ConfigError, match="robot 'so100': .*franka.yaml has no trajectory controller for it; known: fr3, franka"):
        bringup("so100", "10.0.0.2", "", False)
    with pytest.raises(ConfigError, match="no trajectory controller"):
        bringup("fr3_crisp", "10.0.0.2", "", False)
    with pytest.raises(ConfigError, match="argument robot_ip is empty"):
        bringup("fr3", "", "", False)
    assert bringup("fr3", "", "", True).controller == "fr3_arm_controller"
