"""The frozen encoders of SARM2: vision models from local folders (random weights, saved like real ones), cameras, and what is refused."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from reward_toy import small_settings
from safetensors.torch import load_file, save_file

from reward_node.sarm2 import SARM2Reward
from reward_node.sarm2.configuration import SARM2Settings
from reward_node.sarm2.encoder import Encoder, PretrainedEncoder, build_encoder
from reward_node.sarm2.reward import build_model, metadata
from reward_node.sarm2.train import main, save
from reward_node.weight_bytes import weight_bytes
from whetstone.config import find, load_yaml, parse
from whetstone.demonstrations import Demonstration
from whetstone.errors import AssetError, ConfigError, InputError
from whetstone.text import TextEncoder

VISION: dict[str, Any] = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "patch_size": 8}
TEXT = {name: value for name, value in VISION.items() if name != "patch_size"} | {"vocab_size": 16, "pad_token_id": 0}


def store(folder: Path, kind: Any, config: Any, processor: Any) -> Path:
    torch.manual_seed(0)
    model = kind._from_config(config)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(5)  # weights of the usual size would give every image nearly the same features
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


def clip(folder: Path) -> Path:
    from transformers import CLIPConfig, CLIPModel
    from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

    config = CLIPConfig(vision_config={**VISION, "image_size": 32, "projection_dim": 8}, text_config=TEXT, projection_dim=8)
    return store(folder, CLIPModel, config, CLIPImageProcessorPil(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32}))


def siglip(folder: Path) -> Path:
    """SigLIP, and SigLIP 2 at a fixed resolution, which is the same architecture."""
    from transformers import SiglipConfig, SiglipModel
    from transformers.models.siglip.image_processing_pil_siglip import SiglipImageProcessorPil

    config = SiglipConfig(vision_config={**VISION, "image_size": 32}, text_config=TEXT)
    return store(folder, SiglipModel, config, SiglipImageProcessorPil(size={"height": 32, "width": 32}))


def siglip_without_head(folder: Path) -> Path:
    """A vision tower alone, which has no pooled output."""
    from transformers import SiglipVisionConfig, SiglipVisionModel
    from transformers.models.siglip.image_processing_pil_siglip import SiglipImageProcessorPil

    config = SiglipVisionConfig(**VISION, image_size=32, vision_use_head=False)
    return store(folder, SiglipVisionModel, config, SiglipImageProcessorPil(size={"height": 32, "width": 32}))


def siglip2_native(folder: Path) -> Path:
    """SigLIP 2 NaFlex: images as lists of patches."""
    from transformers import Siglip2Config, Siglip2Model
    from transformers.models.siglip2.image_processing_pil_siglip2 import Siglip2ImageProcessorPil

    config = Siglip2Config(vision_config={**VISION, "num_patches": 16}, text_config=TEXT)
    return store(folder, Siglip2Model, config, Siglip2ImageProcessorPil(patch_size=8, max_num_patches=16))


def dinov2(folder: Path) -> Path:
    from transformers import Dinov2Config, Dinov2Model
    from transformers.models.bit.image_processing_pil_bit import BitImageProcessorPil

    config = Dinov2Config(hidden_size=16, mlp_ratio=1, num_hidden_layers=1, num_attention_heads=2, image_size=32, patch_size=8)
    return store(folder, Dinov2Model, config, BitImageProcessorPil(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32}))


MODELS: dict[str, tuple[Callable[[Path], Path], int]] = {
    "clip": (clip, 8),
    "siglip": (siglip, 16),
    "siglip_without_head": (siglip_without_head, 16),
    "siglip2_native": (siglip2_native, 16),
    "dinov2": (dinov2, 16),
}
"""Name -> how it is made, features of one camera."""


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("models")
    return {name: make(root / name) for name, (make, _) in MODELS.items()}


def settings_for(folder: Path | str, cameras: tuple[str, ...] = ("front", "wrist"), **keys: str) -> SARM2Settings:
    return replace(small_settings(), cameras=cameras, encoder={"folder": str(folder), **keys})


def built(folder: Path | str, *arguments: Any, **keys: str) -> Encoder:
    return build_encoder(settings_for(folder, *arguments, **keys), "franka", "my.yaml")


def pictures(cameras: tuple[str, ...], count: int, seed: int = 0) -> dict[str, np.ndarray]:
    random = np.random.default_rng(seed)
    return {camera: random.integers(0, 256, (count, 40, 40, 3), dtype=np.uint8) for camera in cameras}


@pytest.mark.parametrize("name", MODELS)
def test_features_of_local_models(folders: dict[str, Path], name: str) -> None:
    """One row a frame set, one part a camera in their order; a frame's features do not depend on what it is encoded with."""
    width = MODELS[name][1]
    encoder, images = built(folders[name], ("wrist", "front")), pictures(("front", "wrist"), 3)
    assert encoder.feature_size == 2 * width
    features = encoder.features(images)
    assert features.shape == (3, 2 * width) and features.dtype == torch.float32 and not features.requires_grad
    assert float(features.std(dim=0).min()) > 1e-3, "images must be told apart, or the comparisons below say nothing"
    for row in range(3):
        alone = encoder.features({camera: image[row : row + 1] for camera, image in images.items()})
        assert torch.allclose(alone[0], features[row], atol=1e-4)
    swapped = encoder.features({"wrist": images["front"], "front": images["wrist"]})
    assert torch.allclose(swapped, features.roll(width, dims=1), atol=1e-4)


