"""`make test-gazebo`: the conformance kit on a real Gazebo, where one is installed.

Role: looks whether everything is there and says what is not; starts Gazebo, our scene node and the kit, and stops them again. The exit code
is the kit's; 2 where Gazebo could not be run at all, so that nobody takes that for a pass.
"""

from __future__ import annotations

import shutil
import signal
import subprocess
import sys
from pathlib import Path

from whetstone.arguments import parse_arguments, run
from whetstone.errors import AssetError

PACKAGES = ("ros_gz_sim", "ros_gz_bridge", "ros_gz_interfaces", "gz_ros2_control", "joint_trajectory_controller", "joint_state_broadcaster",
            "parallel_gripper_controller", "controller_manager", "robot_state_publisher", "xacro")  # fmt: skip
INSTALL = "sudo apt install ros-jazzy-ros-gz ros-jazzy-gz-ros2-control ros-jazzy-ros2-controllers ros-jazzy-xacro"
DESCRIPTION = "and franka_description, from frankarobotics/franka_description, built in a workspace that is sourced"
HELP = """make test-gazebo ARGS='name:=value ...': the conformance kit on a real Gazebo (docs/simulators.md)

  robot:=franka         whatever gazebo.launch.py takes:
  description:=         URDF or xacro of the robot
  hand:=                link of its wrist camera
  base_rpy:=0 0 0       how its root link is turned
"""
_DEFAULTS = {"robot": "franka", "description": "", "hand": "", "base_rpy": "0 0 0"}


def missing() -> list[str]:
    """Programs and ROS packages that are not there."""
    from ament_index_python.packages import get_packages_with_prefixes

    there = get_packages_with_prefixes()
    programs = [name for name in ("gz", "ros2") if shutil.which(name) is None]
    return programs + [name for name in (*PACKAGES, "franka_description") if name not in there]


def main(words: list[str]) -> None:
    """Raises AssetError where something is missing. Ends the process with the kit's exit code."""
    values = parse_arguments(words, _DEFAULTS)
    lacking = missing()
    if values["description"] and "franka_description" in lacking:
        lacking.remove("franka_description")
    if lacking:
        raise AssetError(
            f"Gazebo was NOT tested: not installed here (or its workspace is not sourced): {', '.join(lacking)}. On ROS 2 Jazzy: "
            f"{INSTALL}; {DESCRIPTION}"
        )
    robot = f"robot:={values['robot']}"
    launched = ["ros2", "launch", "robot_bringup", "gazebo.launch.py", "headless:=true", robot]
    launched += [f"{name}:={values[name]}" for name in ("description", "hand", "base_rpy") if values[name]]
    folder = Path("runs").absolute() / "test-gazebo"
    ours = [sys.executable, "-m", "robot_bringup.cli", "run", "sim", robot, "sim:=gazebo", f"run_dir:={folder}"]
    kit = [sys.executable, "-m", "robot_bringup.conformance", robot, "sim:=gazebo", "patience:=180"]
    shutil.rmtree(folder, ignore_errors=True)
    running: list[subprocess.Popen[bytes]] = []
    try:
        running += [subprocess.Popen(command) for command in (launched, ours)]
        code = subprocess.run(kit, check=False).returncode
    finally:
        for process in reversed(running):
            process.send_signal(signal.SIGINT)
        for process in running:
            try:
                process.wait(30)
            except subprocess.TimeoutExpired:
                process.kill()
    sys.exit(code)


if __name__ == "__main__":
    run(main, HELP)
