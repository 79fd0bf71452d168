"""The SO-100's driver process over real DDS, on emulated servos behind a pseudo-terminal, with this process as policy and human."""

from __future__ import annotations

import signal
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("rclpy")

from control_msgs.action import ParallelGripperCommand
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
from graph import ROBOT, Graph
from lifecycle_msgs.msg import Transition
from rclpy.action import ActionClient
from sensor_msgs.msg import JointState
from std_srvs.srv import Trigger
from trajectory_msgs.msg import JointTrajectory

from robot_bringup.so100.calibration import RAD_PER_TICK, Calibration, Converter, JointCalibration, save_calibration
from robot_bringup.so100.emulated_bus import EmulatedBus
from robot_bringup.so100.settings import load_settings
from whetstone.commands import TrajectoryCommand, gripper_goal
from whetstone.config import find
from whetstone.profile import load_profile
from whetstone.ros import COMMAND, STATE, joints_qos, to_ns

PROFILE = load_profile(ROBOT)
SETTINGS = load_settings("so100", PROFILE)
NAMES = (*PROFILE.joint_names, PROFILE.gripper.joint)
TORQUE, GOAL = 40, 42
START = np.array([0.2, -1.2, 1.2, 0.8, 0.4, 0.5])


class Peers:
    """The arm, what is heard of its driver, and what is said to it."""

    def __init__(self, graph: Graph, emulated: EmulatedBus) -> None:
        self.graph, self.emulated = graph, emulated
        joints = {name: JointCalibration(i + 1, 2048, 20, 4070, -1 if i % 2 else 1, 30 * i) for i, name in enumerate(NAMES)}
        calibration = Calibration(ROBOT, "2026-01-01T00:00:00+00:00", joints)
        self.file = graph.tmp_path / "arm.yaml"
        save_calibration(calibration, self.file)
        self.converter = Converter(calibration, NAMES)
        for id, joint in enumerate(joints.values(), 1):
            emulated.servo(id).put(31, joint.correction, 11)
            emulated.servo(id).kept[:] = emulated.servo(id).memory
        self.place(START)
        node = graph.node
        self.states: list[JointState] = []
        self.health: dict[str, DiagnosticStatus] = {}
        node.create_subscription(JointState, PROFILE.joint_states, self.states.append, STATE)
        node.create_subscription(DiagnosticArray, "/diagnostics", self._on_health, STATE)
        self.commands = node.create_publisher(JointTrajectory, PROFILE.command.topic, COMMAND)
        self.gripper = ActionClient(node, ParallelGripperCommand, PROFILE.gripper.action)

    def _on_health(self, message: DiagnosticArray) -> None:
        self.health |= {status.name.removeprefix(f"/{ROBOT}/so100_driver: "): status for status in message.status}

    def start(self, active: bool = True, **more) -> None:
        # Emulated servos in a busy machine's hands take their time. Parking gives up soon, where it cannot.
        driver = self.graph.tmp_path / "driver.yaml"
        text = find("drivers", "so100").read_text()
        for slow, quick in (
            ("patience: 0.02 ", "patience: 0.2 "),
            ("lost_after: 0.3 ", "lost_after: 2.0 "),
            ("patience: 2.0 ", "patience: 1.0 "),
        ):
            assert slow in text
            text = text.replace(slow, quick)
        driver.write_text(text)
        more |= {"driver": str(driver), "port": str(self.emulated.link)}
        self.graph.start("robot_bringup", "so100_driver", "so100_driver", active, calibration=str(self.file), **more)

    def place(self, positions) -> None:
        with self.emulated.lock:
            for id, ticks in self.converter.to_ticks(np.asarray(positions)).items():
                self.emulated.servo(id).turn_by_hand(ticks)

    def torque(self) -> set[bool]:
        with self.emulated.lock:
            return {servo.torque for servo in self.emulated.line.servos.values()}

    def written(self) -> list[tuple[int, int, bytes]]:
        with self.emulated.lock:
            return list(self.emulated.line.written)

    def measured(self) -> np.ndarray:
        return np.array(self.states[-1].position)

    def hear(self, count: int = 3) -> None:
        """Wait for so many new joint states."""
        self.states.clear()
        self.graph.until(lambda: len(self.states) >= count)

    def command(self, positions, seconds: float = 0.5) -> None:
        build = TrajectoryCommand(PROFILE).build(np.asarray(positions), np.zeros(5), 0, round(seconds * 1e9))
        self.commands.publish(build)

    def at(self, positions, atol: float = 0.02) -> bool:
        return bool(self.states) and np.abs(self.measured()[: len(positions)] - positions).max() < atol

    def until_at(self, positions) -> None:
        self.graph.until(lambda: self.at(positions), 20)

    def drive(self, positions) -> None:
        """Command it again and again, as a policy does."""
        self.graph.until(lambda: self.command(positions, 0.1) or self.at(positions), 20)

    def grip(self, opening: float) -> Any:
        """The action's result; None: it was refused."""
        self.graph.until(self.gripper.server_is_ready)
        sent = self.gripper.send_goal_async(gripper_goal(PROFILE, opening))
        self.graph.until(sent.done)
        goal = sent.result()
        assert goal is not None
        if not goal.accepted:
            return None
        result = goal.get_result_async()
        self.graph.until(result.done)
        answer = result.result()
        assert answer is not None
        return answer.result

    def level(self, part: str) -> bytes | None:
        return self.health[part].level if part in self.health else None


