"""ros2 launch robot_bringup franka.launch.py robot:=fr3 robot_ip:=172.16.0.2   (--show-args lists the arguments)

A Franka arm's driver, ready for commands: franka_bringup's own franka.launch.py with the controllers of config/controllers, and the
trajectory controller started. Needs franka_ros2 on this machine. The run itself is another launch file.
"""

from ament_index_python.packages import PackageNotFoundError, get_package_share_directory
from launch.actions import DeclareLaunchArgument, IncludeLaunchDescription, OpaqueFunction
from launch.launch_description_sources import PythonLaunchDescriptionSource
from launch.substitutions import LaunchConfiguration
from launch_ros.actions import Node

from launch import LaunchDescription
from robot_bringup.franka import bringup
from whetstone.errors import ConfigError


def generate_launch_description():
    return LaunchDescription(
        [
            DeclareLaunchArgument("robot", default_value="fr3", description="a file of config/robots: franka or fr3"),
            DeclareLaunchArgument("robot_ip", default_value="", description="address of the robot"),
            DeclareLaunchArgument("namespace", default_value="", description="of the driver and of the run; empty: the robot's name"),
            DeclareLaunchArgument("fake", default_value="false", choices=["true", "false"], description="fake hardware instead of a robot"),
            OpaqueFunction(function=_start),
        ]
    )


def _start(context):
    given = {name: LaunchConfiguration(name).perform(context) for name in ("robot", "robot_ip", "namespace", "fake")}
    namespace = given["namespace"] or given["robot"]
    plan = bringup(given["robot"], given["robot_ip"], namespace, given["fake"] == "true")
    try:
        share = get_package_share_directory("franka_bringup")
    except PackageNotFoundError:
        raise ConfigError("package franka_bringup is not installed here; install franka_ros2 and source its workspace") from None
    source = PythonLaunchDescriptionSource(f"{share}/launch/franka.launch.py")
    return [
        IncludeLaunchDescription(source, launch_arguments=list(plan.arguments.items())),
        Node(package="controller_manager", executable="spawner", namespace=namespace, arguments=[plan.controller], output="screen"),
    ]
