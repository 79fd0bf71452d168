"""Robometer and RoboReward on tiny Qwen3-VLs with random weights, saved under the names of the published checkpoints.

What is expected is computed another way: by transformers' own forward pass over the whole prompt, written out as one text.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from transformers import AutoTokenizer, Qwen3VLConfig, Qwen3VLModel
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

from reward_node.robometer import RobometerReward
from reward_node.roboreward import RoboRewardReward
from reward_node.vlm import random_models
from reward_node.vlm.layout import Segment
from reward_node.vlm.prefix import from_scratch
from whetstone.config import find, load_yaml
from whetstone.errors import AssetError, ConfigError, InputError
from whetstone.profile import load_profile

SIZE = (32, 32)
PROFILE = load_profile("franka")
ADDED = ["<|split_token|>", "<|reward_token|>", "<|pref_token|>", "<|sim_token|>", "<|prog_token|>"]
TEMPLATE = (
    "{% set count = namespace(value=0) %}{% for message in messages %}<|im_start|>{{ message['role'] }}\n"
    "{% for part in message['content'] %}{% if part['type'] == 'image' %}{% set count.value = count.value + 1 %}"
    "{% if add_vision_id %}Picture {{ count.value }}: {% endif %}<|vision_start|><|image_pad|><|vision_end|>"
    "{% elif part['type'] == 'video' %}<|vision_start|><|video_pad|><|vision_end|>{% else %}{{ part['text'] }}{% endif %}"
    "{% endfor %}<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
PROMPT = "The robot's task is '{instruction}'."


def frames(count: int, seed: int = 0, cameras: tuple[str, ...] = ("front",)) -> list[dict[str, np.ndarray]]:
    random = np.random.default_rng(seed)
    return [{camera: random.integers(0, 256, (*SIZE, 3), dtype=np.uint8) for camera in cameras} for _ in range(count)]


def head(outputs: int, size: int = 32) -> torch.nn.Sequential:
    """As the published code has it, with weights large enough for different frames to differ."""
    made: Any = torch.nn.Sequential(
        torch.nn.Linear(size, size // 2),
        torch.nn.LayerNorm(size // 2),
        torch.nn.GELU(),
        torch.nn.Dropout(),
        torch.nn.Linear(size // 2, outputs),
    )
    with torch.no_grad():
        made[-1].weight.mul_(5.0)
    return made.eval()


def checkpoint(folder: Path, bins: int = 10) -> Path:
    """A tiny Robometer: names and config.json as in the published one."""
    model, tokenizer, images = random_models.qwen3_vl(random_models.QWEN3_VL["tiny"], 32)
    tokenizer.chat_template = TEMPLATE
    tokenizer.add_tokens(ADDED, special_tokens=True)
    model.resize_token_embeddings(len(tokenizer))
    torch.manual_seed(1)
    weights = {key: value for key, value in model.state_dict().items() if key.startswith("model.")}
    for name, outputs in (("progress_head", bins), ("success_head", 1), ("preference_head", 1)):
        weights |= {f"{name}.{key}": value for key, value in head(outputs).state_dict().items()}
    weights["frame_pool_attn.weight"] = torch.randn(1, 32)
    names = sorted(weights)
    for number, part in enumerate((names[::2], names[1::2]), start=1):
        save_file({name: weights[name].contiguous() for name in part}, folder / f"model-0000{number}-of-00002.safetensors")
    data = json.loads(model.config.to_json_string())
    data["text_config"]["vocab_size"] += 7  # of the base model, as it may stand there
    (folder / "config.json").write_text(json.dumps({**data, "architectures": ["RFM"]}))
    tokenizer.save_pretrained(folder)
    images.size = {"shortest_edge": 128**2, "longest_edge": 512**2}  # would enlarge the frames, as the base model's does
    images.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return checkpoint(tmp_path_factory.mktemp("robometer"))


@pytest.fixture
def copy(folder: Path, tmp_path: Path) -> Path:
    """The checkpoint once more, to be spoilt."""
    for file in folder.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    return tmp_path


def rewrite(folder: Path, change: Callable[[dict[str, torch.Tensor]], dict[str, torch.Tensor]]) -> None:
    for file in folder.glob("*.safetensors"):
        save_file(change(load_file(file)), file)


def configuration(model: Any, **changes: Any) -> dict[str, Any]:
    data = load_yaml(find("rewards", "robometer"))
    fixed = {"model": str(model) if model else None, "image_size": list(SIZE), "dtype": "float32", "prompt": PROMPT}
    return {**data, **fixed, **changes}


def loaded(folder: Path, **changes: Any) -> RobometerReward:
    return RobometerReward.load(configuration(folder, **changes), PROFILE)


def expected(folder: Path, images: list[np.ndarray], instruction: str, bins: int = 10) -> tuple[np.ndarray, np.ndarray]:
    """(pictures,) progress and (pictures,) success: one pass over the whole prompt, the heads read behind every picture."""
    weights = {key: value for file in folder.glob("*.safetensors") for key, value in load_file(file).items()}
    tokenizer: Any = AutoTokenizer.from_pretrained(folder)
    data = json.loads((folder / "config.json").read_text())
    data["text_config"]["vocab_size"] = len(tokenizer)
    config: Any = Qwen3VLConfig.from_dict(data)
    model = Qwen3VLModel(config).eval()
    model.load_state_dict({key.removeprefix("model."): value for key, value in weights.items() if key.startswith("model.")})
    processor = Qwen2VLImageProcessorPil.from_pretrained(folder, size={"shortest_edge": 32**2, "longest_edge": 32**2})
    inputs = processor([Image.fromarray(image) for image in images], return_tensors="pt")
    pictures = "".join(
        f"Picture {number}: <|vision_start|>{'<|image_pad|>' * 4}<|vision_end|><|prog_token|>" for number in range(1, len(images) + 1)
    )
    text = f"<|im_start|>user\n{PROMPT.replace('{instruction}', instruction)}{pictures}<|im_end|>\n"
    ids = torch.tensor([tokenizer.encode(text, add_special_tokens=False)])
    kinds = (ids == tokenizer.convert_tokens_to_ids("<|image_pad|>")).int()
    with torch.no_grad():
        hidden = model(input_ids=ids, mm_token_type_ids=kinds, output_hidden_states=True, **inputs).hidden_states[-1]
        asked = hidden[0, ids[0] == tokenizer.convert_tokens_to_ids("<|prog_token|>")]
        values = {}
        for name, outputs in (("progress_head", bins), ("success_head", 1)):
            made = head(outputs)
            made.load_state_dict({key.removeprefix(f"{name}."): value for key, value in weights.items() if key.startswith(name)})
            values[name] = made(asked)
        progress = values["progress_head"].softmax(-1) @ torch.linspace(0, 1, bins) if bins > 1 else values["progress_head"].sigmoid()[:, 0]
        return progress.numpy(), values["success_head"].sigmoid()[:, 0].numpy()


@pytest.mark.parametrize("bins", [10, 1])
def test_a_growing_window_gives_what_one_pass_over_the_whole_video_gives(tmp_path: Path, bins: int) -> None:
    made, clip, instruction = checkpoint(tmp_path, bins), frames(6), "put the {red} cube in the tray"
    reward = loaded(made, window={"kind": "growing", "frames": 8})
    reward.reset("a", instruction, 0)
    samples = reward.score_episode(clip, list(range(6)))
    progress, success = expected(made, [images["front"] for images in clip], instruction, bins)
    assert [sample.progress for sample in samples] == pytest.approx(progress.tolist(), abs=1e-4)
    assert [sample.completion for sample in samples] == pytest.approx(success.tolist(), abs=1e-4)
    assert np.ptp(progress) > 0.05 and np.ptp(success) > 0.05, "these frames could not be told apart"
    assert all(sample.margin == pytest.approx(math.log(p / (1 - p)), abs=1e-3) for sample, p in zip(samples, success.tolist(), strict=True))
    assert all(math.isnan(sample.entropy) if bins == 1 else 0 < sample.entropy < math.log(bins) for sample in samples)


def test_a_fixed_window_is_read_at_its_newest_frame(folder: Path) -> None:
    reward, clip = loaded(folder, window={"kind": "fixed", "frames": 4}), frames(7)
    reward.reset("a", "move", 0)
    samples = reward.score_episode(clip, list(range(7)))
    for newest, chosen in ((0, (0, 0, 0, 0)), (1, (0, 0, 1, 1)), (3, (0, 1, 2, 3)), (6, (0, 2, 4, 6))):
        progress, success = expected(folder, [clip[index]["front"] for index in chosen], "move")
        assert samples[newest].progress == pytest.approx(float(progress[-1]), abs=1e-4)
        assert samples[newest].completion == pytest.approx(float(success[-1]), abs=1e-4)
        assert samples[newest].window == 4


@pytest.mark.parametrize("kind", ["fixed", "growing"])
def test_scores_are_causal_and_episodes_do_not_touch(folder: Path, kind: str) -> None:
    reward, clip = loaded(folder, window={"kind": kind, "frames": 3}), frames(6)
    reward.reset("a", "move", 0)
    one = reward.score_episode(clip, list(range(6)))
    reward.reset("b", "push", 0)
    other = reward.score_episode(clip, list(range(6)))
    ends = set()
    for seed in range(4):
        reward.reset("c", "move", seed)
        again = [reward.observe(images, stamp) for stamp, images in enumerate([*clip[:5], frames(1, 9 + seed)[0]])]
        assert again[:5] == one[:5]
        ends.add(again[5].raw)
    assert len(ends) > 1, "the newest frame is not seen"
    assert abs(one[0].raw - other[0].raw) > 1e-3, "the instruction is not seen"


def test_other_words_keep_the_frames(folder: Path) -> None:
    clip, results = frames(4), []
    for told in (True, False):
        reward = loaded(folder)
        reward.reset("a", "push" if told else "move", 0)
        reward.score_episode(clip[:3], [0, 1, 2])
        if told:
            reward.tell("move")
        results.append(reward.observe(clip[3], 3).raw)
    assert results[0] == pytest.approx(results[1], abs=1e-6)


def test_int8_is_near_and_smaller(folder: Path) -> None:
    rewards = [loaded(folder, dtype=dtype, window={"kind": "growing", "frames": 8}) for dtype in ("float32", "int8")]
    scores = []
    for reward in rewards:
        reward.reset("a", "move", 0)
        scores.append([sample.progress for sample in reward.score_episode(frames(6), list(range(6)))])
    assert 0 < np.abs(np.subtract(*scores)).mean() < 0.1
    assert rewards[1].needs.memory < rewards[0].needs.memory and rewards[1].provenance.model_id.endswith(":int8")


def test_what_the_contrast_and_the_total_are_made_of(folder: Path) -> None:
    reward = loaded(folder, contrastive={"window": 1, "dead_zone": 0.0}, cameras=["front", "wrist"])
    reward.reset("a", "move", 0)
    samples = reward.score_episode(frames(4, cameras=("front", "wrist")), list(range(4)))
    signs = [float(np.sign(after.progress - before.progress)) for before, after in zip(samples[:-1], samples[1:], strict=True)]
    assert [sample.contrastive for sample in samples] == [0.0, *signs] and any(signs)
    assert all(sample.total == pytest.approx((sample.process + sample.completion + (sample.contrastive + 1) / 2) / 3) for sample in samples)


def test_other_folders_that_hold_the_same_weights(folder: Path, copy: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    """LeRobot's names and configuration, and a tokenizer that lies in the base model's folder without the added tokens."""
    base = tmp_path_factory.mktemp("base")
    tokenizer: Any = AutoTokenizer.from_pretrained(folder)
    words = json.loads((folder / "tokenizer.json").read_text())
    words["added_tokens"] = [token for token in words["added_tokens"] if token["content"] not in ADDED]
    tokenizer.save_pretrained(base)
    (base / "tokenizer.json").write_text(json.dumps(words))
    settings = json.loads((base / "tokenizer_config.json").read_text())
    settings.pop("extra_special_tokens", None)
    settings.pop("added_tokens_decoder", None)
    (base / "tokenizer_config.json").write_text(json.dumps(settings))
    assert not set(ADDED) & set(AutoTokenizer.from_pretrained(base).get_vocab())
    (base / "preprocessor_config.json").write_bytes((folder / "preprocessor_config.json").read_bytes())
    for file in copy.glob("*token*"):
        file.unlink()
    rewrite(copy, lambda held: {f"model.{key}" if key.startswith("model.") else key: value for key, value in held.items()})
    data = json.loads((folder / "config.json").read_text())
    (copy / "config.json").write_text(json.dumps({"type": "robometer", "vlm_config": data}))
    results = []
    for reward in (loaded(folder), loaded(copy, processor=str(base))):
        reward.reset("a", "move", 0)
        results.append([sample.raw for sample in reward.score_episode(frames(3), [0, 1, 2])])
    assert results[0] == pytest.approx(results[1], abs=1e-6)


def test_values_that_are_no_numbers_make_an_invalid_sample(folder: Path) -> None:
    reward = loaded(folder, window={"kind": "growing", "frames": 4})
    reward.reset("a", "move", 0)
    assert reward.observe(frames(1)[0], 0).valid
    early = reward._network.model.language_model.layers[0].mlp.down_proj.weight  # what the later layers cache is no number either
    kept = early.detach().clone()
    with torch.no_grad():
        early.fill_(math.nan)
        sample = reward.observe(frames(1)[0], 1)
        early.copy_(kept)
    assert not sample.valid and "not a number" in sample.reason and sample.window == 2
    assert reward.observe(frames(1)[0], 2).valid


def test_incomplete_checkpoints_are_named(copy: Path) -> None:
    rewrite(copy, lambda held: {key: value for key, value in held.items() if key != "success_head.4.bias"})
    with pytest.raises(AssetError, match="weight 'success_head.4.bias' is missing"):
        loaded(copy)
    rewrite(copy, lambda held: {key: value for key, value in held.items() if key != "model.language_model.norm.weight"})
    with pytest.raises(AssetError, match="weight 'model.language_model.norm.weight' is missing"):
        loaded(copy)
    rewrite(copy, lambda held: {key: value for key, value in held.items() if "embed_tokens" not in key})
    with pytest.raises(AssetError, match="is it a Robometer"):
        loaded(copy)


def test_a_tokenizer_of_another_model_is_refused(copy: Path) -> None:
    rewrite(
        copy,
        lambda held: {key: value[:-1].clone() if key.endswith("embed_tokens.weight") else value for key, value in held.items()},
    )
    with pytest.raises(AssetError, match=r"<\|prog_token\|> is token \d+, the model has \d+; set 'processor'"):
        loaded(copy)


def test_bad_input_is_named(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"robometer.yaml: key 'model' is empty; set it to the folder of a local reward model"):
        RobometerReward.load(configuration(None), PROFILE)
    with pytest.raises(AssetError, match="is not a model folder"):
        loaded(tmp_path)
    with pytest.raises(AssetError, match="cannot be loaded"):
        loaded(folder, processor=str(tmp_path))
    with pytest.raises(ConfigError, match="must hold {instruction}"):
        loaded(folder, prompt="How far?")
    reward = loaded(folder)
    with pytest.raises(InputError, match="camera front: no image; got wrist"):
        reward.observe(frames(1, cameras=("wrist",))[0], 0)
    with pytest.raises(ConfigError, match="does not put one"):
        reward.reset("a", "look <|vision_start|><|image_pad|><|vision_end|>", 0)


@pytest.fixture(scope="module")
def judge_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return random_models.tiny_qwen3_vl(tmp_path_factory.mktemp("roboreward"))


def roboreward(folder: Any, **changes: Any) -> RoboRewardReward:
    data = load_yaml(find("rewards", "roboreward"))
    fixed = {"model": str(folder) if folder else None, "image_size": list(SIZE), "dtype": "float32"}
    return RoboRewardReward.load({**data, **fixed, **changes}, PROFILE)


def test_roboreward_is_the_expected_score_of_the_video_so_far(judge_folder: Path) -> None:
    """The five answers written out behind the whole prompt, each computed from scratch."""
    reward, clip = roboreward(judge_folder, frames=4), frames(6)
    reward.reset("a", "put the {red} cube in the tray", 0)
    samples = reward.score_episode(clip, list(range(6)))
    layout, model, tokenizer = reward._vlm.video, reward._vlm.model, reward._vlm.tokenizer
    text = reward.settings.prompt.replace("{instruction}", "put the {red} cube in the tray")
    for newest, chosen in ((0, (0, 0, 0, 0)), (5, (0, 2, 3, 5))):
        images = [clip[index]["front"] for index in chosen]
        video = [layout.head(), layout.frames(images[:2], [0.0, 1.0]), layout.frames(images[2:], [2.0, 3.0])]
        scores = []
        for digit in "12345":
            tokens, score = tokenizer.encode(f" {digit}", add_special_tokens=False), 0.0
            for length, token in enumerate(tokens):
                question = layout.question(text, "ANSWER:")
                written = Segment(torch.cat([question.ids, torch.tensor(tokens[:length], dtype=torch.long)]))
                score += from_scratch(model, layout, [*video, written], [token])[0]
            scores.append(score)
        shares = np.exp(np.array(scores) - np.logaddexp.reduce(scores))
        assert samples[newest].progress == pytest.approx(float(shares @ [0, 0.25, 0.5, 0.75, 1]), abs=1e-4)
        assert samples[newest].completion == pytest.approx(float(shares[4]), abs=1e-4)
        assert samples[newest].entropy == pytest.approx(float(-(shares * np.log(shares)).sum()), abs=1e-3)
    assert len({round(sample.raw, 5) for sample in samples}) > 1 and samples[0].window == 4


def test_roboreward_is_causal_and_the_same_live(judge_folder: Path) -> None:
    reward, clip = roboreward(judge_folder, frames=4), frames(5)
    reward.reset("a", "move", 0)
    one = reward.score_episode(clip, list(range(5)))
    reward.reset("b", "move", 3)
    two = [reward.observe(images, stamp) for stamp, images in enumerate([*clip[:4], frames(1, 9)[0]])]
    assert one[:4] == two[:4] and one[4].raw != two[4].raw
    still = roboreward(judge_folder, frames=4)
    still.reset("c", "move", 0)
    assert len({sample.raw for sample in still.score_episode(frames(1) * 4, list(range(4)))}) == 1


def test_roboreward_hears_other_words(judge_folder: Path) -> None:
    reward, clip = roboreward(judge_folder, frames=4), frames(3)
    for words, told in (("move", "move"), ("push", "move")):
        reward.reset("a", words, 0)
        before = reward.score_episode(clip[:2], [0, 1])[1].raw
        reward.tell(told)
        after = reward.observe(clip[2], 2).raw
        if words == told:
            expected_before, expected_after = before, after
    assert before != expected_before and after == expected_after


def test_roboreward_s_prompt_asks_for_the_answer_that_is_read(judge_folder: Path) -> None:
    reward = roboreward(judge_folder)
    reward.reset("a", "put the {red} cube in the tray", 0)
    text = reward._vlm.tokenizer.decode(reward._question.ids)
    assert "Task: put the {red} cube in the tray<|im_end|>" in text and text.endswith("assistant\nANSWER:")


def test_roboreward_s_bad_values_and_bad_input_are_named(judge_folder: Path, tmp_path: Path) -> None:
    reward = roboreward(judge_folder)
    with torch.no_grad():
        kept = reward._vlm.model.lm_head.weight.clone()
        reward._vlm.model.lm_head.weight.fill_(math.nan)
        sample = reward.observe(frames(1)[0], 1)
        reward._vlm.model.lm_head.weight.copy_(kept)
    assert not sample.valid and "not a number" in sample.reason
    assert reward.observe(frames(1)[0], 2).valid
    with pytest.raises(ConfigError, match=r"roboreward.yaml: key 'model' is empty"):
        roboreward(None)
    with pytest.raises(AssetError, match="is not a model folder"):
        roboreward(tmp_path)
    with pytest.raises(ConfigError, match="'frames' must be even"):
        roboreward(judge_folder, frames=5)
    with pytest.raises(ConfigError, match="each with a value from 0 to 1"):
        roboreward(judge_folder, answers={" 1": 1.0, " 2": 2.0})
    with pytest.raises(InputError, match="camera front: no image; got wrist"):
        reward.observe(frames(1, cameras=("wrist",))[0], 0)
