"""PaliGemma and its action expert as pi0 and pi0.5 want them (Black et al., arXiv 2410.24164; Physical Intelligence, arXiv 2504.16054).

Role: what openpi's patch of transformers 4.53 changed, for a transformers that nobody patched: lerobot 0.4's pi policies are built of these
(lerobot_import.py puts them there). Attention, feed-forward layers, rotary positions and SigLIP are transformers' own; here are

- norms that a condition scales, shifts and gates (adaptive RMS norm: pi0.5's flow time enters there), plain ones where there is none,
- layers that read a cache without adding to it (each step of the flow sees the same prefix),
- word embeddings as they are stored (transformers 5 scales them itself, lerobot's code does it too),
- SigLIP whose embeddings are float32 while its layers are of fewer bits.

Depends on torch and transformers; knows nothing of lerobot.
"""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoModel, DynamicCache, PreTrainedConfig
from transformers.models.gemma import modeling_gemma as gemma


class AdaptiveNorm(nn.Module):
    """RMS norm; with `condition` numbers given, scaled, shifted and gated by a linear map of them."""

    def __init__(self, width: int, epsilon: float, condition: int | None) -> None:
        super().__init__()
        self.epsilon = epsilon
        if condition is None:
            self.weight = nn.Parameter(torch.zeros(width))
        else:
            self.dense = nn.Linear(condition, 3 * width)
            nn.init.zeros_(self.dense.weight)

    def forward(self, hidden: Tensor, cond: Tensor | None = None) -> tuple[Tensor, Tensor | None]:
        """hidden (B, T, width), cond (B, condition) -> what comes out (B, T, width), and the gate of the branch behind it, None: open."""
        exact = hidden.float()
        exact = exact * torch.rsqrt(exact.square().mean(-1, keepdim=True) + self.epsilon)
        if cond is None:
            return (exact * (1 + self.weight.float())).type_as(hidden), None
        scale, shift, gate = self.dense(cond.to(self.dense.weight.dtype))[:, None].chunk(3, dim=-1)
        return (exact * (1 + scale.float()) + shift.float()).type_as(hidden), gate.type_as(hidden)


def gated_residual(hidden: Tensor, branch: Tensor, gate: Tensor | None) -> Tensor:
    return hidden + (branch if gate is None else branch * gate)


class _Read:
    """A cache that gives what is in it, and keeps nothing."""

    def __init__(self, cache: DynamicCache) -> None:
        self._cache = cache

    def update(self, keys: Tensor, values: Tensor, layer: int) -> tuple[Tensor, Tensor]:
        held: Any = self._cache.layers[layer]
        return torch.cat([held.keys, keys], dim=2), torch.cat([held.values, values], dim=2)


class Layer(nn.Module):
    """Under the names of transformers' GemmaDecoderLayer."""

    def __init__(self, config: Any, index: int) -> None:
        super().__init__()
        self.self_attn, self.mlp = gemma.GemmaAttention(config, index), gemma.GemmaMLP(config)
        self.input_layernorm, self.post_attention_layernorm = (_norm(config) for _ in range(2))

    def forward(self, hidden: Tensor, mask: Tensor, positions: tuple[Tensor, Tensor], cache: Any, cond: Tensor | None) -> Tensor:
        seen, gate = self.input_layernorm(hidden, cond)
        hidden = gated_residual(hidden, self.self_attn(seen, positions, mask, cache)[0], gate)
        seen, gate = self.post_attention_layernorm(hidden, cond)
        return gated_residual(hidden, self.mlp(seen), gate)


