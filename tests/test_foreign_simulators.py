"""Runs in simulators that are not ours: the real policy, watchdog and scene node against an emulated peer that speaks their topics."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("rclpy")

from graph import Graph, side_by_side
from sensor_msgs.msg import JointState
from test_conformance import conform, outcomes, start_peer
from whetstone_msgs.msg import Truth

from robot_bringup import records
from whetstone.profile import load_profile
from whetstone.ros import EVENT, joints_qos

OBJECTS = {"isaac": "topics", "gazebo": "gazebo"}


def start_run(graph: Graph, *words: str) -> Path:
    """`whetstone run` beside the peer, as a process of the graph; its folder."""
    run_dir = graph.tmp_path / "run"
    call = [sys.executable, "-m", "robot_bringup.cli", "run", *words, f"run_dir:={run_dir}", f"domain_id:={graph.domain}"]
    with (graph.tmp_path / "run.log").open("w") as log:
        graph.processes["run"] = subprocess.Popen(
            call, stdout=log, stderr=subprocess.STDOUT, text=True, env={**os.environ, **graph.environment}
        )
    return run_dir


@pytest.mark.parametrize(("sim", "robot"), [("isaac", "franka"), ("gazebo", "so100")])
def test_a_policy_is_evaluated_there_and_the_truth_is_known(tmp_path, domain, sim: str, robot: str) -> None:
    """Reset, motion through guard and watchdog, judgement: two short episodes from seeds of our own simulator's."""
    graph = Graph(tmp_path, domain)
    profile = load_profile(f"{robot}_{sim}")
    task = tmp_path / "reach.yaml"
    task.write_text((Path(__file__).parents[1] / "config" / "tasks" / "reach.yaml").read_text().replace("max_steps: 50", "max_steps: 12"))
    try:
        start_peer(graph, profile.name, robot, objects=OBJECTS[sim])
        frames: list[JointState] = []
        truths: list[Truth] = []
        graph.node.create_subscription(JointState, f"/{robot}/{profile.joint_states}", frames.append, joints_qos(True))
        graph.node.create_subscription(Truth, f"/{robot}/truth", truths.append, EVENT)
        # watchdog_patience: the machine that tests may be slower than a robot's for a moment, and nobody is there to release the arm.
        words = ("evaluation_episodes:=2", "deployment:=greedy", "watchdog_patience:=40", f"policy:={graph.stand_in}", f"task:={task}")
        run_dir = start_run(graph, "evaluate", f"robot:={robot}", f"sim:={sim}", *words)
        assert graph.until_exit("run") == 0, graph.log("run") + graph.log(f"peer_{robot}")
        episodes = records.read_all(run_dir / records.EPISODES)
        assert [one["steps"] for one in episodes] == [12, 12]
        judged = records.read_all(run_dir / records.EVALUATION)
        assert [(one["success"], one["stages"]) for one in judged] == [(False, 1)] * 2, "the arm turned away: the truth says so"
        first = profile.joint_names[0]
        moved = [frame.position[list(frame.name).index(first)] for frame in frames]
        assert max(moved) - min(moved) > 0.05, "the stand-in turns the first joint"
        assert truths and {one.episode_id for one in truths} == {one["episode_id"] for one in episodes}
    finally:
        graph.close()


def test_it_conforms_with_our_scene_node_before_it(tmp_path, domains) -> None:
    side_by_side(check_conformance, tmp_path, domains, [("isaac", "so100"), ("gazebo", "franka")])


def check_conformance(tmp_path: Path, domain: int, sim: str, robot: str) -> None:
    graph = Graph(tmp_path, domain)
    try:
        start_peer(graph, f"{robot}_{sim}", robot, objects=OBJECTS[sim])
        start_run(graph, "sim", f"robot:={robot}", f"sim:={sim}")
        log = graph.tmp_path / "run" / "logs" / "episode_manager.log"
        graph.until(lambda: log.exists() and "all nodes are active: scene" in log.read_text())
        code, found, output = conform(graph, f"robot:={robot}", f"sim:={sim}")
        verdicts = found[robot]
        assert code == 0, output
        left = {("topics", "mode: published"), ("motion", "other robots rest"), ("scene", "reset: arm at home")}
        assert outcomes(verdicts, "not tried") == left, output
    finally:
        graph.processes["run"].send_signal(signal.SIGINT)
        graph.close()


def test_a_simulator_that_places_nothing_ends_the_run_by_name(tmp_path, domain) -> None:
    """The peer moves its arm but has no objects: the scene node says which are missing."""
    graph = Graph(tmp_path, domain)
    try:
        start_peer(graph, "so100_isaac", "so100")
        run_dir = start_run(graph, "sim", "robot:=so100", "sim:=isaac")
        assert graph.until_exit("run") == 1
        assert "tray, button_base, red_cube, blue_cube, mark could not be placed within 5 s" in graph.log("run"), graph.log("run")
        assert json.loads((run_dir / records.OUTCOME).read_text())["result"] in ("failed", "stopped")
    finally:
        graph.close()
