"""LeRobot policies of each kind with random weights, small enough for a test, saved as lerobot saves its own. Helpers only."""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch

from policy_node.lerobot_import import lerobot, pi

JOINTS = 8
SETTINGS: dict[str, dict[str, Any]] = {
    "act": {
        "chunk_size": 6, "n_action_steps": 4, "dim_model": 16, "n_heads": 2, "dim_feedforward": 16, "n_encoder_layers": 1,
        "n_vae_encoder_layers": 1, "latent_dim": 4, "pretrained_backbone_weights": None,
    },
    "diffusion": {
        "horizon": 8, "n_action_steps": 4, "n_obs_steps": 2, "down_dims": (16, 32), "num_train_timesteps": 4, "crop_shape": None,
        "diffusion_step_embed_dim": 8, "spatial_softmax_num_keypoints": 4, "n_groups": 4,
    },
    "smolvla": {
        "chunk_size": 6, "n_action_steps": 4, "max_state_dim": 12, "max_action_dim": 12, "resize_imgs_with_padding": (32, 32),
        "num_vlm_layers": 2, "num_steps": 2, "tokenizer_max_length": 24,
    },
    "pi0": {"chunk_size": 6, "n_action_steps": 4, "max_state_dim": 12, "max_action_dim": 12, "image_resolution": (28, 28),
            "num_inference_steps": 2, "tokenizer_max_length": 24},
}  # fmt: skip
SETTINGS["pi05"] = {**SETTINGS["pi0"], "tokenizer_max_length": 96}


def statistics(size: int) -> dict[str, dict[str, torch.Tensor]]:
    """Of a data set: what normalisation makes of actions must be seen to be undone."""
    spread = torch.linspace(0.2, 0.9, size)
    one = {"mean": 0.1 * torch.arange(size), "std": spread, "min": -spread, "max": 2 * spread, "q01": -spread, "q99": 2 * spread}
    picture = {name: torch.full((3, 1, 1), value) for name, value in (("mean", 0.4), ("std", 0.3), ("min", 0.0), ("max", 1.0))}
    return {"action": one, "observation.state": one, "observation.images.top": picture, "observation.images.wrist": picture}


def small_pi() -> None:
    """pi0 and pi0.5 know no sizes but those of 2 and 0.3 billion parameters; from here on this process builds them smaller."""
    from transformers import CONFIG_MAPPING, PaliGemmaConfig

    def paligemma() -> PaliGemmaConfig:
        width = {"hidden_size": 16, "num_attention_heads": 2, "num_hidden_layers": 2}
        return PaliGemmaConfig(vision_config={"model_type": "siglip_vision_model", **width, "patch_size": 14, "vision_use_head": False})

    for kind in ("pi0", "pi05"):
        module = lerobot(f"policies.{kind}.modeling_{kind}")
        module.CONFIG_MAPPING = {"paligemma": paligemma, "gemma": CONFIG_MAPPING["gemma"]}
        module.get_gemma_config = lambda _, make=module.GemmaConfig: make(16, 2, 32, 8, 1, 4)


