"""What tests of nodes share: a process under test, this process as its peers, and a stand-in policy and learner.

Role: helpers only. `Graph` is a ROS context of its own on a domain of its own; everything it started is gone after close().
"""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import rclpy
import yaml
from lifecycle_msgs.msg import Transition
from lifecycle_msgs.srv import ChangeState
from rclpy.context import Context
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from whetstone_msgs.msg import Episode

from robot_bringup.command import executable
from whetstone.ros import EPISODE, to_stamp

ROBOT = "so100"
PERIOD = 50_000_000

_PLUGINS = '''
import os
import time

import numpy as np
from whetstone.contracts import Chunk, PolicySpec, UpdateReport


class Policy:
    """Moves the first joint by `bias` per row from where the arm is; the gripper closes at the third inference. STAND_IN_THINKS: s.
    space: of its actions; the end effector's: 4 mm up a row. watches: its latent is the stamps that it was shown since, ms. Must not be
    used twice at a time."""

    def __init__(self, config, profile):
        self.profile = profile
        cameras = tuple(config.get("cameras", ["front", "wrist"]))
        space = config.get("space", "joint_position")
        if config.get("inpaints"):
            self.inpaint = lambda observation, underway: self.act(observation)
        self.shown, self.watches, self.thinks = [], config.get("watches", False), False
        if self.watches:
            self.observe = lambda observation: self.shown.append(observation)
        self.spec = PolicySpec("stand_in", cameras, (128, 128), profile.joint_names, 6, 3, profile.rate, "c0ffee", space)
        self.state = {"bias": np.full(1, 0.01, np.float32), "ballast": np.zeros(config.get("ballast", 400_000), np.float32)}

    @classmethod
    def load(cls, config, profile, device="cpu"):
        return cls(config, profile)

    def reset(self, instruction, seed, mode):
        assert not self.thinks
        self.count, self.shown = 0, []

    def act(self, observation):
        assert not self.thinks
        self.thinks = True
        time.sleep(float(os.environ.get("STAND_IN_THINKS", "0")))
        self.thinks = False
        actions = np.repeat(observation.proprioception[None], 6, axis=0)
        actions[:, 0] += self.state["bias"][0] * np.arange(1, 7)
        if self.spec.action_space == "end_effector_delta":
            actions = np.tile(np.float32([0, 0, 0.004, 0, 0, 0, 1]), (6, 1))
        actions[:, -1] = self.count < 2
        self.count += 1
        if self.watches:
            seen, self.shown = self.shown, []
            assert all(image.shape == (128, 128, 3) for one in seen for image in one.images.values())
            return Chunk(actions.astype(np.float32), np.array([one.stamp / 1e6 for one in seen], np.float32), 0.5)
        latent = np.array([image.mean() for image in observation.images.values()], np.float32)
        return Chunk(actions.astype(np.float32), latent, 0.5)

    def trainable_state(self):
        return {name: array.copy() for name, array in self.state.items()}

    def load_trainable_state(self, state):
        assert not self.thinks
        self.state = {name: state[name].copy() for name in self.state}


class Learner:
    """Adds to the bias; says in its metrics what it saw."""

    def __init__(self, config, policy):
        self.policy = policy
        self.update_every = config.get("update_every", 0)

    @classmethod
    def load(cls, config, policy, seed):
        return cls(config, policy)

    def update(self, rollouts, iteration, last):
        time.sleep(float(os.environ.get("STAND_IN_SECONDS", "0")))
        self.policy.state["bias"] += 0.01
        seen = [np.abs(rollout.latents[:, 0] - rollout.images["front"].mean((1, 2, 3))).max() for rollout in rollouts]
        return UpdateReport(True, "always", {"decisions": float(sum(len(r.stamps) for r in rollouts)), "image_error": float(max(seen))})

    def trainable_state(self):
        return self.policy.trainable_state()

    def checkpoint(self):
        return {"bias": self.policy.state["bias"].copy()}

    def resume(self, state, read):
        self.policy.state["bias"] = state["bias"]
        return 0
'''


