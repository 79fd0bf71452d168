"""Named parameters of a policy as the arrays that travel, and back.

Role: what every policy of ours does in trainable_state and load_trainable_state. A sharded network's are whole on the way
(whetstone.sharding). Depends on torch.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from whetstone.sharding import share, whole


def taken(own: Mapping[str, torch.Tensor]) -> dict[str, np.ndarray]:
    """Copies, float32."""
    return {name: whole(value.detach()).float().cpu().numpy().copy() for name, value in own.items()}


def put(own: Mapping[str, torch.Tensor], state: Mapping[str, Any]) -> None:
    """All of them at once. ValueError naming the first tensor that is missing, of another shape or unknown; then nothing has changed."""
    for name, value in own.items():
        if name not in state:
            raise ValueError(f"tensor '{name}' is missing")
        if tuple(state[name].shape) != tuple(value.shape):
            raise ValueError(f"tensor '{name}' has shape {tuple(state[name].shape)}, the policy has {tuple(value.shape)}")
    extra = sorted(set(state) - set(own))
    if extra:
        raise ValueError(f"tensor '{extra[0]}' is unknown to the policy")
    with torch.no_grad():
        for name, value in own.items():
            value.copy_(share(torch.from_numpy(np.asarray(state[name], np.float32)), value))
