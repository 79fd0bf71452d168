"""The trainable part of the flow policy: context -> chunk of actions by flow matching.

Role: the network and its two uses, the imitation loss and sampling. Works on features of a frozen vision encoder, so it is small
enough to be refined and pushed in seconds. Depends on torch and whetstone.text; knows nothing of ROS, robots' units or simulators.
"""

from __future__ import annotations

import math

import torch
from torch import nn

from policy_node.real_time_chunking import Flow
from whetstone.text import TextEncoder


class ResidualBlock(nn.Module):
    """x + MLP(norm(x)), modulated by the flow time."""

    def __init__(self, width: int):
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.inner = nn.Sequential(nn.Linear(width, width), nn.GELU(), nn.Linear(width, width))
        self.modulation = nn.Linear(width, 2 * width)

    def forward(self, hidden: torch.Tensor, condition: torch.Tensor) -> torch.Tensor:
        scale, shift = self.modulation(condition).chunk(2, dim=-1)
        return hidden + self.inner(self.norm(hidden) * (1 + scale) + shift)


class FlowNetwork(nn.Module):
    """Velocity field over chunks, conditioned on features, proprioception and instruction.

    Rectified flow (Lipman et al., arXiv 2210.02747; as in pi_0, arXiv 2410.24164): x_t = (1 - t) noise + t chunk, the network predicts
    chunk - noise. Chunks are (horizon * columns) numbers, normalised to about unit variance.
    """

    proprioception_mean: torch.Tensor
    proprioception_scale: torch.Tensor
    lead_scale: torch.Tensor
    delta_scale: torch.Tensor

    def __init__(self, features: int, columns: int, horizon: int, width: int, blocks: int, text_size: int):
        super().__init__()
        self.columns, self.horizon = columns, horizon
        self.seen = features + 2 * columns + text_size  # numbers in what inputs() makes
        self.text = TextEncoder(text_size)
        self.context = nn.Sequential(nn.Linear(self.seen, width), nn.GELU(), nn.Linear(width, width), nn.GELU())
        self.chunk_in = nn.Linear(horizon * columns, width)
        self.time_in = nn.Sequential(nn.Linear(33, width), nn.GELU())
        self.blocks = nn.ModuleList(ResidualBlock(width) for _ in range(blocks))
        self.chunk_out = nn.Linear(width, horizon * columns)
        nn.init.zeros_(self.chunk_out.weight)
        # Statistics of the training data: buffers, so that they travel with the weights.
        self.register_buffer("proprioception_mean", torch.zeros(columns))
        self.register_buffer("proprioception_scale", torch.ones(columns))
        self.register_buffer("lead_scale", torch.ones(columns))
        self.register_buffer("delta_scale", torch.ones(horizon, columns - 1))

    def units(self) -> list[nn.Module]:
        """What is only ever called as a whole, for whetstone.sharding."""
        return [self.context[0], self.context[2], self.time_in, self.chunk_in, *self.blocks, self.chunk_out]

    def inputs(self, features: torch.Tensor, proprioception: torch.Tensor, previous: torch.Tensor, text: torch.Tensor) -> torch.Tensor:
        """(B, features) of about unit variance, (B, columns) measured, (B, columns) commanded last, (B, text_size) -> (B, sum).

        How far the last command is ahead of the arm tells how fast it moves and whether the hand is about to close; without it
        two like pictures ask for different chunks and the policy dithers at every seam.
        """
        normal = (proprioception - self.proprioception_mean) / self.proprioception_scale
        return torch.cat([features, normal, (previous - proprioception) / self.lead_scale, text], dim=-1)

    def velocity(self, inputs: torch.Tensor, chunk: torch.Tensor, time: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
        """inputs (B, .), chunk (B, horizon * columns), time and scale (B,) in [0, 1] -> (B, horizon * columns)."""
        return self._velocity(self.context(inputs), chunk, time, scale)

    def _velocity(self, context: torch.Tensor, chunk: torch.Tensor, time: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
        frequencies = torch.exp(torch.linspace(0, math.log(200.0), 16, device=time.device))
        angles = time[:, None] * frequencies
        condition = self.time_in(torch.cat([angles.sin(), angles.cos(), scale[:, None]], dim=-1)) + context
        hidden = self.chunk_in(chunk)
        for block in self.blocks:
            hidden = block(hidden, condition)
        return self.chunk_out(hidden)

    def loss(self, inputs: torch.Tensor, chunk: torch.Tensor, generator: torch.Generator | None = None) -> torch.Tensor:
        """Flow-matching loss per sample, (B,), at random times from noise of random scales (see mix)."""
        mixed, time, scale, wanted = self.mix(chunk, generator)
        return (self.velocity(inputs, mixed, time, scale) - wanted).square().mean(-1)

    def mix(
        self, chunk: torch.Tensor, generator: torch.Generator | None = None
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
        """Where training looks: points (B, horizon * columns) between noise and chunk, their flow times (B,), the noise's scale (B,),
        and the velocity chunk - noise (B, horizon * columns) wanted there.

        A network that saw only unit noise answers zero noise, which in so many dimensions is far from all of it, with chunks that no
        demonstrator ever made: so the scale is an input. Half of the samples have scale 1, the rest any scale down to 0, where the
        first step of the flow is a regression to the mean chunk.
        """
        noise = torch.randn(chunk.shape, generator=generator)
        time, scale = torch.rand(len(chunk), generator=generator) ** 1.5, torch.rand(len(chunk), generator=generator)
        scale = (2 * scale).clamp(max=1.0)
        noise, time, scale = (noise * scale[:, None]).to(chunk.device), time.to(chunk.device), scale.to(chunk.device)
        return (1 - time[:, None]) * noise + time[:, None] * chunk, time, scale, chunk - noise

    def sample(self, inputs: torch.Tensor, noise: torch.Tensor, steps: int, scale: torch.Tensor) -> torch.Tensor:
        """Euler integration from noise (B, .), whose rows have the standard deviations `scale` (B,), to chunks (B, horizon * columns)."""
        chunk, flow = noise, self.flow(inputs, scale)
        for step in range(steps):
            time = torch.full((len(noise),), step / steps, device=noise.device)
            chunk = chunk + flow(chunk, time) / steps
        return chunk

    def flow(self, inputs: torch.Tensor, scale: torch.Tensor) -> Flow:
        """The velocity before these inputs, from noise of these standard deviations (B,)."""
        context = self.context(inputs)  # what is seen does not change on the way
        return lambda chunk, time: self._velocity(context, chunk, time, scale)

    def normalise(self, actions: torch.Tensor, proprioception: torch.Tensor) -> torch.Tensor:
        """Absolute actions (B, horizon, columns) and measured state (B, columns) -> chunk (B, horizon * columns)."""
        deltas = (actions[..., :-1] - proprioception[:, None, :-1]) / self.delta_scale
        return torch.cat([deltas, 2 * actions[..., -1:] - 1], dim=-1).flatten(1)

    def denormalise(self, chunk: torch.Tensor, proprioception: torch.Tensor) -> torch.Tensor:
        """The inverse of normalise; the gripper opening is clipped to [0, 1]."""
        rows = chunk.view(-1, self.horizon, self.columns)
        joints = rows[..., :-1] * self.delta_scale + proprioception[:, None, :-1]
        return torch.cat([joints, ((rows[..., -1:] + 1) / 2).clamp(0, 1)], dim=-1)
