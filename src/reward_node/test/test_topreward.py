"""TOPReward on tiny random vision-language models that are built here, offline, and loaded like real ones."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoModelForImageTextToText, AutoTokenizer

from reward_node.topreward import TOPReward
from reward_node.topreward.window import FixedWindow, GrowingWindow, WindowSettings
from reward_node.vlm import random_models
from reward_node.vlm.prefix import from_scratch
from whetstone.config import find, load_yaml
from whetstone.errors import AssetError, ConfigError, InputError
from whetstone.profile import load_profile

SIZE = (32, 32)
PROFILE = load_profile("franka")


@pytest.fixture(scope="session", params=[random_models.tiny_qwen3_vl, random_models.idefics3], ids=["qwen3_vl", "idefics3"])
def model_folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return request.param(tmp_path_factory.mktemp("vlm"))


def configuration(model: Any, **changes: Any) -> dict[str, Any]:
    data = load_yaml(find("rewards", "topreward_qwen3_vl"))
    return {**data, "model": str(model) if model else None, "image_size": list(SIZE), "dtype": "float32", **changes}


@pytest.fixture(scope="session")
def reward(model_folder: Path) -> TOPReward:
    return TOPReward.load(configuration(model_folder), PROFILE)


def frames(count: int, seed: int = 0) -> list[dict[str, np.ndarray]]:
    random = np.random.default_rng(seed)
    return [{"front": random.integers(0, 256, (*SIZE, 3), dtype=np.uint8)} for _ in range(count)]


def stamps(count: int) -> list[int]:
    """0.4 s apart."""
    return [400_000_000 * index for index in range(count)]


def test_the_user_turn_is_left_open(reward: TOPReward) -> None:
    question = reward.settings.prompt.replace("{instruction}", "put the {red} cube in the tray")
    layout = reward.scorer.layout
    segments = [layout.head(), layout.frames([frames(1)[0]["front"]], [0.0]), layout.question(question)]
    tokenizer = AutoTokenizer.from_pretrained(reward.settings.model)
    prompt = tokenizer.decode(torch.cat([segment.ids for segment in segments]))
    assert prompt.endswith("The answer is:")
    assert "put the {red} cube in the tray" in prompt
    assert not any(word in prompt for word in ("<end_of_utterance>", "<|im_end|>", "assistant"))


@pytest.mark.parametrize("window", [{"kind": "growing", "frames": 64}, {"kind": "growing", "frames": 6}, {"kind": "fixed", "frames": 8}])
def test_live_whole_episode_and_from_scratch_are_one_score(model_folder: Path, window: dict[str, Any]) -> None:
    """Odd counts, windows that were cut, and repeated frames among them."""
    reward = TOPReward.load(configuration(model_folder, window=window), PROFILE)
    clip = frames(11)
    reward.reset("a", "move", 0)
    live = [reward.observe(images, stamp) for images, stamp in zip(clip, stamps(11), strict=True)]
    reward.reset("b", "move", 0)
    whole = reward.score_episode(clip, stamps(11))
    assert [sample.raw for sample in live] == pytest.approx([sample.raw for sample in whole], abs=1e-4)
    assert [sample.window for sample in live] == [sample.window for sample in whole]
    model, layout = AutoModelForImageTextToText.from_pretrained(model_folder, dtype=torch.float32).eval(), reward.scorer.layout
    tokens = AutoTokenizer.from_pretrained(model_folder).encode(" True False", add_special_tokens=False)
    chosen = WindowSettings(**window).make()
    for index in range(11):
        seen = chosen.add(index)
        times = [0.5 * slot for slot in range(len(seen))] if window["kind"] == "fixed" else [0.4 * one for one in seen]
        video = [
            layout.frames([clip[one]["front"] for one in seen[at : at + layout.patch]], times[at : at + layout.patch])
            for at in range(0, len(seen), layout.patch)
        ]
        question = layout.question(reward.settings.prompt.replace("{instruction}", "move"))
        answer, contrary = from_scratch(model, layout, [layout.head(), *video, question], tokens)
        assert live[index].raw == pytest.approx(answer, abs=1e-4)
        assert live[index].margin == pytest.approx(answer - contrary, abs=2e-4)


def test_several_instructions_over_one_video(reward: TOPReward) -> None:
    clip = frames(4)
    together = reward.compare(clip, stamps(4), ["move", "put the red cube in the tray"])
    assert together.shape == (4, 2, 2)
    for column, instruction in enumerate(("move", "put the red cube in the tray")):
        reward.reset("a", instruction, 0)
        alone = [sample.raw for sample in reward.score_episode(clip, stamps(4))]
        assert together[:, column, 0] == pytest.approx(alone, abs=1e-4)
    assert abs(together[:, 0, 0] - together[:, 1, 0]).min() > 1e-3


@pytest.mark.parametrize("window", [{"kind": "growing", "frames": 6}, {"kind": "fixed", "frames": 8}])
@pytest.mark.parametrize("limit", [2048, 300], ids=["one pass", "some alone"])
def test_several_robots_in_one_pass_are_scored_as_each_alone(
    model_folder: Path, window: dict[str, Any], limit: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Robots that began at different times, were told different things, and one of them shows an image that cannot be scored."""
    monkeypatch.setattr("reward_node.topreward.scorer.TOGETHER", limit)
    alone = TOPReward.load(configuration(model_folder, window=window), PROFILE)
    robots = [alone, alone.beside(), alone.beside()]
    words = ["move", "put the red cube in the tray", "open the drawer"]
    clips = [frames(9, 1), frames(7, 2), frames(4, 3)]
    expected = []
    for text, clip in zip(words, clips, strict=True):
        alone.reset("a", text, 0)
        expected.append(alone.score_episode(clip, stamps(len(clip))))
    for robot, text in zip(robots, words, strict=True):
        robot.reset("b", text, 0)
    found: list[list[Any]] = [[], [], []]
    for index in range(9):
        here = [robot for robot in range(3) if index >= 9 - len(clips[robot])]
        shown = [clips[robot][index - 9 + len(clips[robot])] for robot in here]
        if index == 8:
            shown[1] = {}
        times = [stamps(9)[len(found[robot])] for robot in here]
        for robot, sample in zip(here, alone.observe_together([robots[one] for one in here], shown, times), strict=True):
            found[robot].append(sample)
    assert (found[1][-1].valid, found[1][-1].reason) == (False, "camera front: no image; got none")
    del found[1][-1], expected[1][-1]
    for one, other in zip(found, expected, strict=True):
        assert [sample.raw for sample in one] == pytest.approx([sample.raw for sample in other], abs=1e-4)
        assert [sample.margin for sample in one] == pytest.approx([sample.margin for sample in other], abs=2e-4)
        assert [(sample.stamp, sample.window) for sample in one] == [(sample.stamp, sample.window) for sample in other]


