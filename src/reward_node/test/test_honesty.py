"""The honesty suite: clips and controls, figures on curves that are known, and the command on toy episodes."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from reward_node import card
from reward_node.honesty import __main__ as command
from reward_node.honesty.clips import Clip, backwards, clip_of, noisy_still, still, under
from reward_node.honesty.figures import end, figures
from reward_node.honesty.judging import evaluate, rows_of
from reward_node.honesty.playing import Curve, Played, play, play_with_controls
from reward_node.honesty.report import table
from reward_node.signals import total
from whetstone.completion import Completion
from whetstone.contracts import PROPRIOCEPTION, Provenance, RewardNeeds, RewardSample
from whetstone.controls import other_instructions, swapped
from whetstone.demonstrations import load_demonstrations, save_demonstration
from whetstone.errors import InputError

SUCCESS = Completion(0.8, 2)
INSTRUCTIONS = {"push": "push the red cube to the left", "touch": "touch the red cube", "press": "press the button"}


class Brightness:
    """Progress is how bright the picture is. honest: only under the clip's own words; counting: it likes long clips instead."""

    provenance = Provenance("brightness")
    needs = RewardNeeds(("front",), (4, 4), every=4)

    def __init__(self, honest: bool = True, counting: bool = False, broken: bool = False) -> None:
        self.honest, self.counting, self.broken = honest, counting, broken

    @classmethod
    def load(cls, config: dict[str, Any], profile: Any, device: str = "cpu") -> Brightness:
        return cls()

    def reset(self, episode_id: str, instruction: str, seed: int) -> None:
        self.right, self.count = instruction in INSTRUCTIONS.values(), 0

    def observe(self, images: dict[str, np.ndarray], stamp: int) -> RewardSample:
        self.count += 1
        progress = self.count / 40 if self.counting else float(images["front"].mean()) / 255
        progress *= 0.5 if self.honest and not self.right else 1.0
        if self.broken and self.count == 3:
            return RewardSample(stamp, valid=False, reason="broken")
        return RewardSample(stamp, raw=progress, progress=progress, completion=progress, total=total(progress, progress, 0.0))

    def score_episode(self, frames: list[dict[str, np.ndarray]], stamps: list[int]) -> list[RewardSample]:
        return [self.observe(images, stamp) for images, stamp in zip(frames, stamps, strict=True)]


def episode(folder: Path, task: str, index: int, success: bool) -> None:
    """30 frames, one every 2 control steps, that grow bright; a failure stops half-way."""
    count = 30
    progress = np.minimum(np.arange(count) / 24, 1.0 if success else 0.5).astype(np.float32)
    images = np.repeat((progress * 255).astype(np.uint8)[:, None, None, None], 4, 1).repeat(4, 2).repeat(3, 3)
    arrays = {
        "proprioception": np.zeros((60, 3), np.float32),
        "actions": np.zeros((60, 3), np.float32),
        "frame_steps": np.arange(0, 60, 2),
        "progress": progress,
        "primitive": np.zeros(count, np.int64),
        "completed": progress >= 1.0,
        "state": np.zeros((count, 21), np.float32),
        "pixels": np.zeros((count, 1, 6, 3), np.float32),
    }
    texts = {"robot": "franka", "task": task, "instruction": INSTRUCTIONS[task], "kind": "noisy" if success else "failure"}
    save_demonstration(folder / task / f"{index}.npz", texts, index, success, arrays, {"front": images})


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("episodes")
    for task in ("push", "press"):
        for index in range(5):
            episode(path, task, index, success=index < 3)
    return path


@pytest.fixture
def clip(folder: Path) -> Clip:
    return clip_of(load_demonstrations(folder / "push")[0], Brightness.needs, 20.0)


def test_a_clip_has_the_frames_that_are_due(clip: Clip, folder: Path) -> None:
    assert len(clip.frames) == len(clip.stamps) == len(clip.progress) == 15
    assert clip.stamps[:3] == [0, 200_000_000, 400_000_000] and clip.success
    # Half a second is 10 of the 58 control steps: those of steps 52 and 56 of a score every 4, of step 56 alone of one every 8.
    seldom = clip_of(load_demonstrations(folder / "push")[0], replace(Brightness.needs, every=8), 20.0)
    assert (clip.last, seldom.last) == (2, 1)
    assert [float(images["front"].mean()) for images in clip.frames[:3]] == pytest.approx([0.0, 21.0, 42.0])


