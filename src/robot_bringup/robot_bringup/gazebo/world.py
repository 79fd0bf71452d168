"""Our table as a Gazebo world.

Role: pure: from the scene of our simulator (sim/exported.py) to SDF. All objects of all tasks are in it, as in MuJoCo; a reset says where.
What only a reset moves (tray, mark, button) is heavy instead of fixed: Harmonic knows no kinematic links, and what is static may not follow
a pose that is set. Does not depend on ROS or Gazebo.
"""

from __future__ import annotations

import math
from xml.etree.ElementTree import Element, SubElement, indent, tostring

import numpy as np

from robot_bringup.sim.exported import Body, CameraPose, ExportedScene, Shape
from whetstone.profile import RobotProfile

HEAVY = 10.0
"""kg of what nothing but a reset is to move."""
STEP = 0.001
"""Seconds of a physics step."""
POSES = 50.0
"""Hz of objects' poses."""
_SYSTEMS = {
    "gz-sim-physics-system": "gz::sim::systems::Physics",
    "gz-sim-user-commands-system": "gz::sim::systems::UserCommands",
    "gz-sim-scene-broadcaster-system": "gz::sim::systems::SceneBroadcaster",
    "gz-sim-sensors-system": "gz::sim::systems::Sensors",
}
_TO_SDF = np.array([[0.0, -1.0, 0.0], [0.0, 0.0, 1.0], [-1.0, 0.0, 0.0]])
"""Axes of a camera that looks along x with z up, in those of one that looks along -z with y up."""


def world_sdf(scene: ExportedScene, profile: RobotProfile, name: str, namespace: str) -> str:
    """SDF of the world `name`. profile: of the robot whose scene it is; namespace: of its topics."""
    root = Element("sdf", version="1.10")
    world = SubElement(root, "world", name=name)
    physics = SubElement(world, "physics", name="physics", type="dart")
    _text(physics, "max_step_size", STEP)
    _text(physics, "real_time_factor", 1)
    for filename, plugin in _SYSTEMS.items():
        system = SubElement(world, "plugin", filename=filename, name=plugin)
        if "sensors" in filename:
            _text(system, "render_engine", "ogre2")
    light = SubElement(world, "light", type="directional", name="sun")
    _text(light, "cast_shadows", "false")
    _text(light, "pose", "0.3 -0.6 1.5 0 0 0")
    _text(light, "diffuse", "0.8 0.8 0.8 1")
    _text(light, "specular", "0 0 0 1")
    _text(light, "direction", "0.1 0.3 -1")
    ambient = SubElement(world, "scene")
    _text(ambient, "ambient", "0.7 0.7 0.7 1")
    _text(ambient, "shadows", "false")
    for body in scene.bodies:
        _model(world, body)
    for camera in scene.cameras:
        if not camera.link:
            model = SubElement(world, "model", name=f"{camera.name}_camera")
            _text(model, "static", "true")
            link = SubElement(model, "link", name="link")
            link.append(camera_sensor(camera, f"/{namespace}/{profile.camera(camera.name).topic}", profile.rate))
    indent(root)
    return '<?xml version="1.0"?>\n' + tostring(root, encoding="unicode") + "\n"


def camera_sensor(camera: CameraPose, topic: str, rate: float) -> Element:
    """<sensor> with its pose in the link that it is in."""
    sensor = Element("sensor", name=camera.name, type="camera")
    _text(sensor, "pose", _pose(camera.position, rotation(camera.quaternion) @ _TO_SDF))
    _text(sensor, "topic", topic)
    _text(sensor, "update_rate", rate)
    _text(sensor, "always_on", "true")
    details = SubElement(sensor, "camera")
    _text(details, "horizontal_fov", camera.horizontal)
    image = SubElement(details, "image")
    _text(image, "width", camera.width)
    _text(image, "height", camera.height)
    _text(image, "format", "R8G8B8")
    clip = SubElement(details, "clip")
    _text(clip, "near", 0.01)
    _text(clip, "far", 10)
    return sensor


