"""TOPReward (arXiv 2602.19313): progress as the log-probability of "True" under a local vision-language model.

Role: the zero-shot reward. Every prefix is scored from scratch over a window of a fixed number of images; needs no
training and no weights of ours. torch and transformers are imported at load. Does not depend on ROS.
"""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np

from reward_node.signals import ContrastiveSettings, SuccessSettings, contrastive, total, uniform_window
from whetstone.config import config_hash, parse
from whetstone.contracts import RewardNeeds, RewardSample
from whetstone.errors import AssetError, ConfigError, InputError


@dataclass(frozen=True)
class Calibration:
    """progress = clip((log p + offset) / scale, 0, 1). Refit per model, quantisation and camera; 25 and 20 suit Qwen3-VL-8B."""

    offset: float = 25.0
    scale: float = field(default=20.0, metadata={"gt": 0})


@dataclass(frozen=True)
class TOPRewardSettings:
    """config/rewards/topreward.yaml.

    model: folder of a vision-language model that transformers loads (no download is ever tried); dtype: of its weights;
    camera, image_size: what it looks at; every: control steps between two scores; images: in each prompt;
    prompt: text after the images, holds {instruction}; answer, contrary: the tokens whose log-probabilities are read.
    """

    plugin: str
    model: str | None
    camera: str
    image_size: tuple[int, int]
    every: int = field(metadata={"ge": 1})
    images: int = field(metadata={"ge": 8})
    prompt: str
    answer: str = " True"
    contrary: str = " False"
    dtype: Literal["float32", "bfloat16", "float16"] = "bfloat16"
    calibration: Calibration = field(default_factory=Calibration)
    contrastive: ContrastiveSettings = field(default_factory=ContrastiveSettings)
    success: SuccessSettings = field(default_factory=SuccessSettings)

    def __post_init__(self) -> None:
        if "{instruction}" not in self.prompt:
            raise ValueError("key 'prompt' must hold {instruction}")


