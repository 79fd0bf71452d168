"""The CLIP baseline on a tiny CLIP and a tiny SigLIP with random weights, made here and loaded like published ones."""

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
from tokenizers.processors import TemplateProcessing
from transformers import AutoTokenizer, CLIPConfig, CLIPModel, SiglipConfig, SiglipModel
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil
from transformers.models.siglip.image_processing_pil_siglip import SiglipImageProcessorPil

from reward_node.clip import CLIPReward
from reward_node.vlm import random_models
from whetstone.config import find, load_yaml
from whetstone.errors import AssetError, ConfigError, InputError
from whetstone.profile import load_profile

SIZE = (40, 32)
PROFILE = load_profile("franka")
LENGTH = 40
"""Tokens of a text, at most."""


def configuration(model: Any, **changes: Any) -> dict[str, Any]:
    data = load_yaml(find("rewards", "clip"))
    return {**data, "model": str(model) if model else None, "image_size": list(SIZE), **changes}


def frames(count: int, seed: int = 0, cameras: tuple[str, ...] = ("front",)) -> list[dict[str, np.ndarray]]:
    random = np.random.default_rng(seed)
    return [{camera: random.integers(0, 256, (*SIZE, 3), dtype=np.uint8) for camera in cameras} for _ in range(count)]


def saved(folder: Path, make: Callable[[dict[str, Any], dict[str, Any]], Any], processor: Any) -> Path:
    tokenizer = random_models.tokenizer(["<pad>", "<end>"], "<end>", "")
    closed = TemplateProcessing(single="$A <end>", special_tokens=[("<end>", tokenizer.eos_token_id)])
    tokenizer.backend_tokenizer.post_processor = closed
    layers = {"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    ends = {"bos_token_id": tokenizer.eos_token_id, "eos_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.pad_token_id}
    torch.manual_seed(0)
    model = make(
        {**layers, **ends, "vocab_size": len(tokenizer), "max_position_embeddings": LENGTH}, {**layers, "image_size": 32, "patch_size": 8}
    )
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(5.0)
    for part in (model, tokenizer, processor):
        part.save_pretrained(folder)
    return folder


def clip(folder: Path) -> Path:
    processor = CLIPImageProcessorPil(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32})
    return saved(folder, lambda text, vision: CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=16)), processor)


def siglip(folder: Path) -> Path:
    processor = SiglipImageProcessorPil(size={"height": 32, "width": 32})
    return saved(
        folder,
        lambda text, vision: SiglipModel(SiglipConfig(text_config={**text, "projection_size": 32}, vision_config=vision)),
        processor,
    )


@pytest.fixture(scope="module", params=[clip, siglip])
def model_folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return request.param(tmp_path_factory.mktemp("embedder"))


def reference(folder: Path, image: np.ndarray, text: str) -> float:
    """The cosine that the model's own forward pass gives, taken from its logits."""
    kind = {"clip": CLIPModel, "siglip": SiglipModel}[json.loads((folder / "config.json").read_text())["model_type"]]
    model: Any = kind.from_pretrained(folder).eval()
    tokenizer: Any = AutoTokenizer.from_pretrained(folder)
    processor: Any = (CLIPImageProcessorPil if kind is CLIPModel else SiglipImageProcessorPil).from_pretrained(folder)
    ids = [*tokenizer.encode(text, add_special_tokens=False)[: LENGTH - 1], tokenizer.eos_token_id]
    if kind is SiglipModel:
        ids += [tokenizer.pad_token_id] * (LENGTH - len(ids))
    with torch.no_grad():
        logits = model(input_ids=torch.tensor([ids]), **processor([Image.fromarray(image)], return_tensors="pt")).logits_per_image
        return float((logits - getattr(model, "logit_bias", 0.0)) / model.logit_scale.exp())


@pytest.mark.parametrize("instruction", ["open {it}", "put the red cube in the tray and then press the button behind it"])
def test_the_score_is_the_cosine_of_image_and_instruction(model_folder: Path, instruction: str) -> None:
    reward, (images,) = CLIPReward.load(configuration(model_folder, goal="done: {instruction}"), PROFILE), frames(1)
    reward.reset("a", instruction, 0)
    assert reward.observe(images, 0).raw == pytest.approx(reference(model_folder, images["front"], f"done: {instruction}"), abs=1e-5)


def test_several_cameras_count_alike(model_folder: Path) -> None:
    (images,) = frames(1, cameras=("front", "wrist"))
    values = {}
    for cameras in (("front",), ("wrist",), ("front", "wrist")):
        reward = CLIPReward.load(configuration(model_folder, cameras=list(cameras)), PROFILE)
        reward.reset("a", "move", 0)
        values[cameras] = reward.observe(images, 0).raw
    assert values["front",] != values["wrist",]
    assert values["front", "wrist"] == pytest.approx((values["front",] + values["wrist",]) / 2)


def test_goal_baseline_regularisation(model_folder: Path) -> None:
    """Against the projection written out as a matrix, on the line through goal and baseline."""
    texts = {"goal": "done: {instruction}", "baseline": "a robot and {instruction}"}
    image = frames(1)[0]["front"]
    for alpha in (0.0, 0.4, 1.0):
        reward = CLIPReward.load(configuration(model_folder, alpha=alpha, **texts), PROFILE)
        reward.reset("a", "move", 0)
        state, goal, base = reward._encoder.image(image), reward._encoder.text("done: move"), reward._encoder.text("a robot and move")
        assert [np.linalg.norm(one) for one in (state, goal, base)] == pytest.approx([1.0, 1.0, 1.0])
        projection = np.outer(goal - base, goal - base) / ((goal - base) @ (goal - base))
        mixed = alpha * projection + (1 - alpha) * np.eye(len(goal))
        expected = 1 - np.linalg.norm((state - goal) @ mixed) ** 2 / 2
        assert reward.observe({"front": image}, 0).raw == pytest.approx(expected, abs=1e-9)
        if alpha == 0.0:
            assert expected == pytest.approx(state @ goal)


