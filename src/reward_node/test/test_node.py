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

import cv2
import numpy as np
import pytest
import yaml

rclpy = pytest.importorskip("rclpy")

from diagnostic_msgs.msg import DiagnosticArray  # noqa: E402
from lifecycle_msgs.msg import Transition  # noqa: E402
from lifecycle_msgs.srv import ChangeState  # noqa: E402
from sensor_msgs.msg import CompressedImage, Image, JointState  # noqa: E402
from whetstone_msgs.msg import Episode, Reward  # noqa: E402

from reward_node.vlm.random_models import tiny_qwen3_vl  # noqa: E402
from whetstone.config import find, load_yaml, root  # noqa: E402
from whetstone.images import to_message  # noqa: E402
from whetstone.profile import load_profile  # noqa: E402
from whetstone.rewards import load_reward  # noqa: E402
from whetstone.ros import EVENT, FRAME_LOCKSTEP, LATCHED, STATE, to_ns, to_stamp  # noqa: E402

SCRIPT = "import sys; from reward_node.node import main; sys.exit(main())"
PERIOD = 50_000_000
START = 100_000_000_000
WARM_UP = "warm-up"
CONFIGURATION = "plugin: constant\ncameras: [front, wrist]\nimage_size: [128, 128]\nevery: 4\nprogress: 0.25\n"
PATIENCE = 60.0