def test_controls_show_the_same_frames_otherwise(clip: Clip, folder: Path) -> None:
    assert all(images is clip.frames[0] for images in still(clip).frames) and len(still(clip).frames) == 15
    assert backwards(clip).frames[0] is clip.frames[-1] and backwards(clip).stamps == clip.stamps
    grain = noisy_still(clip, np.random.default_rng(0)).frames
    assert not np.array_equal(grain[0]["front"], grain[1]["front"]) and max(images["front"].max() for images in grain) < 20
    # Joint states are no picture: they come with each frame, and no grain is put on them.
    felt = clip_of(load_demonstrations(folder / "push")[0], replace(Brightness.needs, proprioception=3), 20.0)
    assert all(frames[PROPRIOCEPTION].shape == (3,) for frames in felt.frames)
    assert all((frames[PROPRIOCEPTION] == 0).all() for frames in noisy_still(felt, np.random.default_rng(0)).frames)
    assert under(clip, "sing").instruction == "sing" and under(clip, "sing").frames is clip.frames


def test_wrong_words() -> None:
    assert swapped("stack the red cube on the blue cube") == "stack the blue cube on the red cube"
    assert swapped("turn left, reddish") == "turn right, reddish" and swapped("sing") is None
    assert other_instructions("push", INSTRUCTIONS, {"push": ("touch",)}) == ["press the button"]
    assert other_instructions("push", {"push": "a", "touch": "a"}, {}) == [], "the same words cannot be wrong"


def played(reward: Brightness, folder: Path) -> list[Played]:
    return evaluate(reward, load_demonstrations(folder), 20.0, 2, 0)


def test_figures_of_an_honest_model(folder: Path) -> None:
    found = {name: value for name, (value, _, _) in figures(played(Brightness(), folder), SUCCESS).items()}
    assert found["voc_success"] == pytest.approx(1.0, abs=0.01) and found["success_auc"] == 1.0
    assert found["static_gain_max"] == found["static_voc"] == 0.0
    assert found["voc_reversed"] is not None and found["voc_reversed"] < -0.9
    # It takes the words of any task for right, which the suite must notice.
    assert (found["right_above_wrong_object"], found["right_above_wrong_task"]) == (1.0, 0.0)
    assert found["wrong_object_completion"] == pytest.approx(0.5, abs=0.02)
    assert (found["false_success_rate"], found["missed_success_rate"], found["invalid_rate"]) == (0.0, 0.0, 0.0)
    # Success is said from .8 of the brightness on two frames, before it is true.
    assert found["early_success_rate"] == 1.0
    assert found["progress_error"] == pytest.approx(0.0, abs=0.01)


def test_a_model_that_counts_images_is_found_out(folder: Path) -> None:
    found = {name: value for name, (value, _, _) in figures(played(Brightness(counting=True), folder), SUCCESS).items()}
    assert found["voc_success"] == pytest.approx(1.0), "which is why this figure alone says nothing"
    assert found["static_voc"] == pytest.approx(1.0) and found["static_gain_max"] is not None and found["static_gain_max"] > 0.2
    assert found["voc_reversed"] == pytest.approx(1.0) and found["success_auc"] == 0.5


def test_a_model_that_does_not_read_is_found_out(folder: Path) -> None:
    found = {name: value for name, (value, _, _) in figures(played(Brightness(honest=False), folder), SUCCESS).items()}
    assert found["right_above_wrong_object"] == 0.0 and found["right_above_wrong_task"] is not None


def test_how_a_clip_ended_does_not_depend_on_how_often_it_is_scored(clip: Clip) -> None:
    """A short clip that is scored seldom: its approach must not count as its end."""
    curve = Curve(*(np.array([0.0, 0.1, 0.2, 1.0]),) * 4, seconds=np.empty(0))
    assert end(curve.raw, Played(clip=replace(clip, last=1), curve=curve)) == 1.0
    assert end(curve.raw, Played(clip=replace(clip, last=2), curve=curve)) == pytest.approx(0.6)


