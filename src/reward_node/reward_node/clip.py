"""CLIP and SigLIP as a reward plug-in: how alike an image and the instruction are.

Role: entry point `clip`: a sanity baseline of milliseconds. What a large model gains over it is what it knows of the task; what it does
not gain, a picture without time could tell. Looks at the newest frame alone. Does not depend on ROS.

With a baseline text, the goal-baseline regularisation of VLM-RM (arXiv 2310.12921; code AlignmentResearch/vlmrm): with unit
embeddings s of the image, g of the goal and b of the baseline, and P the projection onto the line through g and b,

    R = 1 - |alpha P (s - g) + (1 - alpha) (s - g)|^2 / 2,

which is the cosine of s and g where alpha is 0.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np

from reward_node.frames import check_frames
from reward_node.instructions import checked
from reward_node.settings import ImageRewardSettings, hold
from reward_node.signals import Contrast, total
from reward_node.weight_bytes import weight_bytes
from whetstone.config import config_hash, parse, source_of
from whetstone.contracts import Provenance, RewardNeeds, RewardSample
from whetstone.errors import ConfigError
from whetstone.model_folder import loading, model_folder, revision

_SOURCE = "config/rewards/clip.yaml"
Precision = Literal["float32", "bfloat16", "float16"]


@dataclass(frozen=True)
class Calibration:
    """progress = clip((R + offset) / scale, 0, 1). Holds for one model, camera and wording."""

    offset: float
    scale: float = field(metadata={"gt": 0})


@dataclass(frozen=True, kw_only=True)
class CLIPSettings(ImageRewardSettings):
    """model: folder of a CLIP or SigLIP that transformers loads; dtype: of its weights; cameras: the mean over them; goal: text that the
    image is compared with, holds {instruction}; baseline: text of a scene in which nothing was done yet, may hold {instruction}, null:
    none; alpha: how far the difference of the two counts alone."""

    model: str | None
    goal: str
    calibration: Calibration
    baseline: str | None = None
    alpha: float = field(default=0.0, metadata={"ge": 0, "le": 1})
    every: int = field(default=4, metadata={"ge": 1})
    dtype: Precision = "float32"

    def __post_init__(self) -> None:
        super().__post_init__()
        hold("goal", self.goal)
        if self.alpha > 0 and self.baseline is None:
            raise ValueError("key 'alpha' is above 0, but there is no 'baseline' to regularise with")


class Encoder:
    """Unit embeddings of images and texts, by the model of a folder. Each (size,) float64."""

    def __init__(self, folder: Path, precision: Precision, device: str) -> None:
        """ConfigError where the model has no embeddings of both; what transformers raises where the folder cannot be loaded."""
        import torch
        from transformers import AutoImageProcessor, AutoModel, AutoTokenizer

        self._torch = torch
        self.model: Any = AutoModel.from_pretrained(folder, local_files_only=True, dtype=getattr(torch, precision)).to(device).eval()
        kind = self.model.config.model_type
        if not (hasattr(self.model, "get_image_features") and hasattr(self.model, "get_text_features")):
            raise ConfigError(f"model '{folder}' is a {kind}; it must be a CLIP or SigLIP, which embeds images and texts alike")
        self._tokenizer: Any = AutoTokenizer.from_pretrained(folder, local_files_only=True)
        # Without torchvision there is no other.
        self._processor: Any = AutoImageProcessor.from_pretrained(folder, local_files_only=True, backend="pil")
        # SigLIP was trained on texts padded to one length, and looks at the padding.
        self._padding = "max_length" if kind.startswith("siglip") else False
        self._length = int(self.model.config.text_config.max_position_embeddings)

    def image(self, image: np.ndarray) -> np.ndarray:
        """image: (height, width, 3) uint8 RGB."""
        from PIL import Image

        inputs = self._processor([Image.fromarray(image)], return_tensors="pt")
        cast = {name: value.to(self.model.dtype) if value.is_floating_point() else value for name, value in inputs.items()}
        return self._unit(self.model.get_image_features, cast)

    def text(self, text: str) -> np.ndarray:
        """Cut off where the model can read no further."""
        inputs = self._tokenizer(text, padding=self._padding, truncation=True, max_length=self._length, return_tensors="pt")
        return self._unit(self.model.get_text_features, {"input_ids": inputs["input_ids"]})

    def _unit(self, embed: Any, inputs: dict[str, Any]) -> np.ndarray:
        with self._torch.inference_mode():
            found = embed(**{name: value.to(self.model.device) for name, value in inputs.items()})
        vector = getattr(found, "pooler_output", found)[0].double().cpu().numpy()
        return vector / np.linalg.norm(vector)


class CLIPReward:
    """raw: R; progress: calibrated, completion the same: a likeness is no probability of being done."""

    def __init__(self, settings: CLIPSettings, encoder: Encoder, folder: Path, config: str) -> None:
        self.settings, self._encoder = settings, encoder
        words = config_hash([settings.goal, settings.baseline, settings.alpha])
        self.provenance = Provenance("clip", folder.name, revision(folder), settings.dtype, words, config)
        memory = weight_bytes(encoder.model)
        self.needs = RewardNeeds(settings.cameras, settings.image_size, settings.every, 1, memory, str(encoder.model.device))
        self.reset("", "", 0)

    @classmethod
    def load(cls, config: dict[str, Any], profile: Any, device: str = "cpu") -> CLIPReward:
        """From config/rewards/clip.yaml. ConfigError where no model is named, AssetError where it cannot be loaded."""
        source = source_of(config, _SOURCE)
        settings = parse(CLIPSettings, config, source)
        folder = model_folder(settings.model, source, "CLIP or SigLIP", "siglip2-base-patch16-224")
        with loading(folder):
            encoder = Encoder(folder, settings.dtype, device)
        return cls(settings, encoder, folder, config_hash(config))

    def reset(self, episode_id: str, instruction: str, seed: int) -> None:
        """A new instruction. Scores are deterministic: seed and episode_id change nothing."""
        self.tell(instruction)
        self._contrast = Contrast(self.settings.contrastive)

    def tell(self, instruction: str) -> None:
        """Other words from the next score on."""
        checked(instruction)
        # Not str.format: an instruction may hold braces.
        self._goal = self._encoder.text(self.settings.goal.replace("{instruction}", instruction))
        self._direction = np.zeros_like(self._goal)
        if self.settings.baseline is not None:
            difference = self._goal - self._encoder.text(self.settings.baseline.replace("{instruction}", instruction))
            length = np.linalg.norm(difference)
            self._direction = difference / length if length > 0 else difference

    def observe(self, images: dict[str, np.ndarray], stamp: int) -> RewardSample:
        """Score the newest frame. InputError where a camera is missing or its size is another."""
        check_frames(images, self.needs)
        likeness = float(np.mean([self._likeness(self._encoder.image(images[camera])) for camera in self.needs.cameras]))
        if not math.isfinite(likeness):
            return RewardSample(stamp, valid=False, reason="the model gave a value that is not a number", window=1)
        calibration = self.settings.calibration
        progress = min(max((likeness + calibration.offset) / calibration.scale, 0.0), 1.0)
        contrast = self._contrast(progress)
        return RewardSample(
            stamp, raw=likeness, progress=progress, process=progress, completion=progress, contrastive=contrast,
            total=total(progress, progress, contrast), window=1,
        )  # fmt: skip

    def score_episode(self, frames: list[dict[str, np.ndarray]], stamps: list[int]) -> list[RewardSample]:
        """The samples of a whole episode, by the same path as live. Call reset() first."""
        return [self.observe(images, stamp) for images, stamp in zip(frames, stamps, strict=True)]

    def _likeness(self, image: np.ndarray) -> float:
        off, alpha = image - self._goal, self.settings.alpha
        kept = alpha * (off @ self._direction) * self._direction + (1.0 - alpha) * off
        return 1.0 - float(kept @ kept) / 2.0
