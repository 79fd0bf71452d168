"""OpenVLA's network (Kim et al., arXiv 2406.09246): a Prismatic vision-language model, under the names of its published weights.

Role: DINOv2 and SigLIP side by side, a projector, Llama 2. The weights' own code is remote code of the checkpoint, which nothing here runs;
the two vision transformers are written out, because their weights have timm's names, and Llama is transformers'. Depends on torch;
transformers is imported when a model is built.
"""

from __future__ import annotations

import re
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

EYES = ("featurizer", "fused_featurizer")
HEADS = 16
"""Of both vision transformers (ViT-L/14 and SoViT-400m/14)."""
_MEANS = ((0.485, 0.456, 0.406), (0.5, 0.5, 0.5))
_SPREADS = ((0.229, 0.224, 0.225), (0.5, 0.5, 0.5))
"""Of pixels: DINOv2's, SigLIP's."""


class Block(nn.Module):
    """A layer of a vision transformer. scales: whether its two branches are scaled by a learned vector (DINOv2's are). told: how much
    it is told of the words, 0: nothing; FiLM (arXiv 1709.07871) lets them scale and shift what is between the branches."""

    def __init__(self, width: int, hidden: int, scales: bool, told: int = 0) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(width, eps=1e-6), nn.LayerNorm(width, eps=1e-6)
        self.attn = nn.ModuleDict({"qkv": nn.Linear(width, 3 * width), "proj": nn.Linear(width, width)})
        self.mlp = nn.ModuleDict({"fc1": nn.Linear(width, hidden), "fc2": nn.Linear(hidden, width)})
        if scales:
            self.ls1, self.ls2 = (nn.ParameterDict({"scale_factor": nn.Parameter(torch.ones(width))}) for _ in range(2))
        if told:
            self.scale, self.shift = nn.Linear(told, width), nn.Linear(told, width)
        self._scales, self._told = scales, told

    def forward(self, tokens: Tensor, words: Tensor | None = None) -> Tensor:
        count, length, width = tokens.shape
        triple = self.attn["qkv"](self.norm1(tokens)).reshape(count, length, 3, HEADS, width // HEADS).permute(2, 0, 3, 1, 4)
        mixed = functional.scaled_dot_product_attention(*triple).transpose(1, 2).reshape(count, length, width)
        step = self.attn["proj"](mixed)
        tokens = tokens + (step * self.ls1["scale_factor"] if self._scales else step)
        if self._told:
            assert words is not None
            tokens = tokens * (1 + self.scale(words)[:, None]) + self.shift(words)[:, None]
        step = self.mlp["fc2"](functional.gelu(self.mlp["fc1"](self.norm2(tokens))))
        return tokens + (step * self.ls2["scale_factor"] if self._scales else step)


class VisionTransformer(nn.Module):
    """(B, 3, side, side) -> (B, patches, width): the patches behind the last layer but one, not normalised. before: tokens ahead of the
    patches (class and registers)."""

    def __init__(self, width: int, hidden: int, depth: int, patch: int, patches: int, before: int, scales: bool, told: int) -> None:
        super().__init__()
        self.patch_embed = nn.ModuleDict({"proj": nn.Conv2d(3, width, patch, patch)})
        self.pos_embed = nn.Parameter(torch.zeros(1, patches, width))
        if before:
            self.cls_token, self.reg_token = nn.Parameter(torch.zeros(1, 1, width)), nn.Parameter(torch.zeros(1, before - 1, width))
        self.blocks = nn.ModuleList(Block(width, hidden, scales, told) for _ in range(depth - 1))
        self.before = before

    def forward(self, pixels: Tensor, words: Tensor | None = None) -> Tensor:
        tokens = self.patch_embed["proj"](pixels).flatten(2).transpose(1, 2) + self.pos_embed
        if self.before:
            ahead = torch.cat([self.cls_token, self.reg_token], dim=1).expand(len(tokens), -1, -1)
            tokens = torch.cat([ahead, tokens], dim=1)
        for block in self.blocks:
            tokens = block(tokens, words)
        return tokens[:, self.before :]


def vision_of(weights: dict[str, Tensor]) -> VisionTransformer:
    """Of the size that the weights have, with them. KeyError naming what they lack, RuntimeError where they do not fit together."""
    depth = 1 + max(int(found[1]) for name in weights if (found := re.match(r"blocks\.(\d+)\.", name)))
    first, patch = weights["blocks.0.mlp.fc1.weight"], weights["patch_embed.proj.weight"]
    before = 1 + weights["reg_token"].shape[1] if "cls_token" in weights else 0
    scales = "blocks.0.ls1.scale_factor" in weights
    told = weights["blocks.0.scale.weight"].shape[1] if "blocks.0.scale.weight" in weights else 0
    made = VisionTransformer(first.shape[1], len(first), depth, patch.shape[-1], weights["pos_embed"].shape[1], before, scales, told)
    # The last layer, the final norm and SigLIP's pooling are in the file, and are not used.
    made.load_state_dict({name: weights[name] for name in made.state_dict()})
    return made


class Prismatic(nn.Module):
    """eyes: by the names in EYES; language_model: transformers' LlamaForCausalLM."""

    def __init__(self, eyes: dict[str, VisionTransformer], projector: nn.ModuleDict, language_model: Any) -> None:
        super().__init__()
        self.vision_backbone = nn.ModuleDict(eyes)
        self.projector, self.language_model = projector, language_model
        for index, (mean, spread) in enumerate(zip(_MEANS, _SPREADS)):
            self.register_buffer(f"mean{index}", torch.tensor(mean)[:, None, None], persistent=False)
            self.register_buffer(f"spread{index}", torch.tensor(spread)[:, None, None], persistent=False)

    def patches(self, pixels: Tensor, words: Tensor | None = None) -> Tensor:
        """(B, 3, side, side) in [0, 1] -> (B, patches, width of the language model). words: (B, width), for eyes that are told of them."""
        eyes = [self.vision_backbone[name] for name in EYES]
        dtype = self.projector["fc1"].weight.dtype
        seen = [
            eye(((pixels - getattr(self, f"mean{index}")) / getattr(self, f"spread{index}")).to(dtype), words)
            for index, eye in enumerate(eyes)
        ]
        hidden = functional.gelu(self.projector["fc1"](torch.cat(seen, dim=2)))
        return self.projector["fc3"](functional.gelu(self.projector["fc2"](hidden)))

    def prompt(self, pixels: Tensor, tokens: Tensor) -> Tensor:
        """(B, 1 + patches + rest, width): the first token, what is seen, the other tokens."""
        words = self.language_model.get_input_embeddings()(tokens)
        seen = self.patches(pixels).to(words.dtype)
        return torch.cat([words[:, :1], seen, words[:, 1:]], dim=1)


def build(weights: dict[str, Tensor], config: dict[str, Any], arguments: dict[str, Any]) -> Prismatic:
    """weights: under their published names; config: of config.json; arguments: of transformers' from_pretrained (precision, device).

    KeyError or RuntimeError where the weights are not of such a model.
    """
    from transformers import LlamaConfig, LlamaForCausalLM

    def under(prefix: str) -> dict[str, Tensor]:
        found = {name.removeprefix(prefix): value for name, value in weights.items() if name.startswith(prefix)}
        if not found:
            raise KeyError(f"no tensors '{prefix}*'")
        return found

    dtype = arguments["dtype"]
    eyes = {name: vision_of(under(f"vision_backbone.{name}.")) for name in EYES}
    projector = nn.ModuleDict()
    for name in ("fc1", "fc2", "fc3"):
        weight = weights[f"projector.{name}.weight"]
        projector[name] = nn.Linear(weight.shape[1], weight.shape[0])
    projector.load_state_dict(under("projector."))
    text = {key: value for key, value in config["text_config"].items() if key not in ("torch_dtype", "dtype", "architectures")}
    kind: Any = LlamaForCausalLM
    language_model, report = kind.from_pretrained(
        None, config=LlamaConfig(**text), state_dict=under("language_model."), output_loading_info=True, **arguments
    )
    if report["missing_keys"]:
        raise KeyError(f"no tensor 'language_model.{sorted(report['missing_keys'])[0]}'")
    made = Prismatic(eyes, projector, language_model)
    made.vision_backbone.to(dtype)
    projector.to(dtype)
    return made
