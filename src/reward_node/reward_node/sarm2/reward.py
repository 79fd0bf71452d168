"""The SARM2 reward plug-in: camera frames and an instruction in, a score every few control steps out.

Role: keeps the window of an episode and asks the network. Strictly causal: a score looks at the episode's first frame
and the last few. No ground truth; proprioception where `network.state_width` asks for it. Does not depend on ROS.
"""

from __future__ import annotations

import hashlib
import json
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from reward_node.frames import check_frames
from reward_node.sarm2.configuration import SARM2Settings, group_of_primitives
from reward_node.sarm2.encoder import Encoder, build_encoder
from reward_node.sarm2.network import SARM2Network
from reward_node.signals import Contrast, recent_window, total
from reward_node.weight_bytes import weight_bytes
from whetstone.assets import asset_path
from whetstone.config import config_hash, parse, source_of
from whetstone.contracts import PROPRIOCEPTION, Provenance, RewardNeeds, RewardSample
from whetstone.errors import AssetError

_SOURCE = "config/rewards/sarm2.yaml"
Encode = Callable[[dict[str, np.ndarray]], Tensor]


class SARM2Model(nn.Module):
    """Text encoder and network: what is trained and what the weights file holds."""

    def __init__(self, text: nn.Module, network: SARM2Network) -> None:
        super().__init__()
        self.text = text
        self.network = network


def build_model(settings: SARM2Settings, feature_size: int, text: nn.Module) -> SARM2Model:
    """An untrained model. feature_size: of the encoder; text: texts -> (B, size) vectors, trained with it."""
    with torch.no_grad():
        text_size = text(["probe"]).shape[-1]
    groups = group_of_primitives(settings.groups, settings.primitives)
    return SARM2Model(text, SARM2Network(settings.network, feature_size, text_size, groups))


def metadata(settings: SARM2Settings, feature_size: int, encoder: str) -> dict[str, str]:
    """What weights must have in common with the configuration; stored in the file and compared at load."""
    network = {name: value for name, value in vars(settings.network).items() if name != "dropout"}
    # Files made before there was a choice do not name it: they saw images alone.
    if network["state_width"] == 0:
        del network["state_width"]
    return {
        "network": json.dumps(network, sort_keys=True),
        "groups": json.dumps({name: list(members) for name, members in settings.groups.items()}),
        "primitives": json.dumps(list(settings.primitives)),
        "cameras": json.dumps(list(settings.cameras)),
        "feature_size": str(feature_size),
        "encoder": encoder,
    }