class Bench:
    """The node's surroundings: cameras, episode manager, and a listener to `reward`."""

    def __init__(self, process: subprocess.Popen[str], context: Any, namespace: str = "bench") -> None:
        self.process, self.context = process, context
        self.others: list[Bench] = []
        self.node = rclpy.create_node("bench", namespace=f"/{namespace}", context=context)
        self.executor = rclpy.executors.SingleThreadedExecutor(context=context)
        self.executor.add_node(self.node)
        self.rewards: list[Reward] = []
        self.counters: dict[str, str] = {}
        self.warm = False
        self.compressed = False
        self.also: Callable[[int, int], None] | None = None  # published with every frame
        self.index = 0
        self.node.create_subscription(Reward, "reward", self._reward, EVENT)
        self.node.create_subscription(DiagnosticArray, "/diagnostics", self._diagnostics, STATE)
        self.episodes = self.node.create_publisher(Episode, "episode", LATCHED)
        self.cameras = {name: self.node.create_publisher(Image, f"camera/{name}/image_raw", FRAME_LOCKSTEP) for name in ("front", "wrist")}

    def _diagnostics(self, message: DiagnosticArray) -> None:
        for status in message.status:
            if status.name.endswith("/reward"):
                self.counters = {entry.key: entry.value for entry in status.values}

    def _reward(self, message: Reward) -> None:
        if message.episode_id == WARM_UP:
            self.warm = True
        else:
            self.rewards.append(message)

    def beside(self, namespace: str) -> Bench:
        """Another robot of the same node."""
        self.others.append(Bench(self.process, self.context, namespace))
        return self.others[-1]

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
        self.warm_up()

    def warm_up(self) -> None:
        # Only a frame that was answered proves that both sides of every topic know each other.
        self.episode(Episode.PHASE_RUNNING, WARM_UP, START - 1000 * PERIOD)

        def answered() -> bool:
            self.frame(0, START - 1000 * PERIOD)
            return self.warm

        self.until(answered, "reward of a first frame")

    def episode(
        self,
        phase: int,
        name: str = "train-000-0000",
        start: int = START,
        instruction: str = "touch",
        mode: int = Episode.MODE_TRAIN,
    ) -> None:
        message = Episode(episode_id=name, instruction=instruction, phase=phase, seed=3, max_steps=100, start=to_stamp(start), mode=mode)
        self.episodes.publish(message)

    def tell(self, instruction: str) -> None:
        """Other words in the episode that runs."""
        self.episode(Episode.PHASE_RUNNING, instruction=instruction)

    def frame(self, index: int, start: int = START, cameras: tuple[str, ...] = ("front", "wrist"), size: int = 128) -> None:
        if self.also is not None:
            self.also(index, start)
        for name in cameras:
            message: Any = to_message(np.full((size, size, 3), 9, np.uint8), start + index * PERIOD, name)
            if self.compressed:
                data = cv2.imencode(".png", np.full((size, size, 3), 9, np.uint8))[1].tobytes()
                message = CompressedImage(header=message.header, format="png", data=data)
            self.cameras[name].publish(message)

    def send_until(self, first: int) -> bool:
        """Sends the next frame, from number `first` on; true once a valid score came."""
        self.index = max(self.index + 1, first)
        self.frame(self.index)
        return any(reward.valid for reward in self.rewards)

    def settle(self) -> None:
        """Time for the last message on another topic to arrive: topics are not ordered."""
        end = time.monotonic() + 0.5
        while time.monotonic() < end:
            self.executor.spin_once(timeout_sec=0.05)

    def compress(self) -> None:
        """From now on PNGs are published, where image_transport puts them."""
        for name in self.cameras:
            self.cameras[name] = self.node.create_publisher(CompressedImage, f"camera/{name}/image_raw/compressed", FRAME_LOCKSTEP)
        self.compressed = True

    def steps(self) -> list[int]:
        return [(to_ns(reward.header.stamp) - START) // PERIOD for reward in self.rewards]


@pytest.fixture
def model(tmp_path: Path) -> str:
    """A configuration of TOPReward with a tiny random model."""
    data = {**load_yaml(find("rewards", "topreward_qwen3_vl")), "model": str(tiny_qwen3_vl(tmp_path / "vlm")), "dtype": "float32"}
    return yaml.safe_dump({**data, "cameras": ["front", "wrist"], "every": 4})


@pytest.fixture
def bench(tmp_path: Path, domain: int) -> Iterator[Callable[..., Bench]]:
    """Starts the node with parameters; ends it and its surroundings whatever happens."""
    context = rclpy.Context()
    context.init(domain_id=domain)
    opened: list[Bench] = []

    def start(
        configuration: str = CONFIGURATION, environment: dict[str, str] | None = None, namespace: str = "bench", **parameters: object
    ) -> Bench:
        path = tmp_path / "reward.yaml"
        path.write_text(configuration)
        values = {"robot": "franka", "reward": str(path), **parameters}
        arguments = [word for key, value in values.items() for word in ("-p", f"{key}:={value}")]
        process = subprocess.Popen(
            [sys.executable, "-c", SCRIPT, "--ros-args", "-r", "__ns:=/bench", *arguments],
            env={**os.environ, "ROS_DOMAIN_ID": str(domain), "OMP_NUM_THREADS": "1", **(environment or {})},
            stderr=subprocess.PIPE,
            text=True,
        )
        opened.append(Bench(process, context, namespace))
        return opened[-1]

    yield start
    for one in [*opened, *(other for first in opened for other in first.others)]:
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


def test_an_evaluation_is_not_scored(bench: Callable[..., Bench]) -> None:
    node = bench()
    node.start()
    node.episode(Episode.PHASE_RUNNING, "base_greedy-0000", mode=Episode.MODE_EVALUATE)
    node.settle()
    for index in range(0, 12, 4):
        node.frame(index)
    node.settle()
    node.episode(Episode.PHASE_ENDED, "base_greedy-0000", mode=Episode.MODE_EVALUATE)
    later = START + 1000 * PERIOD
    node.episode(Episode.PHASE_RUNNING, start=later)
    node.frame(0, later)
    node.until(lambda: node.rewards, "reward of a training episode")
    assert [reward.episode_id for reward in node.rewards] == ["train-000-0000"]


def test_one_node_serves_several_robots(bench: Callable[..., Bench], model: str, tmp_path: Path) -> None:
    """Each with its own episode and words, over one copy of the weights; a camera lost by one is nothing to the other."""
    one = bench(model, robots="[one, lab/two]", autostart=True, realtime=True, patience=5.0, namespace="one")
    two = one.beside("lab/two")
    words = {one: "touch the cube", two: "open the drawer"}
    for robot in words:
        robot.warm_up()
        robot.episode(Episode.PHASE_RUNNING, instruction=words[robot])
        robot.settle()
    for index in range(0, 12, 4):
        for robot in words:
            robot.frame(index)
        for robot in words:
            robot.until(lambda robot=robot, due=index // 4 + 1: len(robot.rewards) >= due, "its score")
    reward: Any = load_reward(str(tmp_path / "reward.yaml"), load_profile("franka"))
    grey = {name: np.full((128, 128, 3), 9, np.uint8) for name in ("front", "wrist")}
    for robot, instruction in words.items():
        assert robot.steps() == [0, 4, 8] and all(one.valid for one in robot.rewards)
        reward.reset("", instruction, 0)
        expected = reward.score_episode([grey] * 3, [to_ns(one.header.stamp) for one in robot.rewards])
        assert [one.raw for one in robot.rewards] == pytest.approx([sample.raw for sample in expected], abs=1e-4)
    assert abs(one.rewards[0].raw - two.rewards[0].raw) > 1e-3
    two.until(lambda: not two.rewards[-1].valid, "word of the lost camera")
    assert "camera 'front': no image for" in two.rewards[-1].reason
    before = len(one.rewards)
    one.until(lambda: one.send_until(12) and len(one.rewards) > before and one.rewards[-1].valid, "score beside it")
    one.until(lambda: float(one.counters.get("lab/two/invalid", "0")) > 0, "diagnostics")
    assert float(one.counters["one/scored"]) >= 3


@pytest.mark.parametrize(("robots", "message"), [("[one, one]", "'robots' names one twice"), ("['no name']", "'no name' is no namespace")])
def test_names_of_robots_are_checked(bench: Callable[..., Bench], robots: str, message: str) -> None:
    node = bench(robots=robots)
    assert node.process.wait(PATIENCE) == 2
    assert message in node.process.communicate()[1]


JOINTS = """
from whetstone.contracts import Provenance, RewardNeeds, RewardSample

class Joints:
    provenance, needs = Provenance("joints"), RewardNeeds(("front", "wrist"), (128, 128), 4, proprioception=WIDTH)

    @classmethod
    def load(cls, config, profile, device="cpu"):
        return cls()

    def reset(self, episode_id, instruction, seed):
        pass

    def observe(self, images, stamp):
        first, *_, opening = (float(value) for value in images["proprioception"])
        return RewardSample(stamp, raw=first, progress=opening, total=len(images))
"""


@pytest.fixture
def joints(tmp_path: Path) -> Callable[[int], dict[str, str]]:
    """Installs a plug-in that wants so many numbers of proprioception; returns the environment that finds it."""

    def install(width: int) -> dict[str, str]:
        information = tmp_path / "joints-1.dist-info"
        information.mkdir()
        (information / "METADATA").write_text("Metadata-Version: 2.1\nName: joints\nVersion: 1\n")
        (information / "entry_points.txt").write_text("[whetstone.rewards]\njoints = joints:Joints\n")
        (tmp_path / "joints.py").write_text(JOINTS.replace("WIDTH", str(width)))
        return {"PYTHONPATH": os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])}

    return install


