"""An episode that ran live, and its bag: the reward model is shown the same bytes and says the same, over DDS and in code."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

pytest.importorskip("rclpy")

from graph import ROBOT, Graph, install_stand_ins
from rosbags.rosbag2 import StoragePlugin, Writer
from rosbags.typesys import Stores, get_typestore
from whetstone_msgs.msg import Command, Reward

from robot_bringup.command import executable
from robot_bringup.replay import script
from robot_bringup.replay.script import Script
from whetstone.bags.mapping import Mapping
from whetstone.bags.reader import open_bag
from whetstone.bags.roles import find_roles
from whetstone.config import root
from whetstone.errors import InputError
from whetstone.frame_sets import FrameSets, decoded, parts_of
from whetstone.profile import load_profile
from whetstone.rewards import load_reward
from whetstone.ros import EVENT, stamp_of_raw, to_ns

STEPS = 24

_WITNESS = '''
import hashlib
import os

from whetstone.config import load_yaml, find
from whetstone.rewards import load_reward


class Witness:
    """sarm2, and a line for each frame set that it was shown: what stamp, and a hash of the bytes."""

    @classmethod
    def load(cls, config, profile, device="cpu"):
        self = cls()
        self.inner = load_reward("sarm2", profile, device)
        self.needs, self.provenance, self.episode = self.inner.needs, self.inner.provenance, ""
        return self

    def reset(self, episode_id, instruction, seed):
        self.episode = episode_id
        self.inner.reset(episode_id, instruction, seed)

    def observe(self, images, stamp):
        digest = hashlib.sha256()
        for name in sorted(images):
            digest.update(name.encode() + str(images[name].dtype).encode() + str(images[name].shape).encode() + images[name].tobytes())
        if self.episode != "self-test":
            with open(os.environ["WITNESS"], "a") as file:
                file.write(f"{self.episode} {stamp} {digest.hexdigest()}\\n")
        return self.inner.observe(images, stamp)
'''


def witness(folder: Path) -> dict[str, str]:
    """A reward plug-in that notes what it is shown; the environment in which it is found."""
    environment = install_stand_ins(folder)
    with (folder / "stand_ins-0.dist-info" / "entry_points.txt").open("a") as file:
        file.write("[whetstone.rewards]\nwitness = witness:Witness\n")
    (folder / "witness.py").write_text(_WITNESS)
    inner = yaml.safe_load((root() / "config" / "rewards" / "sarm2.yaml").read_text())
    (folder / "witness.yaml").write_text(yaml.safe_dump({"plugin": "witness", "every": inner["every"]}))
    return environment


def shown(path: Path) -> dict[tuple[str, int], str]:
    found = {}
    for line in path.read_text().splitlines():
        episode, stamp, digest = line.split()
        assert found.setdefault((episode, int(stamp)), digest) == digest
    return found


def whetstone(environment: dict[str, str], *arguments: str, code: int = 0, seconds: float = 120) -> str:
    process = subprocess.Popen(
        [*executable("robot_bringup", "whetstone"), *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**os.environ, **environment},
        start_new_session=True,
    )
    try:
        output, _ = process.communicate(timeout=seconds)
    except subprocess.TimeoutExpired:
        process.send_signal(signal.SIGINT)
        output, _ = process.communicate(timeout=20)
        raise AssertionError(output) from None
    assert process.returncode == code, output
    return output


PERIOD, THEIR_START = 50_000_000, 1_700_000_000_000_000_000


def their_image(index: int, camera: int) -> np.ndarray:
    """(128, 128, 3) uint8, BGR."""
    return np.random.default_rng((index, camera)).integers(0, 255, (128, 128, 3), np.uint8)


def write_theirs(path: Path, count: int) -> None:
    store = get_typestore(Stores.ROS2_JAZZY)
    types = store.types
    Header, Time = types["std_msgs/msg/Header"], types["builtin_interfaces/msg/Time"]
    profile = load_profile(ROBOT)
    with Writer(path, version=9, storage_plugin=StoragePlugin.MCAP) as writer:
        kinds = {"/static/image": "Image", "/hand/image": "Image", "/states": "JointState"}
        topics = [(topic, f"sensor_msgs/msg/{kind}") for topic, kind in kinds.items()]
        front, wrist, states = (writer.add_connection(topic, kind, typestore=store) for topic, kind in topics)
        for index in range(count):
            at = THEIR_START + index * PERIOD
            stamped, none = (Header(Time(ns // 10**9, ns % 10**9), "") for ns in (at, 0))
            for camera, (connection, header) in enumerate(((front, stamped), (wrist, none))):
                image = types["sensor_msgs/msg/Image"](header, 128, 128, "bgr8", 0, 384, their_image(index, camera).reshape(-1))
                writer.write(connection, at, store.serialize_cdr(image, "sensor_msgs/msg/Image"))
            names = [*profile.joint_names, profile.gripper.joint]
            joints = types["sensor_msgs/msg/JointState"](none, names, np.array([*profile.home, 0.5]), np.zeros(0), np.zeros(0))
            writer.write(states, at, store.serialize_cdr(joints, "sensor_msgs/msg/JointState"))


@pytest.fixture(scope="module")
def live(tmp_path_factory) -> tuple[Path, dict[str, str]]:
    """Two short episodes of a live run in lockstep, recorded."""
    folder = tmp_path_factory.mktemp("live")
    environment = witness(folder / "plugins")
    task = yaml.safe_load((root() / "config" / "tasks" / "push.yaml").read_text())
    (folder / "short.yaml").write_text(yaml.safe_dump({**task, "max_steps": STEPS}))
    plugins = folder / "plugins"
    whetstone(
        {**environment, "WITNESS": str(folder / "live.txt")},
        *("run", "refine", "robot:=so100", f"task:={folder / 'short.yaml'}", f"reward:={plugins / 'witness.yaml'}"),
        *(f"policy:={plugins / 'stand_in.yaml'}", f"learner:={plugins / 'stand_in.yaml'}", "iterations:=1", "episodes:=2"),
        *("evaluation_episodes:=0", "record:=true", f"run_dir:={folder / 'run'}", f"domain_id:={1 + os.getpid() % 101}"),
    )
    return folder, environment


def recorded(bag_path: Path) -> dict[tuple[str, int], dict[str, float]]:
    """The rewards that a bag holds."""
    with open_bag(bag_path) as bag:
        said = [message.decode() for message in bag.messages(["/so100/reward"])]
    return {(one.episode_id, to_ns(one.header.stamp)): {name: getattr(one, name) for name in ("raw", "progress", "total")} for one in said}


def test_a_replay_over_dds_shows_the_model_the_same_bytes_and_gets_the_same_rewards(live, domain) -> None:
    folder, environment = live
    bags = [folder / "run" / "bags" / f"train-000-000{index}" for index in range(2)]
    seen, said = shown(folder / "live.txt"), {**recorded(bags[0]), **recorded(bags[1])}
    assert len(seen) == len(said) == 2 * (STEPS // 4 + 1)
    whetstone(
        {**environment, "WITNESS": str(folder / "replay.txt")},
        *("run", "reward", "robot:=so100", f"reward:={folder / 'plugins' / 'witness.yaml'}", f"bag:={bags[0]},{bags[1]}"),
        *(f"run_dir:={folder / 'replayed'}", f"domain_id:={domain}"),
    )
    assert shown(folder / "replay.txt") == seen
    again = [json.loads(line) for line in (folder / "replayed" / "rewards.jsonl").read_text().splitlines()]
    assert {(one["episode_id"], one["stamp"]) for one in again} == set(said)
    for one in again:
        for name, value in said[one["episode_id"], one["stamp"]].items():
            assert one[name] == pytest.approx(value, abs=1e-6)


def test_reading_the_bag_in_code_shows_the_model_the_same_bytes_and_gets_the_same_rewards(live, monkeypatch) -> None:
    folder, environment = live
    monkeypatch.setenv("WITNESS", str(folder / "code.txt"))
    monkeypatch.syspath_prepend(str(folder / "plugins"))
    profile = load_profile("so100")
    model = load_reward(str(folder / "plugins" / "witness.yaml"), profile, "cpu")
    compared = 0
    for index in range(2):
        path = folder / "run" / "bags" / f"train-000-000{index}"
        with open_bag(path) as bag:
            roles = find_roles(bag, profile)
            phases = [message.decode() for message in bag.messages([roles.own["episode"]])]
            episode = next(one for one in phases if one.phase == one.PHASE_RUNNING)
            parts = {topic: name for name, topic in roles.cameras.items()}
            sets = FrameSets(parts_of(model.needs), profile.rate, model.needs.every)
            sets.begin(to_ns(episode.start))
            model.reset(episode.episode_id, episode.instruction, int(episode.seed))
            said = recorded(path)
            for message in bag.messages(parts):
                image = message.decode()
                stamp = to_ns(image.header.stamp)
                whole = sets.take(parts[message.topic], stamp, image).whole
                if whole is not None:
                    shapes = model.needs.cameras, model.needs.image_size
                    sample = model.observe(decoded(whole.parts, *shapes, profile), whole.stamp)
                    assert sample is not None
                    for name, value in said[episode.episode_id, whole.stamp].items():
                        assert getattr(sample, name) == pytest.approx(value, abs=1e-6)
                        compared += 1
    assert compared == 3 * 2 * (STEPS // 4 + 1)
    assert shown(folder / "code.txt") == shown(folder / "live.txt")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("replay",), "whetstone replay needs a bag, for example"),
        (("replay", "nowhere"), "nowhere"),
        (("replay", "nowhere", "domain_id:=300"), "argument domain_id:=300 must be an integer from 0 to 232"),
        (("run", "reward", "bag:=nowhere"), "nowhere: no such file or folder"),
        (("run", "reward", "bag:=/tmp", "robots:=left"), "argument robots:=left is of robots that run; with bag:= give none"),
    ],
    ids=lambda words: " ".join(words) if isinstance(words, tuple) else "",
)
def test_what_cannot_be_replayed_is_one_line(tmp_path, monkeypatch, words, said) -> None:
    monkeypatch.chdir(tmp_path)
    output = whetstone({}, *words, code=2)
    assert said in output and output.count("\n") == 1


def test_a_replay_to_nobody_names_who_is_missing(live, domain) -> None:
    folder, _ = live
    bag = str(folder / "run" / "bags" / "train-000-0000")
    output = whetstone({}, "replay", bag, "deadline:=1", f"domain_id:={domain}", code=2)
    assert "no node '/so100/reward' within 1 s; is a reward node running on this ROS domain?" in output


def test_a_bag_that_cannot_be_replayed_is_said_before_anybody_is_waited_for(tmp_path, domain) -> None:
    write_theirs(tmp_path / "theirs", 3)
    (tmp_path / "theirs.yaml").write_text("cameras: {front: /static/imag, wrist: /hand/image}\n")
    words = ("replay", str(tmp_path / "theirs"), f"robot:={ROBOT}", "instruction:=do it", f"mapping:={tmp_path / 'theirs.yaml'}")
    output = whetstone({}, *words, "deadline:=1000", f"domain_id:={domain}", code=2)
    assert "unknown topic '/static/imag'; did you mean '/static/image'?" in output and output.count("\n") == 1


def test_reward_and_policy_node_answer_every_frame_of_a_bag_of_somebody_else_s(tmp_path, domain) -> None:
    """Written by rosbags, other topic names, bgr8, stamps on one camera only, no episode: a mapping file and an instruction stand in."""
    bag, count = tmp_path / "theirs", 21
    write_theirs(bag, count)
    other = tmp_path / "other" / "theirs"
    other.parent.mkdir()
    write_theirs(other, 5)
    mapping = {"cameras": {"front": "/static/image", "wrist": "/hand/image"}, "joint_states": "/states"}
    (tmp_path / "theirs.yaml").write_text(yaml.safe_dump(mapping))
    graph = Graph(tmp_path, domain)
    try:
        commands, rewards = [], []
        graph.node.create_subscription(Command, "policy/command", commands.append, EVENT)
        graph.node.create_subscription(Reward, "reward", rewards.append, EVENT)
        graph.start("reward_node", "reward_node", "reward", active=False, reward="constant")
        graph.start("policy_node", "policy_node", "policy", policy=graph.stand_in)  # the two wake up at the same time
        graph.activate("reward")
        whetstone(
            graph.environment,
            *("replay", str(bag), str(other), f"robot:={ROBOT}", "to:=reward,policy", "instruction:=do it"),
            *(f"mapping:={tmp_path / 'theirs.yaml'}", f"rewards:={tmp_path / 'rewards.jsonl'}", f"domain_id:={domain}"),
        )
        stamps = [THEIR_START + index * PERIOD for index in range(count)]
        graph.until(lambda: len({to_ns(one.header.stamp) for one in commands}) >= count)
        assert sorted({to_ns(one.header.stamp) for one in commands}) == stamps
        lines = [json.loads(line) for line in (tmp_path / "rewards.jsonl").read_text().splitlines()]
        assert [(line["bag"], line["stamp"]) for line in lines] == [
            *((str(bag), stamp) for stamp in stamps[::4]),
            *((str(other), stamp) for stamp in stamps[:5:4]),
        ]
        assert {line["bag"]: line["episode_id"] for line in lines} == {str(bag): "theirs", str(other): "theirs-2"}
        assert all(line["valid"] for line in lines)
    finally:
        graph.close()


def test_memory_holds_two_seconds_of_a_bag_whatever_the_clock_of_its_headers(tmp_path, monkeypatch) -> None:
    bag, count = tmp_path / "theirs", 100
    write_theirs(bag, count)
    profile, read = load_profile(ROBOT), [0]
    for ahead in (0, 3600, -3600):
        monkeypatch.setattr(script, "_stamp", lambda message, ahead=ahead: message.time_ns + ahead * 10**9)
        with open_bag(bag) as opened:
            roles = find_roles(opened, profile, Mapping(cameras={"front": "/static/image", "wrist": "/hand/image"}, joint_states="/states"))
            played, messages, read[0] = Script(opened, roles, profile, "do it"), opened.messages, 0

            def counted(*words: Any, messages: Any = messages) -> Any:
                for message in messages(*words):
                    read[0] += 1
                    yield message

            opened.messages = counted  # type: ignore
            for step in played.steps():
                assert len(step.parts) == 3 and read[0] <= 3 * (step.index + script.HELD // PERIOD + 2), (ahead, step.index)
            assert step.index == count - 1 and played.late == 0


def test_a_bag_s_images_become_what_our_nodes_take(tmp_path) -> None:
    bag = tmp_path / "theirs"
    write_theirs(bag, 3)
    profile = load_profile(ROBOT)
    with open_bag(bag) as opened:
        mapping = Mapping(cameras={"front": "/static/image", "wrist": "/hand/image"}, joint_states="/states")
        roles = find_roles(opened, profile, mapping)
        with pytest.raises(InputError, match="nothing in the bag says what the robot was told; say it, instruction:="):
            Script(opened, roles, profile)
        told = Script(opened, roles, profile, "do it")
        steps = list(told.steps())
    assert (told.spoken.episode_id, told.spoken.start, told.spoken.ours) == ("theirs", THEIR_START, False)
    assert [step.index for step in steps] == [0, 1, 2] and [step.stamp for step in steps] == [THEIR_START + i * PERIOD for i in range(3)]
    for index, step in enumerate(steps):
        front, wrist, joints = step.parts["front"], step.parts["wrist"], step.parts["proprioception"]
        np.testing.assert_array_equal(front.image, their_image(index, 0)[..., ::-1])
        np.testing.assert_array_equal(wrist.image, their_image(index, 1)[..., ::-1])
        assert stamp_of_raw(joints) == wrist.stamp == step.stamp, "what has no stamp gets the time at which it was recorded"


def test_a_camera_without_messages_is_named_and_so_is_the_episode_after_its_bag(tmp_path) -> None:
    store = get_typestore(Stores.ROS2_JAZZY)
    write_theirs(tmp_path / "run.1", 3)
    with Writer(tmp_path / "run.2", version=9, storage_plugin=StoragePlugin.MCAP) as writer:
        writer.add_connection("/static/image", "sensor_msgs/msg/Image", typestore=store)
        states = writer.add_connection("/states", "sensor_msgs/msg/JointState", typestore=store)
        types, none = store.types, np.zeros(0)
        header = types["std_msgs/msg/Header"](types["builtin_interfaces/msg/Time"](1, 0), "")
        joints = types["sensor_msgs/msg/JointState"](header, ["a"], np.zeros(1), none, none)
        writer.write(states, 1, store.serialize_cdr(joints, "sensor_msgs/msg/JointState"))
    profile = load_profile(ROBOT)
    mapping = Mapping(cameras={"front": "/static/image"}, joint_states="/states")
    with open_bag(tmp_path / "run.1") as bag:
        assert Script(bag, find_roles(bag, profile, mapping, ["front"]), profile, "do it").spoken.episode_id == "run.1"
    with open_bag(tmp_path / "run.2") as bag, pytest.raises(InputError, match=r"run.2: topic '/static/image' has no messages"):
        Script(bag, find_roles(bag, profile, mapping, ["front"]), profile, "do it")