def install_stand_ins(folder: Path) -> dict[str, str]:
    """Make the plug-ins `stand_in` findable by entry point; returns the environment for a process that is to find them."""
    info = folder / "stand_ins-0.dist-info"
    info.mkdir(parents=True, exist_ok=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: stand-ins\nVersion: 0\n")
    (info / "entry_points.txt").write_text(
        "[whetstone.policies]\nstand_in = stand_ins:Policy\n[whetstone.learners]\nstand_in = stand_ins:Learner\n"
    )
    (folder / "stand_ins.py").write_text(_PLUGINS)
    (folder / "stand_in.yaml").write_text("plugin: stand_in\n")
    return {"PYTHONPATH": os.pathsep.join(filter(None, [str(folder), os.environ.get("PYTHONPATH", "")]))}


def process_of(run: Path, node: str) -> int:
    """The process of a node of the run in this folder."""
    wanted = str(run / "parameters" / f"{node}.yaml").encode()
    found = [path for path in Path("/proc").glob("[0-9]*/cmdline") if wanted in _content(path).split(b"\0")]
    assert len(found) == 1, found
    return int(found[0].parent.name)


def side_by_side(check: Callable[..., None], tmp_path: Path, domains: Iterator[int], cases: Sequence[tuple[str, ...]]) -> None:
    """check(folder, domain, *case) of all cases at a time, each with a folder and a domain of its own: robots move in real time, so a test
    of one mostly waits. Raises what the first that failed has raised, when all are done."""
    with ThreadPoolExecutor(len(cases)) as pool:
        running = []
        for case in cases:
            folder = tmp_path / "_".join(case)
            folder.mkdir()
            running.append(pool.submit(check, folder, next(domains), *case))
    for one in running:
        one.result()


def _content(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError:  # it has just ended
        return b""


class Graph:
    """This process as one node `peer` in the robot's namespace, and the processes it starts."""

    def __init__(self, tmp_path: Path, domain: int) -> None:
        self.tmp_path = tmp_path
        self.domain = domain
        self.environment = {**os.environ, "ROS_DOMAIN_ID": str(self.domain), **install_stand_ins(tmp_path / "plugins")}
        self.stand_in = str(tmp_path / "plugins" / "stand_in.yaml")
        self.context = Context()
        rclpy.init(context=self.context, domain_id=self.domain)
        self.executor = SingleThreadedExecutor(context=self.context)
        self.node = Node("peer", namespace=f"/{ROBOT}", context=self.context)
        self.executor.add_node(self.node)
        self.episodes = self.node.create_publisher(Episode, "episode", EPISODE)
        self.processes: dict[str, subprocess.Popen[str]] = {}

    def start(self, package: str, name: str, node: str, active: bool = True, remap: tuple[tuple[str, str], ...] = (), **parameters) -> None:
        """Start a node of ours and bring it up."""
        file = self.tmp_path / f"{node}.yaml"
        file.write_text(yaml.safe_dump({"/**": {"ros__parameters": {"robot": ROBOT, "task": "pick_and_place", **parameters}}}))
        argv = [*executable(package, name), "--ros-args", "-r", f"__node:={node}", "-r", f"__ns:=/{ROBOT}", "--params-file", str(file)]
        argv += [word for source, target in remap for word in ("-r", f"{source}:={target}")]
        log = (self.tmp_path / f"{node}.log").open("w")
        self.processes[node] = subprocess.Popen(argv, stdout=log, stderr=subprocess.STDOUT, text=True, env=self.environment)
        log.close()
        if active:
            self.activate(node)

    def activate(self, node: str) -> None:
        """Bring up a node that was started with active=False."""
        self.transition(node, Transition.TRANSITION_CONFIGURE)
        self.transition(node, Transition.TRANSITION_ACTIVATE)

    def transition(self, node: str, transition: int) -> None:
        request = ChangeState.Request(transition=Transition(id=transition))
        response = self.call(ChangeState, f"{node}/change_state", request)
        assert response is not None and response.success, self.log(node)

    def call(self, service, name: str, request):
        client = self.node.create_client(service, name)
        self.until(client.service_is_ready)
        future = client.call_async(request)
        self.until(future.done)
        self.node.destroy_client(client)
        return future.result()

    def say(self, phase: int, episode_id: str = "train-000-0000", start: int = 0, **fields) -> None:
        """Publish an Episode."""
        message = Episode(episode_id=episode_id, robot=ROBOT, task="pick_and_place", instruction="do it", phase=phase, count=1, **fields)
        message.start = to_stamp(start)
        message.max_steps = fields.get("max_steps", 1000)
        self.episodes.publish(message)

    def until(self, condition, seconds: float = 120.0) -> None:
        """Spin until the condition holds; a test that waits in vain shows the logs."""
        deadline = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < deadline, "it did not happen in time\n" + "\n".join(self.log(node) for node in self.processes)
            self.executor.spin_once(timeout_sec=0.05)

    def until_exit(self, node: str) -> int:
        process = self.processes[node]
        self.until(lambda: process.poll() is not None)
        return process.returncode

    def until_matched(self, *publishers) -> None:
        """Wait until the process under test listens."""
        self.until(lambda: all(publisher.get_subscription_count() for publisher in publishers))

    def log(self, node: str) -> str:
        return f"{node}: " + (self.tmp_path / f"{node}.log").read_text()

    def close(self) -> None:
        # Asked before it is killed: a killed participant leaves its shared-memory ports locked, and later ones stumble over them.
        for process in self.processes.values():
            if process.poll() is None:
                process.terminate()
        for process in self.processes.values():
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        self.executor.shutdown()
        self.node.destroy_node()
        rclpy.shutdown(context=self.context)
