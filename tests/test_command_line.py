"""`whetstone` as a user meets it: whole runs with every node over real DDS, and everything one can get wrong.

These are the checks that tests/launch makes through `ros2 launch`, here through `whetstone run`, which needs no launch.
The policy and the learner are stand-ins; simulator, reward, manager, evaluator and all transport are the real ones.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import rclpy
from graph import install_stand_ins
from rclpy.context import Context

from robot_bringup import records
from robot_bringup.run_arguments import MODES, arguments_of
from whetstone import config, jsonfile
from whetstone.store import RolloutStore

SHORT = ("iterations:=1", "episodes:=2", "evaluation_episodes:=2")
NODES = ("simulator", "reward", "policy", "learner", "evaluator", "episode_manager")


class Workplace:
    """An empty working directory, a ROS domain and the stand-in plug-ins."""

    def __init__(self, tmp_path, domain):
        self.folder = tmp_path / "work"
        self.folder.mkdir()
        self.domain = domain
        plugins = tmp_path / "plugins"
        self.environment = {**os.environ, **install_stand_ins(plugins), "TMPDIR": str(tmp_path), "COLUMNS": "200"}
        self.environment.pop("ROS_DOMAIN_ID", None)
        # The real task, with less time for it.
        text = config.find("tasks", "pick_and_place").read_text()
        self.task = plugins / "pick_and_place.yaml"
        self.set_steps(24, text)
        self.stand_in = plugins / "stand_in.yaml"
        self.run_dir = self.folder / "run"
        self.processes = []

    def set_steps(self, steps, text=None):
        self.task.write_text(re.sub(r"max_steps: \d+", f"max_steps: {steps}", text or self.task.read_text()))

    def start(self, *words):
        process = subprocess.Popen(
            [sys.executable, "-m", "robot_bringup.cli", *words],
            cwd=self.folder,
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self.processes.append(process)
        return process

    def call(self, *words, seconds=240):
        process = self.start(*words)
        output, errors = process.communicate(timeout=seconds)
        return process.returncode, output, errors

    def refine(self, *more):
        """Words of a refine run with the stand-ins; `more` wins."""
        values = {"policy": self.stand_in, "learner": self.stand_in, "reward": "constant", "task": self.task, "robot": "so100"}
        values |= {"run_dir": self.run_dir, "domain_id": self.domain, **dict(word.split(":=") for word in more)}
        return ("run", "refine", *(f"{name}:={value}" for name, value in values.items()))

    def until(self, condition, process, seconds=180):
        deadline = time.monotonic() + seconds
        while not condition():
            assert process.poll() is None, process.communicate()
            assert time.monotonic() < deadline, "it did not happen in time"
            time.sleep(0.05)

    def until_running(self, process):
        """Wait until an episode has ended, so that every node has been at work."""
        self.until(lambda: records.read_all(self.run_dir / records.EPISODES), process)

    def nodes(self):
        """node -> process id of those of this run that are alive."""
        found = {}
        for path in Path("/proc").glob("[0-9]*/cmdline"):
            try:
                words = path.read_bytes().decode(errors="replace").split("\0")
                state = path.with_name("stat").read_text().rpartition(")")[2].split()[0]
            except OSError:
                continue
            for word in words:
                if word.startswith(f"{self.run_dir}/parameters/") and state != "Z":
                    found[Path(word).stem] = int(path.parent.name)
        return found

    def close(self):
        for process in self.processes:
            if process.poll() is None:
                process.send_signal(signal.SIGINT)
                try:
                    process.wait(20)
                except subprocess.TimeoutExpired:
                    process.kill()
            process.communicate()
        for process_id in self.nodes().values():
            os.kill(process_id, signal.SIGKILL)


@pytest.fixture
def work(tmp_path, domain):
    place = Workplace(tmp_path, domain)
    yield place
    place.close()


def only_line(errors):
    lines = errors.strip().splitlines()
    assert len(lines) == 1, errors
    assert lines[0].startswith("whetstone: ")
    return lines[0].removeprefix("whetstone: ")


def test_a_whole_run_leaves_its_records_and_a_report(work):
    process = work.start(*work.refine(*SHORT))
    work.until_running(process)
    assert truth_subscribers(work.domain) == {"evaluator"}
    output, errors = process.communicate(timeout=240)
    assert (process.returncode, errors) == (0, "")
    assert "training: 2 episodes" in output and "deployed version 1" in output and "all episodes are done" in output
    found = records.read_all(work.run_dir / records.EPISODES)
    assert [r["episode_id"] for r in found] == [
        "base_greedy-0000", "base_greedy-0001", "base_sampled-0000", "base_sampled-0001",
        "train-000-0000", "train-000-0001", "refined-0000", "refined-0001",
    ]  # fmt: skip
    assert {r["outcome"] for r in found} == {"timeout"}
    assert {r["steps"] for r in found} == {24}
    assert [r["policy_version"] for r in found] == [0] * 6 + [1] * 2
    evaluation = records.read_all(work.run_dir / records.EVALUATION)
    assert [(r["label"], r["seed"]) for r in evaluation[-2:]] == [("refined", 2_000_000), ("refined", 2_000_001)]
    assert len(evaluation) == 6
    assert len(records.read_all(work.run_dir / records.TRUTH)) == 2
    assert RolloutStore(work.run_dir / "rollouts").list() == ["train-000-0000", "train-000-0001"]
    assert not list((work.run_dir / "rollouts" / "running").iterdir())
    assert work.nodes() == {}
    code, output, _ = work.call("report", str(work.run_dir))
    assert code == 0
    page = Path(output.strip()).read_text()
    assert "The same episode before and after" in page and "did not finish" not in page


def truth_subscribers(domain):
    context = Context()
    rclpy.init(context=context, domain_id=domain)
    node = rclpy.create_node("observer", context=context)
    try:
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            names = {info.node_name for info in node.get_subscriptions_info_by_topic("/so100/truth")}
            if set(NODES) <= set(node.get_node_names()) and names:
                return names
            time.sleep(0.05)
        raise AssertionError(f"not all nodes were seen: {node.get_node_names()}")
    finally:
        node.destroy_node()
        rclpy.shutdown(context=context)


def test_an_interrupt_stops_everything_within_seconds(work):
    work.set_steps(1000)
    process = work.start(*work.refine(*SHORT[1:], "iterations:=3"))
    work.until(lambda: len(work.nodes()) == len(NODES) and "active" in (work.run_dir / "logs" / "episode_manager.log").read_text(), process)
    began = time.monotonic()
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert time.monotonic() - began < 5
    assert process.returncode == 130
    assert only_line(errors).startswith("interrupted (SIGINT)")
    assert work.nodes() == {}
    assert jsonfile.read(work.run_dir / records.OUTCOME) == {"result": "stopped", "reason": "interrupted"}


def test_a_node_that_dies_is_named_and_ends_the_run(work):
    process = work.start(*work.refine(*SHORT[1:], "iterations:=50"))
    work.until_running(process)
    os.kill(work.nodes()["reward"], signal.SIGKILL)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 1
    assert only_line(errors).startswith("reward died (SIGKILL)")
    assert work.nodes() == {}


def test_no_node_outlives_a_killed_supervisor(work):
    process = work.start(*work.refine(*SHORT[1:], "iterations:=50"))
    work.until_running(process)
    assert set(work.nodes()) == set(NODES)
    process.kill()
    process.communicate()
    deadline = time.monotonic() + 20
    while work.nodes():
        assert time.monotonic() < deadline, work.nodes()
        time.sleep(0.05)


def test_a_simulated_robot_alone_and_a_second_run_on_its_domain(work):
    words = ("robot:=so100", f"domain_id:={work.domain}")
    process = work.start("run", "sim", *words, f"run_dir:={work.run_dir}")
    log = work.run_dir / "logs" / "episode_manager.log"
    work.until(lambda: log.exists() and "all nodes are active: simulator" in log.read_text(), process)
    code, output, errors = work.call("run", "sim", *words)
    assert (code, output) == (2, "")
    assert re.fullmatch(
        rf"another run \(process {process.pid}\) uses domain_id {work.domain} with namespace so100; use .*", only_line(errors)
    )
    assert {path.name for path in work.folder.iterdir()} == {"run"}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("plugin: stand_in\ncameras: [top]\n", "unknown camera 'top'; known: front, wrist"),
        ("plugin: nonsense\n", "died (exit code 2): unknown policy plug-in 'nonsense'"),
    ],
    ids=["no camera", "no plug-in"],
)
def test_what_only_a_node_can_find_wrong_is_one_line_too(work, text, words):
    policy = work.stand_in.with_name("wrong.yaml")
    policy.write_text(text)
    code, _, errors = work.call(*work.refine(*SHORT, f"policy:={policy}"))
    assert code == 1
    assert words in only_line(errors)
    assert not (work.run_dir / records.EPISODES).exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("run", "refine", "robot:=frank"), "unknown robot 'frank'; did you mean 'franka'? known: fr3, fr3_crisp"),
        (("run", "refine", "task:=juggle"), "unknown task 'juggle'; known: pick_and_place, push, reach, stack, tray_then_button"),
        (("run", "refine", "reward:=sarm"), "unknown reward 'sarm'; did you mean 'sarm2'?"),
        (("run", "refine", "polcy:=flow_vla"), "unknown argument 'polcy'; did you mean 'policy'?"),
        (("run", "refine", "robot=so100"), "argument 'robot=so100' is not name:=value; did you mean robot:=so100?"),
        (("run", "refine", "seed:=1", "seed:=2"), "argument seed is given twice"),
        (("run", "rfine"), "unknown mode 'rfine'; did you mean 'refine'? known: refine, evaluate, sim"),
        (("run", "sim", "sim:=gazebo", "robot:=fr3"), "robot 'fr3' has no profile for sim:=gazebo"),
        (("run", "sim", "record:=true", "record_topics:=a b"), "record_topics: 'a b' is no topic"),
        (("run", "sim", "min_free_gb:=1e9"), "no space for rollouts: "),
        (("demo", "iterations:=x"), "argument iterations:=x must be an integer"),
        (("demo", "evaluation_episodes:=0"), "evaluation_episodes:=0 leaves nothing to show"),
        (("demo-study", "seed:=1"), "argument seed is set by the study"),
        (("bench", "robot:=franka"), "unknown argument 'robot'; did you mean 'robots'?"),
        (("report", "nowhere"), "nowhere: no run directory"),
        (("calibrate-arm", "port:=nowhere"), "nowhere: no such device; is the USB cable in?"),
        (("calibrate-arm", "robot:=franka"), "key 'servos': unknown joint 'shoulder_pan_joint'; known: fer_joint1"),
        (("sim",), "'sim' is a mode of run: whetstone run sim"),
        (("dmo",), "unknown command 'dmo'; did you mean 'demo'?"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_wrong_words_are_one_line_and_leave_nothing(work, words, message):
    code, output, errors = work.call(*words)
    assert code == 2
    assert message in only_line(errors)
    assert list(work.folder.iterdir()) == []


def test_a_missing_asset_and_bad_yaml(work, tmp_path):
    root = tmp_path / "root"
    shutil.copytree(config.root() / "config", root / "config")
    work.environment["WHETSTONE_ROOT"] = str(root)
    code, _, errors = work.call("run", "refine", "robot:=so100", "reward:=constant", f"learner:={work.stand_in}")
    assert code == 2
    assert re.search(r"asset '\S*so100\S*' is missing .*make assets", only_line(errors))
    robot = root / "config" / "robots" / "so100.yaml"
    robot.write_text(robot.read_text().replace("rate:", "raet:"))
    code, _, errors = work.call("run", "sim", "robot:=so100")
    assert code == 2
    assert "config/robots/so100.yaml: key 'raet' is unknown; did you mean 'rate'?" in only_line(errors)
    assert list(work.folder.iterdir()) == []


@pytest.mark.parametrize("mode", MODES)
def test_help_lists_the_arguments_of_the_plan(work, mode):
    code, output, _ = work.call("run", mode, "--help")
    assert code == 0
    listed = [match[1] for match in re.finditer(r"^  (\w+):=", output, re.MULTILINE)]
    assert listed == [argument.name for argument in arguments_of(mode)]
