"""GVL on tiny random vision-language models, and on one whose weights are set so that it writes a given answer."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from reward_node.frames import side_by_side
from reward_node.gvl import GVLReward
from reward_node.gvl.reading import read
from reward_node.vlm import random_models
from whetstone.config import find, load_yaml
from whetstone.errors import AssetError, ConfigError, InputError
from whetstone.profile import load_profile

SIZE = (32, 32)
PROFILE = load_profile("franka")
SECOND = 1_000_000_000


def configuration(model: Any, **changes: Any) -> dict[str, Any]:
    data = load_yaml(find("rewards", "gvl"))
    return {**data, "model": str(model) if model else None, "image_size": list(SIZE), "dtype": "float32", "limit": 24, **changes}


def frames(count: int, seed: int = 0, cameras: tuple[str, ...] = ("front",)) -> list[dict[str, np.ndarray]]:
    random = np.random.default_rng(seed)
    return [{camera: random.integers(0, 256, (*SIZE, 3), dtype=np.uint8) for camera in cameras} for _ in range(count)]


def writer(folder: Path, lines: list[str]) -> Path:
    """A tiny Qwen3-VL that writes these lines, then ends its turn, whatever it sees: the attention and the feed-forward layers add nothing,
    so that the last token alone decides, and the output layer answers each token with its successor."""
    model, tokenizer, images = random_models.qwen3_vl(random_models.QWEN3_VL["tiny"], 32)
    tokenizer.add_tokens(lines)
    model.resize_token_embeddings(len(tokenizer))
    last = tokenizer.encode("<|im_start|>assistant\n", add_special_tokens=False)[-1]
    chain = [last, *(tokenizer.convert_tokens_to_ids(line) for line in lines), tokenizer.eos_token_id]
    torch.manual_seed(0)
    rows = torch.nn.functional.normalize(torch.randn(len(tokenizer), model.config.text_config.hidden_size), dim=1)
    head = torch.nn.Linear(rows.shape[1], len(rows), bias=False)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith(("o_proj.weight", "down_proj.weight")):
                parameter.zero_()
            if name.endswith("norm.weight"):
                parameter.fill_(1.0)
        model.get_input_embeddings().weight.copy_(rows)
        head.weight.zero_()
        for before, after in zip(chain[:-1], chain[1:], strict=True):
            head.weight[after] = rows[before]
    model.config.tie_word_embeddings = model.config.text_config.tie_word_embeddings = False
    model.lm_head = head
    for part in (model, tokenizer, images):
        part.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module", params=[random_models.tiny_qwen3_vl, random_models.idefics3], ids=["qwen3_vl", "idefics3"])
def model_folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return request.param(tmp_path_factory.mktemp("vlm"))


@pytest.fixture(scope="module")
def writing(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Picture k is k * 10 % done, for four pictures."""
    return writer(tmp_path_factory.mktemp("writer"), [f"Picture {number}: {10 * number}%\n" for number in range(1, 5)])


def scored(reward: GVLReward, clip: list[dict[str, np.ndarray]], seed: int = 0, stamps: list[int] | None = None) -> list[Any]:
    reward.reset("a", "put the {red} cube in the tray", seed)
    return reward.score_episode(clip, stamps or [SECOND * index for index in range(len(clip))])


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_values_go_back_to_the_frames_they_were_given_for(writing: Path, seed: int) -> None:
    reward, clip = GVLReward.load(configuration(writing, frames=5), PROFILE), frames(5)
    samples = scored(reward, clip, seed)
    pieces, _ = reward.segments([images["front"] for images in clip])
    shown = [piece.visual["pixel_values"] for piece in pieces if piece.visual]
    own = [reward._vlm.images.frames([images["front"]], [0.0]).visual["pixel_values"] for images in clip]
    places = [next(index for index, pixels in enumerate(own) if torch.equal(pixels, one)) for one in shown]
    assert places[0] == 0 and sorted(places) == [0, 1, 2, 3, 4]
    assert [samples[index].process for index in places] == pytest.approx([0.0, 0.1, 0.2, 0.3, 0.4])
    assert all(sample.valid and sample.completion == sample.progress == sample.raw == sample.process for sample in samples)
    assert reward.counters["unreadable"] == 0 and reward.counters["tokens"] > 0 and samples[0].window == 5


def test_the_order_follows_from_the_seed_alone(writing: Path) -> None:
    reward, views = GVLReward.load(configuration(writing), PROFILE), [images["front"] for images in frames(15)]
    orders = []
    for episode, seed in (("a", 3), ("b", 3), ("c", 4)):
        reward.reset(episode, "move", seed)
        orders.append(reward.segments(views)[1].tolist())
    assert orders[0] == orders[1] != orders[2]
    assert sorted(orders[0]) == list(range(1, 15)) != orders[0]
    assert scored(reward, frames(5), 3) == scored(reward, frames(5), 3)


def test_frames_between_those_shown_are_interpolated_in_time(writing: Path) -> None:
    reward = GVLReward.load(configuration(writing, frames=5, contrastive={"window": 1, "dead_zone": 0.0}), PROFILE)
    stamps = [SECOND * time for time in (10, 11, 14, 15, 16, 20, 21, 22, 30)]
    values = [sample.process for sample in scored(reward, frames(9), 0, stamps)]
    assert values[0] == 0.0 and sorted(values[::2]) == pytest.approx([0.0, 0.1, 0.2, 0.3, 0.4])
    for index, share in ((1, 0.25), (3, 0.5), (5, 0.8), (7, 1 / 9)):
        assert values[index] == pytest.approx((1 - share) * values[index - 1] + share * values[index + 1])
    samples = scored(reward, frames(9), 0, stamps)
    rises = [math.copysign(1.0, after - before) for before, after in zip(values[:-1], values[1:], strict=True)]
    assert [sample.contrastive for sample in samples] == [0.0, *rises]


