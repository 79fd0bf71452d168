"""What tests of policies share: a small flow VLA with random weights, and something for it to see. Helpers only."""

from __future__ import annotations

import numpy as np
import torch

from policy_node.flow_vla import FlowVLAConfig, FlowVLAPolicy
from policy_node.localiser import Localiser
from whetstone.contracts import Observation
from whetstone.profile import load_profile
from whetstone.vision import CAMERAS, VisionEncoder


def small() -> FlowVLAPolicy:
    torch.manual_seed(0)
    built = FlowVLAPolicy(
        FlowVLAConfig(width=32, blocks=1, text_size=16), load_profile("franka"), VisionEncoder(8).eval(), Localiser(48, 8, 16).eval()
    )
    with torch.no_grad():
        built.network.chunk_out.weight.normal_(0, 0.05)
    return built


def observation(seed: int = 0) -> Observation:
    rng = np.random.default_rng(seed)
    images = {camera: rng.integers(0, 255, (128, 128, 3), dtype=np.uint8) for camera in CAMERAS}
    return Observation(0, images, rng.normal(0, 0.3, 8).astype(np.float32))
