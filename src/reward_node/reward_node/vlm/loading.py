"""A vision-language model from a local folder: weights, precision, layout.

Role: the one place that loads one. Nothing is ever downloaded. torch and transformers are imported here, when a model is asked for.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from reward_node.vlm.layout import ImageSequence, Layout, QwenImages, TimedVideo
from whetstone.errors import AssetError, ConfigError

Precision = Literal["float32", "bfloat16", "float16"]


@dataclass(frozen=True)
class VisionLanguageModel:
    """model: as AutoModelForImageTextToText gives it; video, images: prompts of a clip and of single pictures; identity: the folder's
    name, for provenance."""

    model: Any
    tokenizer: Any
    video: Layout
    images: Layout
    identity: str

    def token(self, text: str) -> int:
        """The id of a text that is one token, leading space included; ConfigError where it is several."""
        tokens = self.tokenizer.encode(text, add_special_tokens=False)
        if len(tokens) != 1:
            raise ConfigError(f"'{text}' is {len(tokens)} tokens in this model's vocabulary, but must be one; set 'answer' and 'contrary'")
        return int(tokens[0])


def load(folder: str | None, precision: Precision, device: str, source: str) -> VisionLanguageModel:
    """source: the YAML that names the folder, for messages. ConfigError where none is named, AssetError where it cannot be loaded."""
    if not folder:
        raise ConfigError(
            f"{source}: key 'model' is empty; set it to the folder of a local vision-language model, for example Qwen3-VL-8B-Instruct"
        )
    path = Path(folder).expanduser()
    if not (path / "config.json").is_file():
        raise AssetError(
            f"{source}: model '{path}' is not a model folder (no config.json); download the model and set 'model' to its folder"
        )
    import torch
    from transformers import AutoConfig, AutoModelForImageTextToText, AutoTokenizer

    try:
        kind = AutoConfig.from_pretrained(path, local_files_only=True).model_type
        model: Any = AutoModelForImageTextToText.from_pretrained(path, local_files_only=True, dtype=getattr(torch, precision))
        tokenizer = AutoTokenizer.from_pretrained(path, local_files_only=True)
        layouts = _layouts(kind, model, tokenizer, path)
    except (ImportError, OSError, ValueError, KeyError) as error:
        reason = next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
        raise AssetError(f"model '{path}' cannot be loaded: {reason}") from error
    model.to(torch.device(device))
    return VisionLanguageModel(model.eval(), tokenizer, *layouts, path.name)


def _layouts(kind: str, model: Any, tokenizer: Any, path: Path) -> tuple[Layout, Layout]:
    """(video, images) by the model's family. Raises what transformers raises where the folder lacks a processor."""
    if kind == "qwen3_vl":
        # Its whole processor needs torchvision; the part for single images does not, and is all that these take.
        from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

        processor = Qwen2VLImageProcessorPil.from_pretrained(path, local_files_only=True)
        return TimedVideo(model, tokenizer, processor), QwenImages(model, tokenizer, processor)
    from transformers import AutoProcessor

    layout = ImageSequence(AutoProcessor.from_pretrained(path, local_files_only=True))
    return layout, layout
