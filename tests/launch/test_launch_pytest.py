"""The simulated robot inside another launch file, by launch_pytest."""

from __future__ import annotations

import time

import launch_pytest
import pytest
from launch.actions import IncludeLaunchDescription
from launch.launch_description_sources import PythonLaunchDescriptionSource

from launch import LaunchDescription
from whetstone import config


@launch_pytest.fixture
def simulated_robot(tmp_path, domain):
    arguments = {"robot": "so100", "run_dir": tmp_path / "run", "domain_id": domain}
    source = PythonLaunchDescriptionSource(str(config.root() / "launch" / "sim.launch.py"))
    robot = IncludeLaunchDescription(source, launch_arguments=[(name, str(value)) for name, value in arguments.items()])
    return LaunchDescription([robot, launch_pytest.actions.ReadyToTest()])


@pytest.mark.launch(fixture=simulated_robot)
def test_a_simulated_robot_comes_up(simulated_robot, tmp_path):
    deadline = time.monotonic() + 120
    while not any("all nodes are active: simulator" in log.read_text() for log in (tmp_path / "run" / "logs").glob("*.log")):
        assert time.monotonic() < deadline, "the simulator did not come up"
        time.sleep(0.05)
