"""The objects of a scene in a simulator that is not ours: where they are, and putting them where they belong.

Role: ROS only. Poses come on `objects/NAME/pose` (geometry_msgs/PoseStamped, in the frame that the robot's base stands in). They are set
by `objects/NAME/set_pose` of the same type (our Isaac Sim stage), or by Gazebo's service SetEntityPose behind ros_gz_bridge. Either may be
lost or refused: an object counts as placed when its own pose says so for a while, and is told again until then.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from functools import partial
from typing import Any

import numpy as np
from geometry_msgs.msg import Pose, PoseStamped

from whetstone.errors import ConfigError
from whetstone.ros import COMMAND, STATE, WhetstoneNode

PLACED = 0.01
"""m from where it belongs at which an object is there, on the table; it may fall a little higher."""
HEIGHT = 0.03
STAYS = 0.2
"""Seconds, by the robot's clock, that all must be there. They are put there one after the other while physics goes on: a cube that is put
where another one still stands is there at first, and then thrown out."""
AGAIN = 0.5
"""Seconds between two attempts."""
WAYS = ("topics", "gazebo")


class Objects:
    """Of one scene. way: "topics" or "gazebo", as above; world: Gazebo's name for its world."""

    def __init__(self, node: WhetstoneNode[Any], names: tuple[str, ...], way: str, world: str) -> None:
        """Raises ConfigError where Gazebo's messages are not installed."""
        self.poses: dict[str, np.ndarray] = {}
        self._names = names
        self._wanted: Mapping[str, np.ndarray] = {}
        self._asked = 0.0
        self._since: int | None = None  # all are there, stamp
        self._set = _Topics(node, names) if way == "topics" else _Gazebo(node, world)
        for name in names:
            node.create_subscription(PoseStamped, f"objects/{name}/pose", partial(self._on_pose, name), STATE)

    def _on_pose(self, name: str, message: PoseStamped) -> None:
        p, q = message.pose.position, message.pose.orientation
        self.poses[name] = np.array([p.x, p.y, p.z, q.w, q.x, q.y, q.z])

    def place(self, wanted: Mapping[str, np.ndarray]) -> None:
        """Begin to put every object there: name -> (7,) x, y, z (m), w, x, y, z."""
        self._wanted, self._asked, self._since = wanted, 0.0, None
        self.poses.clear()

    def placed(self, stamp: int) -> bool:
        """Whether all are there and have stayed; asks again where some are not. To be called until it is true. stamp: the robot's clock,
        ns."""
        left = self.missing()
        if not left:
            self._since = stamp if self._since is None else self._since
            return stamp - self._since >= STAYS * 1e9
        self._since = None
        if time.monotonic() - self._asked > AGAIN:
            self._asked = time.monotonic()
            for name in left:
                self._set(name, self._wanted[name])
        return False

    def missing(self) -> list[str]:
        """Objects that are not where they belong, as far as is known. Before anything was asked: all."""
        return [name for name in self._wanted if self._asked == 0.0 or not self._there(name)]

    def _there(self, name: str) -> bool:
        pose = self.poses.get(name)
        if pose is None:
            return False
        away = pose[:3] - self._wanted[name][:3]
        return bool(np.hypot(away[0], away[1]) < PLACED and abs(away[2]) < HEIGHT)


class _Topics:
    def __init__(self, node: WhetstoneNode[Any], names: tuple[str, ...]) -> None:
        self._publishers = {name: node.create_publisher(PoseStamped, f"objects/{name}/set_pose", COMMAND) for name in names}

    def __call__(self, name: str, pose: np.ndarray) -> None:
        message = PoseStamped(pose=_pose(pose))
        message.header.frame_id = "world"
        self._publishers[name].publish(message)


class _Gazebo:
    def __init__(self, node: WhetstoneNode[Any], world: str) -> None:
        try:
            from ros_gz_interfaces.srv import SetEntityPose
        except ImportError:
            raise ConfigError(
                "sim:=gazebo needs ros_gz_interfaces, which is not installed: sudo apt install ros-$ROS_DISTRO-ros-gz (docs/simulators.md)"
            ) from None
        self._type = SetEntityPose
        self._client = node.create_client(SetEntityPose, f"/world/{world}/set_pose")

    def __call__(self, name: str, pose: np.ndarray) -> None:
        if self._client.service_is_ready():
            request = self._type.Request(pose=_pose(pose))
            request.entity.name, request.entity.type = name, request.entity.MODEL
            self._client.call_async(request)


def _pose(pose: np.ndarray) -> Pose:
    message = Pose()
    p, q = message.position, message.orientation
    p.x, p.y, p.z, q.w, q.x, q.y, q.z = map(float, pose)
    return message