@pytest.fixture
def peers(tmp_path, domain):
    with EmulatedBus(tmp_path / "port") as emulated:
        graph = Graph(tmp_path, domain)
        try:
            yield Peers(graph, emulated)
        finally:
            graph.close()


def test_an_arm_is_driven_unplugged_and_parked(peers: Peers) -> None:
    peers.start()
    graph, emulated = peers.graph, peers.emulated

    # It reads, at its rate, and writes nothing.
    peers.hear(100)
    stamps = np.array([to_ns(state.header.stamp) for state in peers.states])
    assert (np.diff(stamps) > 0).all()
    assert (len(stamps) - 1) / (stamps[-1] - stamps[0]) * 1e9 >= 50
    assert tuple(peers.states[-1].name) == NAMES
    np.testing.assert_allclose(peers.measured(), START, atol=RAD_PER_TICK)
    wrong = TrajectoryCommand(PROFILE).build(START[:-1], np.zeros(5), 0)
    wrong.joint_names = ["elbow", *PROFILE.joint_names[1:]]
    graph.until_matched(peers.commands)
    peers.commands.publish(wrong)
    graph.until(lambda: "trajectory refused: joint 'elbow' is unknown; this arm has shoulder_pan_joint" in graph.log("so100_driver"), 20)
    assert peers.written() == [] and peers.torque() == {False}

    # To its peers it is what the simulator is.
    for info, topic, qos in (
        (graph.node.get_publishers_info_by_topic, PROFILE.joint_states, joints_qos(True)),
        (graph.node.get_subscriptions_info_by_topic, PROFILE.command.topic, COMMAND),
    ):
        found = [one.qos_profile for one in info(topic) if one.node_name == "so100_driver"]
        assert [(one.reliability, one.durability) for one in found] == [(qos.reliability, qos.durability)], topic

    # The first command: torque with every goal where its servo is, then on its way.
    here = {id: servo.position for id, servo in emulated.line.servos.items()}
    target = START[:-1] + [0.4, 0.3, -0.3, -0.3, 0.4]
    peers.command(target)
    peers.until_at(target)
    assert peers.torque() == {True}
    written = peers.written()
    torque = next(i for i, (_, address, _) in enumerate(written) if address == TORQUE)
    first = {id: int.from_bytes(data, "little") for id, address, data in written[:torque] if address == GOAL}
    assert first == here
    for column, id in enumerate(peers.converter.ids):
        goals = [int.from_bytes(data, "little") for one, address, data in written if (one, address) == (id, GOAL)]
        assert np.abs(np.diff(goals)).max() <= 3.0 * 3 / SETTINGS.rate / RAD_PER_TICK + 1, NAMES[column]

    # Joints in another order are the same command.
    shuffled = TrajectoryCommand(PROFILE).build(START[:-1][::-1], np.zeros(5), 0, 500_000_000)
    shuffled.joint_names = list(PROFILE.joint_names)[::-1]
    peers.commands.publish(shuffled)
    peers.until_at(START[:-1])

    # The jaw: there, and stalled on something.
    result = peers.grip(0.9)
    assert result.reached_goal and not result.stalled
    assert result.state.position[0] == pytest.approx(PROFILE.opening_to_position(0.9), abs=0.1)
    with emulated.lock:
        emulated.servo(6).obstacle = (emulated.servo(6).position - 100.0, emulated.servo(6).position + 100.0)
    result = peers.grip(0.0)
    assert result.stalled and not result.reached_goal
    with emulated.lock:
        emulated.servo(6).obstacle = None

    # Health.
    emulated.servo(3).memory[63] = 57
    graph.until(lambda: peers.level("elbow_flex_joint") == DiagnosticStatus.WARN, 20)
    assert "is 57 degrees hot" in peers.health["arm"].message
    values = {pair.key: pair.value for pair in peers.health["elbow_flex_joint"].values}
    assert (values["id"], values["temperature"], values["voltage"]) == ("3", "57", "7.4") and "load" in values
    emulated.servo(3).memory[63] = 30

    # The cable is pulled: it holds by itself, says so, takes nothing; and goes on when it is back.
    emulated.unplug()
    graph.until(lambda: peers.level("arm") == DiagnosticStatus.ERROR, 20)
    assert "is the USB cable in" in peers.health["arm"].message
    assert peers.torque() == {True}
    assert peers.grip(1.0) is None
    arm = range(1, 6)  # the jaw is still on its way to its last goal
    position = {id: emulated.servo(id).position for id in arm}
    written = len(peers.written())
    emulated.replug()
    graph.until(lambda: peers.level("arm") == DiagnosticStatus.OK, 20)
    peers.hear()
    assert len(peers.written()) == written and {id: emulated.servo(id).position for id in arm} == position
    peers.command(target)
    peers.until_at(target)
    after = {id: int.from_bytes(data, "little") for id, address, data in peers.written()[written:][:30] if address == GOAL}
    assert max(abs(after[id] - position[id]) for id in position) <= 0.1 / RAD_PER_TICK

    # Ctrl-C: parked, then without torque.
    written = len(peers.written())
    process = graph.processes["so100_driver"]
    process.send_signal(signal.SIGINT)
    assert graph.until_exit("so100_driver") == 0, graph.log("so100_driver")
    assert "parked; the torque is off" in graph.log("so100_driver")
    last = peers.written()[written:]
    assert [data for _, address, data in last if address == TORQUE] == [b"\0"] * 6
    assert peers.torque() == {False}
    pose = np.array([SETTINGS.park.pose[name] for name in PROFILE.joint_names])
    found = peers.converter.to_rad({id: servo.position for id, servo in emulated.line.servos.items()})
    np.testing.assert_allclose(found[:-1], pose, atol=SETTINGS.park.tolerance)
    cut = next(i for i, (_, address, _) in enumerate(last) if address == TORQUE)
    assert all(address == GOAL for _, address, _ in last[:cut])


