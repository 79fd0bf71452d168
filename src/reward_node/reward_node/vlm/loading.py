"""A vision-language model from a local folder: weights, precision, layout.

Role: the one place that loads one. Nothing is ever downloaded. torch and transformers are imported here, when a model is asked for.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from reward_node.vlm.layout import ImageSequence, InternVLImages, Layout, QwenImages, TimedVideo
from reward_node.weight_bytes import weight_bytes
from whetstone.errors import ConfigError
from whetstone.model_folder import digest, loading, model_folder, revision
from whetstone.quantisation import Precision, finish, loading_arguments


@dataclass(frozen=True)
class VisionLanguageModel:
    """model: as AutoModelForImageTextToText gives it; video, images: prompts of a clip and of single pictures; identity: the folder's
    name; revision: hash of its weights and tokenizer."""

    model: Any
    tokenizer: Any
    video: Layout
    images: Layout
    identity: str
    revision: str

    @property
    def memory(self) -> int:
        """Bytes of the weights."""
        return weight_bytes(self.model)

    @property
    def stops(self) -> list[int]:
        """Tokens that end a text: the tokenizer's and the model's own."""
        named = (self.tokenizer.eos_token_id, getattr(getattr(self.model, "generation_config", None), "eos_token_id", None))
        return [one for stop in named for one in (stop if isinstance(stop, list) else [stop]) if one is not None]

    def token(self, text: str) -> int:
        """The id of a text that is one token, leading space included; ConfigError where it is several."""
        tokens = self.tokenizer.encode(text, add_special_tokens=False)
        if len(tokens) != 1:
            raise ConfigError(f"'{text}' is {len(tokens)} tokens in this model's vocabulary, but must be one; set 'answer' and 'contrary'")
        return int(tokens[0])


def load(folder: str | None, precision: Precision, device: str, source: str, robot: str) -> VisionLanguageModel:
    """folder: or `pocket`, the small one of this robot; source: the YAML that names it, for messages. ConfigError where none is named,
    AssetError where it cannot be loaded."""
    if folder == "pocket":
        return _pocket(robot, precision, device)
    path = model_folder(folder, source, "vision-language model", "Qwen3-VL-8B-Instruct")
    from transformers import AutoConfig, AutoModelForImageTextToText, AutoTokenizer

    with loading(path):
        kind = AutoConfig.from_pretrained(path, local_files_only=True).model_type
        arguments = loading_arguments(precision, device)
        model: Any = AutoModelForImageTextToText.from_pretrained(path, local_files_only=True, **arguments)
        tokenizer = AutoTokenizer.from_pretrained(path, local_files_only=True)
        layouts = _layouts(kind, model, tokenizer, path)
    return VisionLanguageModel(finish(model, precision, device).eval(), tokenizer, *layouts, path.name, revision(path))


def _layouts(kind: str, model: Any, tokenizer: Any, path: Path) -> tuple[Layout, Layout]:
    """(video, images) by the model's family. Raises what transformers raises where the folder lacks a processor."""
    if kind == "qwen3_vl":
        # Its whole processor needs torchvision; the part for single images does not, and is all that these take.
        from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

        processor = Qwen2VLImageProcessorPil.from_pretrained(path, local_files_only=True)
        return TimedVideo(model, tokenizer, processor), QwenImages(model, tokenizer, processor)
    if kind in ("qwen2_vl", "qwen2_5_vl"):
        from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

        images = QwenImages(model, tokenizer, Qwen2VLImageProcessorPil.from_pretrained(path, local_files_only=True))
        return images, images
    if kind == "internvl":
        from transformers.models.got_ocr2.image_processing_pil_got_ocr2 import GotOcr2ImageProcessorPil

        images = InternVLImages(model, tokenizer, GotOcr2ImageProcessorPil.from_pretrained(path, local_files_only=True))
        return images, images
    if "mrope_section" in (getattr(model.config.get_text_config(), "rope_parameters", None) or {}):
        raise ConfigError(f"model '{path}' is a {kind}, whose positions have several axes that nobody has told us of; use one of Qwen-VL")
    from transformers import AutoProcessor

    layout = ImageSequence(AutoProcessor.from_pretrained(path, local_files_only=True))
    return layout, layout


def _pocket(robot: str, precision: Precision, device: str) -> VisionLanguageModel:
    if precision == "nf4":
        raise ConfigError("dtype: nf4 is for models of billions of weights; the pocket VLM runs in float32 or int8")
    from reward_node.pocket import model as pocket

    model, tokenizer, layout, path = pocket.load(robot)
    model.text.to(loading_arguments(precision, device)["dtype"])
    return VisionLanguageModel(finish(model, precision, device), tokenizer, layout, layout, path.stem, digest([path]))