def small_resnet() -> None:
    """ACT and diffusion see by torchvision's ResNet-18, of 11 million parameters; from here on by a thinner one."""
    lerobot("configs.types")
    import torchvision
    from torchvision.models.resnet import BasicBlock, ResNet

    class SmallResNet(ResNet):
        def _make_layer(self, block: Any, planes: int, *rest: Any, **given: Any) -> Any:
            return super()._make_layer(block, planes // 4, *rest, **given)

    def resnet18(weights: object = None, **given: Any) -> ResNet:
        assert weights is None
        found = SmallResNet(BasicBlock, [1, 1, 1, 1], **given)
        found.fc = torch.nn.Linear(128, 1)  # whose width tells that of what comes before it
        return found

    torchvision.models.resnet18 = resnet18


def settings_read_once() -> None:
    """From here on lerobot reads a folder's settings once: its parser takes longer than all the rest of loading."""
    config = lerobot("configs.policies").PreTrainedConfig
    read: Callable[[str], Any] = cache(config.from_pretrained)
    config.from_pretrained = lambda pretrained_name_or_path, **_: deepcopy(read(str(pretrained_name_or_path)))


def publish(file: Path) -> None:
    """Under the names that pi0's published checkpoints have: of transformers 4, with the heads that nobody uses."""
    from safetensors.torch import load_file, save_file

    at, kept = "model.paligemma_with_expert", {}
    for name, value in load_file(file).items():
        kept[name.replace("vision_tower.", "vision_tower.vision_model.")] = value
    kept[f"{at}.paligemma.lm_head.weight"] = kept.pop(f"{at}.paligemma.model.language_model.embed_tokens.weight")
    kept[f"{at}.gemma_expert.lm_head.weight"] = torch.zeros(4, 16)
    save_file(kept, file)


def save(kind: str, folder: Path, vlm: Path | None = None) -> Path:
    """A policy that sees `top` and `wrist` (3, 64, 64), and eight joints and gripper."""
    types = lerobot("configs.types")
    factory = lerobot("policies.factory")
    pictures = {f"observation.images.{name}": types.PolicyFeature(types.FeatureType.VISUAL, (3, 64, 64)) for name in ("top", "wrist")}
    config = factory.make_policy_config(
        kind,
        device="cpu",
        input_features=pictures | {"observation.state": types.PolicyFeature(types.FeatureType.STATE, (JOINTS,))},
        output_features={"action": types.PolicyFeature(types.FeatureType.ACTION, (JOINTS,))},
        **SETTINGS[kind],
        **({"vlm_model_name": str(vlm)} if vlm and kind == "smolvla" else {}),
    )
    torch.manual_seed(0)
    policy = (pi(kind) if kind.startswith("pi") else factory.get_policy_class(kind))(config)
    with torch.no_grad():
        for name, value in policy.named_parameters():
            if value.ndim > 1 and "backbone" not in name:
                value.mul_(2)  # else random policies hardly mind what they see
    policy.save_pretrained(folder)
    if kind.startswith("pi"):
        publish(folder / "model.safetensors")
    with pytest.MonkeyPatch.context() as patch:  # its tokenizer's name is in its code
        tokenizer = lerobot("processor.tokenizer_processor").AutoTokenizer
        own = tokenizer.from_pretrained
        patch.setattr(tokenizer, "from_pretrained", lambda name, **given: own(str(vlm) if kind.startswith("pi") else name, **given))
        for pipeline in factory.make_pre_post_processors(config, dataset_stats=statistics(JOINTS)):
            pipeline.save_pretrained(folder)
    return folder


def small_smolvlm(folder: Path) -> Path:
    """Configuration and processor of a tiny SmolVLM, which SmolVLA builds its own from: images of 32x32 pixels, 4 tokens each."""
    lerobot("configs.types")  # brings torchvision, which SmolVLM's processors need
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast, SmolVLMConfig, SmolVLMProcessor
    from transformers.models.smolvlm.image_processing_smolvlm import SmolVLMImageProcessor
    from transformers.models.smolvlm.video_processing_smolvlm import SmolVLMVideoProcessor

    made = Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    marks = ["<|im_start|>", "<end_of_utterance>", "<image>", "<fake_token_around_image>", "<global-img>", "<pad>"]
    made.train_from_iterator(
        ["put the red cube in the tray"] * 9,
        trainers.BpeTrainer(vocab_size=300, special_tokens=marks, initial_alphabet=pre_tokenizers.ByteLevel.alphabet()),
    )
    named = {"fake_image_token": "<fake_token_around_image>", "image_token": "<image>", "global_image_token": "<global-img>"}
    fast = PreTrainedTokenizerFast(tokenizer_object=made, pad_token="<pad>", eos_token="<end_of_utterance>", extra_special_tokens=named)
    size = {"longest_edge": 32}
    images = SmolVLMImageProcessor(do_image_splitting=False, size=size, max_image_size=size)
    sampling = {"fps": 1, "max_frames": 4}
    video = SmolVLMVideoProcessor(do_image_splitting=False, size=size, max_image_size=size, video_sampling=sampling)
    SmolVLMProcessor(images, fast, video, image_seq_len=4, chat_template="{{ messages }}").save_pretrained(folder)
    width = {"hidden_size": 32, "intermediate_size": 32, "num_attention_heads": 2}
    SmolVLMConfig(
        image_token_id=fast.get_vocab()["<image>"],
        scale_factor=2,
        vision_config={**width, "num_hidden_layers": 1, "image_size": 32, "patch_size": 8},
        text_config={
            **width,
            "model_type": "llama",
            "num_hidden_layers": 2,
            "num_key_value_heads": 2,
            "head_dim": 16,
            "vocab_size": len(fast),
            "pad_token_id": fast.pad_token_id,
        },
    ).save_pretrained(folder)
    return folder