def test_joint_states_come_with_the_frames_of_their_step(bench: Callable[..., Bench], joints: Callable[[int], dict[str, str]]) -> None:
    profile = load_profile("franka")
    node = bench("plugin: joints\n", joints(8))
    publisher = node.node.create_publisher(JointState, profile.joint_states, FRAME_LOCKSTEP)

    def measured(index: int, start: int = START, **changes: Any) -> None:
        """The first joint is where the step's number says; the gripper stands first, as a driver may have it."""
        names = [profile.gripper.joint, *profile.joint_names]
        positions = [profile.opening_to_position(0.5), 0.01 * index, *([0.0] * (len(profile.joints) - 1))]
        message = JointState(**{"name": names, "position": positions, **changes})
        message.header.stamp = to_stamp(start + index * PERIOD)
        publisher.publish(message)

    node.also = lambda index, start: measured(index, start)
    node.start()
    node.also = None
    node.episode(Episode.PHASE_RUNNING)
    for index in range(9):
        measured(index)
        node.frame(index)
    node.until(lambda: len(node.rewards) == 3, "scores with joint states")
    assert [reward.raw for reward in node.rewards] == pytest.approx([0.0, 0.04, 0.08], abs=1e-6)
    assert node.rewards[0].progress == pytest.approx(0.5, abs=0.02) and node.rewards[0].total == 3
    # None of one step, a joint missing in another: said, and the next one is scored.
    node.frame(12)
    measured(16, name=["finger"], position=[0.0])
    node.frame(16)
    measured(20)
    node.frame(20)
    node.until(lambda: len(node.rewards) == 6, "answers to frame sets that are not whole")
    assert node.steps()[3:] == [12, 16, 20]
    assert [reward.valid for reward in node.rewards[3:]] == [False, False, True]
    assert node.rewards[3].reason == "joint states: none of this step"
    assert "joint state has no position of 'fer_joint1'" in node.rewards[4].reason


def test_a_model_for_other_joints_is_refused(bench: Callable[..., Bench], joints: Callable[[int], dict[str, str]]) -> None:
    node = bench("plugin: joints\n", joints(7))
    client = node.node.create_client(ChangeState, "reward/change_state")
    node.until(client.service_is_ready, "lifecycle service")
    client.call_async(ChangeState.Request(transition=Transition(id=Transition.TRANSITION_CONFIGURE)))
    assert node.process.wait(PATIENCE) == 2
    errors = node.process.communicate()[1]
    assert "wants 7 numbers of proprioception, but robot 'franka' has 7 joints and a gripper" in errors and "Traceback" not in errors


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


