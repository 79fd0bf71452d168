"""A foreign simulator, emulated: a process that speaks a profile's topics as Isaac Sim or Gazebo with its bridges does, with MuJoCo behind.

Role: for the tests of the conformance kit and of the adapters. Its own order of joints, reliable cameras, /clock, objects' poses; none of
Whetstone's nodes. `faults` break it in ways that the kit must find. Run as: simulator_peer.py '{"robot": ..., "namespace": ...}'.
"""

from __future__ import annotations

import json
import sys
import time
from typing import Any

import numpy as np
import rclpy
from geometry_msgs.msg import Pose, PoseStamped
from rclpy.executors import ExternalShutdownException
from rclpy.node import Node
from rosgraph_msgs.msg import Clock
from sensor_msgs.msg import Image, JointState
from whetstone_msgs.msg import Truth
from whetstone_msgs.srv import ResetScene

from robot_bringup.gripper_server import GripperServer
from robot_bringup.set_points import controller
from robot_bringup.sim.simulation import Simulation
from whetstone.errors import WhetstoneError
from whetstone.images import to_message
from whetstone.profile import load_profile
from whetstone.ros import EVENT, to_stamp
from whetstone.task import load_task

CUBES, STANDS = ("red_cube", "blue_cube"), ("tray", "mark", "button_base")
SUBSTEPS = 2
"""Joint states in a camera's period: these simulators publish them more often than images."""


