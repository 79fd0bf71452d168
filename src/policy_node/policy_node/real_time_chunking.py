"""Real-time chunking: a new chunk that goes on where the arm will be when the policy has thought.

Role: the arithmetic of Black et al., Real-Time Execution of Action Chunking Flow Policies (arXiv 2506.07339): while a flow makes a chunk it
is guided, as an image is inpainted, to agree with the rows of the chunk before it that are carried out meanwhile, and less and less with
those after them. No training, any flow. Depends on torch; knows neither a policy nor ROS.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import torch

Flow = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
"""Points (B, N) and flow times (B,), 0 noise and 1 chunk, -> velocities (B, N)."""


def prefix_weights(horizon: int, delay: int, overlap: int) -> np.ndarray:
    """(horizon,) in [0, 1]: how firmly row i of the new chunk is held to the former one (equation 5).

    1 for the `delay` rows that will be done before the new chunk takes over, falling from there to 0 behind the `overlap` rows that the
    former chunk still has.
    """
    if not 0 <= delay <= overlap <= horizon:
        raise ValueError(f"need 0 <= delay <= overlap <= horizon, got {delay}, {overlap} and {horizon}")
    rows = np.arange(horizon)
    share = np.clip((overlap - rows) / (overlap - delay + 1), 0.0, 1.0)
    soft = share * np.expm1(share) / math.expm1(1.0)
    return np.where(rows < delay, 1.0, np.where(rows < overlap, soft, 0.0))


def inpaint(flow: Flow, noise: torch.Tensor, wanted: torch.Tensor, weights: torch.Tensor, steps: int, limit: float = 5.0) -> torch.Tensor:
    """Chunks (B, N) from noise (B, N) in Euler steps, guided to `wanted` (B, N) as firmly as `weights` (N,) say (equations 2 to 4).

    limit: beta, of the guidance's factor, which without it grows beyond bounds towards noise. Beyond the paper: the guidance of a step is
    never larger than the error that it is to mend. A network far from what it was trained on has gradients of any size, and would be
    thrown further away by them (a greedy chunk of flow_vla was, by 4 rad).
    """
    points = noise
    for step in range(steps):
        time = step / steps
        times = torch.full((len(noise),), time, device=noise.device)
        with torch.enable_grad():
            here = points.detach().requires_grad_()
            velocity = flow(here, times)
            end = here + (1 - time) * velocity  # where the flow would end from here: A^1 hat
            error = (wanted - end.detach()) * weights
            (guidance,) = torch.autograd.grad(end, here, error)
        length = guidance.norm(dim=-1, keepdim=True).clamp(min=1e-12)
        guidance = guidance * (error.norm(dim=-1, keepdim=True) / length).clamp(max=1.0)
        spread = (1 - time) ** 2 / (time**2 + (1 - time) ** 2)  # r^2
        factor = min(limit, (1 - time) / (time * spread)) if time else limit
        points = points + (velocity.detach() + factor * guidance) / steps
    return points.detach()
