"""The SARM2 network: stage estimator and multi-gate mixture-of-experts value head (arXiv 2606.10305).

Role: features of a window of frames, joint states where they are asked for, and an instruction embedding in; progress, completion and
primitive out. Strictly causal in time.
Does not depend on ROS, on the vision encoder or on how windows are made.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from reward_node.sarm2.configuration import NetworkSettings


@dataclass
class Scores:
    """B samples, R recent frames, P primitives, N experts. Row r looks at the start frame and at recent frames 0..r.

    progress: (B, R) in [0, 1]; completion: (B, R) logits; primitives: (B, R, P) logits;
    gates: (B, R, N) softmax over all experts; shares: (B, R, N) the top few of it, renormalised, zero elsewhere.
    """

    progress: Tensor
    completion: Tensor
    primitives: Tensor
    gates: Tensor
    shares: Tensor


class CausalBlock(nn.Module):
    """Pre-norm transformer block; slot i attends to slots 0..i."""

    def __init__(self, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.heads = heads
        self.norm_attention = nn.LayerNorm(width)
        self.query_key_value = nn.Linear(width, 3 * width)
        self.merge = nn.Linear(width, width)
        self.norm_mlp = nn.LayerNorm(width)
        self.mlp = nn.Sequential(nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width))
        self.dropout = nn.Dropout(dropout)

    def forward(self, tokens: Tensor) -> Tensor:
        batch, slots, width = tokens.shape
        mixed = self.query_key_value(self.norm_attention(tokens)).view(batch, slots, 3, self.heads, width // self.heads)
        query, key, value = mixed.permute(2, 0, 3, 1, 4)
        attended = F.scaled_dot_product_attention(query, key, value, is_causal=True)
        tokens = tokens + self.dropout(self.merge(attended.transpose(1, 2).reshape(batch, slots, width)))
        return tokens + self.dropout(self.mlp(self.norm_mlp(tokens)))


class CausalTransformer(nn.Module):
    """What is known of each frame and an instruction embedding -> one vector per slot. Slots are places in the window, not times."""

    def __init__(self, input_size: int, text_size: int, slots: int, layers: int, settings: NetworkSettings) -> None:
        super().__init__()
        self.frames = nn.Linear(input_size, settings.width)
        self.text = nn.Linear(text_size, settings.width)
        self.slots = nn.Parameter(torch.randn(slots, settings.width) * 0.02)
        self.blocks = nn.Sequential(*(CausalBlock(settings.width, settings.heads, settings.dropout) for _ in range(layers)))
        self.norm = nn.LayerNorm(settings.width)

    def forward(self, features: Tensor, text: Tensor) -> Tensor:
        tokens = self.frames(features) + self.text(text)[:, None] + self.slots
        return self.norm(self.blocks(tokens))


class SARM2Network(nn.Module):
    """Stage estimator -> gate of the predicted primitive's group -> shared experts -> progress; a completion head beside it.

    feature_size: of one frame set (all cameras); text_size: of the instruction embedding;
    group_of: group index of each primitive, so that primitives which look alike share a gate.
    feature_mean, feature_scale: (feature_size + state_width,) of features and joint states, by which both are normalised.
    """

    feature_mean: Tensor
    feature_scale: Tensor
    group_of: Tensor

    def __init__(self, settings: NetworkSettings, feature_size: int, text_size: int, group_of: list[int]) -> None:
        super().__init__()
        self.settings = settings
        groups = max(group_of) + 1
        width = settings.width
        input_size = feature_size + settings.state_width
        self.register_buffer("feature_mean", torch.zeros(input_size))
        self.register_buffer("feature_scale", torch.ones(input_size))
        self.register_buffer("group_of", torch.tensor(group_of), persistent=False)
        self.stage = CausalTransformer(input_size, text_size, settings.recent, settings.stage_layers, settings)
        self.stage_head = nn.Linear(width, len(group_of))
        self.value = CausalTransformer(input_size, text_size, settings.recent + 1, settings.value_layers, settings)
        self.gate_weight = nn.Parameter(torch.randn(groups, settings.experts, width) * width**-0.5)
        # All experts in one tensor each: as modules they would be most of the time of a score.
        self.expert_hidden = nn.Linear(width, settings.experts * settings.expert_width)
        self.expert_out = nn.Parameter(torch.randn(settings.experts, settings.expert_width) * settings.expert_width**-0.5)
        self.expert_bias = nn.Parameter(torch.zeros(settings.experts))
        self.completion_head = nn.Sequential(nn.Linear(width, settings.expert_width), nn.GELU(), nn.Linear(settings.expert_width, 1))

    def forward(self, features: Tensor, text: Tensor, state: Tensor | None = None) -> Scores:
        """features: (B, 1 + R, feature_size), first the episode's start; text: (B, text_size).

        state: (B, 1 + R, state_width) joint states at those frames (rad, gripper opening); left out where state_width is 0.
        """
        seen = features if state is None else torch.cat([features, state], dim=-1)
        seen = (seen - self.feature_mean) / self.feature_scale
        primitives = self.stage_head(self.stage(seen[:, 1:], text))
        tokens = self.value(seen, text)[:, 1:]
        # The choice of the gate is a decision, not a mixture: training and inference route alike.
        group = self.group_of[primitives.argmax(dim=-1)]
        gates = torch.einsum("brw,brnw->brn", tokens, self.gate_weight[group]).softmax(dim=-1)
        best, index = gates.topk(self.settings.top, dim=-1)
        shares = torch.zeros_like(gates).scatter(-1, index, best / best.sum(dim=-1, keepdim=True))
        hidden = F.gelu(self.expert_hidden(tokens)).unflatten(-1, self.expert_out.shape)
        opinions = (hidden * self.expert_out).sum(dim=-1) + self.expert_bias
        return Scores(
            progress=(shares * opinions).sum(dim=-1).sigmoid(),
            completion=self.completion_head(tokens)[..., 0],
            primitives=primitives,
            gates=gates,
            shares=shares,
        )