class Decoder(nn.Module):
    """Under the names of transformers' GemmaModel."""

    def __init__(self, config: Any) -> None:
        super().__init__()
        self.config, self.gradient_checkpointing = config, False
        self.embed_tokens: nn.Embedding | None = nn.Embedding(config.vocab_size, config.hidden_size)
        self.layers = nn.ModuleList(Layer(config, index) for index in range(config.num_hidden_layers))
        self.norm, self.rotary_emb = _norm(config), gemma.GemmaRotaryEmbedding(config)

    def forward(
        self,
        inputs_embeds: Tensor,
        attention_mask: Tensor,
        position_ids: Tensor,
        past_key_values: DynamicCache | None = None,
        use_cache: bool = False,
        adarms_cond: Tensor | None = None,
    ) -> SimpleNamespace:
        """inputs_embeds (B, T, width), attention_mask (B, 1, T, seen), added to the scores; use_cache: keep what is seen here."""
        if use_cache and past_key_values is None:
            past_key_values = DynamicCache(config=self.config)
        first: Any = self.layers[0]
        hidden = inputs_embeds.to(first.self_attn.q_proj.weight.dtype)
        positions = self.rotary_emb(hidden, position_ids)
        cache = past_key_values if use_cache or past_key_values is None else _Read(past_key_values)
        for layer in self.layers:
            hidden = layer(hidden, attention_mask, positions, cache, adarms_cond)
        return SimpleNamespace(last_hidden_state=self.norm(hidden, adarms_cond)[0], past_key_values=past_key_values if use_cache else None)


class Expert(nn.Module):
    """In the place of transformers' GemmaForCausalLM, without its head, which a policy has no use for."""

    def __init__(self, config: Any) -> None:
        super().__init__()
        self.config, self.model = config, Decoder(config)


class _Eyes(nn.Module):
    """In the place of transformers' PaliGemmaModel."""

    def __init__(self, config: Any) -> None:
        super().__init__()
        self.vision_tower: Any = AutoModel.from_config(config.vision_config)
        width = config.vision_config.hidden_size
        self.multi_modal_projector = nn.ModuleDict({"linear": nn.Linear(width, config.text_config.hidden_size)})
        self.language_model = Decoder(config.text_config)
        vision: Any = getattr(self.vision_tower, "vision_model", self.vision_tower)
        vision.embeddings.register_forward_hook(lambda _, __, out: out.to(vision.encoder.layers[0].self_attn.q_proj.weight.dtype))

    def get_image_features(self, pixels: Tensor) -> Tensor:
        """(B, 3, side, side) in [-1, 1] -> (B, patches, width)."""
        return self.multi_modal_projector["linear"](self.vision_tower(pixels).last_hidden_state)


class VisionLanguage(nn.Module):
    """In the place of transformers' PaliGemmaForConditionalGeneration, without its head, which is the word embeddings over again."""

    def __init__(self, config: PreTrainedConfig) -> None:
        super().__init__()
        self.config, self.model = config, _Eyes(config)

    @property
    def language_model(self) -> Decoder:
        return self.model.language_model

    @property
    def vision_tower(self) -> Any:
        return self.model.vision_tower


def _norm(config: Any) -> AdaptiveNorm:
    condition = config.adarms_cond_dim if getattr(config, "use_adarms", False) else None
    return AdaptiveNorm(config.hidden_size, config.rms_norm_eps, condition)


def published(weights: dict[str, Tensor], own: set[str]) -> dict[str, Tensor]:
    """Weights of a pi policy, under the names that checkpoints have had, under those of `own`; what nothing here has is left out.

    Checkpoints of openpi lack "model." in front; those of transformers 4 have SigLIP in another `vision_model`; the embeddings of words may
    be there as the head's only, which shares them. The heads themselves are left out.
    """
    found: dict[str, Tensor] = {}
    for name, value in weights.items():
        whole = name if name.startswith("model.") else f"model.{name}"
        shorter = whole.replace("vision_tower.vision_model.", "vision_tower.")
        found[shorter if shorter in own else whole] = value
    words = found.get(f"{_AT}.lm_head.weight")
    if words is not None:
        found.setdefault(f"{_AT}.model.language_model.embed_tokens.weight", words)
    return {name: value for name, value in found.items() if not name.endswith(".lm_head.weight")}


_AT = "model.paligemma_with_expert.paligemma"
