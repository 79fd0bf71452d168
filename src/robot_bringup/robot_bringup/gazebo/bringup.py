"""What starts with sim:=gazebo: files, and the arguments of the programs that read them.

Role: pure data but for `write`; launch/gazebo.launch.py turns it into actions. What it names (topics, controllers) comes from the robot's
profile for Gazebo. Does not depend on launch, ROS or Gazebo.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from robot_bringup.gazebo.robot import ready
from robot_bringup.gazebo.world import world_sdf
from robot_bringup.sim.exported import ExportedScene, export
from robot_bringup.simulators import robot_in, world
from whetstone import config
from whetstone.errors import ConfigError
from whetstone.profile import RobotProfile, load_profile

IMAGE = ("sensor_msgs/msg/Image", "gz.msgs.Image")
POSE = ("geometry_msgs/msg/PoseStamped", "gz.msgs.Pose")
CLOCK = ("rosgraph_msgs/msg/Clock", "gz.msgs.Clock")
SET_POSE = "ros_gz_interfaces/srv/SetEntityPose@gz.msgs.Pose@gz.msgs.Boolean"
DESCRIPTIONS = {"fer": ("franka_description", "robots/fer/fer.urdf.xacro", {"hand": "true", "ee_id": "franka_hand"}, "fer_hand")}
"""arm_id -> package, file and xacro arguments of its description, and the link that the wrist camera is fixed to."""


@dataclass(frozen=True)
class Bringup:
    """profile: of the robot in Gazebo. world_file: SDF; bridge_file: YAML of ros_gz_bridge's topics; robot_file: URDF; bridge_arguments:
    its service. controllers: names that the spawner starts; controllers_file: their YAML."""

    profile: RobotProfile
    scene: ExportedScene
    namespace: str
    world: str
    folder: Path
    controllers: tuple[str, ...]
    controllers_file: Path

    @property
    def world_file(self) -> Path:
        return self.folder / "world.sdf"

    @property
    def bridge_file(self) -> Path:
        return self.folder / "bridge.yaml"

    @property
    def robot_file(self) -> Path:
        return self.folder / "robot.urdf"

    @property
    def bridge_arguments(self) -> list[str]:
        return [f"/world/{self.world}/set_pose@{SET_POSE}"]

    def gz_arguments(self, headless: bool) -> str:
        """Of ros_gz_sim's gz_sim.launch.py: run at once; headless: the server alone, rendering without a screen."""
        return f"-r {'-s --headless-rendering ' if headless else ''}{self.world_file}"

    def write(self, urdf: str, hand: str, turned: tuple[float, ...]) -> None:
        """Write the three files. Arguments as of robot.ready. Raises InputError."""
        robot = ready(urdf, self.profile, self.scene, self.namespace, self.controllers_file, hand, turned)
        self.folder.mkdir(parents=True, exist_ok=True)
        self.robot_file.write_text(robot)
        self.world_file.write_text(world_sdf(self.scene, self.profile, self.world, self.namespace))
        self.bridge_file.write_text(yaml.safe_dump(bridge(self.profile, self.scene, self.namespace), sort_keys=False))


def bringup(robot: str, namespace: str, folder: Path) -> Bringup:
    """Raises ConfigError where the robot has no profile for Gazebo, or the controllers' file none for it."""
    profile = load_profile(robot_in(robot, "gazebo"))
    namespace = namespace.strip("/") or Path(robot).stem.removesuffix("_gazebo")
    path = config.root() / "config" / "controllers" / f"gazebo_{profile.asset_name}.yaml"
    if not path.is_file():
        raise ConfigError(f"robot '{profile.name}': {config.show(path)} is missing: the controllers that Gazebo is to start")
    names = (profile.command.topic.split("/")[0], profile.gripper.action.split("/")[0])
    configured = config.load_yaml(path)
    for name in names:
        if f"/**/{name}" not in configured:
            raise ConfigError(f"robot '{profile.name}': {config.show(path)} has no controller '{name}'")
    return Bringup(profile, export(profile), namespace, world(namespace), folder, ("joint_state_broadcaster", *names), path)


def described(profile: RobotProfile, description: str, hand: str) -> tuple[str, str, dict[str, str], str]:
    """Package (empty: the file is a path), file, xacro arguments and camera link. Raises ConfigError where the arguments must say them."""
    if description:
        if not Path(description).expanduser().is_file():
            raise ConfigError(f"argument description:={description}: no such file")
        known = DESCRIPTIONS.get(profile.arm_id)
        return "", str(Path(description).expanduser()), {}, hand or (known[3] if known else "")
    if profile.arm_id not in DESCRIPTIONS:
        raise ConfigError(
            f"robot '{profile.name}': give its URDF or xacro file, description:=FILE, and the wrist camera's link, hand:=LINK"
        )
    package, file, given, link = DESCRIPTIONS[profile.arm_id]
    return package, file, given, hand or link


def turns(text: str) -> tuple[float, ...]:
    """The three numbers of base_rpy:="0 0 1.57". Raises ConfigError."""
    try:
        numbers = tuple(float(word) for word in text.split())
    except ValueError:
        numbers = ()
    if len(numbers) != 3 or not all(math.isfinite(number) for number in numbers):
        raise ConfigError(f"argument base_rpy:={text} must be three numbers (rad): roll, pitch and yaw of the robot's base")
    return numbers


def bridge(profile: RobotProfile, scene: ExportedScene, namespace: str) -> list[dict[str, Any]]:
    """Entries of ros_gz_bridge's config_file: the clock, cameras, and where the objects are."""
    entries = [_entry("/clock", "/clock", CLOCK)]
    entries += [_entry(f"/{namespace}/{camera.topic}", f"/{namespace}/{camera.topic}", IMAGE) for camera in profile.cameras]
    placed = [body.name for body in scene.bodies if body.name != "table"]
    entries += [_entry(f"/{namespace}/objects/{name}/pose", f"/model/{name}/pose", POSE) for name in placed]
    return entries


def _entry(ros: str, gazebo: str, types: tuple[str, str]) -> dict[str, Any]:
    return {
        "ros_topic_name": ros,
        "gz_topic_name": gazebo,
        "ros_type_name": types[0],
        "gz_type_name": types[1],
        "direction": "GZ_TO_ROS",
        "lazy": False,
        "publish_optical_frame": False,
    }
