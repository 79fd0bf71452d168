"""An OpenVLA of random weights, small enough for a test, saved under the names and in the form of the published one. Helpers only."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file

WIDTH, TEXT, SIDE, PATCH, WORDS = 32, 32, 28, 14, 640
STATISTICS = {
    "q01": [-0.05, -0.04, -0.03, -0.2, -0.2, -0.2, 0.0],
    "q99": [0.05, 0.04, 0.03, 0.2, 0.3, 0.2, 1.0],
    "mask": [True] * 6 + [False],
}


def weights() -> dict[str, torch.Tensor]:
    """Names and shapes as in openvla-7b's files, the unused ones too; depth 3 instead of 24, 27 and 32."""
    torch.manual_seed(0)
    made: dict[str, torch.Tensor] = {}

    def linear(name: str, outputs: int, inputs: int, gain: float = 1.5, bias: bool = True) -> None:
        made[f"{name}.weight"] = gain * torch.randn(outputs, inputs) / inputs**0.5
        if bias:
            made[f"{name}.bias"] = 0.1 * torch.randn(outputs)

    for name, hidden, scales in (("featurizer", 64, True), ("fused_featurizer", 48, False)):
        eye = f"vision_backbone.{name}"
        made[f"{eye}.patch_embed.proj.weight"] = torch.randn(WIDTH, 3, PATCH, PATCH) / 25
        made[f"{eye}.patch_embed.proj.bias"] = torch.zeros(WIDTH)
        made[f"{eye}.pos_embed"] = torch.randn(1, (SIDE // PATCH) ** 2, WIDTH)
        if scales:
            made[f"{eye}.cls_token"], made[f"{eye}.reg_token"] = torch.randn(1, 1, WIDTH), torch.randn(1, 4, WIDTH)
        for block in range(3):
            at = f"{eye}.blocks.{block}"
            for norm in ("norm1", "norm2"):
                made[f"{at}.{norm}.weight"], made[f"{at}.{norm}.bias"] = 1 + 0.1 * torch.randn(WIDTH), 0.1 * torch.randn(WIDTH)
            linear(f"{at}.attn.qkv", 3 * WIDTH, WIDTH)
            linear(f"{at}.attn.proj", WIDTH, WIDTH)
            linear(f"{at}.mlp.fc1", hidden, WIDTH)
            linear(f"{at}.mlp.fc2", WIDTH, hidden)
            if scales:
                made[f"{at}.ls1.scale_factor"], made[f"{at}.ls2.scale_factor"] = torch.rand(WIDTH), torch.rand(WIDTH)
        made[f"{eye}.norm.weight"], made[f"{eye}.norm.bias"] = torch.ones(WIDTH), torch.zeros(WIDTH)
    linear("projector.fc1", 4 * 2 * WIDTH, 2 * WIDTH)
    linear("projector.fc2", TEXT, 4 * 2 * WIDTH)
    linear("projector.fc3", TEXT, TEXT)
    llama = "language_model.model"
    made[f"{llama}.embed_tokens.weight"] = torch.randn(WORDS, TEXT)
    for layer in range(2):
        for name in ("q_proj", "k_proj", "v_proj", "o_proj"):
            linear(f"{llama}.layers.{layer}.self_attn.{name}", TEXT, TEXT, bias=False)
        linear(f"{llama}.layers.{layer}.mlp.gate_proj", 64, TEXT, bias=False)
        linear(f"{llama}.layers.{layer}.mlp.up_proj", 64, TEXT, bias=False)
        linear(f"{llama}.layers.{layer}.mlp.down_proj", TEXT, 64, bias=False)
        for norm in ("input_layernorm", "post_attention_layernorm"):
            made[f"{llama}.layers.{layer}.{norm}.weight"] = torch.ones(TEXT)
    made[f"{llama}.norm.weight"] = torch.ones(TEXT)
    linear("language_model.lm_head", WORDS, TEXT, 3.0, bias=False)
    return made


def save(folder: Path) -> Path:
    """In two files, as large checkpoints are."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers

    folder.mkdir(parents=True, exist_ok=True)
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    marks = ["<unk>", "<s>", "</s>", "\u2581"]
    trainer = trainers.BpeTrainer(vocab_size=300, special_tokens=marks, initial_alphabet=pre_tokenizers.ByteLevel.alphabet())
    tokenizer.train_from_iterator(["what action should the robot take to"] * 9, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    tokenizer.save(str(folder / "tokenizer.json"))
    tensors = weights()
    names = sorted(tensors)
    for part, some in enumerate(np.array_split(np.array(names), 2), 1):
        save_file({str(name): tensors[str(name)] for name in some}, folder / f"model-{part:05d}-of-00002.safetensors")
    text = {
        "model_type": "llama", "hidden_size": TEXT, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2,
        "num_key_value_heads": 2, "vocab_size": WORDS, "pad_token_id": 0, "bos_token_id": 1, "torch_dtype": "bfloat16",
    }  # fmt: skip
    config = {
        "model_type": "openvla", "arch_specifier": "no-align+fused-gelu-mlp", "use_fused_vision_backbone": True, "n_action_bins": 256,
        "image_sizes": [SIDE, SIDE], "pad_to_multiple_of": 64, "text_config": text, "auto_map": {"AutoConfig": "configuration_prismatic.X"},
        "norm_stats": {"bridge_orig": {"action": STATISTICS}, "other": {"action": STATISTICS}},
    }  # fmt: skip
    (folder / "config.json").write_text(json.dumps(config))
    return folder


ROWS, NUMBERS, TOLD = 4, 7, 8
PROPRIO = {"q01": [-1.0] * TOLD, "q99": [1.5] * TOLD}


def parts(film: bool) -> dict[str, dict[str, torch.Tensor]]:
    """What openvla-oft saves beside the network, under its names: with `film` the vision backbone, its adapters of rank 32 not merged."""
    torch.manual_seed(1)

    def linear(name: str, outputs: int, inputs: int) -> dict[str, torch.Tensor]:
        return {f"{name}.weight": 1.5 * torch.randn(outputs, inputs) / inputs**0.5, f"{name}.bias": 0.1 * torch.randn(outputs)}

    def norm(name: str, width: int) -> dict[str, torch.Tensor]:
        return {f"{name}.weight": 1 + 0.1 * torch.randn(width), f"{name}.bias": 0.1 * torch.randn(width)}

    row = NUMBERS * TEXT
    head = (
        norm("model.layer_norm1", row)
        | linear("model.fc1", TEXT, row)
        | norm("model.layer_norm2", TEXT)
        | linear("model.fc2", NUMBERS, TEXT)
    )
    for block in range(2):
        head |= norm(f"model.mlp_resnet_blocks.{block}.ffn.0", TEXT) | linear(f"model.mlp_resnet_blocks.{block}.ffn.1", TEXT, TEXT)
    # Trained by several processes: each name begins with another word.
    made = {"action_head": {f"module.{name}": value for name, value in head.items()}}
    made["proprio_projector"] = linear("fc1", TEXT, TOLD) | linear("fc2", TEXT, TEXT)
    if film:
        eyes: dict[str, torch.Tensor] = {}
        for name, value in weights().items():
            if not name.startswith("vision_backbone."):
                continue
            at, _, last = name.rpartition(".")
            inside = at.replace("attn.", "block.attn.").replace("mlp.", "block.mlp.").replace("norm1", "block.norm1")
            inside = inside.replace("norm2", "block.norm2").replace("ls1", "block.ls1").replace("ls2", "block.ls2")
            if last == "weight" and ("attn" in at or "mlp" in at):
                eyes |= {f"{inside}.base_layer.weight": value, f"{inside}.lora_A.default.weight": torch.randn(32, value.shape[1]) / 20}
                eyes[f"{inside}.lora_B.default.weight"] = torch.randn(len(value), 32) / 20
            elif last == "bias" and ("attn" in at or "mlp" in at):
                eyes[f"{inside}.base_layer.bias"] = value
            else:
                eyes[f"{inside}.{last}"] = value
        for eye in ("featurizer", "fused_featurizer"):
            for block in range(3):
                for name in ("scale", "shift"):
                    eyes |= linear(f"vision_backbone.{eye}.blocks.{block}.{name}", WIDTH, TEXT)
        made["vision_backbone"] = eyes
    return made


def save_oft(folder: Path, film: bool = False) -> Path:
    """As openvla-oft saves a checkpoint: parts are pickles."""
    save(folder)
    for name, tensors in parts(film).items():
        torch.save(tensors, folder / f"{name}--50_checkpoint.pt")
    statistics = {"libero_spatial": {"action": STATISTICS, "proprio": PROPRIO}}
    (folder / "dataset_statistics.json").write_text(json.dumps(statistics))
    return folder


def learns(policy: Any, losses: Callable[[], torch.Tensor]) -> None:
    """Ten steps down the loss of two decisions take a tenth of it away at least."""
    before = losses()
    assert before.shape == (2,)
    optimiser = torch.optim.Adam(policy.trained.own.values(), lr=0.02)
    for _ in range(10):
        optimiser.zero_grad()
        losses().mean().backward()
        optimiser.step()
    assert losses().mean() < 0.9 * before.mean().detach()
