"""The reward node as a process, over real DDS: stamps, due frames, bad images, missing cameras, early frames."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

rclpy = pytest.importorskip("rclpy")

from diagnostic_msgs.msg import DiagnosticArray  # noqa: E402
from lifecycle_msgs.msg import Transition  # noqa: E402
from lifecycle_msgs.srv import ChangeState  # noqa: E402
from sensor_msgs.msg import Image  # noqa: E402
from whetstone_msgs.msg import Episode, Reward  # noqa: E402

from whetstone.images import to_message  # noqa: E402
from whetstone.ros import EVENT, FRAME_LOCKSTEP, LATCHED, STATE, to_ns, to_stamp  # noqa: E402

SCRIPT = "import sys; from reward_node.node import main; sys.exit(main())"
PERIOD = 50_000_000
START = 100_000_000_000
WARM_UP = "warm-up"
CONFIGURATION = "plugin: constant\ncameras: [front, wrist]\nimage_size: [128, 128]\nevery: 4\nprogress: 0.25\n"
PATIENCE = 60.0


class Bench:
    """The node's surroundings: cameras, episode manager, and a listener to `reward`."""

    def __init__(self, process: subprocess.Popen[str], context: Any) -> None:
        self.process = process
        self.node = rclpy.create_node("bench", namespace="/bench", context=context)
        self.executor = rclpy.executors.SingleThreadedExecutor(context=context)
        self.executor.add_node(self.node)
        self.rewards: list[Reward] = []
        self.counters: dict[str, str] = {}
        self.warm = False
        self.node.create_subscription(Reward, "reward", self._reward, EVENT)
        self.node.create_subscription(DiagnosticArray, "/diagnostics", self._diagnostics, STATE)
        self.episodes = self.node.create_publisher(Episode, "episode", LATCHED)
        self.cameras = {name: self.node.create_publisher(Image, f"camera/{name}/image_raw", FRAME_LOCKSTEP) for name in ("front", "wrist")}

    def _diagnostics(self, message: DiagnosticArray) -> None:
        for status in message.status:
            if status.name == "/bench/reward":
                self.counters = {entry.key: entry.value for entry in status.values}

    def _reward(self, message: Reward) -> None:
        if message.episode_id == WARM_UP:
            self.warm = True
        else:
            self.rewards.append(message)

    def until(self, condition: Callable[[], object], what: str) -> None:
        end = time.monotonic() + PATIENCE
        while not condition():
            if self.process.poll() is not None:
                pytest.fail(f"the node ended with {self.process.returncode} before {what}: {self.process.communicate()[1]}")
            assert time.monotonic() < end, f"no {what} within {PATIENCE} s"
            self.executor.spin_once(timeout_sec=0.05)

    def change(self, transition: int) -> None:
        client = self.node.create_client(ChangeState, "reward/change_state")
        self.until(client.service_is_ready, "lifecycle service")
        future = client.call_async(ChangeState.Request(transition=Transition(id=transition)))
        self.until(future.done, "answer of the lifecycle service")
        assert future.result().success

    def start(self) -> None:
        self.change(Transition.TRANSITION_CONFIGURE)
        self.change(Transition.TRANSITION_ACTIVATE)
        # Only a frame that was answered proves that both sides of every topic know each other.
        self.episode(Episode.PHASE_RUNNING, WARM_UP, START - 1000 * PERIOD)

        def answered() -> bool:
            self.frame(0, START - 1000 * PERIOD)
            return self.warm

        self.until(answered, "reward of a first frame")

    def episode(self, phase: int, name: str = "train-000-0000", start: int = START) -> None:
        message = Episode(episode_id=name, instruction="touch", phase=phase, seed=3, max_steps=100, start=to_stamp(start))
        self.episodes.publish(message)

    def frame(self, index: int, start: int = START, cameras: tuple[str, ...] = ("front", "wrist"), size: int = 128) -> None:
        for name in cameras:
            self.cameras[name].publish(to_message(np.full((size, size, 3), 9, np.uint8), start + index * PERIOD, name))

    def steps(self) -> list[int]:
        return [(to_ns(reward.header.stamp) - START) // PERIOD for reward in self.rewards]


@pytest.fixture
def bench(tmp_path: Path, domain: int) -> Iterator[Callable[..., Bench]]:
    """Starts the node with parameters; ends it and its surroundings whatever happens."""
    context = rclpy.Context()
    context.init(domain_id=domain)
    opened: list[Bench] = []

    def start(configuration: str = CONFIGURATION, **parameters: object) -> Bench:
        path = tmp_path / "reward.yaml"
        path.write_text(configuration)
        values = {"robot": "franka", "reward": str(path), **parameters}
        arguments = [word for key, value in values.items() for word in ("-p", f"{key}:={value}")]
        process = subprocess.Popen(
            [sys.executable, "-c", SCRIPT, "--ros-args", "-r", "__ns:=/bench", *arguments],
            env={**os.environ, "ROS_DOMAIN_ID": str(domain), "OMP_NUM_THREADS": "1"},
            stderr=subprocess.PIPE,
            text=True,
        )
        opened.append(Bench(process, context))
        return opened[-1]

    yield start
    for one in opened:
        if one.process.poll() is None:
            one.process.terminate()
        try:
            one.process.communicate(timeout=10)
        except subprocess.TimeoutExpired:
            one.process.kill()
            one.process.communicate()
        one.node.destroy_node()
        one.executor.shutdown()
    context.shutdown()


def test_scores_due_frames_with_their_stamps(bench: Callable[..., Bench]) -> None:
    node = bench()
    node.start()
    # The first frame may overtake the message that announces its episode.
    node.frame(0)
    node.episode(Episode.PHASE_RUNNING)
    for index in range(1, 13):
        node.frame(index)
        # As in lockstep: the next frames come when the score has come (the queues hold 10).
        node.until(lambda due=index // 4 + 1: len(node.rewards) >= due, "reward of a due frame")
    assert node.steps() == [0, 4, 8, 12]
    reward = node.rewards[0]
    assert (reward.valid, reward.reason, reward.progress, reward.episode_id) == (True, "", 0.25, "train-000-0000")
    assert reward.header.frame_id == "front" and reward.model_id == "constant" and len(reward.config_hash) == 12
    assert np.isnan(reward.margin) and reward.latency > 0
    # A simulator that waits says its frame again: it gets the last score again, and no new one.
    node.frame(12)
    node.until(lambda: len(node.rewards) >= 6, "repeated reward")
    assert node.steps() == [0, 4, 8, 12, 12, 12]
    node.until(lambda: int(node.counters.get("frames_wrist", "0")) > 13, "diagnostics")
    # After its end an episode is no longer scored; the next one is.
    node.episode(Episode.PHASE_ENDED)
    later = START + 1000 * PERIOD
    node.episode(Episode.PHASE_RUNNING, "train-000-0001", later)
    node.frame(0, later)
    node.until(lambda: node.rewards[-1].episode_id == "train-000-0001", "reward of the second episode")
    assert to_ns(node.rewards[-1].header.stamp) == later


def test_a_bad_image_is_invalid_and_the_node_lives(bench: Callable[..., Bench]) -> None:
    node = bench(deadline=10.0)
    node.start()
    node.episode(Episode.PHASE_RUNNING)
    node.frame(0, size=64)
    node.until(lambda: len(node.rewards) == 1, "answer to an image of the wrong size")
    assert not node.rewards[0].valid and "camera 'front': image is 64x64, but 128x128 is needed" in node.rewards[0].reason
    for name, encoding in (("front", "rgb8"), ("wrist", "16UC7")):
        message = to_message(np.zeros((128, 128, 3), np.uint8), START + 4 * PERIOD, name)
        message.encoding = encoding
        node.cameras[name].publish(message)
    node.until(lambda: len(node.rewards) == 2, "answer to an unknown encoding")
    assert not node.rewards[1].valid and "camera 'wrist': image encoding '16UC7' is not supported" in node.rewards[1].reason
    node.frame(8, cameras=("front",))
    node.frame(12)
    node.until(lambda: len(node.rewards) >= 3, "answer to a missing camera")
    assert not node.rewards[2].valid and "camera 'wrist': no image of this step" in node.rewards[2].reason
    node.until(lambda: len(node.rewards) == 4, "score after three bad frames")
    assert node.steps() == [0, 4, 8, 12]
    assert node.rewards[3].valid and np.isnan(node.rewards[0].progress)


def test_no_camera_ends_the_node_with_its_name(bench: Callable[..., Bench]) -> None:
    node = bench(deadline=0.5)
    node.change(Transition.TRANSITION_CONFIGURE)
    node.change(Transition.TRANSITION_ACTIVATE)
    node.episode(Episode.PHASE_RUNNING)
    end = time.monotonic() + PATIENCE
    while node.process.poll() is None and time.monotonic() < end:
        node.executor.spin_once(timeout_sec=0.05)
    assert node.process.returncode == 2
    _, text = node.process.communicate(timeout=10)
    assert re.search("no image from 'camera/(front|wrist)/image_raw' within 0.5 s", text) and "Traceback" not in text


@pytest.mark.parametrize(
    ("configuration", "parameters", "expected"),
    [
        (CONFIGURATION, {"robot": "frank"}, "unknown robot 'frank'; did you mean 'franka'?"),
        (CONFIGURATION, {"reward": "sarm"}, "unknown reward 'sarm'; did you mean 'sarm2'?"),
        (CONFIGURATION.replace("progress", "progres"), {}, "key 'progres' is unknown; did you mean 'progress'?"),
        (CONFIGURATION.replace("128, 128", "64, 64"), {}, "image_size is 64x64, but camera 'front' of robot 'franka' gives 128x128"),
        (CONFIGURATION.replace("plugin: constant", "plugin: constat"), {}, "unknown reward plug-in 'constat'; did you mean 'constant'?"),
    ],
)
def test_wrong_configuration_is_one_line(
    bench: Callable[..., Bench], configuration: str, parameters: dict[str, str], expected: str
) -> None:
    node = bench(configuration, **parameters)
    client = node.node.create_client(ChangeState, "reward/change_state")
    node.until(client.service_is_ready, "lifecycle service")
    client.call_async(ChangeState.Request(transition=Transition(id=Transition.TRANSITION_CONFIGURE)))
    end = time.monotonic() + PATIENCE
    while node.process.poll() is None and time.monotonic() < end:
        node.executor.spin_once(timeout_sec=0.05)
    assert node.process.returncode == 2
    _, text = node.process.communicate(timeout=10)
    assert expected in text and "Traceback" not in text
    assert len([line for line in text.splitlines() if line.strip()]) == 1