def test_scores_are_causal_and_see_the_newest_frame(reward: TOPReward) -> None:
    clip = frames(5)
    reward.reset("a", "move", 0)
    one = reward.score_episode(clip, stamps(5))
    reward.reset("b", "move", 0)
    two = reward.score_episode([*clip[:4], frames(1, 9)[0]], stamps(5))
    assert one[:4] == two[:4]
    assert one[4].raw != two[4].raw


def test_a_still_gets_one_score_and_a_window_of_fixed_size(reward: TOPReward) -> None:
    reward.reset("a", "move", 0)
    samples = reward.score_episode(frames(1) * 6, stamps(6))
    assert [sample.raw for sample in samples] == pytest.approx([samples[0].raw] * 6, abs=1e-5)
    assert {sample.window for sample in samples} == {8}


@settings(deadline=None)
@given(count=st.integers(2, 12), length=st.integers(1, 600), kind=st.sampled_from([FixedWindow, GrowingWindow]))
def test_windows_look_back_keep_the_first_frame_and_are_bounded(count: int, length: int, kind: Any) -> None:
    window = kind(count)
    for index in range(length):
        kept = set(window.kept)
        seen = window.add(index)
        assert seen[0] == 0 and seen[-1] == index and list(seen) == sorted(seen)
        assert set(seen) <= kept | {index}, "a frame was wanted that had been let go"
        assert len(seen) == count if kind is FixedWindow else len(seen) <= count
        assert len(window.kept) <= 32 * count


def test_a_fixed_window_is_uniform_over_time() -> None:
    window = FixedWindow(4)
    assert [window.add(index) for index in range(7)][3:] == [(0, 1, 2, 3), (0, 1, 3, 4), (0, 2, 3, 5), (0, 2, 4, 6)]


def test_calibration_and_margin(model_folder: Path) -> None:
    reward = TOPReward.load(configuration(model_folder, calibration={"offset": 10.0, "scale": 40.0}), PROFILE)
    reward.reset("a", "move", 0)
    reward.scorer.answers = lambda: np.array([[[-2.0, -5.0]]])
    sample = reward.observe(frames(1)[0], 3)
    assert sample.progress == pytest.approx(0.2) and sample.raw == -2.0 and sample.margin == pytest.approx(3.0)
    assert sample.completion == pytest.approx(np.exp(-2) / (np.exp(-2) + np.exp(-5)))
    assert sample.total == pytest.approx((0.2 + sample.completion + 0.5) / 3)
    reward.scorer.answers = lambda: np.array([[[np.nan, -5.0]]])
    assert not reward.observe(frames(1)[0], 4).valid


def test_missing_or_unfit_models_are_named(model_folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="key 'model' is empty; set it to the folder"):
        TOPReward.load(configuration(None), PROFILE)
    with pytest.raises(AssetError, match="is not a model folder"):
        TOPReward.load(configuration(tmp_path / "nothing"), PROFILE)
    (tmp_path / "config.json").write_text('{"model_type": "idefics3"}')
    with pytest.raises(AssetError, match="cannot be loaded"):
        TOPReward.load(configuration(tmp_path), PROFILE)
    with pytest.raises(ConfigError, match="tokens in this model's vocabulary"):
        TOPReward.load(configuration(model_folder, answer=" quite certainly"), PROFILE)
    with pytest.raises(ConfigError, match="window.frames"):
        TOPReward.load(configuration(model_folder, window={"kind": "fixed", "frames": 4}), PROFILE)
    with pytest.raises(ConfigError, match="must hold {instruction}"):
        TOPReward.load(configuration(model_folder, prompt="Is it done?"), PROFILE)


def test_wrong_images_are_named(reward: TOPReward) -> None:
    reward.reset("a", "move", 0)
    with pytest.raises(InputError, match="camera front: no image; got wrist"):
        reward.observe({"wrist": frames(1)[0]["front"]}, 0)
    with pytest.raises(InputError, match=r"camera front: image is \(8, 8, 3\)"):
        reward.observe({"front": np.zeros((8, 8, 3), np.uint8)}, 0)