class SARM2Reward:
    """Entry point `sarm2`. encode: frame set -> (feature_size,) tensor; model: see SARM2Model; revision: hash of its weights.

    encoder_memory: bytes of the weights behind `encode`.
    """

    def __init__(
        self, settings: SARM2Settings, model: SARM2Model, encode: Encode, revision: str, config: str, encoder_memory: int = 0
    ) -> None:
        self.settings = settings
        self.model = model.eval()
        self.encode = encode
        self.provenance = Provenance("sarm2", revision=revision, precision="float32", config=config)
        self.needs = RewardNeeds(
            settings.cameras,
            settings.image_size,
            settings.every,
            images=settings.network.recent + 1,
            memory=encoder_memory + weight_bytes(model),
            device=str(next(model.parameters()).device),
            proprioception=settings.network.state_width,
        )
        self.reset("", "", 0)

    @classmethod
    def load(cls, config: dict[str, Any], profile: Any, device: str = "cpu") -> SARM2Reward:
        """From config/rewards/sarm2.yaml and the weights in assets/. ConfigError or AssetError, with the fix, else."""
        settings = parse(SARM2Settings, config, source_of(config, _SOURCE))
        return cls.from_file(config, profile.asset_name, asset_path(settings.weights.format(robot=profile.asset_name)), device)

    @classmethod
    def from_file(cls, config: dict[str, Any], robot: str, path: Path, device: str = "cpu") -> SARM2Reward:
        """As load(), with the weights at `path`."""
        from whetstone.text import TextEncoder

        source = source_of(config, _SOURCE)
        settings = parse(SARM2Settings, config, source)
        if settings.vision_model is None:
            # The model is so small that a second thread costs more than it gives, and the robot's other nodes need the cores.
            torch.set_num_threads(1)
        encoder = build_encoder(settings, robot, source, device)
        model = build_model(settings, encoder.feature_size, TextEncoder())
        load_weights(model, path, metadata(settings, encoder.feature_size, encoder.identity))
        model.to(device)
        weights = hashlib.sha256(path.read_bytes()).hexdigest()[:6]
        return cls(settings, model, lambda images: encode_one(encoder, images), weights, config_hash(config), weight_bytes(encoder))

    def reset(self, episode_id: str, instruction: str, seed: int) -> None:
        """Forget the last episode. The model is deterministic: seed and episode_id change nothing."""
        self.count = 0
        self.start: Tensor | None = None
        self.recent: deque[Tensor] = deque(maxlen=self.settings.network.recent)
        self.contrast = Contrast(self.settings.contrastive)
        self.tell(instruction)

    def tell(self, instruction: str) -> None:
        """Other words from the next score on, about what was seen."""
        with torch.inference_mode():
            self.text = self.model.text([instruction])

    def observe(self, images: dict[str, np.ndarray], stamp: int) -> RewardSample:
        """Score the newest frame set. InputError names a camera that is missing or an image of another size."""
        check_frames(images, self.needs)
        with torch.inference_mode():
            newest = self.encode(images)
            if self.needs.proprioception:  # as in training, behind the features
                newest = torch.cat([newest, torch.from_numpy(images[PROPRIOCEPTION]).to(newest)])
            if self.start is None:
                self.start = newest
            self.recent.append(newest)
            self.count += 1
            held = list(self.recent)
            offset = self.count - len(held)
            slots = recent_window(self.count - 1, self.settings.network.recent)
            frames = torch.stack([self.start if index < offset else held[index - offset] for index in slots])
            scores = self.model.network(frames[None], self.text)
            progress = float(scores.progress[0, -1])
            completion = float(scores.completion[0, -1].sigmoid())
        window = min(self.count, self.settings.network.recent + 1)
        if not np.isfinite([progress, completion]).all():
            return RewardSample(stamp, valid=False, reason="the network gave a value that is not a number", window=window)
        contrast = self.contrast(progress)
        return RewardSample(
            stamp,
            raw=progress,
            progress=progress,
            process=progress,
            completion=completion,
            contrastive=contrast,
            total=total(progress, completion, contrast),
            window=window,
        )

    def score_episode(self, frames: list[dict[str, np.ndarray]], stamps: list[int]) -> list[RewardSample]:
        """The samples of a whole episode, by the same path as live. Call reset() first."""
        return [self.observe(images, stamp) for images, stamp in zip(frames, stamps, strict=True)]


def encode_one(encoder: Encoder, images: dict[str, np.ndarray]) -> Tensor:
    """One frame set through the frozen encoder: (feature_size,)."""
    return encoder.features({camera: images[camera][None] for camera in images if camera != PROPRIOCEPTION})[0]


def load_weights(model: SARM2Model, path: Path, expected: dict[str, str]) -> None:
    """Read a weights file into the model. AssetError names the first thing that differs from the configuration."""
    try:
        with safe_open(path, framework="pt") as file:
            stored = file.metadata() or {}
            state = {name: file.get_tensor(name) for name in file.keys() if name.startswith("model.")}
    except (SafetensorError, OSError) as error:
        raise AssetError(f"{path}: not a readable weights file ({error}); make it again with `make assets`") from None
    for key, value in expected.items():
        if stored.get(key) != value:
            raise AssetError(f"{path}: made with another {key} ({stored.get(key)}, here {value}); make it again with `make assets`")
    try:
        model.load_state_dict({name.removeprefix("model."): tensor.float() for name, tensor in state.items()})
    except RuntimeError as error:
        raise AssetError(f"{path}: {str(error).splitlines()[-1].strip()}; make it again with `make assets`") from None
