"""A whole run without a simulator: our SO-100 driver on emulated servos, this process as the cameras and as the human beside the arm."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("rclpy")

from graph import ROBOT, Graph
from sensor_msgs.msg import Image
from std_srvs.srv import Trigger
from whetstone_msgs.msg import Episode

from robot_bringup.command import executable
from robot_bringup.so100.calibration import Converter, load_calibration
from robot_bringup.so100.emulated_bus import EmulatedBus, write_calibration
from robot_bringup.so100.settings import load_settings
from whetstone.config import find
from whetstone.images import to_message
from whetstone.profile import load_profile
from whetstone.ros import EPISODE, camera_qos

PROFILE = load_profile(ROBOT)
NAMES = (*PROFILE.joint_names, PROFILE.gripper.joint)


class Lab:
    """The arm, its cameras, and who stands beside it."""

    def __init__(self, tmp_path: Path, domain: int, emulated: EmulatedBus) -> None:
        self.graph, self.emulated, self.run_dir = Graph(tmp_path, domain), emulated, tmp_path / "run"
        self.calibration = tmp_path / "arm.yaml"
        write_calibration(self.calibration)
        # A busy machine is late, and nobody has to wait for a slow arm to park.
        self.driver, self.robot = tmp_path / "quick.yaml", tmp_path / "so100.yaml"
        text = find("drivers", "so100").read_text()
        for slow, quick in (
            ("patience: 0.02 ", "patience: 0.2 "),
            ("lost_after: 0.3 ", "lost_after: 2.0 "),
            ("velocity: 0.6 ", "velocity: 2.0 "),
        ):
            assert slow in text
            text = text.replace(slow, quick)
        self.driver.write_text(text)
        self.robot.write_text(f"extends: {ROBOT}\nname: {ROBOT}\nguard: {{stale_after: 2.0}}\n")
        node = self.graph.node
        self.cameras = {one.name: node.create_publisher(Image, one.topic, camera_qos(True)) for one in PROFILE.cameras}
        self.episodes: list[Episode] = []
        node.create_subscription(Episode, "episode", self.episodes.append, EPISODE)
        node.create_timer(PROFILE.period, self.look)
        self.process: subprocess.Popen[str] | None = None
        self.looks = 0

    def look(self) -> None:
        for name, publisher in self.cameras.items():
            image = np.full((128, 128, 3), 100, np.uint8)
            self.looks += 1
            image[0, 0] = self.looks % 251  # no two pictures of a camera are alike
            publisher.publish(to_message(image, self.graph.node.get_clock().now().nanoseconds, name))

    def run(self, *more: str) -> None:
        arguments = {
            "robot": self.robot, "sim": "none", "driver": self.driver, "port": self.emulated.link, "calibration": self.calibration,
            "namespace": ROBOT, "policy": self.graph.stand_in, "run_dir": self.run_dir, "domain_id": self.graph.domain,
            "watchdog_patience": 40,
        }  # fmt: skip
        words = [f"{name}:={value}" for name, value in arguments.items()]
        self.process = subprocess.Popen(
            [*executable("robot_bringup", "whetstone"), "run", "evaluate", *words, *more],
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=self.graph.environment, start_new_session=True,
        )  # fmt: skip

    def until(self, condition, seconds: float = 90.0) -> None:
        def alive() -> bool:
            assert self.process is not None
            assert self.process.poll() is None or condition(), self.process.communicate()[0]
            return condition()

        self.graph.until(alive, seconds)

    def prompts(self) -> list[str]:
        file = self.run_dir / "prompts.jsonl"
        return [json.loads(line)["text"] for line in file.read_text().splitlines()] if file.exists() else []

    def phase(self) -> int:
        return self.episodes[-1].phase if self.episodes else -1

    def say(self, name: str) -> str:
        answer = self.graph.call(Trigger, name, Trigger.Request())
        assert answer is not None and answer.success, answer
        return answer.message

    def position(self) -> np.ndarray:
        """(joints,) rad."""
        converter = Converter(load_calibration(str(self.calibration), PROFILE), NAMES)
        with self.emulated.lock:
            return converter.to_rad({id: servo.position for id, servo in self.emulated.line.servos.items()})[:-1]

    def torque(self) -> set[bool]:
        with self.emulated.lock:
            return {servo.torque for servo in self.emulated.line.servos.values()}

    def ended(self) -> str:
        assert self.process is not None
        self.graph.until(lambda: self.process is not None and self.process.poll() is not None, 90)
        return self.process.communicate()[0]

    def close(self) -> None:
        if self.process is not None and self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.communicate()
        self.graph.close()


@pytest.fixture
def lab(tmp_path, domain):
    with EmulatedBus(tmp_path / "port") as emulated:
        place = Lab(tmp_path, domain, emulated)
        try:
            yield place
        finally:
            place.close()


def test_two_episodes_on_an_arm_that_parks_at_the_end(lab: Lab) -> None:
    lab.run("evaluation_episodes:=2", "reset:=park,prompt")
    for count, verdict in enumerate(("success", "failure"), 1):
        lab.until(lambda count=count: len(lab.prompts()) == count)
        assert "bring the scene back for 'put the red cube in the tray'" in lab.prompts()[-1]
        np.testing.assert_allclose(lab.position(), PROFILE.home, atol=0.09)
        assert lab.phase() == Episode.PHASE_RESETTING
        lab.say("scene/reset_done")
        lab.until(lambda: lab.phase() == Episode.PHASE_RUNNING)
        lab.until(lambda: lab.position()[0] > PROFILE.home[0] + 0.1)  # the stand-in policy turns the first joint
        lab.say(f"episode_manager/{verdict}")
    output = lab.ended()
    assert lab.process is not None and lab.process.returncode == 0, output
    assert [json.loads(line)["outcome"] for line in (lab.run_dir / "episodes.jsonl").read_text().splitlines()] == ["success", "failure"]
    assert "YOUR TURN: bring the scene back" in output and "waiting for so100_driver" not in output
    log = (lab.run_dir / "logs" / "so100_driver.log").read_text()
    assert "parked; the torque is off" in log and lab.torque() == {False}
    settings = load_settings(str(lab.driver), PROFILE).park
    np.testing.assert_allclose(lab.position(), [settings.pose[name] for name in PROFILE.joint_names], atol=settings.tolerance)


def test_an_arm_that_the_watchdog_has_stopped_is_not_parked(lab: Lab) -> None:
    lab.run("evaluation_episodes:=1", "reset:=prompt", "start:=service")
    lab.until(lambda: len(lab.prompts()) == 1)
    lab.say("scene/reset_done")
    lab.until(lambda: len(lab.prompts()) == 2)
    assert "To begin: ros2 service call /so100/episode_manager/start std_srvs/srv/Trigger" in lab.prompts()[-1]
    lab.until(lambda: lab.phase() == Episode.PHASE_RESETTING)
    assert lab.say("episode_manager/start") == "the episode begins"
    lab.until(lambda: lab.position()[0] > 0.1)
    lab.say("watchdog/stop")
    lab.until(lambda: lab.phase() == Episode.PHASE_PAUSED)
    rests = time.monotonic() + 0.5
    lab.until(lambda: time.monotonic() > rests)  # the driver has heard of it too, and the brake is over
    held = lab.position()
    assert lab.process is not None
    lab.process.send_signal(signal.SIGINT)
    assert "interrupted (SIGINT)" in lab.ended()
    log = (lab.run_dir / "logs" / "so100_driver.log").read_text()
    assert "not parked: the watchdog has stopped the arm (stopped by a human). The torque stays on" in log
    np.testing.assert_allclose(lab.position(), held, atol=0.05)
    assert lab.torque() == {True}