class TOPReward:
    """Entry point `topreward`. model, processor: as AutoModelForImageTextToText and AutoProcessor give them."""

    def __init__(self, settings: TOPRewardSettings, model: Any, processor: Any, model_id: str, config: str) -> None:
        self.settings = settings
        self.model = model
        self.processor = processor
        self.model_id = model_id
        self.config_hash = config
        self.needs = RewardNeeds((settings.camera,), settings.image_size, settings.every)
        self.answer = single_token(processor.tokenizer, settings.answer)
        self.contrary = single_token(processor.tokenizer, settings.contrary)
        self.reset("", "", 0)

    @classmethod
    def load(cls, config: dict[str, Any], profile: Any, device: str = "cpu") -> TOPReward:
        """From config/rewards/topreward.yaml. ConfigError where no model is named, AssetError where it cannot be loaded."""
        settings = parse(TOPRewardSettings, config, "config/rewards/topreward.yaml")
        if not settings.model:
            raise ConfigError(
                "config/rewards/topreward.yaml: key 'model' is empty; set it to the folder of a local vision-language model, "
                "for example Qwen3-VL-8B-Instruct"
            )
        path = Path(settings.model).expanduser()
        if not (path / "config.json").is_file():
            raise AssetError(
                f"config/rewards/topreward.yaml: model '{path}' is not a model folder (no config.json); "
                "download the model and set 'model' to its folder"
            )
        import torch
        from transformers import AutoModelForImageTextToText, AutoProcessor

        try:
            processor = AutoProcessor.from_pretrained(path, local_files_only=True)
            model: Any = AutoModelForImageTextToText.from_pretrained(path, local_files_only=True, dtype=getattr(torch, settings.dtype))
        except (ImportError, OSError, ValueError, KeyError) as error:
            reason = next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
            raise AssetError(f"model '{path}' cannot be loaded: {reason}") from error
        model.to(torch.device(device))
        return cls(settings, model.eval(), processor, f"topreward@{path.name}", config_hash(config))

    def reset(self, episode_id: str, instruction: str, seed: int) -> None:
        """Forget the last episode. Scores are deterministic: seed and episode_id change nothing."""
        self.question = self.settings.prompt.format(instruction=instruction)
        self.frames: list[np.ndarray] = []
        self.past: deque[float] = deque(maxlen=self.settings.contrastive.window)

    def observe(self, images: dict[str, np.ndarray], stamp: int) -> RewardSample:
        """Score the newest frame against the whole prefix. InputError where the camera is missing or its size is another."""
        image = images.get(self.settings.camera)
        if image is None:
            raise InputError(f"camera {self.settings.camera}: no image; got {', '.join(sorted(images)) or 'none'}")
        if image.shape != (*self.settings.image_size, 3) or image.dtype != np.uint8:
            raise InputError(f"camera {self.settings.camera}: image is {image.shape} {image.dtype}, not {self.settings.image_size}")
        self.frames.append(image)
        window = [self.frames[index] for index in uniform_window(len(self.frames), self.settings.images)]
        answer, contrary = self.log_probabilities(window)
        if not (math.isfinite(answer) and math.isfinite(contrary)):
            return RewardSample(stamp, valid=False, reason="the language model gave a value that is not a number", window=len(window))
        calibration = self.settings.calibration
        progress = min(max((answer + calibration.offset) / calibration.scale, 0.0), 1.0)
        contrast = contrastive(progress, self.past[0] if self.past else None, self.settings.contrastive.dead_zone)
        self.past.append(progress)
        # p(True) against p(False): the only figure of this model that is a probability of being done.
        completion = 1.0 / (1.0 + math.exp(min(contrary - answer, 60.0)))
        return RewardSample(
            stamp,
            raw=answer,
            progress=progress,
            process=progress,
            completion=completion,
            contrastive=contrast,
            total=total(progress, completion, contrast),
            margin=answer - contrary,
            window=len(window),
        )

    def score_episode(self, frames: list[dict[str, np.ndarray]], stamps: list[int]) -> list[RewardSample]:
        """The samples of a whole episode, by the same path as live. Call reset() first."""
        return [self.observe(images, stamp) for images, stamp in zip(frames, stamps, strict=True)]

    def prompt(self, images: int) -> str:
        """The text: a user turn with `images` images and the question, left open.

        Closing the turn and adding an assistant header drops the mean VOC of Qwen3-VL-8B from .945 to .500.
        """
        content = [*({"type": "image"} for _ in range(images)), {"type": "text", "text": self.question}]
        text = self.processor.apply_chat_template([{"role": "user", "content": content}], tokenize=False, add_generation_prompt=False)
        end = text.rfind(self.question)
        if end < 0:
            raise ConfigError("the model's chat template changes the prompt; TOPReward needs it word for word")
        return text[: end + len(self.question)]

    def log_probabilities(self, window: list[np.ndarray]) -> tuple[float, float]:
        """(log p(answer), log p(contrary)) in nat, over the full vocabulary, at the token that follows the prompt."""
        import torch
        from PIL import Image

        images = [Image.fromarray(image) for image in window]
        inputs = self.processor(text=[self.prompt(len(images))], images=images, return_tensors="pt")
        inputs = inputs.to(self.model.device, dtype=self.model.dtype)
        with torch.inference_mode():
            logits = self.model(**inputs, use_cache=False).logits[0, -1].float()
        log_probability = logits.log_softmax(dim=-1)
        return float(log_probability[self.answer]), float(log_probability[self.contrary])


def single_token(tokenizer: Any, text: str) -> int:
    """The id of a text that is one token, leading space included; ConfigError where it is several."""
    tokens = tokenizer.encode(text, add_special_tokens=False)
    if len(tokens) != 1:
        raise ConfigError(f"'{text}' is {len(tokens)} tokens in this model's vocabulary, but must be one; set 'answer' and 'contrary'")
    return int(tokens[0])
