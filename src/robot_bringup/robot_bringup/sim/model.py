"""Builds the MuJoCo model of a robot, a table and the objects of a task's scene.

Role: turn data (a robot profile's `sim` section and a task's `scene`) into one compiled MjModel, fast to render on a
CPU: collision meshes only, no shadow, no infinite plane. Does not depend on ROS, on tasks' success conditions or on experts.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import mujoco
import numpy as np

from whetstone.kinematics import robot_spec
from whetstone.profile import RobotProfile

SUBSTEP_SECONDS = 0.0025  # 4-5 ms loses grasps

RED = (0.85, 0.12, 0.10, 1.0)
BLUE = (0.12, 0.25, 0.85, 1.0)
GREEN = (0.15, 0.65, 0.25, 1.0)
YELLOW = (0.95, 0.80, 0.10, 1.0)
WOOD = (0.72, 0.66, 0.58, 1.0)
DARK = (0.22, 0.22, 0.25, 1.0)
LINK_SHADES = ((0.90, 0.90, 0.92, 1.0), (0.45, 0.47, 0.52, 1.0))


@dataclass(frozen=True)
class Scene:
    """Sizes of the objects on the table, in metres."""

    cube: float  # edge length of both cubes
    tray: float  # inner edge length
    tray_wall: float  # wall height
    button: float  # radius
    mark: float  # radius


def build_model(profile: RobotProfile, scene: Scene, pretty: bool = False) -> mujoco.MjModel:
    """Compile robot + table + objects.

    pretty: visual meshes and shadows for videos; the default renders collision meshes only (ten times faster).
    Cameras are the same in both.
    """
    assert profile.sim is not None, "the simulator checks that there is a sim section"
    settings: dict[str, Any] = profile.sim.model
    spec = robot_spec(profile)
    _prepare_robot(spec, settings, pretty)
    _add_scene(spec, scene, settings)
    _add_cameras(spec, settings)
    spec.option.timestep = SUBSTEP_SECONDS
    spec.option.cone = mujoco.mjtCone.mjCONE_PYRAMIDAL
    spec.option.impratio = 1.0
    spec.option.integrator = mujoco.mjtIntegrator.mjINT_IMPLICITFAST
    spec.stat.extent = 1.0
    spec.visual.map.znear = 0.01
    spec.visual.global_.offwidth = 640
    spec.visual.global_.offheight = 480
    spec.visual.quality.numquads = 4 if pretty else 1
    if not pretty:
        spec.visual.quality.numslices = 12
        spec.visual.quality.numstacks = 6
        spec.visual.quality.offsamples = 0
        spec.visual.quality.shadowsize = 0
    return spec.compile()


def _prepare_robot(spec: mujoco.MjSpec, settings: dict[str, Any], pretty: bool) -> None:
    if not pretty:
        for mesh in spec.meshes:
            mesh.maxhullvert = 32  # the renderer draws the convex hulls: half the time of the meshes
    for index, body in enumerate(spec.bodies):
        if body.name == "world":
            continue
        body.gravcomp = 1.0  # both real arms compensate gravity or are stiff enough not to show it
        for geom in list(body.geoms):
            collides = geom.contype != 0 or geom.conaffinity != 0
            if collides and not pretty:
                geom.group = 0
                geom.material = ""
                geom.rgba = LINK_SHADES[index % 2]
            elif not collides and not pretty:
                spec.delete(geom)
            elif collides:
                geom.group = 3
    for joint_name, values in settings.get("joints", {}).items():
        joint = spec.joint(joint_name)
        for key, value in values.items():
            # damping is a polynomial in MuJoCo 4 (and a scalar before): write whichever shape is there
            current = np.asarray(getattr(joint, key))
            setattr(joint, key, value if current.ndim == 0 else np.array([value] + [0.0] * (current.size - 1)).reshape(current.shape))
    for name, values in settings.get("actuators", {}).items():
        actuator = spec.actuator(name)
        actuator.gainprm[: len(values["gain"])] = values["gain"]
        actuator.biasprm[: len(values["bias"])] = values["bias"]
        if "force" in values:
            actuator.forcerange = values["force"]
    # An arm that comes without actuators (a body file) gets a position servo per joint.
    for joint_name, values in settings.get("add_actuators", {}).items():
        actuator = spec.add_actuator(name=joint_name, target=joint_name, trntype=mujoco.mjtTrn.mjTRN_JOINT)
        actuator.set_to_position(kp=values["kp"], kv=values["kv"])
        actuator.forcerange = [-values["force"], values["force"]]
        actuator.forcelimited = True
        actuator.ctrllimited = False
    for first, second in settings.get("no_contact", []):
        spec.add_exclude(bodyname1=first, bodyname2=second)


def _add_scene(spec: mujoco.MjSpec, scene: Scene, settings: dict[str, Any]) -> None:
    world = spec.worldbody
    for light in list(spec.lights):
        spec.delete(light)
    world.add_light(pos=[0.3, -0.6, 1.5], dir=[0.1, 0.3, -1], type=mujoco.mjtLightType.mjLIGHT_DIRECTIONAL, castshadow=False)
    spec.visual.headlight.ambient = [0.45, 0.45, 0.45]
    spec.visual.headlight.diffuse = [0.35, 0.35, 0.35]
    spec.visual.headlight.specular = [0.0, 0.0, 0.0]
    box = mujoco.mjtGeom.mjGEOM_BOX
    cylinder = mujoco.mjtGeom.mjGEOM_CYLINDER
    table_x, table_half = settings["table"]["center_x"], settings["table"]["half"]
    world.add_geom(
        name="table", type=box, pos=[table_x, 0, -0.05], size=[table_half, table_half, 0.05], rgba=WOOD, friction=[1, 0.005, 0.0001]
    )
    half = scene.cube / 2
    for name, colour in (("red_cube", RED), ("blue_cube", BLUE)):
        body = world.add_body(name=name, pos=[table_x, 0, half])
        body.add_freejoint(name=name)
        body.add_geom(
            name=name,
            type=box,
            size=[half, half, half],
            rgba=colour,
            density=400,
            friction=[1.5, 0.01, 0.0002],
            condim=4,
            solref=[0.01, 1],
        )
    tray = world.add_body(name="tray", mocap=True, pos=[table_x, 0.2, 0])
    inner, wall, height = scene.tray / 2, 0.004, scene.tray_wall
    tray.add_geom(type=box, pos=[0, 0, 0.001], size=[inner, inner, 0.001], rgba=DARK)
    for x, y in ((1, 0), (-1, 0), (0, 1), (0, -1)):
        size = [wall if x else inner + 2 * wall, wall if y else inner + 2 * wall, height / 2]
        tray.add_geom(type=box, pos=[x * (inner + wall), y * (inner + wall), height / 2], size=size, rgba=YELLOW)
    mark = world.add_body(name="mark", mocap=True, pos=[table_x, -0.1, 0])
    mark.add_geom(type=cylinder, pos=[0, 0, 0.0006], size=[scene.mark, 0.0006, 0], rgba=GREEN, contype=0, conaffinity=0)
    base = world.add_body(name="button_base", mocap=True, pos=[table_x, -0.25, 0])
    base.add_geom(type=box, pos=[0, 0, 0.006], size=[scene.button * 1.6, scene.button * 1.6, 0.006], rgba=DARK)
    # The button's travel is computed from the fingertip's height, not simulated: a sprung joint costs substeps and adds nothing here.
    base.add_geom(name="button", type=cylinder, pos=[0, 0, 0.02], size=[scene.button, 0.01, 0], rgba=RED, contype=0, conaffinity=0)


def _add_cameras(spec: mujoco.MjSpec, settings: dict[str, Any]) -> None:
    for camera in list(spec.cameras):
        spec.delete(camera)
    for name, values in settings["cameras"].items():
        parent = spec.worldbody if "body" not in values else spec.body(values["body"])
        parent.add_camera(name=name, pos=values["position"], quat=_look(values), fovy=values["fovy"])


def _look(values: dict[str, Any]) -> np.ndarray:
    """Quaternion (w, x, y, z) of a camera at `position` that looks at `target` with image up along `up` (parent's frame)."""
    position, target, up = (np.asarray(values[key], dtype=float) for key in ("position", "target", "up"))
    backward = position - target
    backward /= np.linalg.norm(backward)
    right = np.cross(up, backward)
    right /= np.linalg.norm(right)
    rotation = np.stack([right, np.cross(backward, right), backward], axis=1)
    quaternion = np.zeros(4)
    mujoco.mju_mat2Quat(quaternion, rotation.flatten())
    return quaternion