def test_what_the_model_is_shown(writing: Path) -> None:
    reward = GVLReward.load(configuration(writing, cameras=["front", "wrist"]), PROFILE)
    reward.reset("a", "put the {red} cube in the tray", 0)
    clip = frames(4, cameras=("front", "wrist"))
    pieces, _ = reward.segments([side_by_side(images, reward.needs.cameras) for images in clip])
    text = reward._vlm.tokenizer.decode(torch.cat([piece.ids for piece in pieces]))
    assert "do this: put the {red} cube in the tray." in text and "{number}" not in text
    assert text.index("<|vision_start|>") < text.index("0% is done") < text.index("Picture 1:") < text.index("Picture 3:")
    assert "Picture 4:" not in text and text.count("<|vision_start|>") == 4
    both = reward._vlm.images.frames([np.concatenate([clip[0]["front"], clip[0]["wrist"]], axis=1)], [0.0])
    assert torch.equal(pieces[1].visual["pixel_values"], both.visual["pixel_values"]), "two cameras side by side"


def test_a_wrong_count_of_answers_makes_every_sample_invalid(writing: Path) -> None:
    reward = GVLReward.load(configuration(writing, frames=6), PROFILE)
    for times in (1, 2):
        samples = scored(reward, frames(8))
        assert len(samples) == 8 and not any(sample.valid for sample in samples)
        assert {sample.reason for sample in samples} == {"the language model did not give each of the 5 pictures one percentage"}
        assert reward.counters["unreadable"] == times


def test_a_random_model_writes_nothing_that_can_be_read(model_folder: Path) -> None:
    reward = GVLReward.load(configuration(model_folder), PROFILE)
    samples = scored(reward, frames(17))
    assert not any(sample.valid for sample in samples) and samples[0].window == 15
    assert reward.counters["unreadable"] == 1


def test_short_episodes(writing: Path) -> None:
    reward = GVLReward.load(configuration(writing), PROFILE)
    assert scored(reward, []) == []
    alone = scored(reward, frames(1))
    assert [(sample.valid, sample.progress, sample.window) for sample in alone] == [(True, 0.0, 1)]
    assert len(scored(reward, frames(5))) == 5 and reward.counters["unreadable"] == 0


def test_there_is_no_live_score(writing: Path) -> None:
    reward = GVLReward.load(configuration(writing), PROFILE)
    reward.reset("a", "move", 0)
    sample = reward.observe(frames(1)[0], 7)
    assert GVLReward.offline and not sample.valid and sample.stamp == 7
    assert "whole episode" in sample.reason and "offline" in sample.reason


def test_values_that_are_no_numbers_make_invalid_samples(writing: Path) -> None:
    reward = GVLReward.load(configuration(writing, frames=5), PROFILE)
    with torch.no_grad():
        reward._vlm.model.lm_head.weight.fill_(math.nan)
    samples = scored(reward, frames(5))
    assert not any(sample.valid for sample in samples) and "not a number" in samples[0].reason
    assert reward.counters["unreadable"] == 0


def test_bad_input_is_named(writing: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"gvl.yaml: key 'model' is empty"):
        GVLReward.load(configuration(None), PROFILE)
    with pytest.raises(AssetError, match="is not a model folder"):
        GVLReward.load(configuration(tmp_path), PROFILE)
    prompt = load_yaml(find("rewards", "gvl"))["prompt"]
    with pytest.raises(ConfigError, match="'opening' must hold {instruction}"):
        GVLReward.load(configuration(writing, prompt={**prompt, "opening": "Look."}), PROFILE)
    with pytest.raises(ConfigError, match="'picture' must hold {number}"):
        GVLReward.load(configuration(writing, prompt={**prompt, "picture": "Next:"}), PROFILE)
    with pytest.raises(InputError, match="camera front: no image; got wrist"):
        scored(GVLReward.load(configuration(writing), PROFILE), frames(2, cameras=("wrist",)))


@given(values=st.lists(st.integers(0, 100), min_size=1, max_size=20), order=st.randoms(use_true_random=False), before=st.sampled_from(
    ["Picture {}: ", "**Frame {}:** ", "{}. ", "- {}) the arm is at 3 of 5; ", "picture #{}: (5% before) "]
))  # fmt: skip
def test_lines_are_read_in_any_order(values: list[int], order: Any, before: str) -> None:
    lines = [before.format(number) + f"{value}%" for number, value in enumerate(values, start=1)]
    order.shuffle(lines)
    assert read("Here they are.\n" + "\n".join(lines), len(values)) == pytest.approx([value / 100 for value in values])


@pytest.mark.parametrize(
    "text",
    [
        "Picture 1: 10%", "Picture 1: 10%\nPicture 2:", "Picture 1: 10%\nPicture 1: 20%", "Picture 1: 10%\nPicture 3: 20%", "",
        "Picture 1: 10%\nPicture 2: 120%", "Picture 1: 10%\nPicture 2: -5%", "Picture 1: 10%\nPicture 2: 20%\nPicture 3: 30%", "10% 20%",
    ],
)  # fmt: skip
def test_all_pictures_or_nothing(text: str) -> None:
    assert read(text, 2) is None