def test_a_baseline_that_says_the_same_adds_nothing(model_folder: Path) -> None:
    reward = CLIPReward.load(configuration(model_folder, goal="do {instruction}", baseline="do {instruction}", alpha=1.0), PROFILE)
    reward.reset("a", "move", 0)
    assert reward.observe(frames(1)[0], 0).raw == pytest.approx(1.0)


def test_calibration_and_signals(model_folder: Path) -> None:
    changes = {"calibration": {"offset": 1.0, "scale": 4.0}, "contrastive": {"window": 1, "dead_zone": 0.0}}
    reward = CLIPReward.load(configuration(model_folder, **changes), PROFILE)
    reward.reset("a", "move", 0)
    samples = reward.score_episode(frames(5), list(range(5)))
    for sample in samples:
        assert sample.progress == pytest.approx((sample.raw + 1.0) / 4.0) and sample.completion == sample.process == sample.progress
        assert 0.0 < sample.progress < 0.5
    signs = [float(np.sign(after.raw - before.raw)) for before, after in zip(samples[:-1], samples[1:], strict=True)]
    assert [sample.contrastive for sample in samples] == [0.0, *signs]
    low, high = ({"offset": offset, "scale": 0.5} for offset in (-9.0, 9.0))
    for calibration, end in ((low, 0.0), (high, 1.0)):
        bounded = CLIPReward.load(configuration(model_folder, calibration=calibration), PROFILE)
        assert bounded.observe(frames(1)[0], 0).progress == end


def test_a_frame_is_judged_by_itself(model_folder: Path) -> None:
    reward, clips = CLIPReward.load(configuration(model_folder), PROFILE), frames(3)
    reward.reset("a", "move", 0)
    whole = [sample.raw for sample in reward.score_episode(clips, [0, 1, 2])]
    reward.reset("b", "move", 0)
    assert [reward.observe(images, 0).raw for images in reversed(clips)] == whole[::-1]
    assert len(set(whole)) == 3


def test_other_words(model_folder: Path) -> None:
    reward, (images,) = CLIPReward.load(configuration(model_folder), PROFILE), frames(1)
    values = []
    for words in ("move", "push", "move"):
        reward.tell(words)
        values.append(reward.observe(images, 0).raw)
    assert values[0] == values[2] != values[1]
    with pytest.raises(InputError, match="at most 2000 are taken"):
        reward.reset("a", "x" * 3000, 0)


def test_values_that_are_no_numbers_make_an_invalid_sample(model_folder: Path) -> None:
    reward = CLIPReward.load(configuration(model_folder), PROFILE)
    reward.reset("a", "move", 0)
    with torch.no_grad():
        for parameter in reward._encoder.model.vision_model.parameters():
            parameter.fill_(math.nan)
    sample = reward.observe(frames(1)[0], 0)
    assert not sample.valid and "not a number" in sample.reason and math.isnan(sample.progress)


def test_what_it_declares(model_folder: Path) -> None:
    reward = CLIPReward.load(configuration(model_folder), PROFILE)
    assert reward.needs.images == 1 and reward.needs.image_size == SIZE and reward.needs.every == 4
    half = CLIPReward.load(configuration(model_folder, dtype="bfloat16"), PROFILE)
    assert reward.needs.memory == 2 * half.needs.memory > 0
    assert reward.provenance.model_id.startswith(f"clip@{model_folder.name}:") and reward.provenance.model_id.endswith(":float32")
    other = CLIPReward.load(configuration(model_folder, goal="{instruction} is done"), PROFILE)
    assert other.provenance.prompt != reward.provenance.prompt and other.provenance.revision == reward.provenance.revision


def test_bad_input_is_named(model_folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"clip.yaml: key 'model' is empty; set it to the folder of a local CLIP or SigLIP"):
        CLIPReward.load(configuration(None), PROFILE)
    with pytest.raises(AssetError, match="is not a model folder"):
        CLIPReward.load(configuration(tmp_path), PROFILE)
    (tmp_path / "config.json").write_text('{"model_type": "clip"}')
    with pytest.raises(AssetError, match="cannot be loaded"):
        CLIPReward.load(configuration(tmp_path), PROFILE)
    with pytest.raises(ConfigError, match="is a qwen3_vl; it must be a CLIP or SigLIP"):
        CLIPReward.load(configuration(random_models.tiny_qwen3_vl(tmp_path / "vlm")), PROFILE)
    with pytest.raises(ConfigError, match="'alpha' is above 0, but there is no 'baseline'"):
        CLIPReward.load(configuration(model_folder, alpha=0.5), PROFILE)
    with pytest.raises(ConfigError, match="'goal' must hold {instruction}"):
        CLIPReward.load(configuration(model_folder, goal="done"), PROFILE)
    reward = CLIPReward.load(configuration(model_folder), PROFILE)
    with pytest.raises(InputError, match="camera front: no image; got wrist"):
        reward.observe(frames(1, cameras=("wrist",))[0], 0)