def one_camera(folder: Path) -> tuple[torch.Tensor, torch.Tensor]:
    """(pixel values of three images as the folder's processor makes them, their features by our encoder)."""
    from PIL import Image
    from transformers import AutoImageProcessor

    images = pictures(("front",), 3)
    processor = AutoImageProcessor.from_pretrained(folder, backend="pil", local_files_only=True)
    pixels = processor([Image.fromarray(image) for image in images["front"]], return_tensors="pt")["pixel_values"]
    return pixels, built(folder, ("front",)).features(images)


def test_clip_features_are_its_image_embeddings(folders: dict[str, Path]) -> None:
    from transformers import CLIPVisionModelWithProjection

    pixels, features = one_camera(folders["clip"])
    reference = CLIPVisionModelWithProjection.from_pretrained(folders["clip"], local_files_only=True).eval()
    with torch.no_grad():
        assert torch.allclose(reference(pixel_values=pixels).image_embeds, features, atol=1e-5)


def test_siglip_features_are_those_of_its_head(folders: dict[str, Path]) -> None:
    from transformers import SiglipVisionModel

    pixels, features = one_camera(folders["siglip"])
    reference = SiglipVisionModel.from_pretrained(folders["siglip"], local_files_only=True).eval()
    with torch.no_grad():
        assert torch.allclose(reference(pixel_values=pixels).pooler_output, features, atol=1e-5)


def test_dinov2_features_are_its_class_token(folders: dict[str, Path]) -> None:
    from transformers import Dinov2Model

    pixels, features = one_camera(folders["dinov2"])
    reference = Dinov2Model.from_pretrained(folders["dinov2"], local_files_only=True).eval()
    with torch.no_grad():
        assert torch.allclose(reference(pixel_values=pixels).last_hidden_state[:, 0], features, atol=1e-5)


def test_without_a_pooled_output_the_tokens_are_averaged(folders: dict[str, Path]) -> None:
    from transformers import SiglipVisionModel

    pixels, features = one_camera(folders["siglip_without_head"])
    reference = SiglipVisionModel.from_pretrained(folders["siglip_without_head"], local_files_only=True).eval()
    with torch.no_grad():
        assert torch.allclose(reference(pixel_values=pixels).last_hidden_state.mean(dim=1), features, atol=1e-5)


def test_identity_and_memory_follow_the_weights(folders: dict[str, Path]) -> None:
    whole, half = built(folders["clip"]), built(folders["clip"], precision="bfloat16")
    assert isinstance(whole, PretrainedEncoder)
    assert len({whole.identity, half.identity, built(folders["siglip"]).identity}) == 3
    assert whole.identity == built(folders["clip"]).identity
    assert weight_bytes(whole) == 2 * weight_bytes(half) > 0
    assert not any("text_model" in name for name, _ in whole.named_parameters()), "the text half must not stay in memory"
    assert half.features(pictures(("front", "wrist"), 1)).dtype == torch.float32


@pytest.mark.parametrize("cameras", [("wrist",), ("side", "front", "wrist")])
def test_a_reward_with_other_cameras_and_encoder(folders: dict[str, Path], cameras: tuple[str, ...], tmp_path: Path) -> None:
    """From configuration and file to scores, as the node loads it; the file fits this encoder only."""
    config = {
        **load_yaml(find("rewards", "sarm2")),
        "cameras": list(cameras),
        "image_size": [40, 40],
        "encoder": {"folder": str(folders["dinov2"])},
    }
    settings = parse(SARM2Settings, config, "my.yaml")
    encoder = build_encoder(settings, "franka", "my.yaml")
    torch.manual_seed(0)
    model, path = build_model(settings, encoder.feature_size, TextEncoder()), tmp_path / "reward.safetensors"
    save(model, np.zeros((1, 3)), path, metadata(settings, encoder.feature_size, encoder.identity))
    reward = SARM2Reward.from_file(config, "nobody", path)
    assert reward.needs.cameras == cameras and reward.needs.memory == weight_bytes(model) + weight_bytes(encoder)
    frames = [{camera: image[0] for camera, image in pictures(cameras, 1, seed).items()} for seed in range(5)]
    reward.reset("a", "put the red cube in the tray", 0)
    samples = reward.score_episode(frames, list(range(5)))
    assert all(sample.valid for sample in samples) and len({sample.progress for sample in samples}) == 5
    with pytest.raises(InputError, match=f"camera {cameras[-1]}: no image"):
        reward.observe({camera: image for camera, image in frames[0].items() if camera != cameras[-1]}, 5)
    with pytest.raises(AssetError, match="made with another encoder "):
        SARM2Reward.from_file({**config, "encoder": {"folder": str(folders["siglip"])}}, "nobody", path)


