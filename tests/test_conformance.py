"""The conformance kit on running robots: our simulator passes it, broken ones fail where they are broken."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("rclpy")

from graph import ROBOT, Graph, side_by_side
from sensor_msgs.msg import Image, JointState
from std_msgs.msg import Float64MultiArray
from trajectory_msgs.msg import JointTrajectory
from whetstone_msgs.srv import ResetScene

from robot_bringup.conformance.__main__ import main
from robot_bringup.conformance.observe import Observer
from whetstone.errors import ConfigError
from whetstone.images import to_message
from whetstone.profile import load_profile
from whetstone.ros import COMMAND, joints_qos, to_stamp

LATE = {"rate", "no pause", "stamps at the pace of the wall clock"}
PEER = Path(__file__).with_name("simulator_peer.py")


def start_peer(graph: Graph, robot: str, namespace: str, **options) -> None:
    """The emulated foreign simulator, as a process of the graph."""
    words = [sys.executable, str(PEER), json.dumps({"robot": robot, "namespace": namespace, **options})]
    name = f"peer_{namespace}"
    with (graph.tmp_path / f"{name}.log").open("w") as log:
        graph.processes[name] = subprocess.Popen(words, stdout=log, stderr=subprocess.STDOUT, text=True, env=graph.environment)


def conform(graph: Graph, *words: str, patience: float = 60) -> tuple[int, dict[str, dict[tuple[str, str], dict]], str]:
    """Exit code, verdicts by namespace and check, and what was printed. Where something failed that a busy machine delays, once more."""
    out = graph.tmp_path / "conformance.json"
    given = (*words, f"json:={out}", f"domain_id:={graph.domain}", "seconds:=1.5", f"patience:={patience}")
    call = [sys.executable, "-m", "robot_bringup.conformance", *given]
    code, output, found = 0, "", {}
    for _ in range(2 if patience > 5 else 1):
        done = subprocess.run(call, env={**os.environ, **graph.environment}, capture_output=True, text=True, timeout=180, check=False)
        code, output = done.returncode, done.stdout
        assert out.exists(), output + done.stderr + "".join(graph.log(name) for name in graph.processes)
        written = json.loads(out.read_text())["checks"]
        found = {name: {(one["group"], one["name"]): one for one in each} for name, each in written.items()}
        if not {name for each in found.values() for _, name in outcomes(each, "failed")} & LATE:
            break
    return code, found, output


def outcomes(verdicts: dict, word: str) -> set[tuple[str, str]]:
    return {key for key, one in verdicts.items() if one["outcome"] == word}


def test_our_simulator_conforms(tmp_path, domains) -> None:
    """Topics and motion of both robots, to the last check that one robot can be asked."""
    side_by_side(check_our_simulator, tmp_path, domains, [("franka",), ("so100",)])


def check_our_simulator(tmp_path: Path, domain: int, robot: str) -> None:
    graph = Graph(tmp_path, domain)
    try:
        graph.start("robot_bringup", "simulator", "simulator", robot=robot, realtime=True)
        code, found, output = conform(graph, "--robot", robot, "sim:=mujoco", "namespace:=so100")  # where Graph puts its nodes
        assert code == 0, output
        verdicts = found["so100"]
        left = {("topics", "mode: published"), ("motion", "other robots rest")}
        assert outcomes(verdicts, "not tried") == left and not outcomes(verdicts, "failed"), output
        assert "0 failed" in output and "each joint follows" in output
    finally:
        graph.close()


def test_what_is_broken_fails_and_only_that(tmp_path, domain) -> None:
    """A robot with many faults, and beside it a sound one; each is judged for itself."""
    graph = Graph(tmp_path, domain)
    faults = ["swapped", "degrees", "small_wrist", "blank_front", "late_front", "ignores_seed", "dies_beyond_limits"]
    try:
        start_peer(graph, "so100", "left", own_reset=True, faults=faults)
        start_peer(graph, "so100", "right", own_reset=True)
        code, found, output = conform(graph, "robot:=so100", "namespace:=left,right", "sim:=mujoco")
        assert code == 1
        assert outcomes(found["left"], "failed") == {
            ("camera wrist", "size"),
            ("camera front", "shows something"),
            ("camera front", "clock of the joint states"),
            ("scene", "reset: another seed, another scene"),
            ("motion", "each joint follows"),
            ("motion", "no other joint moves"),
            ("motion", "velocities agree with positions"),
            ("limits", "a target out of range"),
            ("gripper", "closes"),
            ("gripper", "opens"),
        }, output
        assert outcomes(found["right"], "failed") == set(), output
        assert ("motion", "other robots rest") in outcomes(found["left"], "passed")
        size = found["left"]["camera wrist", "size"]
        assert (size["seen"], size["expected"]) == ("64x64", "128x128") and "profile" in size["fix"]
    finally:
        graph.close()


def test_what_may_be_hardware_is_not_moved_unless_that_is_said(tmp_path, domain) -> None:
    graph = Graph(tmp_path, domain)
    try:
        start_peer(graph, "so100", "so100", own_reset=True)
        graph.until(lambda: graph.node.count_publishers("joint_states"))
        code, found, output = conform(graph, "robot:=so100")
        assert code == 0, output
        verdicts = found["so100"]
        assert {group for group, _ in outcomes(verdicts, "not tried")} == {"topics", "scene", "motion", "limits", "gripper"}
        assert "may be hardware" in verdicts["motion", "each joint follows"]["seen"]
        assert ("scene", "reset: answers") in outcomes(verdicts, "not tried")
    finally:
        graph.close()


def test_a_robot_that_is_not_there_is_said_to_be_missing(tmp_path, domain) -> None:
    graph = Graph(tmp_path, domain)
    try:
        code, found, output = conform(graph, "robot:=so100", patience=1)
    finally:
        graph.close()
    assert code == 1 and "nobody publishes 'joint_states'" in output and "start the robot's driver" in output
    assert outcomes(found["so100"], "failed") >= {("topics", "joint states: one publisher"), ("topics", "command: heard by the driver")}


class StandIn:
    """A robot in this process, at rest; its pictures, all of the brightness that is its scene's seed, come `late` frames after the joint
    states of their stamps. Its gripper hears a topic."""

    def __init__(self, graph: Graph, late: int = 0) -> None:
        profile = load_profile(ROBOT)
        self.profile = replace(profile, gripper=replace(profile.gripper, kind="forward", action="", topic="jaw/commands"))
        self.seed, self.stamp, self.gripped = 0, 0, []
        self.waiting: deque[tuple[int, int]] = deque([(0, 0)] * late)
        node = graph.node
        self.joints = node.create_publisher(JointState, profile.joint_states, joints_qos(True))
        self.cameras = {camera: node.create_publisher(Image, camera.topic, 10) for camera in profile.cameras}
        node.create_subscription(JointTrajectory, profile.command.topic, lambda _: None, 10)
        node.create_subscription(Float64MultiArray, "jaw/commands", self.gripped.append, COMMAND)
        node.create_service(ResetScene, "scene/reset", self.on_reset)
        node.create_timer(profile.period, self.tick)

    def on_reset(self, request: ResetScene.Request, response: ResetScene.Response) -> ResetScene.Response:
        self.seed, response.ok = int(request.seed), request.task == "pick_and_place"
        response.start = to_stamp(self.stamp + self.profile.period_ns)
        return response

    def tick(self) -> None:
        self.stamp += self.profile.period_ns
        names = [*self.profile.joint_names, self.profile.gripper.joint]
        message = JointState(name=names, position=[*self.profile.home.tolist(), self.profile.gripper.open])
        message.header.stamp = to_stamp(self.stamp)
        self.waiting.append((self.stamp, self.seed))
        stamp, seed = self.waiting.popleft()
        for camera, publisher in self.cameras.items():
            publisher.publish(to_message(np.full((camera.height, camera.width, 3), seed, np.uint8), stamp, camera.name))
        self.joints.publish(message)


@contextmanager
def observed(graph: Graph, robot: StandIn) -> Iterator[Observer]:
    """An observer of it, while the robot goes on in a thread."""
    over = threading.Event()

    def go_on() -> None:
        while not over.is_set():
            graph.executor.spin_once(timeout_sec=0.05)

    thread, observer = threading.Thread(target=go_on), Observer(robot.profile, [ROBOT], graph.domain, 20.0)
    thread.start()
    try:
        yield observer
    finally:
        over.set()
        thread.join()
        observer.close()
        graph.close()


def test_pictures_of_a_reset_are_of_after_it(tmp_path, domain) -> None:
    """However late they come: by their stamps."""
    graph = Graph(tmp_path, domain)
    with observed(graph, StandIn(graph, late=14)) as observer:
        observer.look(0.5, scene=True, tasks="pick_and_place")
    resets = observer.robots[ROBOT].record.resets
    shown = [{name: int(picture.max()) for name, picture in one.pictures.items()} for one in resets]
    assert shown == [{"front": seed, "wrist": seed} for seed in (1, 2, 1)] + [{}]


@pytest.mark.parametrize("part", ["arm", "gripper"])
def test_nothing_moves_while_somebody_else_commands_the_robot(tmp_path, domain, part: str) -> None:
    graph = Graph(tmp_path, domain)
    robot = StandIn(graph)
    message_type, topic = {"arm": (JointTrajectory, robot.profile.command.topic), "gripper": (Float64MultiArray, "jaw/commands")}[part]
    graph.node.create_publisher(message_type, topic, COMMAND)
    with observed(graph, robot) as observer:
        observer.look(0.5, scene=False, tasks="")
        observer.move(limits=True)
    record = observer.robots[ROBOT].record
    assert set(record.untried) == {"motion", "limits", "gripper"} and not record.swings and not record.grips and not robot.gripped
    assert set(record.untried.values()) == {f"somebody else commands the {part}: /{ROBOT}/peer"}


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("sim:=mujko",), "unknown sim 'mujko'; did you mean 'mujoco'?"),
        (("move:=maybe",), "argument move:=maybe is neither true nor false"),
        (("--robot",), "argument '--robot' has no value; say --robot VALUE or robot:=VALUE"),
        (("namespace:=a,a",), "must name each robot's namespace once"),
        (("seconds:=0",), "argument seconds:=0 must be a number from 0.5 to 3600"),
        (("domain_id:=233",), "argument domain_id:=233 must be an integer from 0 to 232"),
        (("robot:=frank",), "unknown robot 'frank'; did you mean 'franka'?"),
        (("task:=juggle",), "unknown task 'juggle'"),
    ],
)
def test_wrong_words_are_one_line(words, said: str) -> None:
    """All of them before anything of ROS begins."""
    with pytest.raises(ConfigError) as caught:
        main(list(words))
    assert said in str(caught.value) and "\n" not in str(caught.value)
