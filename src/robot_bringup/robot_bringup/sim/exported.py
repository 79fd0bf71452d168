"""The scene of our simulator as plain data, for simulators that build it anew.

Role: read table, objects and cameras out of the compiled model (model.py) in metres, kilograms and quaternions (w, x, y, z), so that there
is one place that says what stands on the table. Depends on MuJoCo; on neither ROS nor another simulator. The robot is not in it: each
simulator has its own description of that.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import mujoco
import numpy as np

from robot_bringup.sim.simulation import Simulation
from robot_bringup.sim.tasks import STANDING
from whetstone.profile import RobotProfile

_KINDS = {int(mujoco.mjtGeom.mjGEOM_BOX): "box", int(mujoco.mjtGeom.mjGEOM_CYLINDER): "cylinder"}


@dataclass(frozen=True)
class Shape:
    """kind: box or cylinder. size: full lengths x, y, z of a box; radius and full height of a cylinder, m. position (3,), quaternion (4,)
    in the body's frame. colour: red, green, blue, alpha in [0, 1]. friction: sliding. solid: it can be touched."""

    kind: str
    size: tuple[float, ...]
    position: tuple[float, ...]
    quaternion: tuple[float, ...]
    colour: tuple[float, ...]
    friction: float
    solid: bool


@dataclass(frozen=True)
class Body:
    """moves: it can be pushed and lifted (else a reset alone moves it). position, quaternion: before any reset, world frame. mass: kg,
    inertia: about its own axes, kg m^2; both 0 where it does not move."""

    name: str
    moves: bool
    position: tuple[float, ...]
    quaternion: tuple[float, ...]
    mass: float
    inertia: tuple[float, ...]
    shapes: tuple[Shape, ...]


@dataclass(frozen=True)
class CameraPose:
    """link: the model's body that it is fixed to, empty: the world. position, quaternion: in that frame, looking along -z, image up along y
    (OpenGL, USD). width, height: pixels; vertical: field of view, rad."""

    name: str
    link: str
    position: tuple[float, ...]
    quaternion: tuple[float, ...]
    width: int
    height: int
    vertical: float

    @property
    def horizontal(self) -> float:
        """Field of view, rad, of square pixels."""
        return 2 * math.atan(math.tan(self.vertical / 2) * self.width / self.height)


@dataclass(frozen=True)
class ExportedScene:
    """bodies: the table first."""

    bodies: tuple[Body, ...]
    cameras: tuple[CameraPose, ...]


def export(profile: RobotProfile) -> ExportedScene:
    """Of a robot's table. Raises as sim.simulation.Simulation."""
    simulation = Simulation(profile, cameras=False)
    model = simulation.model
    table = int(model.geom("table").id)
    bodies = [Body("table", False, (0.0, 0.0, 0.0), (1.0, 0.0, 0.0, 0.0), 0.0, (0.0, 0.0, 0.0), (_shape(model, table),))]
    for name in simulation.world.objects:
        body = model.body(name)
        shapes = tuple(_shape(model, one) for one in range(body.geomadr[0], body.geomadr[0] + body.geomnum[0]))
        moves = name not in STANDING
        mass, inertia = (float(body.mass[0]), _row(body.inertia)) if moves else (0.0, (0.0, 0.0, 0.0))
        bodies.append(Body(name, moves, _row(body.pos), _row(body.quat), mass, inertia, shapes))
    cameras = []
    for camera in profile.cameras:
        placed = model.camera(camera.name)
        link = model.body(int(placed.bodyid[0])).name
        pose = (_row(placed.pos), _row(placed.quat))
        fovy = math.radians(float(placed.fovy[0]))
        cameras.append(CameraPose(camera.name, "" if link == "world" else link, *pose, camera.width, camera.height, fovy))
    return ExportedScene(tuple(bodies), tuple(cameras))


def _shape(model: mujoco.MjModel, index: int) -> Shape:
    geom = model.geom(index)
    kind, size = _KINDS[int(geom.type[0])], geom.size
    full = tuple(2 * float(one) for one in size) if kind == "box" else (float(size[0]), 2 * float(size[1]))
    solid = bool(geom.contype[0] or geom.conaffinity[0])
    return Shape(kind, full, _row(geom.pos), _row(geom.quat), _row(geom.rgba), float(geom.friction[0]), solid)


def _row(values: np.ndarray) -> tuple[float, ...]:
    return tuple(round(float(one), 9) for one in values)
