"""The shared vision encoder's coordinates."""

from __future__ import annotations

import torch

from whetstone.vision import KeypointTower


def test_coordinates_keep_full_precision_under_autocast():
    tower = KeypointTower(keypoints=3)
    tower.convolutions = torch.nn.Sequential()  # the maps are the images: only what follows the convolutions is compared
    images = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0)) * 20
    plain = tower(images)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.allclose(tower(images), plain, atol=1e-6)