def test_rounding_is_no_progress(clip: Clip) -> None:
    one = play_with_controls(Brightness(), clip, {}, {}, np.random.default_rng(0))
    still_curve = replace(one.controls["static"], raw=np.linspace(0.5, 0.50001, 15))
    assert figures([replace(one, controls={**one.controls, "static": still_curve})], SUCCESS)["static_voc"][0] == 0.0


def test_invalid_scores_are_counted_and_named(clip: Clip) -> None:
    curve = play(Brightness(broken=True), clip)
    assert np.isnan(curve.raw[2]) and np.isfinite(np.delete(curve.raw, 2)).all() and curve.invalid == ("broken",)
    assert len(curve.seconds) == 15 and len(play(Brightness(), clip, live=False).seconds) == 0
    found = figures([Played(clip, curve)], SUCCESS)
    assert found["invalid_rate"][0] == pytest.approx(1 / 15) and found["voc_success"][0] == 0.0


def test_nothing_to_compute_from_is_no_figure(clip: Clip) -> None:
    found = figures([Played(clip, play(Brightness(), clip))], SUCCESS)
    assert found["success_auc"] == (None, "1", 1) and found["voc_failure"] == (None, "1", 0)
    assert found["right_above_wrong_task"] == (None, "1", 0)
    rows = rows_of([Played(clip, play(Brightness(), clip))], SUCCESS, "brightness", "franka")
    assert "| voc_failure | - | - |" in table(rows) and "| metric | push | all |" in table(rows)


def test_controls_that_do_not_exist_are_not_played(clip: Clip) -> None:
    one = play_with_controls(Brightness(), under(clip, "sing"), {"push": "sing"}, {}, np.random.default_rng(0))
    assert sorted(one.controls) == ["noisy", "reversed", "static"]


def test_the_command(folder: Path, tmp_path: Path) -> None:
    """On a reward that exists everywhere: the constant one, which knows nothing and must look like it."""
    folders = [f"data:={folder}", f"out:={tmp_path}", f"results:={tmp_path}"]
    page = tmp_path / "constant_franka.md"
    card.write(page, "Constant", "nothing", "nobody", "all of them")
    words = ["reward:=constant", "robot:=franka", *folders, "controls:=1", "threads:=1", f"card:={page}"]
    command.main(words)
    said = json.loads((tmp_path / "honesty-constant-franka.json").read_text())
    elsewhere = f"out:={tmp_path} results:={tmp_path} card:={page}"
    assert said["command"] == f"whetstone evaluate-reward reward:=constant robot:=franka data:={folder} controls:=1 threads:=1 {elsewhere}"
    rows = {(row["case"], row["metric"]): row["value"] for row in said["rows"]}
    for _ in range(2):  # the figures of the first time make way
        text = page.read_text()
        assert text.count("| voc_success |") == text.count(said["command"]) == 1 and "None yet" not in text
        assert text.endswith("**Limits.** all of them\n") and "![curves](constant_franka.png)" in text
        command.main(words)
    assert page.with_suffix(".png").stat().st_size > 10_000
    assert rows["franka/all", "success_auc"] == 0.5 and rows["franka/all", "voc_success"] == 0.0
    assert rows["franka/push", "missed_success_rate"] == 1.0 and rows["franka/all", "peak_memory"] > 50
    assert (tmp_path / "constant-franka" / "curves.png").stat().st_size > 10_000
    report = (tmp_path / "constant-franka" / "report.md").read_text()
    assert '"plugin": "constant"' in report and "| static_voc | 0 | 0 | 0 |" in report
    with pytest.raises(InputError, match="card .*/no.md: no such file; the trainer writes it"):
        command.main([*words, f"card:={tmp_path / 'no.md'}"])
    page.write_text("# A card of other making\n")
    with pytest.raises(InputError, match="has no place for figures; put the lines '<!-- figures -->' and"):
        command.main(words)
    with pytest.raises(InputError, match="is of robot 'franka', not of 'so100'"):
        command.main(["reward:=constant", "robot:=so100", f"data:={folder}", f"results:={tmp_path}", "threads:=1"])
