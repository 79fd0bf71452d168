"""ros2 launch robot_bringup gazebo.launch.py robot:=franka   (--show-args lists the arguments)

Our table and the robot in Gazebo Sim, behind gz_ros2_control and ros_gz_bridge, ready for a run with sim:=gazebo, which is another launch
file. Needs Gazebo Harmonic with ros_gz, gz_ros2_control, ros2_controllers, xacro and the robot's description on this machine.
"""

import tempfile
from pathlib import Path

from ament_index_python.packages import PackageNotFoundError, get_package_share_directory
from launch.actions import (
    DeclareLaunchArgument,
    IncludeLaunchDescription,
    OpaqueFunction,
    RegisterEventHandler,
    SetEnvironmentVariable,
)
from launch.event_handlers import OnProcessExit
from launch.launch_description_sources import PythonLaunchDescriptionSource
from launch.substitutions import LaunchConfiguration
from launch_ros.actions import Node

from launch import LaunchDescription
from robot_bringup.gazebo.bringup import bringup, described, turns
from whetstone.errors import ConfigError

ARGUMENTS = {
    "robot": ("franka", "a file of config/robots that has a profile for gazebo"),
    "namespace": ("", "of the robot and of the run; empty: the robot's name"),
    "description": ("", "URDF or xacro file of the robot with its gripper; empty: the one that is known for it"),
    "hand": ("", "link that the wrist camera is fixed to; empty: the one that is known for it"),
    "base_rpy": ("0 0 0", "roll, pitch, yaw (rad) of the description's root link on the table"),
    "headless": ("false", "true: no window"),
}


def generate_launch_description():
    declared = [DeclareLaunchArgument(name, default_value=value, description=words) for name, (value, words) in ARGUMENTS.items()]
    return LaunchDescription([*declared, OpaqueFunction(function=_start)])


def _share(package):
    try:
        return get_package_share_directory(package)
    except PackageNotFoundError:
        raise ConfigError(f"package {package} is not installed here; docs/simulators.md says what sim:=gazebo needs") from None


def _start(context):
    given = {name: LaunchConfiguration(name).perform(context) for name in ARGUMENTS}
    plan = bringup(given["robot"], given["namespace"], Path(tempfile.mkdtemp(prefix="whetstone-gazebo-")))
    package, file, mappings, hand = described(plan.profile, given["description"], given["hand"])
    path = Path(_share(package)) / file if package else Path(file)
    try:
        import xacro
    except ImportError:
        raise ConfigError("xacro is not installed here; docs/simulators.md says what sim:=gazebo needs") from None
    plan.write(xacro.process_file(str(path), mappings=mappings).toxml(), hand, turns(given["base_rpy"]))
    gazebo = PythonLaunchDescriptionSource(f"{_share('ros_gz_sim')}/launch/gz_sim.launch.py")
    state = Node(
        package="robot_state_publisher",
        executable="robot_state_publisher",
        namespace=plan.namespace,
        parameters=[{"robot_description": plan.robot_file.read_text(), "use_sim_time": True}],
        # gz_ros2_control's joint states are the driver's; tf is nobody's need here.
        remappings=[("joint_states", plan.profile.joint_states)],
    )
    spawn = Node(
        package="ros_gz_sim",
        executable="create",
        namespace=plan.namespace,
        arguments=["-world", plan.world, "-file", str(plan.robot_file), "-name", "robot"],
        output="screen",
    )
    bridge = Node(
        package="ros_gz_bridge",
        executable="parameter_bridge",
        namespace=plan.namespace,
        arguments=plan.bridge_arguments,
        parameters=[{"config_file": str(plan.bridge_file), "use_sim_time": True}],
        output="screen",
    )
    controllers = Node(
        package="controller_manager",
        executable="spawner",
        namespace=plan.namespace,
        arguments=[*plan.controllers, "--controller-manager-timeout", "60"],
        output="screen",
    )
    headless = given["headless"].lower() == "true"
    return [
        # Meshes of a description: package://NAME/... is looked for beside the package's own folder.
        SetEnvironmentVariable("GZ_SIM_RESOURCE_PATH", str(Path(_share(package)).parent if package else path.parent)),
        IncludeLaunchDescription(gazebo, launch_arguments=[("gz_args", plan.gz_arguments(headless)), ("on_exit_shutdown", "true")]),
        state,
        bridge,
        spawn,
        RegisterEventHandler(OnProcessExit(target_action=spawn, on_exit=[controllers])),
    ]
