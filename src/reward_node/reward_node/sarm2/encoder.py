"""The frozen image encoder of SARM2: the robot's own keypoints, or a vision model from a local folder.

Role: camera images in, one vector per frame set out; the one place that knows which encoders there are. Nothing is ever downloaded and no
code of a model's folder is run. transformers is imported when such a folder is asked for. Does not depend on ROS or on the network.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from reward_node.sarm2.configuration import SARM2Settings, VisionModelSettings
from whetstone.errors import AssetError, ConfigError, InputError
from whetstone.model_folder import revision
from whetstone.vision import CAMERAS, VisionEncoder


class Encoder(Protocol):
    """feature_size: of one frame set, all cameras; identity: names the weights, so that a network is not fed another encoder's features."""

    feature_size: int
    identity: str

    def features(self, images: dict[str, np.ndarray]) -> Tensor:
        """camera -> (B, height, width, 3) uint8 RGB; returns (B, feature_size) float32. InputError names the camera that does not fit."""
        ...

    def state_dict(self) -> dict[str, Any]: ...


def build_encoder(settings: SARM2Settings, robot: str, source: str, device: str = "cpu") -> Encoder:
    """The encoder that the settings name. source: the YAML they came from, for messages.

    ConfigError where a key is wrong, AssetError where the weights cannot be used; both say what to do.
    """
    model = settings.vision_model
    if model is not None:
        return _from_folder(model, settings.cameras, source).to(device)
    if set(settings.cameras) != set(CAMERAS):
        raise ConfigError(
            f"{source}: key 'cameras' is [{', '.join(settings.cameras)}], but encoder: keypoints knows and needs {' and '.join(CAMERAS)}; "
            "name these, or set 'encoder' to {folder: /path/to/model}"
        )
    return VisionEncoder.load(robot).to(device)


class PretrainedEncoder(nn.Module):
    """A vision model of transformers over every camera: its pooled output, or the mean of its tokens where it has none.

    model: as AutoModel gives it. Of one that has a text half too (CLIP, SigLIP) only the vision half stays in memory, and the pooled output
    is the image's place in the space it shares with texts. processor: the model's own image processor.
    """

    def __init__(self, model: Any, processor: Any, cameras: tuple[str, ...], identity: str) -> None:
        super().__init__()
        if hasattr(model, "text_model"):
            del model.text_model
        self.model = model.eval().requires_grad_(False)
        self.processor = processor
        self.cameras = cameras
        self.identity = identity
        probe = np.zeros((1, 64, 64, 3), np.uint8)
        self.feature_size = self.features(dict.fromkeys(cameras, probe)).shape[1]

    @torch.no_grad()
    def features(self, images: dict[str, np.ndarray]) -> Tensor:
        """As in Encoder; the cameras' features in their configured order. Every image is scaled as the model's processor says."""
        from PIL import Image

        for camera in self.cameras:
            if camera not in images:
                raise InputError(f"camera '{camera}' is missing; the vision encoder needs {', '.join(self.cameras)}")
            array = images[camera]
            if array.ndim != 4 or array.shape[3] != 3 or array.dtype != np.uint8:
                raise InputError(
                    f"camera '{camera}': images are {array.shape[1:]} {array.dtype}, the vision encoder needs (height, width, 3) uint8"
                )
        pictures = [Image.fromarray(picture) for camera in self.cameras for picture in images[camera]]
        weight = next(self.model.parameters())
        inputs = {
            name: value.to(weight.device, weight.dtype if value.is_floating_point() else value.dtype)
            for name, value in self.processor(pictures, return_tensors="pt").items()
        }
        ask = getattr(self.model, "get_image_features", self.model)
        output = ask(**inputs)
        pooled = getattr(output, "pooler_output", None)
        if pooled is None:
            pooled = output.last_hidden_state.mean(dim=1)
        return pooled.float().unflatten(0, (len(self.cameras), -1)).transpose(0, 1).flatten(1)


def _from_folder(settings: VisionModelSettings, cameras: tuple[str, ...], source: str) -> PretrainedEncoder:
    if not settings.folder.strip():
        raise ConfigError(
            f"{source}: key 'encoder.folder' is empty; set it to the folder of a local vision model, for example siglip2-base-patch16-224"
        )
    path = Path(settings.folder).expanduser()
    if not (path / "config.json").is_file():
        raise AssetError(
            f"{source}: key 'encoder.folder': '{path}' is not a model folder (no config.json); download the model and set its folder"
        )
    from transformers import AutoImageProcessor, AutoModel

    # Local, and never code from the folder. The PIL processor does without torchvision, and gives the same pixels with and without it.
    where: dict[str, Any] = {"local_files_only": True, "trust_remote_code": False}
    try:
        model, found = AutoModel.from_pretrained(path, dtype=getattr(torch, settings.precision), output_loading_info=True, **where)
        if found["missing_keys"]:
            raise ValueError(f"it has no weights for {min(found['missing_keys'])}")
        processor = AutoImageProcessor.from_pretrained(path, backend="pil", **where)
        return PretrainedEncoder(model, processor, cameras, f"{revision(path)}:{settings.precision}")
    except Exception as error:  # transformers raises many types; whatever it is, the folder is unusable
        reason = next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
        raise AssetError(
            f"{source}: key 'encoder.folder': '{path}' cannot be used as a vision model ({reason}); "
            "it must hold SigLIP, CLIP, DINOv2 or the like, with its preprocessor_config.json"
        ) from error
