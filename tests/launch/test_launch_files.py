"""The launch files on the real launch: the same checks as tests/test_command_line.py, where launch is installed."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from ament_index_python.packages import get_packages_with_prefixes
from graph import install_stand_ins
from launch.actions import OpaqueFunction
from launch.launch_description_sources import PythonLaunchDescriptionSource

from launch import LaunchContext
from robot_bringup import records
from robot_bringup.run_arguments import MODES, arguments_of
from robot_bringup.so100.emulated_bus import write_calibration
from whetstone import config, jsonfile
from whetstone.errors import ConfigError

FILES = {mode: config.root() / "launch" / f"{mode}.launch.py" for mode in MODES}


@pytest.mark.parametrize("mode", MODES)
def test_show_args_lists_the_arguments_of_the_plan(mode):
    source = PythonLaunchDescriptionSource(str(FILES[mode]))
    description = source.get_launch_description(LaunchContext())
    declared = [(action.name, "".join(part.text for part in action.default_value or ())) for action in description.get_launch_arguments()]
    assert declared == [(argument.name, argument.default) for argument in arguments_of(mode)]


SCRIPT = """
import sys
from launch import LaunchDescription, LaunchService
from launch.launch_description_sources import PythonLaunchDescriptionSource
file, *words = sys.argv[1:]
service = LaunchService(argv=words)
arguments = [tuple(word.split(":=", 1)) for word in words]
service.include_launch_description(
    LaunchDescription([IncludeLaunchDescription(PythonLaunchDescriptionSource(file), launch_arguments=arguments)])
)
sys.exit(service.run())
"""


class Launch:
    """A launch file in a process of its own, as `ros2 launch` runs it."""

    def __init__(self, tmp_path, domain):
        self.domain = domain
        self.run_dir = tmp_path / "run"
        plugins = tmp_path / "plugins"
        self.environment = {**os.environ, **install_stand_ins(plugins), "TMPDIR": str(tmp_path)}
        self.environment["PYTHONPATH"] += os.pathsep + str(Path(__file__).parents[1])
        self.task = plugins / "pick_and_place.yaml"
        self.task.write_text(re.sub(r"max_steps: \d+", "max_steps: 24", config.find("tasks", "pick_and_place").read_text()))
        self.stand_in = plugins / "stand_in.yaml"
        self.processes = []

    def start(self, mode, *words):
        process = subprocess.Popen(
            [sys.executable, "-c", SCRIPT, str(FILES[mode]), *words],
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        self.processes.append(process)
        return process

    def refine(self, *more):
        values = {"policy": self.stand_in, "learner": self.stand_in, "reward": "constant", "task": self.task, "robot": "so100"}
        values |= {"run_dir": self.run_dir, "domain_id": self.domain, "iterations": 1, "episodes": 2}
        values |= {"evaluation_episodes": 1, **dict(word.split(":=") for word in more)}
        return self.start("refine", *(f"{name}:={value}" for name, value in values.items()))

    def until_running(self, process):
        deadline = time.monotonic() + 180
        while not records.read_all(self.run_dir / records.EPISODES):
            assert process.poll() is None, process.communicate()
            assert time.monotonic() < deadline, "no episode ended in time"
            time.sleep(0.05)

    def nodes(self):
        found = {}
        for path in Path("/proc").glob("[0-9]*/cmdline"):
            try:
                words = path.read_bytes().decode(errors="replace").split("\0")
            except OSError:
                continue
            found.update({Path(word).stem: int(path.parent.name) for word in words if word.startswith(f"{self.run_dir}/parameters/")})
        return found

    def close(self):
        for process in self.processes:
            if process.poll() is None:
                process.send_signal(signal.SIGINT)
            process.communicate(timeout=30)
        for process_id in self.nodes().values():
            os.kill(process_id, signal.SIGKILL)


@pytest.fixture
def launched(tmp_path, domain):
    place = Launch(tmp_path, domain)
    yield place
    place.close()


def test_a_whole_run(launched):
    process = launched.refine()
    output, _ = process.communicate(timeout=240)
    assert process.returncode == 0, output
    assert jsonfile.read(launched.run_dir / records.OUTCOME) == {"result": "finished", "reason": "all episodes are done"}
    assert len(records.read_all(launched.run_dir / records.EPISODES)) == 5
    assert launched.nodes() == {}


def test_a_node_that_dies_is_named_and_ends_the_launch(launched):
    process = launched.refine("iterations:=50")
    launched.until_running(process)
    os.kill(launched.nodes()["reward"], signal.SIGKILL)
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 1
    assert "reward died (exit code -9)" in output
    assert launched.nodes() == {}


def test_a_killed_learner_is_started_again(launched):
    process = launched.refine("iterations:=50")
    launched.until_running(process)
    os.kill(launched.nodes()["learner"], signal.SIGKILL)
    log = launched.run_dir / "logs"
    deadline = time.monotonic() + 60
    while not any("resumed after" in path.read_text(errors="replace") for path in log.glob("*.log")):
        assert process.poll() is None and time.monotonic() < deadline, "it was not started again"
        time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=60)
    assert launched.nodes() == {}


def test_an_interrupt_stops_everything_within_seconds(launched):
    process = launched.refine("iterations:=50")
    launched.until_running(process)
    began = time.monotonic()
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=60)
    assert time.monotonic() - began < 5
    assert launched.nodes() == {}


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("robot:=frank",), "unknown robot 'frank'; did you mean 'franka'? known: fr3, fr3_crisp"),
        (("polcy:=flow_vla",), "unknown argument 'polcy'; did you mean 'policy'?"),
        (("iterations:=x",), "argument iterations:=x must be an integer"),
    ],
)
def test_wrong_words_are_named_and_start_nothing(launched, words, message):
    process = launched.start("refine", *words)
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 1
    assert message in output
    assert not launched.run_dir.exists()


def test_the_so100_driver_s_file_names_what_is_missing_and_lets_it_park(tmp_path):
    source = PythonLaunchDescriptionSource(str(config.root() / "launch" / "so100.launch.py"))
    description = source.get_launch_description(LaunchContext())
    names = [action.name for action in description.get_launch_arguments()]
    assert names == ["port", "calibration", "robot", "driver", "namespace"]
    (start,) = [action for action in description.entities if isinstance(action, OpaqueFunction)]
    port, calibration = tmp_path / "port", tmp_path / "arm.yaml"

    def started(**given):
        context = LaunchContext()
        context.launch_configurations.update({"robot": "so100", "driver": "so100", "namespace": "", "port": "", "calibration": "", **given})
        return start.execute(context)

    with pytest.raises(ConfigError, match="argument port is empty"):
        started()
    port.touch()
    write_calibration(calibration)
    (node,) = started(port=str(port), calibration=str(calibration))
    assert node.node_package == "robot_bringup" and node.node_executable == "so100_driver"


@pytest.mark.skipif("franka_bringup" in get_packages_with_prefixes(), reason="franka_ros2 is installed here")
def test_a_machine_without_franka_ros2_is_told_so():
    """The file loads, lists its arguments, and names what is missing."""
    source = PythonLaunchDescriptionSource(str(config.root() / "launch" / "franka.launch.py"))
    description = source.get_launch_description(LaunchContext())
    assert [action.name for action in description.get_launch_arguments()] == ["robot", "robot_ip", "namespace", "fake"]
    context = LaunchContext()
    context.launch_configurations.update({"robot": "fr3", "robot_ip": "10.0.0.2", "namespace": "", "fake": "false"})
    (start,) = [action for action in description.entities if isinstance(action, OpaqueFunction)]
    with pytest.raises(ConfigError, match="package franka_bringup is not installed here"):
        start.execute(context)


@pytest.mark.skipif("ros_gz_sim" in get_packages_with_prefixes(), reason="Gazebo is installed here")
@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({}, "package franka_description is not installed here|xacro is not installed here"),
        ({"robot": "fr3"}, "robot 'fr3' has no profile for sim:=gazebo"),
        ({"robot": "so100"}, "description:=FILE"),
        ({"base_rpy": "0 0"}, "is not installed here|must be three numbers"),
    ],
)
def test_a_machine_without_gazebo_is_told_so(given, said):
    """The file loads, lists its arguments, and names what is missing."""
    source = PythonLaunchDescriptionSource(str(config.root() / "launch" / "gazebo.launch.py"))
    description = source.get_launch_description(LaunchContext())
    names = [action.name for action in description.get_launch_arguments()]
    assert names == ["robot", "namespace", "description", "hand", "base_rpy", "headless"]
    defaults = {"robot": "franka", "namespace": "", "description": "", "hand": "", "base_rpy": "0 0 0", "headless": "true"}
    context = LaunchContext()
    context.launch_configurations.update({**defaults, **given})
    (start,) = [action for action in description.entities if isinstance(action, OpaqueFunction)]
    with pytest.raises(ConfigError, match=said):
        start.execute(context)
