"""The learner process over real DDS, with this process as robot, policy, reward model and episode manager."""

from __future__ import annotations

import json
import signal

import numpy as np
import pytest

pytest.importorskip("rclpy")

from diagnostic_msgs.msg import DiagnosticArray
from graph import PERIOD, Graph
from sensor_msgs.msg import Image, JointState
from whetstone_msgs.msg import Action, Command, Episode, Reward, Update

from whetstone.images import to_message
from whetstone.profile import load_profile
from whetstone.ros import EVENT, LATCHED, STATE, camera_qos, joints_qos, to_stamp
from whetstone.store import RolloutStore

PROFILE = load_profile("so100")
START = 5_000_000_000
NAMES = [*PROFILE.joint_names, PROFILE.gripper.joint]


class Peers:
    """What a learner hears of an episode. A decision every second step."""

    def __init__(self, graph: Graph) -> None:
        node = graph.node
        self.graph = graph
        self.store = RolloutStore(graph.tmp_path / "run" / "rollouts")
        self.human: tuple[int, ...] = ()
        self.counters: dict[str, str] = {}
        node.create_subscription(DiagnosticArray, "/diagnostics", self.on_diagnostics, STATE)
        self.cameras = {camera.name: node.create_publisher(Image, camera.topic, camera_qos(False)) for camera in PROFILE.cameras}
        self.joints = node.create_publisher(JointState, PROFILE.joint_states, joints_qos(False))
        self.commands = node.create_publisher(Command, "policy/command", EVENT)
        self.actions = node.create_publisher(Action, "policy/action", EVENT)
        self.rewards = node.create_publisher(Reward, "reward", EVENT)

    def on_diagnostics(self, message: DiagnosticArray) -> None:
        for status in message.status:
            if status.name.endswith("/learner"):
                self.counters = {pair.key: pair.value for pair in status.values}

    def start(self, again: bool = False, learner: str = "") -> None:
        """again: as the supervisor does it after a kill; a service call might reach the dead node's ghost."""
        stand_in = {"policy": self.graph.stand_in, "learner": learner or self.graph.stand_in}
        run = str(self.graph.tmp_path / "run")
        settings = {"run_dir": run, "reward_grace": 0.2, "record_frames": "all", "restarted": again, **stand_in}
        self.graph.start("learner_node", "learner_node", "learner", active=not again, **settings)
        self.graph.until_matched(*self.cameras.values(), self.joints, self.commands, self.actions, self.rewards, self.graph.episodes)

    def step(self, episode_id: str, index: int) -> None:
        stamp = START + index * PERIOD
        for number, (name, publisher) in enumerate(self.cameras.items()):
            publisher.publish(to_message(np.full((128, 128, 3), 100 * number + index, np.uint8), stamp, name))
        message = JointState(name=NAMES, position=[0.01 * index] * 5 + [PROFILE.gripper.open])
        message.header.stamp = to_stamp(stamp)
        self.joints.publish(message)
        source = Command.SOURCE_HUMAN if index in self.human else Command.SOURCE_POLICY
        self.commands.publish(Command(header=message.header, source=source, names=message.name, position=message.position))
        if index % 2 == 0:
            action = Action(episode_id=episode_id, names=NAMES, horizon=2, chunk=[0.5] * 12, policy_version=3, latent=[float(index)])
            action.header.stamp = to_stamp(stamp)
            self.actions.publish(action)

    def reward(self, episode_id: str, index: int, total: float) -> None:
        message = Reward(episode_id=episode_id, model_id="model@1", total=total, valid=True)
        message.header.stamp = to_stamp(START + index * PERIOD)
        self.rewards.publish(message)

    def end(self, episode_id: str, index: int, iteration: int = 0) -> None:
        ended = Episode(episode_id=episode_id, iteration=iteration, phase=Episode.PHASE_ENDED, outcome=Episode.OUTCOME_TIMEOUT)
        ended.header.stamp = to_stamp(START + index * PERIOD)
        self.graph.episodes.publish(ended)

    def running(self, episode_id: str) -> int:
        """Bytes that are on the disk of an episode that is not over."""
        path = self.store.root / "running" / episode_id / "events.log"
        return path.stat().st_size if path.exists() else 0


