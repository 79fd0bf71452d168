"""The pocket VLM as a model: frozen vision encoder, trained projector, frozen language model, behind transformers' calling convention.

Role: what TOPReward asks like any other vision-language model (vlm/prefix.py, vlm/layout.py): input ids with places for visual tokens,
keys and values in a cache, logits out. One image holds all cameras side by side, in the order of whetstone.vision.CAMERAS. Depends on
torch and transformers; knows nothing of rewards or ROS.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import nn

from reward_node.pocket import language
from reward_node.vlm.layout import Segment, Turn, TurnLayout
from whetstone import files
from whetstone.assets import asset_path
from whetstone.errors import AssetError
from whetstone.vision import CAMERAS, IMAGE_SIZE, VisionEncoder

PLACE = -1
"""Id of a token that an image fills. Not of the vocabulary, so that no instruction can hold it."""


@dataclass(frozen=True)
class ProjectorSize:
    """tokens: of the language model per frame; width: of the hidden layers; scene: values that the auxiliary head predicts in training."""

    tokens: int = 3
    width: int = 512
    scene: int = 21


class Projector(nn.Module):
    """One frame's features (features,) -> `tokens` embeddings of the language model.

    The trunk is told, in training, to know the scene (auxiliary head): what a language model can be asked about must be in there.
    """

    mean: torch.Tensor
    scale: torch.Tensor

    def __init__(self, size: ProjectorSize, features: int, embedding: int) -> None:
        super().__init__()
        self.size = size
        self.register_buffer("mean", torch.zeros(features))
        self.register_buffer("scale", torch.ones(features))
        self.enter = nn.Linear(features, size.width)
        self.middle = nn.Sequential(
            nn.LayerNorm(size.width), nn.Linear(size.width, size.width), nn.GELU(), nn.Linear(size.width, size.width)
        )
        self.norm = nn.LayerNorm(size.width)
        self.scene = nn.Linear(size.width, size.scene)
        self.leave = nn.Linear(size.width, size.tokens * embedding)
        self.gain = nn.Parameter(torch.tensor(0.1))  # about the spread of the language model's own embeddings

    def trunk(self, features: torch.Tensor) -> torch.Tensor:
        """(..., features) -> (..., width)."""
        hidden = nn.functional.gelu(self.enter((features - self.mean) / self.scale))
        return self.norm(hidden + self.middle(hidden))

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """(frames, features) -> (frames, tokens, embedding)."""
        visual = self.leave(self.trunk(features)).unflatten(-1, (self.size.tokens, -1))
        return self.gain * nn.functional.rms_norm(visual, visual.shape[-1:])


class PocketVLM(nn.Module):
    """vision: frozen; projector: trained; text: a causal language model of transformers, frozen."""

    def __init__(self, vision: VisionEncoder, projector: Projector, text: Any) -> None:
        super().__init__()
        self.vision, self.projector, self.text = vision, projector, text
        self.config = text.config

    @property
    def dtype(self) -> torch.dtype:
        return self.text.get_input_embeddings().weight.dtype

    @property
    def device(self) -> torch.device:
        return self.text.get_input_embeddings().weight.device

    def features(self, pixel_values: torch.Tensor) -> torch.Tensor:
        """(frames, H, cameras * W, 3) uint8 -> (frames, features) float32."""
        images = pixel_values.permute(0, 3, 1, 2).float() / 255
        return self.vision(dict(zip(CAMERAS, images.chunk(len(CAMERAS), dim=-1), strict=True)))

    def embed(self, input_ids: torch.Tensor, features: torch.Tensor | None) -> torch.Tensor:
        """(batch, n, embedding) of input_ids (batch, n), whose places the frames (frames, features) fill in order."""
        embedded = self.text.get_input_embeddings()(input_ids.clamp_min(0))
        if features is None:
            return embedded
        visual = self.projector(features.float()).to(embedded.dtype)
        return embedded.masked_scatter((input_ids == PLACE).unsqueeze(-1), visual.flatten(0, 1))

    def forward(self, input_ids: torch.Tensor, pixel_values: torch.Tensor | None = None, **arguments: Any) -> Any:
        """As a model of transformers. pixel_values: (frames, H, cameras * W, 3) uint8."""
        features = None if pixel_values is None else self.features(pixel_values)
        return self.text(inputs_embeds=self.embed(input_ids, features), **arguments)


class PocketFrames(TurnLayout):
    """One frame a patch, as many tokens as the projector gives."""

    patch = 1

    def __init__(self, tokenizer: Any, tokens: int) -> None:
        super().__init__(tokenizer, Turn("<|im_start|>user\n", "", "", "\n", "<|im_end|>\n<|im_start|>assistant\n"))
        self._places = torch.full((tokens,), PLACE, dtype=torch.long)

    def frames(self, images: Sequence[np.ndarray], times: Sequence[float]) -> Segment:
        return Segment(self._places, {"pixel_values": torch.from_numpy(np.ascontiguousarray(images[-1]))[None]})


def image_size() -> tuple[int, int]:
    """(height, width) of one image with all cameras side by side."""
    return IMAGE_SIZE[0], IMAGE_SIZE[1] * len(CAMERAS)


def assemble(robot: str, size: ProjectorSize) -> tuple[PocketVLM, Any]:
    """(model with an untrained projector, tokenizer), float32, on the CPU. AssetError where a part is missing."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder = language.folder()
    text: Any = AutoModelForCausalLM.from_pretrained(folder, local_files_only=True, dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    vision = VisionEncoder.load(robot)
    projector = Projector(size, vision.feature_size, text.config.hidden_size)
    model = PocketVLM(vision, projector, text.requires_grad_(False))
    return model.eval(), tokenizer


def load(robot: str) -> tuple[PocketVLM, Any, PocketFrames, Path]:
    """(model, tokenizer, layout, path of the projector), of assets/pocket_<robot>.safetensors. AssetError, with the fix."""
    path = asset_path(f"pocket_{robot}.safetensors")
    model, tokenizer = load_from(path, robot)
    return model.requires_grad_(False), tokenizer, PocketFrames(tokenizer, model.projector.size.tokens), path


def load_from(path: Path, robot: str) -> tuple[PocketVLM, Any]:
    """(model with the projector of a file, tokenizer), as assemble(). AssetError where it is none, or was made with other parts."""
    try:
        with safe_open(path, framework="pt") as file:
            information = file.metadata() or {}
            state = {name: file.get_tensor(name).float() for name in file.keys()}
        size = ProjectorSize(**json.loads(information["size"]))
        model, tokenizer = assemble(robot, size)
        model.projector.load_state_dict(state)
    except (SafetensorError, OSError, KeyError, TypeError, ValueError, RuntimeError) as error:
        raise AssetError(f"{path}: not a projector of the pocket VLM ({error}); make it again with `make assets`") from error
    for part, here in (("vision", model.vision.identity), ("language", language.IDENTITY)):
        if information.get(part) != here:
            raise AssetError(f"{path}: made with another {part} model ({information.get(part)}, here {here}); run `make assets`")
    return model, tokenizer


def save(model: PocketVLM, path: Path) -> None:
    """The projector alone, half precision; written whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    information = {"size": json.dumps(vars(model.projector.size)), "vision": model.vision.identity, "language": language.IDENTITY}
    state = {name: value.half().contiguous() for name, value in model.projector.state_dict().items()}
    with files.replacing(path) as partial:
        save_file(state, partial, metadata=information)
