"""The conformance kit on running robots: our simulator passes it, broken ones fail where they are broken."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("rclpy")

from graph import Graph

from robot_bringup.conformance.__main__ import main
from whetstone.errors import ConfigError

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


@pytest.mark.parametrize("robot", ["franka", "so100"])
def test_our_simulator_conforms(tmp_path, domain, robot: str) -> None:
    """Both topics and motion, to the last check that one robot can be asked."""
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


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("sim:=mujko",), "unknown sim 'mujko'; did you mean 'mujoco'?"),
        (("move:=maybe",), "argument move:=maybe is neither true nor false"),
        (("--robot",), "argument '--robot' has no value; say --robot VALUE or robot:=VALUE"),
        (("namespace:=a,a",), "must name each robot's namespace once"),
        (("seconds:=0",), "argument seconds:=0 must be a number from 0.5 to 3600"),
        (("domain_id:=233",), "ROS domain 233 must be an integer from 0 to 232"),
        (("robot:=frank",), "unknown robot 'frank'; did you mean 'franka'?"),
        (("task:=juggle",), "unknown task 'juggle'"),
    ],
)
def test_wrong_words_are_one_line(words, said: str) -> None:
    """All of them before anything of ROS begins."""
    with pytest.raises(ConfigError) as caught:
        main(list(words))
    assert said in str(caught.value) and "\n" not in str(caught.value)
