"""How much memory a model's weights take.

Role: the figure of RewardNeeds.memory, counted in one way. Depends on torch by way of the modules that it is given.
"""

from __future__ import annotations

from typing import Any


def weight_bytes(model: Any) -> int:
    """Bytes of a torch module's weights: parameters, and buffers that are saved, where fewer-bit layers keep theirs.

    What two layers share counts once.
    """
    return sum({one.data_ptr(): one.numel() * one.element_size() for one in model.state_dict().values()}.values())