def test_the_trainer_from_its_command_line(folders: dict[str, Path], dots: list[Demonstration], tmp_path: Path) -> None:
    """Writes weights that load, and a card; run again with resume:=true it ends with the same weights. A map is not its business."""
    for episode in dots[:12]:
        (tmp_path / "data" / episode.task).mkdir(parents=True, exist_ok=True)
        shutil.copy(episode.path, tmp_path / "data" / episode.task)
    config = load_yaml(find("rewards", "sarm2"))
    config |= {"image_size": [16, 16], "encoder": {"folder": str(folders["clip"])}}
    config["training"] |= {"steps": 3, "batch": 8}
    (tmp_path / "my.yaml").write_text(yaml.safe_dump({**config, "calibration_map": "later.json"}, sort_keys=False))
    paths = {"data": "data", "out": "out", "reward": "my.yaml", "logs": "logs"}
    command = ["robot:=franka", *(f"{name}:={tmp_path / path}" for name, path in paths.items())]
    main(command)
    weights = tmp_path / "out" / "reward_franka.safetensors"
    first = load_file(weights)
    assert SARM2Reward.from_file(config, "franka", weights).needs.cameras == ("front", "wrist")
    assert "vision model clip (float32)" in weights.with_suffix(".md").read_text()
    assert first["control_bank"].shape[1] == 3 and len(first["control_bank"]) > 10
    assert (tmp_path / "logs" / "reward_franka" / "checkpoint.pt").is_file()
    weights.unlink()
    main([*command, "resume:=true"])
    again = load_file(weights)
    assert all(torch.equal(first[name], again[name]) for name in first)


# What is refused.


def test_keypoints_want_the_cameras_they_were_trained_on() -> None:
    for cameras in (("front",), ("front", "wrist", "side"), ("front", "side")):
        with pytest.raises(ConfigError, match=r"my.yaml: key 'cameras' is \[front.*encoder: keypoints knows and needs front and wrist"):
            build_encoder(replace(small_settings(), cameras=cameras), "franka", "my.yaml")


def test_wrong_images_name_their_camera(folders: dict[str, Path]) -> None:
    encoder = built(folders["dinov2"])
    images = pictures(("front", "wrist"), 1)
    with pytest.raises(InputError, match="camera 'wrist' is missing; the vision encoder needs front, wrist"):
        encoder.features({"front": images["front"]})
    with pytest.raises(InputError, match=r"camera 'front': images are \(40, 40, 1\) uint8, .* needs \(height, width, 3\) uint8"):
        encoder.features({**images, "front": images["front"][..., :1]})
    with pytest.raises(InputError, match=r"camera 'front': images are .* float64"):
        encoder.features({**images, "front": images["front"] / 255.0})


def test_folders_that_hold_no_model(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="my.yaml: key 'encoder.folder' is empty; set it to the folder of a local vision model"):
        built(" ")
    with pytest.raises(AssetError, match=r"my.yaml: key 'encoder.folder': '.*nothing' is not a model folder \(no config.json\)"):
        built(tmp_path / "nothing")


def test_models_that_cannot_be_used(tmp_path: Path) -> None:
    from transformers import BertConfig, BertModel

    refused = r"my.yaml: key 'encoder.folder': '.*' cannot be used as a vision model \(.*{}.*must hold SigLIP, CLIP, DINOv2"
    blind = dinov2(tmp_path / "blind")
    (blind / "preprocessor_config.json").unlink()
    with pytest.raises(AssetError, match=refused.format("image processor")):
        built(blind)
    damaged = dinov2(tmp_path / "damaged")
    (damaged / "model.safetensors").write_bytes(b"junk")
    with pytest.raises(AssetError, match=refused.format("")):
        built(damaged)
    incomplete = dinov2(tmp_path / "incomplete")
    weights = load_file(incomplete / "model.safetensors")
    del weights["layernorm.weight"]
    save_file(weights, incomplete / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(AssetError, match=refused.format("it has no weights for layernorm.weight")):
        built(incomplete)
    words = BertConfig(hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16, vocab_size=16)
    BertModel(words).save_pretrained(tmp_path / "words")
    (tmp_path / "words" / "preprocessor_config.json").write_text(json.dumps({"image_processor_type": "BitImageProcessor"}))
    with pytest.raises(AssetError, match=refused.format("")):
        built(tmp_path / "words")


def test_code_in_a_folder_is_never_run(tmp_path: Path) -> None:
    folder, trace = tmp_path / "stranger", tmp_path / "ran"
    folder.mkdir()
    (folder / "stranger.py").write_text(f"open({str(trace)!r}, 'w').close()\n")
    classes = {"AutoConfig": "stranger.Config", "AutoModel": "stranger.Model", "AutoImageProcessor": "stranger.Processor"}
    (folder / "config.json").write_text(json.dumps({"model_type": "stranger", "auto_map": classes}))
    with pytest.raises(AssetError, match="cannot be used as a vision model"):
        built(folder)
    assert not trace.exists()