def test_a_killed_driver_a_failed_supply_and_an_arm_that_cannot_park(peers: Peers) -> None:
    graph, emulated = peers.graph, peers.emulated
    peers.start()
    graph.until_matched(peers.commands)
    peers.hear()
    peers.command(START[:-1])
    graph.until(lambda: peers.torque() == {True}, 20)

    # Killed: the servos hold, and who comes next takes them over as they are.
    graph.processes["so100_driver"].kill()
    graph.processes["so100_driver"].wait()
    time.sleep(0.3)  # what it wrote last is on the line still
    held = len(peers.written())
    peers.start(active=False, autostart=True)  # a transition would be sent to the dead one, which is not forgotten yet
    peers.hear()
    assert peers.written()[held:] == [] and peers.torque() == {True}
    peers.drive(START[:-1] + 0.1)

    # The supply fails: nobody but a human lets the arm have torque again.
    emulated.cut()
    graph.until(lambda: peers.level("arm") == DiagnosticStatus.ERROR, 20)
    assert "let go by itself" in peers.health["arm"].message
    peers.command(START[:-1])
    graph.until(lambda: "trajectory refused: servo 1 (shoulder_pan_joint) let go by itself" in graph.log("so100_driver"), 20)
    assert peers.torque() == {False}
    answer = graph.call(Trigger, "so100_driver/reset", Trigger.Request())
    assert answer is not None and answer.success
    peers.command(START[:-1])
    peers.until_at(START[:-1])
    assert peers.torque() == {True}

    # Something is in the way of parking: the torque stays on.
    with emulated.lock:
        emulated.servo(2).obstacle = (emulated.servo(2).position - 5.0, emulated.servo(2).position + 5.0)
    graph.transition("so100_driver", Transition.TRANSITION_DEACTIVATE)
    log = graph.log("so100_driver")
    assert "not parked: " in log and "The torque stays on" in log and peers.torque() == {True}


def test_what_is_wrong_at_the_start_is_one_line(peers: Peers, tmp_path: Path) -> None:
    peers.emulated.servo(4).fault = "never"
    peers.start(active=False, autostart=True)
    graph = peers.graph
    assert graph.until_exit("so100_driver") == 2
    assert "servo 4 (wrist_flex_joint) does not answer within 200 ms: check the cable that leads to servo 4" in graph.log("so100_driver")
