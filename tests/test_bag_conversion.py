"""`whetstone convert`: the same arrays after every way round, a demonstration from a foreign bag, a word on what had no counterpart."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import yaml
from bag_samples import JAZZY, NOETIC, SECOND, START, header, image, joints, picture, write_mcap, write_ros1, write_rosbag2
from rosbags.highlevel import AnyReader
from rosbags.rosbag2 import StoragePlugin
from sensor_msgs.msg import Image
from test_store import assert_equal
from whetstone_samples import ROBOT, recorded
from whetstone_samples import picture as smooth

from learner_node.durable import DurableRecorder
from learner_node.hearing import Hearing
from robot_bringup.cli import main
from whetstone.bags import sampling
from whetstone.bags.reader import open_bag
from whetstone.cdr import stamp_of_raw
from whetstone.contracts import REWARD_VALUES, Rollout
from whetstone.frames import encode
from whetstone.images import to_array
from whetstone.profile import load_profile
from whetstone.ros import deserialize
from whetstone.store import RolloutStore

SIZE = 64
STEP = SECOND // 20  # twolink is driven at 20 Hz
NAMES = ("a", "b", "g")


@pytest.fixture
def robot(tmp_path: Path) -> str:
    """robot:= of the small robot of whetstone's tests, with two cameras."""
    data = yaml.safe_load(ROBOT) | {"cameras": [{"name": name, "width": SIZE, "height": SIZE} for name in ("front", "wrist")]}
    path = tmp_path / "twolink.yaml"
    path.write_text(yaml.safe_dump(data), encoding="utf-8")
    return f"robot:={path}"


def convert(*words: object) -> int:
    return main(["convert", *map(str, words)])


def whole(episode_id: str, **changes: Any) -> Rollout:
    """As a run records it: every value of every score."""
    rollout = recorded(episode_id, cameras=("front", "wrist"), **changes)
    nothing = np.full(len(rollout.scores["stamps"]), np.nan, np.float32)
    scores = {name: rollout.scores.get(name, nothing) for name in ("stamps", "valid", *REWARD_VALUES)}
    blank = np.full(len(rollout.stamps) + 1, np.nan, np.float32)
    return replace(rollout, scores=scores, rewards={name: rollout.rewards.get(name, blank) for name in REWARD_VALUES})


def every_frame(rollout: Rollout) -> list[tuple[str, int, bytes]]:
    return [(camera, stamp, encode(smooth(row))) for camera in rollout.images for row, stamp in enumerate(rollout.steps["stamps"].tolist())]


EPISODES = (
    whole("train-000-0000", latents=np.random.default_rng(1).normal(size=(4, 6)).astype(np.float32)),
    whole("train-000-0001", seed=2, outcome="timeout", reason="max_steps", task="push"),
)


@pytest.fixture
def store(tmp_path: Path) -> RolloutStore:
    store = RolloutStore(tmp_path / "rollouts")
    store.write(EPISODES[0], every_frame(EPISODES[0]))
    store.write(EPISODES[1])
    return store


