"""ros2 launch robot_bringup so100.launch.py port:=/dev/ttyACM0 calibration:=arm.yaml   (--show-args lists the arguments)

Our driver of a SO-100 alone: it configures and activates itself. The run is another launch file, which may start the driver itself:
evaluate.launch.py sim:=none driver:=so100 port:=... calibration:=...
"""

from pathlib import Path

from launch.actions import DeclareLaunchArgument, OpaqueFunction
from launch.substitutions import LaunchConfiguration
from launch_ros.actions import Node

from launch import LaunchDescription
from robot_bringup.so100 import bringup

ARGUMENTS = {
    "port": ("", "the arm's serial adapter, for example /dev/ttyACM0"),
    "calibration": ("", "file that `whetstone calibrate-arm` made of this arm"),
    "robot": ("so100", "a file of config/robots"),
    "driver": ("so100", "a file of config/drivers"),
    "namespace": ("", "of the driver and of the run; empty: the robot's name"),
}


def generate_launch_description():
    declared = [DeclareLaunchArgument(name, default_value=value, description=words) for name, (value, words) in ARGUMENTS.items()]
    return LaunchDescription([*declared, OpaqueFunction(function=_start)])


def _start(context):
    given = {name: LaunchConfiguration(name).perform(context) for name in ARGUMENTS}
    namespace = given.pop("namespace") or Path(given["robot"]).stem
    parameters = bringup.parameters(**given)
    node = Node(
        package="robot_bringup",
        executable=bringup.EXECUTABLE,
        name=bringup.EXECUTABLE,
        namespace=namespace,
        parameters=[{**parameters, "autostart": True}],
        output="both",
        sigterm_timeout=str(bringup.stopping(parameters)),  # SIGTERM is a second signal: it would stop parking at once
    )
    return [node]
