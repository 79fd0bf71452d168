"""`whetstone evaluate` over bags of other writers and over stored episodes, with the models in assets/: what the report says is what the
models say of these very frames."""

from __future__ import annotations

import json
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as parquet
import pytest
import recorded_bags
import yaml
from bag_samples import write_mcap, write_ros1, write_rosbag2
from recorded_bags import START, TASK, Episode
from rosbags.typesys import Stores

from robot_bringup.cli import main
from robot_bringup.evaluation import running
from robot_bringup.offline import run_episode
from robot_bringup.sim.simulation import Simulation
from whetstone.config import find, load_yaml
from whetstone.plugins import configured
from whetstone.profile import load_profile
from whetstone.rewards import load_reward
from whetstone.store import RolloutStore
from whetstone.task import load_task

PROFILE = load_profile("so100")
STEPS = 20


@pytest.fixture(scope="module")
def policy() -> Any:
    plugin, settings = configured("whetstone.policies", "flow_vla")
    return plugin.load(settings, PROFILE)


@pytest.fixture(scope="module")
def episode(policy: Any) -> Episode:
    return recorded_bags.act(PROFILE, policy, STEPS)


@pytest.fixture(scope="module")
def expected(episode: Episode) -> list[Any]:
    """What sarm2 says of the frames that the node would have scored."""
    model = load_reward("sarm2", PROFILE)
    model.reset("", load_task(TASK, "so100").instruction, 0)
    due = range(0, STEPS + 1, model.needs.every)
    return [model.observe({name: images[row] for name, images in episode.images.items()}, episode.stamps[row]) for row in due]


def evaluate(*words: object) -> int:
    return main(["evaluate", *map(str, words)])


def scores_in(out: Path, control: str = "") -> list[dict[str, Any]]:
    rows = parquet.read_table(out / "scores.parquet").to_pylist()
    return [row for row in rows if row["control"] == control]