def test_episodes_to_bags_and_back(store: RolloutStore, robot: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Every array bit for bit; the frames between decisions but for JPEG."""
    assert convert(store.root, tmp_path / "bags", "as:=bags", robot) == 0
    said = capsys.readouterr().out
    assert "no counterpart: images of control steps between decisions: 1 episodes do not have them (record_frames:=all)" in said
    assert f"{tmp_path / 'bags'}: 2 bags: train-000-0000, train-000-0001" in said
    with AnyReader([tmp_path / "bags" / "train-000-0000"]) as reader:  # a bag to others too
        counts = {topic: info.msgcount for topic, info in reader.topics.items()}
        assert counts["/camera/front/image_raw"] == 17 and counts["/joint_states"] == 17 and counts["/policy/action"] == 4
        for connection, _, data in reader.messages():
            reader.deserialize(data, connection.msgtype)
    assert convert(tmp_path / "bags", tmp_path / "again", robot) == 0
    assert "no counterpart" not in capsys.readouterr().out
    again = RolloutStore(tmp_path / "again")
    for rollout in EPISODES:
        assert_equal(again.read(rollout.episode_id), rollout)
    before, after = store.frames("train-000-0000"), again.frames("train-000-0000")
    assert before is not None and after is not None
    for stamp in EPISODES[0].steps["stamps"].tolist():
        if stamp not in EPISODES[0].stamps and stamp != EPISODES[0].end:  # those come from the episode itself
            difference = before.read("wrist", stamp).astype(int) - after.read("wrist", stamp)
            assert np.abs(difference).mean() < 2  # coded twice
    assert convert(tmp_path / "bags", tmp_path / "again", robot) == 2  # nothing is written over
    assert "it is in" in capsys.readouterr().out


def test_what_the_learner_hears_live_and_what_is_read_from_the_bag_is_one_episode(store: RolloutStore, robot: str, tmp_path: Path) -> None:
    """The bytes of a bag through rclpy and the learner's own hearing, and through `whetstone convert`."""
    assert convert(store.root, tmp_path / "bags", "as:=bags", robot) == 0
    profile = load_profile(robot.removeprefix("robot:="))
    live = RolloutStore(tmp_path / "live")
    recorder = DurableRecorder(live, ("front", "wrist"), lambda data, camera: to_array(deserialize(data, Image), camera), ring=256)
    hearing = Hearing(profile, recorder, lambda episode: True)
    with open_bag(tmp_path / "bags" / "train-000-0000") as bag:
        for message in bag.messages():
            package, _, name = message.type.partition("/msg/")
            if name == "Image":
                hearing.image(message.topic.split("/")[2], stamp_of_raw(message.data), message.data)
                continue
            said = deserialize(message.data, getattr(import_module(f"{package}.msg"), name))
            if name == "Episode":
                hearing.episode(said, 0.0)
            elif name != "JointState" or recorder.recording:
                {"JointState": hearing.joints, "Command": hearing.command, "Action": hearing.action, "Reward": hearing.reward}[name](said)
    (heard,) = recorder.ready(float("inf"))
    assert convert(tmp_path / "bags", tmp_path / "again", robot) == 0
    assert_equal(RolloutStore(tmp_path / "again").read("train-000-0000"), heard)


@pytest.mark.parametrize("change", [{"latents": None}, {"source": "demonstration", "scores": {}}])
def test_what_an_episode_may_lack(change: dict, robot: str, tmp_path: Path) -> None:
    rollout = whole("one")
    nothing = {name: np.full(5, np.nan, np.float32) for name in REWARD_VALUES}
    if "source" in change:
        rollout = replace(rollout, rewards=nothing, reward_model_id="")
    rollout = replace(rollout, **change)
    RolloutStore(tmp_path / "a").write(rollout)
    assert convert(tmp_path / "a", tmp_path / "bags", "as:=bags", robot) == 0
    assert convert(tmp_path / "bags" / "one", tmp_path / "b", robot, "frames:=decisions") == 0
    again = RolloutStore(tmp_path / "b").read("one")
    assert_equal(replace(again, scores=rollout.scores), rollout)
    assert not rollout.scores or list(again.scores["stamps"]) == list(rollout.scores["stamps"])


def test_bags_to_lerobot_and_back(store: RolloutStore, robot: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert convert(store.root, tmp_path / "bags", "as:=bags", robot) == 0
    assert convert(tmp_path / "bags", tmp_path / "dataset", "as:=lerobot", robot, "images:=png", "rows:=decisions") == 0
    assert "no counterpart: chunks, latents, scores, the last frame" in capsys.readouterr().out
    assert convert(tmp_path / "dataset", tmp_path / "more_bags", "as:=bags", robot) == 0
    assert convert(tmp_path / "more_bags", tmp_path / "again", robot) == 0
    for rollout in EPISODES:
        assert_equal(RolloutStore(tmp_path / "again").read(rollout.episode_id), rollout)
    assert sorted(path.name for path in tmp_path.glob(".convert*")) == []


def test_an_episode_that_is_cut_off_is_kept_but_not_among_the_others(store: RolloutStore, robot: str, tmp_path: Path, capsys: Any) -> None:
    assert convert(store.root, tmp_path / "bags", "as:=bags", robot, "only:=train-000-0000") == 0
    path = tmp_path / "bags" / "train-000-0000"
    assert convert(path, tmp_path / "again", robot, "end:=0.5") == 2
    out = capsys.readouterr()
    assert "left out: train-000-0000: the bag ends before the episode does: 3 decisions kept in" in out.out
    assert "nothing could be converted: the bag ends before the episode does" in out.err
    again = RolloutStore(tmp_path / "again")
    assert again.list() == [] and list(again.interrupted()) == ["train-000-0000"]
    kept = RolloutStore(tmp_path / "again" / "interrupted").read("train-000-0000")
    np.testing.assert_array_equal(kept.images["front"], EPISODES[0].images["front"][:3])
    file = next(path.glob("*.mcap"))
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    assert convert(path, tmp_path / "third", robot) == 2
    assert "warning" in (said := capsys.readouterr().out) or "no messages" in said


def test_an_aborted_episode_is_left_out(robot: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rollouts = RolloutStore(tmp_path / "a")
    rollouts.write(whole("one", outcome="aborted", reason="a human stopped it"))
    rollouts.write(whole("two"))
    assert convert(rollouts.root, tmp_path / "bags", "as:=bags", robot) == 0
    assert convert(tmp_path / "bags", tmp_path / "b", robot) == 0
    assert "left out: one: aborted: a human stopped it" in capsys.readouterr().out
    assert RolloutStore(tmp_path / "b").list() == ["two"]


# Other stacks' bags.


def told(store: Any = JAZZY, steps: int = 24, commands: Callable[[int, int], Any] | None = None) -> list[tuple[str, int, Any]]:
    """Two cameras at 20 Hz, the wrist's a little later than the steps; joints at 100 Hz; stamps are the log times less 2 ms."""
    late, found = 2_000_000, []
    for step in range(steps):
        time = START + step * STEP
        found.append(("/scene_cam/image_raw", time + late, image(time, picture(step, SIZE, SIZE), store)))
        shifted = time - 10_000_000
        found.append(("/wrist_cam/image_raw", shifted + late, image(shifted, picture(500 + step, SIZE, SIZE), store)))
        for part in range(5):
            moment = time + part * STEP // 5
            found.append(("/joint_states", moment + late, joints(moment, _at(step, part), NAMES, store)))
        if commands:
            found.append(("/arm/commands", time + late + 1, commands(step, time)))
    return sorted(found, key=lambda one: one[1])


def _at(step: int, part: int) -> list[float]:
    moved = (step + part / 5) / 50
    return [moved, 2 * moved, 0.1 - 0.4 * (moved % 1)]


def _array(values: np.ndarray) -> Any:
    layout = JAZZY.types["std_msgs/msg/MultiArrayLayout"](dim=[], data_offset=0)
    return JAZZY.types["std_msgs/msg/Float64MultiArray"](layout=layout, data=np.array(values, float))


def _trajectory(values: np.ndarray, time: int) -> Any:
    none = np.zeros(0)
    zero = JAZZY.types["builtin_interfaces/msg/Duration"](sec=0, nanosec=0)
    point = JAZZY.types["trajectory_msgs/msg/JointTrajectoryPoint"]
    points = [point(positions=np.array(values[:2], float), velocities=none, accelerations=none, effort=none, time_from_start=zero)]
    return JAZZY.types["trajectory_msgs/msg/JointTrajectory"](header=header(time), joint_names=["a", "b"], points=points)


def check(rollout: Rollout, gripper_commanded: bool | None) -> None:
    """Steps of the 20 Hz grid that begins with the first time at which all was heard; the action is the command of the step."""
    steps = rollout.steps
    assert list(np.diff(steps["stamps"])) == [STEP] * (len(steps["stamps"]) - 1) and len(steps["stamps"]) >= 22
    first = round((steps["stamps"][0] - START) / STEP)
    measured = np.array([_at(first + row, 0) for row in range(len(steps["stamps"]))])
    opening = (measured[:, 2] - 0.1) / -0.4
    np.testing.assert_allclose(steps["measured"], np.column_stack([measured[:, :2], opening]), atol=1e-6)
    reached = np.concatenate([steps["measured"][1:], steps["measured"][-1:]])
    if gripper_commanded is None:
        np.testing.assert_array_equal(steps["commanded"], reached)
    else:
        wanted = measured[:, :2] + 0.5
        np.testing.assert_allclose(steps["commanded"][:, :2], wanted, atol=1e-6)
        np.testing.assert_allclose(steps["commanded"][:, 2], 0.75 if gripper_commanded else reached[:, 2], atol=1e-6)
    for row, stamp in enumerate(rollout.stamps.tolist()):
        step = round((stamp - START) / STEP)
        np.testing.assert_array_equal(rollout.images["front"][row], picture(step, SIZE, SIZE))
        np.testing.assert_array_equal(rollout.images["wrist"][row], picture(500 + step, SIZE, SIZE))
    assert rollout.source == "demonstration" and rollout.actions.shape[1:] == (16, 3) and np.isfinite(rollout.actions).all()
    np.testing.assert_array_equal(rollout.actions[0], steps["commanded"][:16])


WANTED = [0.5, 0.5, 0.1 - 0.4 * 0.75]


@pytest.mark.parametrize(
    ("commands", "gripper"),
    [
        (None, None),
        (lambda step, time: _array(np.array([*_at(step, 0)[:2], 0]) + WANTED), True),
        (lambda step, time: _array((np.array(_at(step, 0)) + WANTED)[:2]), False),
        (lambda step, time: _trajectory(np.array(_at(step, 0)) + WANTED, 0), False),
        (lambda step, time: joints(time, np.array([*_at(step, 0)[:2], 0]) + WANTED, NAMES), True),
    ],
    ids=["no commands", "an array", "an array of the arm alone", "trajectories", "joint states"],
)
def test_one_demonstration(commands: Any, gripper: bool | None, robot: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    messages = told(commands=commands)
    # Commands without a stamp of their own have only their log time, and then the others go by it too.
    path = write_rosbag2(tmp_path / "theirs", messages, StoragePlugin.SQLITE3)
    words = ["instruction:=pick it up", "task:=pick"]
    assert convert(path, tmp_path / "store", robot, *words, *(["clock:=header"] if commands is None else [])) == 0
    out = capsys.readouterr().out
    assert ("are what was reached a step later" in out) == (gripper is not True) and "does not say what" not in out
    rollout = RolloutStore(tmp_path / "store").read("bag-theirs")
    assert (rollout.instruction, rollout.task, rollout.outcome) == ("pick it up", "pick", "success")
    check(rollout, gripper)
    frames = RolloutStore(tmp_path / "store").frames("bag-theirs")
    assert frames is not None and list(frames.stamps("wrist")) == list(rollout.steps["stamps"])


def test_a_ros1_bag_and_a_truncated_one_and_a_foreign_writer(robot: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    ros1 = write_ros1(tmp_path / "one.bag", told(NOETIC))
    mcap = write_mcap(tmp_path / "two.mcap", told(), 20_000)
    cut = tmp_path / "three.mcap"
    cut.write_bytes(mcap.read_bytes()[: mcap.stat().st_size * 2 // 3])
    for path in (ros1, mcap, cut):
        assert convert(path, tmp_path / "store", robot, "frames:=decisions") == 0
    out = capsys.readouterr().out
    assert out.count("does not say what the robot was told; give instruction:=WORDS") == 3
    assert out.count("warning: ") == 1 and "cut off or damaged" in out
    store = RolloutStore(tmp_path / "store")
    assert store.list() == ["bag-one", "bag-three", "bag-two"]
    check(store.read("bag-one"), None)
    assert_equal(replace(store.read("bag-two"), episode_id="", reason=""), replace(store.read("bag-one"), episode_id="", reason=""))
    assert 8 < len(store.read("bag-three").steps["stamps"]) < 20


def test_a_folder_of_files_of_other_names_is_several_bags(robot: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "day").mkdir()
    for name in ("morning.mcap", "noon.mcap"):
        write_mcap(tmp_path / "day" / name, told())
    (tmp_path / "day" / "evening.mcap").write_bytes(b"x")
    assert convert(tmp_path / "day", tmp_path / "store", robot, "frames:=decisions", "instruction:=go") == 0
    assert "left out: evening.mcap: " in capsys.readouterr().out
    assert RolloutStore(tmp_path / "store").list() == ["bag-morning", "bag-noon"]


def test_other_names_units_sizes_and_a_gripper_of_its_own(robot: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """By a mapping file: JPEG of another size, joints under other names, a gripper from 0 (open) to 255 on a topic of its own."""
    compressed, number = JAZZY.types["sensor_msgs/msg/CompressedImage"], JAZZY.types["std_msgs/msg/Float32"]
    messages = []
    for step in range(20):
        time = START + step * STEP
        data = np.frombuffer(cv2.imencode(".png", np.full((2 * SIZE, 2 * SIZE, 3), step, np.uint8))[1].tobytes(), np.uint8)
        messages.append(("/top/image_raw/compressed", time, compressed(header=header(time), format="png", data=data)))
        messages.append(("/left/state", time + 1, joints(time, [step / 50, -0.1], ("j2", "j1"))))
        messages.append(("/hand", time + 2, number(data=51.0)))
        messages.append(("/unused", time + 3, number(data=0.0)))
    path = write_mcap(tmp_path / "theirs.mcap", messages)
    mapping = tmp_path / "theirs.yaml"
    text = "cameras: {front: /top/image_raw/compressed}\njoint_states: /left/state\njoints: {a: j1, b: j2}\ninstruction: push\n"
    mapping.write_text(text + "gripper: {topic: /hand, closed: 255, open: 0}\n", encoding="utf-8")
    words = [path, tmp_path / "store", robot, f"mapping:={mapping}", "cameras:=front=/top/image_raw/compressed"]
    assert convert(*words) == 2
    assert "camera 'front': image is 128x128, but 64x64 is needed; resize:=crop" in capsys.readouterr().err
    assert not (tmp_path / "store" / "running" / "bag-theirs").exists()
    assert convert(*words, "resize:=crop") == 0
    out = capsys.readouterr().out
    assert "no counterpart: /unused (std_msgs/msg/Float32)" in out and "does not say" not in out
    rollout = RolloutStore(tmp_path / "store").read("bag-theirs")
    assert rollout.instruction == "push" and list(rollout.images) == ["front"]
    measured = rollout.steps["measured"]
    np.testing.assert_allclose(measured, [[-0.1, row / 50, 0.8] for row in range(len(measured))], atol=1e-6)
    np.testing.assert_array_equal(rollout.images["front"][1], np.full((SIZE, SIZE, 3), 8, np.uint8))


@pytest.mark.parametrize("ahead", [5, -5])
def test_headers_whose_clock_is_not_the_log_s(ahead: int, robot: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    messages = [(topic, time + ahead * SECOND, message) for topic, time, message in told(steps=60)]
    assert convert(write_mcap(tmp_path / "theirs.mcap", messages), tmp_path / "store", robot) == 0
    assert "older than" not in capsys.readouterr().out
    check(RolloutStore(tmp_path / "store").read("bag-theirs"), None)


def test_a_camera_that_falls_silent_is_said(robot: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    messages = [one for one in told(steps=40) if "wrist" not in one[0] or not START + SECOND // 2 < one[1] < START + 3 * SECOND // 2]
    assert convert(write_mcap(tmp_path / "gap.mcap", messages), tmp_path / "store", robot) == 0
    assert "/wrist_cam/image_raw: at 15 of 39 steps its newest message was older than 0.3 s" in capsys.readouterr().out


def test_a_stream_that_begins_late_does_not_keep_all_images_of_before(robot: str, tmp_path: Path, monkeypatch: Any) -> None:
    messages = [one for one in told(steps=50) if "joint" not in one[0] or one[1] > START + 35 * STEP]
    most, add = [0], sampling._Held.add

    def counted(self: Any, stamp: int, item: Any) -> None:
        add(self, stamp, item)
        most[0] = max(most[0], len(self._items))

    monkeypatch.setattr(sampling._Held, "add", counted)
    assert convert(write_mcap(tmp_path / "late.mcap", messages), tmp_path / "store", robot) == 0
    rollout = RolloutStore(tmp_path / "store").read("bag-late")
    assert len(rollout.steps["stamps"]) == 14 and 20 <= most[0] <= 23, "of a camera at 20 Hz a second is kept"
    step = round((int(rollout.stamps[0]) - START) / STEP)
    np.testing.assert_array_equal(rollout.images["front"][0], picture(step, SIZE, SIZE))


def test_a_folder_is_called_by_its_whole_name(robot: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("run.1", "run.2"):
        write_rosbag2(tmp_path / name, told())
        monkeypatch.chdir(tmp_path / name)
        assert convert(".", tmp_path / "store", robot, "instruction:=go", "frames:=decisions") == 0
    assert RolloutStore(tmp_path / "store").list() == ["bag-run.1", "bag-run.2"]


BAD: dict[str, tuple[Callable[[list], list], str]] = {
    "no joint states": (lambda all: [one for one in all if "joint" not in one[0]], "no joint states, without which there is no episode"),
    "no images": (lambda all: [one for one in all if "cam" not in one[0]], "the bag has no images"),
    "one camera": (lambda all: [one for one in all if "wrist" not in one[0]], "no topic is clearly camera 'wrist'; the bag has scene ("),
    "no gripper": (
        lambda all: [(t, n, replace(m, name=["a", "b", "x"])) if "joint" in t else (t, n, m) for t, n, m in all],
        "has no gripper 'g', it has a, b, x; say where it is in a mapping file",
    ),
    "other joints": (
        lambda all: [(t, n, replace(m, name=["c", "b", "g"])) if "joint" in t else (t, n, m) for t, n, m in all],
        "joint state has no position of 'a'; it has c, b, g; a mapping file says what they are called",
    ),
    "degrees": (
        lambda all: [(t, n, replace(m, position=m.position * 57)) if "joint" in t else (t, n, m) for t, n, m in all],
        "joint 'a' would be at 25.1 rad, its range is -1 to 1; are its positions in rad",
    ),
    "an encoding": (
        lambda all: [(t, n, replace(m, encoding="64FC9")) if "scene" in t else (t, n, m) for t, n, m in all],
        "camera 'front': image encoding '64FC9' is not supported; supported: rgb8",
    ),
    "too short": (lambda all: all[:9], "two are needed"),
}


@pytest.mark.parametrize("name", BAD)
def test_a_bag_that_will_not_do(name: str, robot: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    change, words = BAD[name]
    path = write_mcap(tmp_path / "bad.mcap", change(told()))
    assert convert(path, tmp_path / "store", robot) == 2
    error = capsys.readouterr().err
    assert words in error and error.startswith("whetstone: ") and error.count("\n") == 1
    assert RolloutStore(tmp_path / "store").list() == [] and not list((tmp_path / "store").glob("running/*"))


def test_words_that_are_no_arguments(store: RolloutStore, robot: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bag = write_mcap(tmp_path / "theirs.mcap", told())
    (tmp_path / "notes.txt").write_text("no bag", encoding="utf-8")
    for words, error in (
        (["only"], "needs FROM and TO"),
        ([bag, tmp_path / "to", "robt:=franka"], "unknown argument 'robt'; did you mean 'robot'?"),
        ([bag, tmp_path / "to"], "the bag does not say whose joints these are: robot:=NAME"),
        ([bag, tmp_path / "to", robot, "as:=bags"], "are bags already"),
        ([bag, tmp_path / "to", robot, "as:=zarr"], "unknown value of as 'zarr'"),
        ([bag, tmp_path / "to", robot, "start:=soon"], "argument start:=soon is not a number of seconds"),
        ([bag, bag, robot], "is what is converted; name another folder to write to"),
        ([bag, tmp_path / "to", robot, "end:=inf"], "argument end:=inf is not a number of seconds"),
        ([bag, tmp_path / "to", robot, "cameras:=front"], "is not of the form ours=theirs"),
        ([bag, tmp_path / "to", robot, "cameras:=front=/scene_cam/image"], "unknown topic '/scene_cam/image'; did you mean '/scene_cam/im"),
        ([bag, tmp_path / "to", robot, "joint_states:=/joints"], "unknown topic '/joints'; did you mean '/joint_states'?"),
        ([bag, tmp_path / "to", robot, "execute:=9", "horizon:=8"], "execute:= must be at least 1 and at most horizon:="),
        ([tmp_path / "notes.txt", tmp_path / "to"], "not a bag"),
        ([tmp_path / "nothing", tmp_path / "to"], "no such file or folder"),
        ([store.root, tmp_path / "to", "as:=bags"], "say whose joints these are, robot:=NAME"),
    ):
        assert convert(*words) == 2
        said = capsys.readouterr().err
        assert error in said and said.count("\n") == 1, (words, said)
    assert convert("--help") == 0 and "whetstone convert FROM TO" in capsys.readouterr().out