def test_a_lost_camera_is_said_and_comes_back(bench: Callable[..., Bench]) -> None:
    """By the wall clock: invalid scores that name it, then scores again; the node does not end."""
    node = bench(realtime=True, patience=0.4, deadline=1.0)
    node.start()
    node.episode(Episode.PHASE_RUNNING)
    node.until(lambda: node.send_until(0), "a first score")
    node.rewards.clear()
    node.until(lambda: len(node.rewards) >= 4, "invalid scores while no image comes")  # 1.6 s: longer than the deadline
    assert all(not reward.valid and re.search("camera '(front|wrist)': no image for", reward.reason) for reward in node.rewards)
    assert to_ns(node.rewards[-1].header.stamp) > to_ns(node.rewards[0].header.stamp) > START
    node.until(lambda: node.send_until(40), "a score once it is back")


def test_compressed_images_are_scored_and_corrupt_ones_are_not(bench: Callable[..., Bench]) -> None:
    node = bench(image_transport="compressed", deadline=20.0)
    node.compress()
    node.start()
    node.episode(Episode.PHASE_RUNNING)
    node.frame(0)
    node.until(lambda: len(node.rewards) == 1, "score of compressed images")
    assert node.rewards[0].valid
    for data in (b"\x89PNG not really", b""):
        node.rewards.clear()
        node.index += 4
        for name, publisher in node.cameras.items():
            message = CompressedImage(format="png", data=data)
            message.header.stamp = to_stamp(START + node.index * PERIOD)
            message.header.frame_id = name
            publisher.publish(message)
        node.until(lambda: len(node.rewards) == 1, "answer to a corrupt image")
        assert not node.rewards[0].valid and "compressed image (format 'png'" in node.rewards[0].reason


def test_other_words_within_an_episode(bench: Callable[..., Bench], model: str) -> None:
    """The frames stay, the score is that of the other words; words that cannot be used make scores invalid until better ones come."""
    node = bench(model)
    node.start()
    node.episode(Episode.PHASE_RUNNING)
    scores = {}
    for index, words in enumerate(("touch", "lift the cube", "touch", "x" * 10_000, "<|im_end|>", 'say "{it}" \u00e9\n twice', "touch")):
        node.tell(words)
        node.rewards.clear()
        node.settle()
        node.frame(4 * index)
        node.until(lambda: len(node.rewards) == 1, f"answer under {words[:20]!r}")
        scores[index] = node.rewards[0]
    assert [scores[index].valid for index in range(7)] == [True, True, True, False, False, True, True]
    assert "10000 characters, at most" in scores[3].reason and "'<|im_end|>' is a control token" in scores[4].reason
    # The images are all alike and the window is fixed: only the words can make a difference.
    assert [scores[2].log_true, scores[6].log_true] == pytest.approx([scores[0].log_true] * 2, abs=1e-5)
    assert abs(scores[1].log_true - scores[0].log_true) > 1e-4
    assert scores[0].margin == pytest.approx(scores[0].log_true - scores[0].log_false, abs=1e-4)


def test_a_reward_of_another_package(bench: Callable[..., Bench], tmp_path: Path) -> None:
    """The README's example, word for word, as a package of its own that is built and installed somewhere else."""
    readme = (root() / "README.md").read_text()
    code = re.search(r"```python\n(.*?class Red.*?)```", readme, re.DOTALL)
    configuration = re.search(r"```yaml\n(.*?plugin: red.*?)```", readme, re.DOTALL)
    assert code and configuration
    entry = re.search(r"entry_points=(\{.*?\})`", readme)
    assert entry
    package = tmp_path / "source" / "my_rewards"
    package.mkdir(parents=True)
    (package / "__init__.py").touch()
    (package / "red.py").write_text(code[1])
    setup = f"from setuptools import setup\nsetup(name='my_rewards', version='1', packages=['my_rewards'], entry_points={entry[1]})\n"
    (package.parent / "setup.py").write_text(setup)
    command = [
        sys.executable,
        "-m",
        "pip",
        "install",
        "--no-deps",
        "--no-build-isolation",
        "--no-index",
        "--target",
        str(tmp_path / "site"),
    ]
    subprocess.run([*command, str(package.parent)], check=True, capture_output=True)
    path = os.pathsep.join([str(tmp_path / "site"), *filter(None, [os.environ.get("PYTHONPATH")])])
    node = bench(configuration[1], environment={"PYTHONPATH": path})
    node.start()
    node.episode(Episode.PHASE_RUNNING)
    for name, colour in (("front", (200, 20, 20)),):
        node.cameras[name].publish(to_message(np.full((128, 128, 3), colour, np.uint8), START, name))
    node.until(lambda: len(node.rewards) == 1, "score by the other package")
    assert node.rewards[0].model_id == "red" and node.rewards[0].progress == 1.0


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
    # On a busy machine rmw may say besides that its answer to the transition found nobody.
    said = [line for line in text.splitlines() if line.strip() and "send_response" not in line and "failed to send response" not in line]
    assert len(said) == 1, text
