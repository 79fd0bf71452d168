"""A robot's URDF made ready for Gazebo: fixed to the world, behind gz_ros2_control, with its camera.

Role: pure: any URDF in whose joints have the profile's names (franka_description's, an SO-ARM100's), URDF out. What a description says
itself of ros2_control and Gazebo's plugins is left out, so that none runs twice. Does not depend on ROS or Gazebo.
"""

from __future__ import annotations

from pathlib import Path
from xml.etree.ElementTree import Element, ParseError, SubElement, fromstring, tostring

from robot_bringup.gazebo.world import camera_sensor
from robot_bringup.sim.exported import CameraPose, ExportedScene
from whetstone.errors import InputError
from whetstone.profile import RobotProfile


def ready(
    urdf: str,
    profile: RobotProfile,
    scene: ExportedScene,
    namespace: str,
    controllers: Path,
    hand: str,
    turned: tuple[float, ...] = (0.0, 0.0, 0.0),
) -> str:
    """urdf: of the arm with its gripper. namespace: of controller manager and cameras; controllers: their YAML; hand: link of the wrist
    camera; turned: roll, pitch, yaw (rad) of its root link on the table. Raises InputError naming a joint or link that the URDF lacks."""
    try:
        robot = fromstring(urdf)
    except ParseError as error:
        raise InputError(f"robot description: not valid XML ({error})") from None
    if robot.tag != "robot":
        raise InputError(f"robot description: its root is <{robot.tag}>, not <robot>: is it a URDF?")
    joints = {joint.get("name", ""): joint for joint in robot.findall("joint")}
    links = [link.get("name", "") for link in robot.findall("link")]
    for name in (*profile.joint_names, profile.gripper.joint):
        if name not in joints:
            moving = [name for name, joint in joints.items() if joint.get("type") != "fixed"]
            raise InputError(f"robot description: no joint '{name}'; it has {', '.join(moving)}. Profile and description must agree")
    for camera in scene.cameras:
        if camera.link and hand not in links:
            raise InputError(f"robot description: no link '{hand}' for camera '{camera.name}'; give hand:=LINK, one of {', '.join(links)}")
    for old in (*robot.findall("ros2_control"), *(one for one in robot.findall("gazebo") if one.find("plugin") is not None)):
        robot.remove(old)
    _fix(robot, links, profile, turned)
    _control(robot, profile)
    for camera in scene.cameras:
        if camera.link:
            _camera(robot, camera, hand, f"/{namespace}/{profile.camera(camera.name).topic}", profile.rate)
    plugin = SubElement(SubElement(robot, "gazebo"), "plugin", filename="gz_ros2_control-system")
    plugin.set("name", "gz_ros2_control::GazeboSimROS2ControlPlugin")
    SubElement(plugin, "parameters").text = str(controllers)
    SubElement(SubElement(plugin, "ros"), "namespace").text = f"/{namespace}"
    return tostring(robot, encoding="unicode")


def _fix(robot: Element, links: list[str], profile: RobotProfile, turned: tuple[float, ...]) -> None:
    """The root link stands where the profile's model does. One that is called world stands there already."""
    if "world" in links:
        return
    children = {child.get("link") for child in robot.iter("child")}
    root = next((link for link in links if link not in children), None)
    if root is None:
        raise InputError("robot description: every link is another's child: it has no root")
    assert profile.sim is not None
    SubElement(robot, "link", name="world")
    joint = SubElement(robot, "joint", name="world_to_robot", type="fixed")
    position, rpy = (" ".join(f"{value:.9g}" for value in values) for values in (profile.sim.model["base_position"], turned))
    SubElement(joint, "origin", xyz=position, rpy=rpy)
    SubElement(joint, "parent", link="world")
    SubElement(joint, "child", link=root)


def _control(robot: Element, profile: RobotProfile) -> None:
    """Positions in, positions and velocities out, for the arm and the joint that opens the gripper; what mimics that follows."""
    control = SubElement(robot, "ros2_control", name="gazebo", type="system")
    SubElement(SubElement(control, "hardware"), "plugin").text = "gz_ros2_control/GazeboSimSystem"
    first = {joint.name: joint.home for joint in profile.joints} | {profile.gripper.joint: profile.gripper.open}
    for name, position in first.items():
        joint = SubElement(control, "joint", name=name)
        SubElement(joint, "command_interface", name="position")
        state = SubElement(joint, "state_interface", name="position")
        SubElement(state, "param", name="initial_value").text = f"{position:.9g}"
        SubElement(joint, "state_interface", name="velocity")


def _camera(robot: Element, camera: CameraPose, hand: str, topic: str, rate: float) -> None:
    SubElement(robot, "gazebo", reference=hand).append(camera_sensor(camera, topic, rate))
