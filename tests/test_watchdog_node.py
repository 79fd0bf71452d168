"""The watchdog process over real DDS, with this process as robot, policy, episode manager, human and whoever else commands the arm."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("rclpy")

from graph import ROBOT, Graph
from lifecycle_msgs.msg import Transition
from lifecycle_msgs.srv import ChangeState
from sensor_msgs.msg import Image, JointState
from std_msgs.msg import Bool, UInt8
from std_srvs.srv import Trigger
from trajectory_msgs.msg import JointTrajectory
from whetstone_msgs.msg import Command, Episode, Watchdog

from policy_node.watchdog import set_points
from policy_node.watchdog_node import UNNAMED
from whetstone.commands import ARM_COMMAND, TrajectoryCommand, arm_command
from whetstone.config import find
from whetstone.images import to_message
from whetstone.kinematics import ForwardKinematics
from whetstone.profile import load_profile
from whetstone.ros import COMMAND, EVENT, LATCHED, STATE, camera_qos, to_stamp

PROFILE = load_profile(ROBOT)
HERE, SPEED = PROFILE.home, 0.2
EVERYBODY = {"joints", "camera", "policy", "mode"}


def robot_with_mode(tmp_path: Path, type: str) -> str:
    """A robot whose driver says on `driver/mode` whether it takes commands: in 1 and 2."""
    path = tmp_path / "with_mode.yaml"
    mode = f"\nmode: {{topic: driver/mode, type: {type}, field: data, commandable: [1, 2]}}\n"
    path.write_text(find("robots", ROBOT).read_text() + mode)
    return str(path)


class Peers:
    """All that speak; those named in `speaking` do so every 20 ms while `until` waits."""

    def __init__(self, graph: Graph, robot: str, profile=PROFILE, hardware=True, speaking=EVERYBODY) -> None:
        node = graph.node
        self.graph, self.profile, self.arm = graph, profile, TrajectoryCommand(profile)
        self.speaking, self.mode_now = speaking, 1
        self.grip = np.full(len(profile.command_names) - len(profile.joints), profile.opening_to_goal(0.5))
        self.joints = node.create_publisher(JointState, PROFILE.joint_states, STATE)
        self.camera = node.create_publisher(Image, PROFILE.cameras[0].topic, camera_qos(True))
        self.life = node.create_publisher(Command, "policy/command", EVENT)
        self.commands = node.create_publisher(JointTrajectory, ARM_COMMAND, COMMAND)
        self.buttons = [node.create_publisher(Bool, "e_stop", qos) for qos in (LATCHED, camera_qos(True))]
        self.mode = node.create_publisher(UInt8, "driver/mode", STATE)
        self.spoken = 0
        self.wrong: JointTrajectory | None = None  # said instead of what the policy ought to say
        self.driven: list[JointTrajectory] = []
        self.states: list[Watchdog] = []
        if profile.command.kind == "joint_trajectory":
            node.create_subscription(JointTrajectory, profile.command.topic, self.driven.append, 10)
        node.create_subscription(Watchdog, "watchdog", self.states.append, LATCHED)
        graph.start("policy_node", "watchdog", "watchdog", robot=robot, hardware=hardware)
        modes = (self.mode,) if hardware else ()
        graph.until_matched(self.joints, self.camera, self.life, self.commands, *self.buttons, *modes, graph.episodes)

    def until(self, condition) -> None:
        spoken = 0.0

        def speak() -> bool:
            nonlocal spoken
            if time.monotonic() - spoken > 0.02:
                spoken = time.monotonic()
                self.spoken += 1
                stamp = self.spoken * 20_000_000
                if "joints" in self.speaking:
                    profile = self.profile
                    names, velocity = [*profile.joint_names, profile.gripper.joint], [SPEED] * len(profile.joints) + [0.0]
                    message = JointState(name=names, position=[*profile.home, profile.gripper.open], velocity=velocity)
                    message.header.stamp = to_stamp(stamp)
                    self.joints.publish(message)
                if "mode" in self.speaking:
                    self.mode.publish(UInt8(data=self.mode_now))
                if "camera" in self.speaking:
                    self.camera.publish(to_message(np.full((128, 128, 3), 50 + self.spoken % 100, np.uint8), stamp, "front"))
                if "policy" in self.speaking:
                    self.life.publish(Command())
                    home = self.profile.home
                    right = self.arm.build(np.append(home + 0.01, self.grip), np.full_like(home, SPEED), 0)
                    self.commands.publish(right if self.wrong is None else self.wrong)
            return condition()

        self.graph.until(speak)

    def until_stopped(self, reason: str) -> None:
        """And the arm is told to brake: once, from where it is; where joint states are too old to say, from where it was sent."""
        self.until(lambda: self.states and self.states[-1].stopped)
        if reason.startswith("second publisher: "):  # whose name may come after it
            self.until(lambda: not any(UNNAMED in one for one in self.states[-1].reasons))
        assert any(one.startswith(reason) for one in self.states[-1].reasons), self.states[-1].reasons
        self.until(lambda: self.brakes())
        self.until_silent()
        assert len(self.brakes()) == 1
        point = list(self.brakes()[0].points)[0]
        seconds = point.time_from_start.sec + point.time_from_start.nanosec / 1e9
        where = HERE + 0.01 if reason.startswith("joint states") else HERE
        np.testing.assert_allclose(np.array(point.positions), where + SPEED * seconds / 2, atol=1e-6)
        assert not any(point.velocities)

    def brakes(self) -> list[JointTrajectory]:
        return [one for one in self.driven if abs(list(one.points)[0].positions[0] - (HERE[0] + 0.01)) > 1e-6]

    def until_silent(self) -> None:
        """Whatever the policy says, nothing reaches the driver any more."""
        self.driven[:], end = self.brakes(), time.monotonic() + 0.3
        self.until(lambda: time.monotonic() > end)
        assert self.driven == self.brakes()

    def call(self, name: str) -> tuple[bool, str]:
        answer = self.graph.call(Trigger, f"watchdog/{name}", Trigger.Request())
        assert answer is not None
        return answer.success, answer.message

    def release(self) -> None:
        self.speaking, self.wrong = EVERYBODY, None
        end = time.monotonic() + 0.2
        self.until(lambda: time.monotonic() > end)
        self.until(lambda: self.call("release")[0])
        self.driven.clear()
        self.until(lambda: len(self.driven) > 3)
        assert not self.states[-1].stopped and not self.brakes()


def test_the_arm_is_stopped_whatever_goes_wrong_and_a_human_lets_it_go(tmp_path, domain) -> None:
    graph = Graph(tmp_path, domain)
    try:
        peers = Peers(graph, robot_with_mode(tmp_path, "std_msgs/msg/UInt8"))
        graph.say(Episode.PHASE_RUNNING)
        peers.until(lambda: len(peers.driven) > 3)
        assert not peers.brakes() and list(peers.driven[0].joint_names) == list(PROFILE.joint_names)

        for part, reason in (
            ("policy", "policy: no command for 0."),
            ("joints", "joint states: nothing for 0."),
            ("camera", "camera 'front': "),
            ("mode", "robot mode: nothing for 0."),
        ):
            peers.speaking = EVERYBODY - {part}
            peers.until_stopped(reason)
            assert "When it is safe: ros2 service call /so100/watchdog/release std_srvs/srv/Trigger" in graph.log("watchdog")
            peers.release()

        for button in peers.buttons:
            button.publish(Bool(data=True))
            peers.until_stopped("e-stop: pressed")
            assert peers.call("release") == (False, "still stopped: e-stop: pressed")
            button.publish(Bool(data=False))
            peers.release()

        peers.mode_now = 5
        peers.until_stopped("robot mode: data is 5, which takes no commands")
        peers.mode_now = 2
        peers.release()

        other = graph.node.create_publisher(JointTrajectory, PROFILE.command.topic, 10)
        peers.until_stopped(f"second publisher: /{ROBOT}/peer commands the arm on '{PROFILE.command.topic}' too")
        graph.node.destroy_publisher(other)
        peers.release()

        assert peers.call("stop") == (True, "stopped")
        peers.until_stopped("stopped by a human")
        assert peers.call("stop") == (False, "stopped before: stopped by a human")
        peers.release()

        peers.wrong = TrajectoryCommand(PROFILE).build(HERE + 3 * PROFILE.guard.max_step, np.zeros_like(HERE), 0)
        peers.until_stopped("command: ")
        peers.release()

        # What the watchdog judged is all that the driver hears: other joints than it believes, or a second point, would not be.
        peers.wrong = JointTrajectory(joint_names=PROFILE.joint_names[::-1], points=peers.arm.build(HERE, np.zeros_like(HERE), 0).points)
        peers.until_stopped("command: not finite, or of another arm")
        peers.release()

        # Nobody has to command an arm that rests.
        graph.say(Episode.PHASE_ENDED)
        peers.speaking, end = {"joints"}, time.monotonic() + 0.6
        peers.until(lambda: time.monotonic() > end)
        assert not peers.states[-1].stopped
    finally:
        graph.close()


def test_a_driver_that_is_silent_about_its_mode_gets_no_commands(tmp_path, domain) -> None:
    graph = Graph(tmp_path, domain)
    try:
        peers = Peers(graph, robot_with_mode(tmp_path, "std_msgs/msg/UInt8"), speaking={"joints", "camera", "policy"})
        graph.say(Episode.PHASE_RUNNING)
        peers.until(lambda: peers.states and peers.states[-1].stopped)
        assert list(peers.states[-1].reasons) == ["robot mode: never heard"]
        assert peers.call("release") == (False, "still stopped: robot mode: never heard")
        assert not [one for one in peers.driven if one not in peers.brakes()]
        peers.release()
    finally:
        graph.close()


@pytest.mark.parametrize("kind", ["forward", "joint_state", "pose"])
def test_a_driver_that_draws_no_way_is_braked_set_point_by_set_point(tmp_path, domain, kind) -> None:
    """What goes through is the policy's command in the driver's words; stopped, set-points follow until the arm rests."""
    name = {"forward": "so101_follower", "joint_state": "so100", "pose": "so100"}[kind]
    path = tmp_path / "robot.yaml"
    frame = ", frame: base" if kind == "pose" else ""
    change = f"\ncommand: {{kind: {kind}, topic: driver/commands{frame}}}\n" if name == "so100" else ""
    path.write_text(f"extends: {name}\nname: changed{change}\n")
    profile = load_profile(str(path))
    graph = Graph(tmp_path, domain)
    try:
        heard: list[tuple[float, np.ndarray]] = []
        command = arm_command(profile)
        kinematics = ForwardKinematics(profile)

        def listen(message) -> None:
            if kind == "pose":
                assert message.header.frame_id == "base"
                p = message.pose.position
                heard.append((time.monotonic(), np.array([p.x, p.y, p.z])))
            else:
                heard.append((time.monotonic(), np.array(message.data if kind == "forward" else message.position)))

        graph.node.create_subscription(command.message_type, profile.command.topic, listen, 50)
        peers = Peers(graph, str(path), profile, hardware=False)
        graph.say(Episode.PHASE_RUNNING)
        peers.until(lambda: len(heard) > 3)
        where = profile.home + 0.01

        def said(joints: np.ndarray) -> np.ndarray:
            if kind == "pose":
                return kinematics.end_effector(joints)
            return np.append(joints, peers.grip) if kind == "forward" else joints

        np.testing.assert_allclose(heard[-1][1], said(where), atol=1e-9)
        heard.clear()
        assert peers.call("stop") == (True, "stopped")
        row = set_points(profile, where, np.full(len(profile.joints), SPEED))
        first = next((i for i, (_, one) in enumerate(heard) if np.abs(one - said(where)).max() > 1e-9), len(heard))
        peers.until(lambda: len(heard) >= first + len(row))
        end = time.monotonic() + 0.3
        peers.until(lambda: time.monotonic() > end)
        assert len(heard) == first + len(row), "then the driver is left alone"
        np.testing.assert_allclose([one for _, one in heard[first:]], [said(joints) for joints in row], atol=1e-9)
    finally:
        graph.close()


def test_a_mode_of_messages_that_are_not_installed(tmp_path, domain) -> None:
    graph, robot = Graph(tmp_path, domain), robot_with_mode(tmp_path, "nobody_msgs/msg/Mode")
    try:
        graph.start("policy_node", "watchdog", "watchdog", active=False, robot=robot, hardware=True)
        client = graph.node.create_client(ChangeState, "watchdog/change_state")
        graph.until(client.service_is_ready)
        client.call_async(ChangeState.Request(transition=Transition(id=Transition.TRANSITION_CONFIGURE)))
        assert graph.until_exit("watchdog") == 2
        assert "message type 'nobody_msgs/msg/Mode' is not installed; install the robot's messages, nobody_msgs" in graph.log("watchdog")
    finally:
        graph.close()