class Page(HTMLParser):
    """Checks that what is opened is closed in its order, and that nothing is fetched."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.counts: dict[str, int] = {}
        self.feed(text)
        assert self.open == [], f"left open: {self.open}"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.counts[tag] = self.counts.get(tag, 0) + 1
        for name, value in attrs:
            assert not (name in ("src", "href") and value and not value.startswith(("data:", "#"))), f"{tag} fetches {value}"
        if tag not in ("meta", "img", "br", "line", "circle", "rect", "path"):
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.counts[tag] = self.counts.get(tag, 0) + 1

    def handle_endtag(self, tag: str) -> None:
        assert self.open and self.open.pop() == tag, f"</{tag}> closes nothing"


def test_a_bag_of_ours_by_another_writer(
    episode: Episode, expected: list[Any], tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    types, out = recorded_bags.store(), tmp_path / "out"
    bag = write_rosbag2(tmp_path / "bag", recorded_bags.told(episode, PROFILE, types, own=True), store=types)
    words = (bag, "reward:=sarm2,constant", "policy:=flow_vla", f"out:={out}", "controls:=1")
    assert evaluate(*words) == 0
    said = capsys.readouterr().out
    assert (
        "success_auc cannot be computed: all 1 recordings with a known outcome are successes" in said and "1 recordings evaluated" in said
    )

    rows = [row for row in scores_in(out) if row["model"] == "sarm2"]
    assert [row["stamp"] for row in rows] == [sample.stamp for sample in expected]
    for name in ("raw", "progress", "completion", "total"):
        assert [row[name] for row in rows] == [getattr(sample, name) for sample in expected]
    assert all(row["valid"] and row["latency"] > 0 for row in rows)
    chunks = parquet.read_table(out / "chunks.parquet").to_pylist()
    names = [*PROFILE.joint_names, "gripper"]
    for stamp, actions in episode.chunks.items():
        found = np.array([[row[f"chunk/{name}"] for name in names] for row in chunks if row["stamp"] == stamp], np.float32)
        # Its own chunks, to the bit: the frames are the same, and so is what the arm measured but for the gripper's way to metres and back.
        assert np.allclose(found, actions, atol=1e-5)
    first = [row for row in chunks if row["stamp"] == START and row["row"] == 0][0]
    assert first[f"error/{names[1]}"] == pytest.approx(abs(first[f"chunk/{names[1]}"] - episode.commanded[0][1]), abs=1e-6)

    data = json.loads((out / "evaluation.json").read_text())
    found = data["recordings"][0]
    assert (found["task"], found["outcome"], found["succeeded"]) == (TASK, "success", True)
    figures = found["rewards"]["sarm2"]["figures"]
    assert figures["first"] == expected[0].raw and figures["scored"] == len(expected)
    assert set(found["rewards"]["sarm2"]["controls"]) == {"static", "noisy_static", "reversed", "shuffled", "wrong_object", "wrong_task"}
    assert found["rewards"]["sarm2"]["controls"]["static"]["gain"] == pytest.approx(0.0, abs=1e-4)
    reversed_rows = [row["stamp"] for row in scores_in(out, "reversed") if row["model"] == "sarm2"]
    assert reversed_rows == [sample.stamp for sample in expected]
    auc = [row for row in data["rows"] if row["metric"] == "success_auc" and row["subject"] == "sarm2"][0]
    assert auc["value"] is None and "NaN" not in (out / "evaluation.json").read_text()
    text = (out / "report.html").read_text()
    page = Page(text)
    assert page.counts["img"] >= 2 and page.counts["table"] >= 4 and "cannot be computed" in text

    # Nothing is shown to a model again; another configuration is.
    monkeypatch.setattr(running, "Bench", lambda settings: pytest.fail("a model was loaded again"))
    assert evaluate(*words) == 0
    assert "1 of them before" in capsys.readouterr().out
    with pytest.raises(pytest.fail.Exception, match="loaded again"):
        evaluate(*words, "seed:=1")


@pytest.mark.parametrize("writer", ["mcap", "ros1", "truncated"])
def test_plain_bags_of_other_writers(writer: str, episode: Episode, expected: list[Any], tmp_path: Path) -> None:
    types, out = recorded_bags.store(Stores.ROS1_NOETIC if writer == "ros1" else Stores.ROS2_JAZZY), tmp_path / "out"
    messages = recorded_bags.told(episode, PROFILE, types)
    if writer == "ros1":
        bag = write_ros1(tmp_path / "one.bag", messages, store=types)
    else:
        bag = write_mcap(tmp_path / "one.mcap", messages, 100_000, store=types)
    if writer == "truncated":
        bag.write_bytes(bag.read_bytes()[: bag.stat().st_size * 2 // 3])
    assert evaluate(bag, "reward:=sarm2", "robot:=so100", f"task:={TASK}", f"out:={out}", "controls:=0") == 0
    rows = scores_in(out)
    wanted = expected[: len(rows)]
    assert [row["raw"] for row in rows if row["valid"]] == [sample.raw for sample in wanted][: sum(row["valid"] for row in rows)]
    found = json.loads((out / "evaluation.json").read_text())["recordings"][0]
    if writer == "truncated":
        assert 2 <= len(rows) < len(expected) and any("cut off" in line for line in found["warnings"])
        assert "cut off" in (out / "report.html").read_text()
    else:
        assert len(rows) == len(expected) and found["warnings"] == []
    assert found["succeeded"] is None


def test_stored_episodes_in_two_processes_with_outcomes_that_a_file_says(
    policy: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sim, task, store = Simulation(PROFILE), load_task(TASK, "so100"), RolloutStore(tmp_path / "rollouts")
    try:
        rollouts = [run_episode(sim, policy, _short(task), seed, "greedy").rollout for seed in (1, 2)]
    finally:
        sim.close()
    for rollout in rollouts:
        store.write(rollout)
    outcomes = tmp_path / "outcomes.yaml"
    outcomes.write_text(yaml.safe_dump({rollouts[0].episode_id: "success", rollouts[1].episode_id: "failure"}))
    out = tmp_path / "out"
    words = ("reward:=sarm2", "robot:=so100", f"outcomes:={outcomes}", "controls:=0", "jobs:=2", f"out:={out}")
    assert evaluate(store.root, *words) == 0
    model = load_reward("sarm2", PROFILE)
    ends = []
    for rollout in rollouts:
        model.reset("", rollout.instruction, 0)
        images = [{name: rollout.images[name][row] for name in model.needs.cameras} for row in range(len(rollout.stamps))]
        said = [model.observe(frames, int(stamp)).raw for frames, stamp in zip(images, rollout.stamps)]  # type: ignore[union-attr]
        rows = [row["raw"] for row in scores_in(out) if row["recording"] == rollout.episode_id]
        assert rows[: len(said)] == said
        ends.append(rows[-1])
    data = json.loads((out / "evaluation.json").read_text())
    auc = [row["value"] for row in data["rows"] if row["metric"] == "success_auc"][0]
    assert auc == float(ends[0] > ends[1])
    assert any("images at decisions only" in line for line in data["recordings"][0]["warnings"])


def test_runs_whose_episodes_are_called_alike(
    policy: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    sim, task = Simulation(PROFILE), load_task(TASK, "so100")
    try:
        rollout = run_episode(sim, policy, _short(task), 1, "greedy").rollout
    finally:
        sim.close()
    name, runs, out = rollout.episode_id, [tmp_path / one for one in "abc"], tmp_path / "out"
    for run in runs:
        RolloutStore(run / "rollouts").write(rollout)
    words = ("reward:=sarm2,constant", "robot:=so100", "controls:=0", f"out:={out}")
    assert evaluate(runs[0], *words) == 0
    shutil.copytree(runs[1], tmp_path / "d")  # with its times
    (runs[2] / "rollouts" / name / "arrays.npz").write_bytes(b"damaged")
    capsys.readouterr()
    # One that cannot be read leaves its namesakes alone; what was there already is not made again under its longer name.
    assert evaluate(*runs, tmp_path / "d", *words) == 1
    said = capsys.readouterr().out
    assert f"not evaluated: c/rollouts/{name}: " in said and "3 recordings evaluated, 1 of them before" in said
    known = [f"{run}/rollouts/{name}" for run in "abd"]
    data = json.loads((out / "evaluation.json").read_text())
    assert [one["name"] for one in data["recordings"]] == known
    assert [row["case"] for row in data["rows"] if row["subject"] == "sarm2" and row["metric"] == "voc"] == [*known, "all"]
    assert list(dict.fromkeys(row["recording"] for row in scores_in(out))) == known
    anchors = re.findall(r'<details class="recording" open id="([^"]*)"', (out / "report.html").read_text())
    assert len(set(anchors)) == 3
    # The page has curves and pictures of so many; the tables have all.
    monkeypatch.setattr(running.page, "SHOWN", 1)
    assert evaluate(*runs[:2], *words) == 0
    text = (out / "report.html").read_text()
    assert text.count('<details class="recording"') == 1 and "1 more recordings are in the tables only" in text and known[1] in text
    outcomes = tmp_path / "outcomes.yaml"
    outcomes.write_text(yaml.safe_dump({known[0]: "success", known[1]: "failure"}))
    assert evaluate(*runs[:2], *words, f"outcomes:={outcomes}") == 0
    assert [one["succeeded"] for one in json.loads((out / "evaluation.json").read_text())["recordings"]] == [True, False]


def test_an_episode_whose_beginning_was_heard_late_is_whole(episode: Episode, tmp_path: Path) -> None:
    types, out = recorded_bags.store(), tmp_path / "out"
    told = [
        (topic, time + 1_500_000_000 if time < START else time, message)
        for topic, time, message in recorded_bags.told(episode, PROFILE, types, own=True)
    ]
    bag = write_rosbag2(tmp_path / "bag", iter(sorted(told, key=lambda one: one[1])), store=types)
    assert evaluate(bag, "reward:=constant", "controls:=0", f"out:={out}") == 0
    assert [row["stamp"] for row in scores_in(out)] == [episode.stamps[step] for step in range(0, STEPS + 1, 4)]


def test_a_bag_that_grows_meanwhile(episode: Episode, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    types, out = recorded_bags.store(), tmp_path / "out"
    bag = write_rosbag2(tmp_path / "bag", recorded_bags.told(episode, PROFILE, types), store=types)
    load = running.Bench

    def growing(settings: Any) -> Any:
        (bag / "protected").touch()
        return load(settings)

    monkeypatch.setattr(running, "Bench", growing)
    words = (bag, "reward:=constant", "robot:=so100", f"task:={TASK}", "controls:=0", f"out:={out}")
    assert evaluate(*words) == 0 and len(scores_in(out)) == STEPS // 4 + 1
    assert evaluate(*words) == 0 and len(list((out / "recordings").iterdir())) == 2


def _short(task: Any) -> Any:
    from dataclasses import replace

    return replace(task, max_steps=16)


def test_what_is_wrong_is_one_line(episode: Episode, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    types = recorded_bags.store()
    bag = write_rosbag2(tmp_path / "bag", recorded_bags.told(episode, PROFILE, types), store=types)
    blind = [told for told in recorded_bags.told(episode, PROFILE, types) if "camera" not in told[0]]
    write_rosbag2(tmp_path / "blind", iter(blind), store=types)
    (tmp_path / "text.mcap").write_text("not a bag")
    (tmp_path / "unrecorded").mkdir()
    (tmp_path / "unrecorded" / "run.json").write_text("{}")
    constant = load_yaml(find("rewards", "constant"))
    other = tmp_path / "other.yaml"
    other.write_text(yaml.safe_dump({**constant, "cameras": ["left"]}))
    small = tmp_path / "small.yaml"
    small.write_text(yaml.safe_dump({**constant, "image_size": [64, 64]}))
    out, robot, task = f"out:={tmp_path / 'out'}", "robot:=so100", f"task:={TASK}"
    cases = [
        ((bag, robot), "say what is to be evaluated"),
        (("reward:=sarm2",), "name what is to be evaluated"),
        ((bag, "reward:=sarm", robot), "unknown reward 'sarm'; did you mean 'sarm2'"),
        ((bag, "reward:=constant"), "do not say whose they are: robot:=NAME, one of fr3"),
        ((tmp_path / "nothing", "reward:=constant", robot), "nothing: no such file or folder"),
        ((tmp_path / "text.mcap", "reward:=constant", robot, task), "text.mcap: not a bag"),
        ((tmp_path / "unrecorded", "reward:=constant", robot, task), "unrecorded: this run has neither episodes to learn from nor bags"),
        ((tmp_path / "text.mcap", "reward:=constant"), "text.mcap: not a bag"),
        ((tmp_path / "blind", "reward:=constant", robot, task), "no images"),
        ((bag, "reward:=constant", robot), "says no instruction; give it with task:="),
        ((bag, f"reward:={other}", robot, task), "say which, cameras:=left=TOPIC"),
        ((bag, "reward:=constant", robot, task, "cameras:=front=/camera/frnt/image_raw"), "did you mean '/camera/front/image_raw'"),
        ((bag, "policy:=flow_vla", "robot:=franka", task), "topic '/joint_states' has no gripper"),
        ((bag, "reward:=constant", robot, "task:=pickandplace"), "did you mean 'pick_and_place'"),
        ((bag, "reward:=constant", robot, "start:=2", "end:=1"), "is not before"),
        ((bag, "policy:=flow_vla@/nowhere.safetensors", robot), "/nowhere.safetensors: no such file"),
    ]
    for words, wanted in cases:
        assert evaluate(*words, out) == 2, words
        said = capsys.readouterr()
        lines = [line for line in said.err.splitlines() if line.startswith("whetstone: ")]
        assert len(lines) == 1 and wanted in lines[0], (words, said.err)
        assert "Traceback" not in said.err
    # A size that does not fit makes no score, and says so; resize:= makes one.
    assert evaluate(bag, f"reward:={small}", robot, task, out, "controls:=0") == 0
    assert "small: 6 frames could not be scored, mostly: camera 'front': image is 128x128, but 64x64 is needed" in capsys.readouterr().out
    assert evaluate(bag, f"reward:={small}", robot, task, out, "controls:=0", "resize:=stretch") == 0
    assert not re.search("could not be scored", capsys.readouterr().out)


def test_a_bag_that_cannot_be_read_leaves_the_others_alone(episode: Episode, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    types = recorded_bags.store()
    folder = tmp_path / "bags"
    folder.mkdir()
    write_rosbag2(folder / "good", recorded_bags.told(episode, PROFILE, types), store=types)
    (folder / "bad.mcap").write_text("not a bag")
    out = tmp_path / "out"
    assert evaluate(folder, "reward:=constant", "robot:=so100", f"task:={TASK}", "start:=0.2", "end:=0.6", f"out:={out}") == 1
    assert "not evaluated: bad.mcap" in capsys.readouterr().out
    # 0.2 to 0.6 s after the first frame, a score every fourth step of 20 Hz.
    assert [row["stamp"] - START for row in scores_in(out)] == [200_000_000, 400_000_000, 600_000_000]
    assert "not evaluated" in (out / "report.html").read_text()
    # Nor does it keep the others from saying whose they are.
    (tmp_path / "own").mkdir()
    write_rosbag2(tmp_path / "own" / "good", recorded_bags.told(episode, PROFILE, types, own=True), store=types)
    (folder / "bad.mcap").rename(tmp_path / "own" / "bad.mcap")
    assert evaluate(tmp_path / "own", "reward:=constant", f"out:={tmp_path / 'own_out'}") == 1
    assert "not evaluated: bad.mcap" in capsys.readouterr().out