class Peer(Node):
    """robot, namespace: profile and where. objects: "topics" as our Isaac stage has them, "gazebo" with its service, "" for none.
    own_reset: answers scene/reset and publishes truth itself, as our own simulator does. faults: names, see the code."""

    def __init__(self, robot: str, namespace: str, objects: str = "", own_reset: bool = False, faults: tuple[str, ...] = ()) -> None:
        super().__init__("peer", namespace=namespace)
        self.guarded = lambda callback: callback  # what gripper_server asks of a node of ours
        self.faults = set(faults)
        self.profile = profile = load_profile(robot)
        self.simulation = Simulation(profile)
        self.simulation.reset(load_task("pick_and_place", profile.asset_name), 0)
        self.controller = controller(profile)
        self.controller.hold(self.simulation.observe(images=False).positions)
        self.stamp, self.count, self.opening, self.broken = 5_000_000_000, 0, 1.0, False
        self.joints = self.create_publisher(JointState, profile.joint_states, 10)
        self.clock = self.create_publisher(Clock, "/clock", 10)
        self.cameras = {camera.name: self.create_publisher(Image, camera.topic, 10) for camera in profile.cameras}
        self.create_subscription(self.controller.message_type, profile.command.topic, self.on_command, 10)
        self.gripper = GripperServer(self, profile) if profile.gripper.action else None  # type: ignore[arg-type]
        self.poses: dict[str, Any] = {}
        if objects:
            self.poses = {name: self.create_publisher(PoseStamped, f"objects/{name}/pose", 10) for name in (*CUBES, *STANDS)}
        if objects == "topics":
            for name in self.poses:
                self.create_subscription(PoseStamped, f"objects/{name}/set_pose", lambda m, name=name: self.place(name, m.pose), 10)
        elif objects == "gazebo":
            from ros_gz_interfaces.srv import SetEntityPose

            self.create_service(SetEntityPose, f"/world/{namespace}/set_pose", self.on_set_pose)
        if own_reset:
            self.truth = self.create_publisher(Truth, "truth", EVENT)
            self.create_service(ResetScene, "scene/reset", self.on_reset)
        self.own_reset = own_reset
        self.create_timer(profile.period / SUBSTEPS, self.tick)

    def on_command(self, message: Any) -> None:
        reason = self.controller.accept(message, self.stamp)
        if reason:
            self.get_logger().warning(reason)
        beyond = "dies_beyond_limits" in self.faults and not reason
        if beyond and self.profile.command.kind == "joint_trajectory":
            end = np.array([*message.points][-1].positions)
            self.broken |= bool(((end < self.profile.lower) | (end > self.profile.upper)).any())

    def place(self, name: str, pose: Pose) -> None:
        world, q = self.simulation.world, pose.orientation
        position = np.array([pose.position.x, pose.position.y, pose.position.z])
        if name in CUBES:
            address = world._cube_qpos[name]
            self.simulation.data.qpos[address : address + 7] = [*position, q.w, q.x, q.y, q.z]
            dof = self.simulation.model.jnt_dofadr[self.simulation.model.joint(name).id]
            self.simulation.data.qvel[dof : dof + 6] = 0
        else:
            self.simulation.data.mocap_pos[world._mocap[name]] = position

    def on_set_pose(self, request: Any, response: Any) -> Any:
        response.success = request.entity.name in self.poses and request.entity.type == request.entity.MODEL
        if response.success:
            self.place(request.entity.name, request.pose)
        return response

    def on_reset(self, request: ResetScene.Request, response: ResetScene.Response) -> ResetScene.Response:
        try:
            task = load_task(request.task, self.profile.asset_name)
        except WhetstoneError as error:
            response.reason = str(error)
            return response
        self.simulation.reset(task, 3 if "ignores_seed" in self.faults else int(request.seed))
        self.controller.hold(self.simulation.observe(images=False).positions)
        if "time_back" in self.faults:
            self.stamp = 1_000_000_000
        response.ok, response.start = True, to_stamp(self.stamp + self.profile.period_ns)
        return response

    def tick(self) -> None:
        self.count += 1
        self.stamp += self.profile.period_ns // SUBSTEPS
        if self.count % SUBSTEPS == 0:
            target = self.controller.sample(self.stamp)
            if "swapped" in self.faults:
                rest = self.profile.home
                target = np.concatenate([rest[:2] + (target - rest)[1::-1], target[2:]])
            opening = self.gripper.opening if self.gripper else self.opening
            if self.controller.grip is not None:
                opening = self.profile.position_to_opening(self.controller.grip / self.profile.gripper.scale)
            self.simulation.step(target, opening)
            if self.gripper:
                self.gripper.measured(self.simulation.gripper_opening())
        self.publish()

    def publish(self) -> None:
        assert self.profile.sim is not None
        images = self.count % SUBSTEPS == 0
        state = self.simulation.observe(images=images)
        stamp = to_stamp(self.stamp)
        self.clock.publish(Clock(clock=stamp))
        known = dict(zip(self.profile.joint_names, zip(state.positions, state.velocities)))
        names = list(self.profile.sim.joints)[::-1]  # nobody promises the profile's order
        finger = self.profile.opening_to_position(state.gripper_opening)
        rows = np.array([known.get(name, (finger, 0.0)) for name in names])
        if self.broken:
            rows[:] = np.nan
        if "degrees" in self.faults:
            rows[:, 1] = np.rad2deg(rows[:, 1])
        message = JointState(name=names, position=rows[:, 0].tolist(), velocity=rows[:, 1].tolist())
        message.header.stamp = stamp
        for name, image in state.images.items():
            if name == "wrist" and "small_wrist" in self.faults:
                image = np.ascontiguousarray(image[::2, ::2])
            if name == "front" and "blank_front" in self.faults:
                image = np.zeros_like(image)
            late = 600_000_000 if name == "front" and "late_front" in self.faults else 0
            self.cameras[name].publish(to_message(image, self.stamp - late, name))
        for name, publisher in self.poses.items():
            publisher.publish(PoseStamped(header=message.header, pose=self.pose_of(name)))
        if self.own_reset:
            truth = Truth()
            truth.header.stamp = stamp
            self.truth.publish(truth)
        self.joints.publish(message)

    def pose_of(self, name: str) -> Pose:
        world, pose = self.simulation.world, Pose()
        yaw = world.cube_yaw(name) if name in CUBES else 0.0
        pose.position.x, pose.position.y, pose.position.z = (world.cube(name) if name in CUBES else world.place_of(name)).tolist()
        pose.orientation.w, pose.orientation.z = float(np.cos(yaw / 2)), float(np.sin(yaw / 2))
        return pose


def main() -> None:
    rclpy.init()
    node = Peer(**json.loads(sys.argv[1]))
    try:
        rclpy.spin(node)
    except (KeyboardInterrupt, ExternalShutdownException):
        time.sleep(0)


if __name__ == "__main__":
    main()
