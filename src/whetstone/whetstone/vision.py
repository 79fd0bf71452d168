"""The small visual encoder that policy and reward model share: camera images -> keypoints.

Role: a frozen backbone, trained once per robot on simulated frames (`python -m policy_node.train_vision`), so that nothing in the
loop trains vision (training it by reinforcement wrecks a policy). Depends on torch; knows nothing of tasks, policies or rewards.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from whetstone.assets import asset_path
from whetstone.errors import AssetError, InputError

IMAGE_SIZE = (128, 128)
CAMERAS = ("front", "wrist")


class KeypointTower(nn.Module):
    """One camera: convolutions, then for each of `keypoints` maps where it peaks and how strongly.

    The spatial softmax (Levine et al., arXiv 1504.00702, section 5.2) gives sub-pixel coordinates in [-1, 1].
    """

    def __init__(self, keypoints: int = 32):
        super().__init__()
        self.convolutions = nn.Sequential(
            nn.Conv2d(3, 16, 5, stride=2, padding=2),
            nn.ReLU(inplace=True),
            nn.Conv2d(16, 32, 3, stride=2, padding=1),
            nn.ReLU(inplace=True),
            nn.Conv2d(32, 32, 3, padding=1),
            nn.ReLU(inplace=True),
            nn.Conv2d(32, keypoints, 3, padding=1),
        )
        self.temperature = nn.Parameter(torch.zeros(keypoints))
        self.feature_size = 3 * keypoints

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """(B, 3, H, W) float in [0, 1] -> (B, 3 * keypoints): x, y in [-1, 1] and a bounded peak height of each map."""
        maps = self.convolutions(images - 0.5).float()  # under autocast the coordinates still need full precision
        height, width = maps.shape[2:]
        maps = maps.flatten(2)
        attention = torch.softmax(maps * self.temperature.exp()[None, :, None], dim=-1)
        rows, columns = (torch.linspace(-1, 1, size, device=maps.device) for size in (height, width))
        with torch.autocast(maps.device.type, enabled=False):  # which would make this product, and so the coordinates, bfloat16
            where = attention @ torch.cartesian_prod(rows, columns)  # (B, keypoints, 2): y, x
        peak = torch.tanh(maps.amax(2) / 8)
        return torch.cat([where[..., 1], where[..., 0], peak], dim=-1)


class VisionEncoder(nn.Module):
    """A tower per camera; their features are concatenated in the order of `CAMERAS`."""

    def __init__(self, keypoints: int = 32):
        super().__init__()
        self.towers = nn.ModuleDict({camera: KeypointTower(keypoints) for camera in CAMERAS})
        self.keypoints = keypoints
        self.feature_size = 3 * keypoints * len(CAMERAS)
        self.identity = ""

    @classmethod
    def load(cls, robot: str) -> VisionEncoder:
        """The frozen encoder of a robot from assets/vision_<robot>.safetensors. Raises AssetError."""
        path = asset_path(f"vision_{robot}.safetensors")
        try:
            state = load_file(str(path))
            encoder = cls(keypoints=state["towers.front.temperature"].numel())
            encoder.load_state_dict({name: value.float() for name, value in state.items()})
        except Exception as error:  # safetensors raises its own type; whatever it is, the file is unusable
            raise AssetError(f"{path.name}: cannot be loaded ({error}); make it again with `make assets`") from None
        encoder.identity = hashlib.sha256(path.read_bytes()).hexdigest()[:12]
        return encoder.eval().requires_grad_(False)

    def save(self, path: Path) -> None:
        """Half precision: the maps' peaks do not move by more than a hundredth of a pixel."""
        save_file({name: value.half().contiguous() for name, value in self.state_dict().items()}, str(path))

    def forward(self, images: dict[str, torch.Tensor]) -> torch.Tensor:
        """camera -> (B, 3, H, W) float in [0, 1]; returns (B, feature_size)."""
        return torch.cat([self.towers[camera](images[camera]) for camera in CAMERAS], dim=-1)

    @torch.no_grad()
    def features(self, images: dict[str, np.ndarray]) -> torch.Tensor:
        """camera -> (B, height, width, 3) uint8 RGB; returns (B, feature_size) float32.

        Raises InputError naming the camera that is missing or has another size than IMAGE_SIZE.
        """
        tensors = {}
        device = next(self.parameters()).device
        for camera in CAMERAS:
            if camera not in images:
                raise InputError(f"camera '{camera}' is missing; the vision encoder needs {', '.join(CAMERAS)}")
            array = images[camera]
            if array.ndim != 4 or array.shape[1:] != (*IMAGE_SIZE, 3) or array.dtype != np.uint8:
                raise InputError(
                    f"camera '{camera}': images are {array.shape[1:]} {array.dtype}, the vision encoder needs {(*IMAGE_SIZE, 3)} uint8"
                )
            tensors[camera] = torch.from_numpy(np.require(array, requirements=["C", "W"])).to(device).permute(0, 3, 1, 2).float() / 255
        return self(tensors)