def rotation(quaternion: tuple[float, ...]) -> np.ndarray:
    """(3, 3) of a unit quaternion w, x, y, z."""
    w, x, y, z = quaternion
    return np.array(
        [
            [1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)],
            [2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)],
            [2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)],
        ]
    )


def angles(matrix: np.ndarray) -> tuple[float, float, float]:
    """Roll, pitch, yaw (rad) of a rotation (3, 3), as SDF and URDF have them: about the fixed axes x, y, z in this order."""
    pitch = math.asin(-min(max(float(matrix[2, 0]), -1.0), 1.0))
    if abs(matrix[2, 0]) > 1 - 1e-9:  # roll and yaw are about one axis
        return math.atan2(-matrix[1, 2], matrix[1, 1]), pitch, 0.0
    return math.atan2(matrix[2, 1], matrix[2, 2]), pitch, math.atan2(matrix[1, 0], matrix[0, 0])


def _model(world: Element, body: Body) -> None:
    model = SubElement(world, "model", name=body.name)
    _text(model, "pose", _pose(body.position, rotation(body.quaternion)))
    fixed = body.name == "table"
    if fixed:
        _text(model, "static", "true")
    link = SubElement(model, "link", name="link")
    touched = any(shape.solid for shape in body.shapes)
    if not fixed:
        if not touched:
            _text(link, "gravity", "false")  # nothing holds it up
        inertial = SubElement(link, "inertial")
        _text(inertial, "mass", body.mass if body.moves else HEAVY)
        inertia = SubElement(inertial, "inertia")
        axes = body.inertia if body.moves else (0.1, 0.1, 0.1)
        for key, value in zip(("ixx", "iyy", "izz", "ixy", "ixz", "iyz"), (*axes, 0.0, 0.0, 0.0)):
            _text(inertia, key, value)
    for index, shape in enumerate(body.shapes):
        _shape(link, shape, index)
    if not fixed:
        publisher = SubElement(model, "plugin", filename="gz-sim-pose-publisher-system", name="gz::sim::systems::PosePublisher")
        wanted = {"publish_model_pose": "true", "publish_nested_model_pose": "true", "use_pose_vector_msg": "false"}
        kept_quiet = ("publish_link_pose", "publish_visual_pose", "publish_collision_pose", "publish_sensor_pose", "static_publisher")
        for key, value in {**wanted, **dict.fromkeys(kept_quiet, "false"), "update_frequency": POSES}.items():
            _text(publisher, key, value)


def _shape(link: Element, shape: Shape, index: int) -> None:
    kinds = ("visual", "collision") if shape.solid else ("visual",)
    for kind in kinds:
        part = SubElement(link, kind, name=f"{kind}_{index}")
        _text(part, "pose", _pose(shape.position, rotation(shape.quaternion)))
        geometry = SubElement(SubElement(part, "geometry"), shape.kind)
        if shape.kind == "box":
            _text(geometry, "size", _numbers(shape.size))
        else:
            _text(geometry, "radius", shape.size[0])
            _text(geometry, "length", shape.size[1])
        if kind == "visual":
            material = SubElement(part, "material")
            _text(material, "ambient", _numbers(shape.colour))
            _text(material, "diffuse", _numbers(shape.colour))
        else:
            friction = SubElement(SubElement(SubElement(part, "surface"), "friction"), "ode")
            _text(friction, "mu", shape.friction)
            _text(friction, "mu2", shape.friction)


def _pose(position: tuple[float, ...], matrix: np.ndarray) -> str:
    return _numbers((*position, *angles(matrix)))


def _numbers(values: tuple[float, ...]) -> str:
    return " ".join(f"{value:.9g}" for value in values)


def _text(parent: Element, tag: str, value: object) -> None:
    SubElement(parent, tag).text = f"{value:.9g}" if isinstance(value, float) else str(value)