def test_what_is_heard_is_on_the_disk_at_once(tmp_path, domain) -> None:
    graph = Graph(tmp_path, domain)
    try:
        peers = Peers(graph)
        peers.start()
        graph.say(Episode.PHASE_RUNNING, "train-000-0000", START)
        graph.until(lambda: peers.running("train-000-0000") > 0)
        peers.human = (3,)
        broken = JointState(name=NAMES[1:], position=[0.0] * 5)
        broken.header.stamp = to_stamp(START + 1)
        for index in range(5):
            peers.joints.publish(broken)  # said once, and counts for nothing
            peers.step("train-000-0000", index)
            peers.reward("train-000-0000", index, 0.1 * index) if index != 2 else None
        # Two decisions and the last frame, two cameras, exactly.
        graph.until(lambda: peers.running("train-000-0000") > 3 * 2 * 128 * 128 * 3)
        peers.end("train-000-0000", 4)
        graph.until(lambda: peers.store.list() == ["train-000-0000"])
        before = peers.store.read("train-000-0000")
        np.testing.assert_array_equal(before.rewards["total"], np.array([0, np.nan, 0.4], np.float32))
        assert before.steps["intervention"].tolist() == [False, False, False, True, False]
        assert "'joint_states': joint state has no position of 'shoulder_pan_joint'" in graph.log("learner")
        frames = peers.store.frames("train-000-0000")
        assert frames is not None and len(frames.stamps("wrist")) == 5 and abs(int(frames.read("wrist", START)[0, 0, 0]) - 100) < 3
        assert not (peers.store.root / "running" / "train-000-0000").exists()

        peers.reward("train-000-0000", 2, 0.2)  # late: the episode is closed and written
        graph.until(lambda: np.isfinite(peers.store.read("train-000-0000").rewards["total"]).all())
        after = peers.store.read("train-000-0000")
        np.testing.assert_array_equal(after.rewards["total"], np.array([0, 0.2, 0.4], np.float32))
        np.testing.assert_array_equal(after.images["front"], before.images["front"])
        assert len(after.scores["stamps"]) == 5

        graph.say(Episode.PHASE_RUNNING, "train-000-0001", START)
        graph.until(lambda: peers.running("train-000-0001") > 0)
        for index in range(4):
            peers.step("train-000-0001", index)
        graph.until(lambda: peers.running("train-000-0001") > 2 * 2 * 128 * 128 * 3)
        graph.processes["learner"].send_signal(signal.SIGKILL)
        assert graph.until_exit("learner") == -signal.SIGKILL
        peers.start(again=True)
        graph.until(lambda: "train-000-0001 was running when its recorder was killed: " in graph.log("learner"))
        aside = RolloutStore(peers.store.root / "interrupted")
        assert aside.list() == ["train-000-0001"] and peers.store.list() == ["train-000-0000"]
        graph.until(lambda: peers.counters.get("folders_in_interrupted") == "1" and "mb_in_interrupted" in peers.counters)
        rollout = aside.read("train-000-0001")
        assert rollout.outcome == "aborted" and rollout.images["wrist"][0, 0, 0, 0] == 100
        assert json.loads((peers.store.root / "interrupted/train-000-0001/meta.json").read_text())["format"] == 3

        # In real time an episode's first frame comes a step after its start; one of which a decision is missing is set aside.
        for name, missed in (("train-000-0002", 1), ("train-000-0003", 8)):
            graph.say(Episode.PHASE_RUNNING, name, START - missed * PERIOD)
            graph.until(lambda name=name: peers.running(name) > 0)
            for index in range(3):
                peers.step(name, index)
                peers.reward(name, index, 0.1)
            graph.until(lambda name=name: peers.running(name) > 2 * 2 * 128 * 128 * 3)
            peers.end(name, 2)
        graph.until(lambda: peers.store.list() == ["train-000-0000", "train-000-0002"])
        graph.until(lambda: "train-000-0003 was running when this node was restarted" in graph.log("learner"))

        # Nobody says the end of an episode whose run dies.
        graph.say(Episode.PHASE_RUNNING, "train-000-0004", START)
        graph.until(lambda: peers.running("train-000-0004") > 0)
        peers.step("train-000-0004", 0)
        graph.say(Episode.PHASE_RESETTING, "train-000-0000", mode=Episode.MODE_EVALUATE)
        graph.until(lambda: "train-000-0004: its run ended without a word" in graph.log("learner"))
        assert aside.list() == ["train-000-0001", "train-000-0003"] and not (peers.store.root / "running" / "train-000-0004").exists()
    finally:
        graph.close()


def test_an_iteration_that_is_over_is_reported_so_although_the_next_was_learned_from(tmp_path, domain) -> None:
    graph = Graph(tmp_path, domain)
    try:
        peers, heard = Peers(graph), []
        each = tmp_path / "each.yaml"
        each.write_text("plugin: stand_in\nupdate_every: 1\n")
        graph.node.create_subscription(Update, "learner/update", heard.append, LATCHED)
        peers.start(learner=str(each))
        graph.say(Episode.PHASE_RUNNING, "train-001-0000", START, iteration=1)
        graph.until(lambda: peers.running("train-001-0000") > 0)
        for index in range(4):
            peers.step("train-001-0000", index)
        graph.until(lambda: peers.running("train-001-0000") > 2 * 2 * 128 * 128 * 3)
        peers.end("train-001-0000", 3, iteration=1)
        graph.until(lambda: [(one.iteration, one.interim) for one in heard] == [(1, True)])
        graph.say(Episode.PHASE_UPDATING, "", iteration=0)
        graph.until(lambda: len(heard) > 1)
        assert (heard[1].iteration, heard[1].interim, heard[1].version) == (0, False, 1)
    finally:
        graph.close()
