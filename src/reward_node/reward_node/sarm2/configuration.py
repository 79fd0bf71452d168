"""Typed configuration of SARM2 (config/rewards/sarm2.yaml).

Role: every name and number of the model, its losses and its training. Does not depend on torch or ROS.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

from reward_node.signals import ContrastiveSettings
from whetstone.completion import Completion
from whetstone.config import parse
from whetstone.errors import ConfigError
from whetstone.task import PRIMITIVES

KEYPOINTS = "keypoints"
"""The encoder that this repository trains per robot (whetstone/vision.py)."""


@dataclass(frozen=True)
class VisionModelSettings:
    """A frozen vision model (SigLIP 2, CLIP, DINOv2, ...). folder: as transformers saves it; precision: of its weights at work."""

    folder: str
    precision: Literal["float32", "bfloat16", "float16"] = "float32"


@dataclass(frozen=True)
class NetworkSettings:
    """Sizes. The paper's (arXiv 2606.10305): width 512, 4 + 6 layers, 10 experts, top 2, 6 recent frames.

    state_width: numbers of the proprioception (joints and gripper) that come with every frame; 0: images alone.
    """

    width: int = 96
    heads: int = 4
    stage_layers: int = 2
    value_layers: int = 3
    experts: int = 8
    top: int = 2
    expert_width: int = 96
    recent: int = 6
    dropout: float = 0.2
    state_width: int = field(default=0, metadata={"ge": 0})

    def __post_init__(self) -> None:
        if self.width % self.heads:
            raise ValueError(f"network.width {self.width} is not a multiple of network.heads {self.heads}")
        if not 1 <= self.top <= self.experts:
            raise ValueError(f"network.top {self.top} is not within 1..{self.experts} (network.experts)")
        if self.recent < 1:
            raise ValueError("network.recent must be at least 1")


@dataclass(frozen=True)
class LossSettings:
    """Weights of the loss terms: MSE(progress) + mixture * (load, importance, entropy) + primitive * CE + completion * BCE."""

    mixture: float = 0.2
    load: float = 2.5
    importance: float = 0.1
    entropy: float = 0.5
    primitive: float = 0.25
    completion: float = 0.5


@dataclass(frozen=True)
class TrainingSettings:
    """How it is trained. rewind, pause, wrong_instruction and late are probabilities per window."""

    steps: int = 1000
    batch: int = 192
    learning_rate: float = 1e-3
    weight_decay: float = 0.05
    rewind: float = 0.8
    rewind_frames: int = 4
    pause: float = 0.2
    wrong_instruction: float = 0.2
    late: float = 0.3
    feature_noise: float = 0.8
    held_out: float = 0.15


@dataclass(frozen=True)
class SARM2Settings:
    """The whole file.

    weights: file in assets/ ({robot} is the profile's name); every: control steps between two scores;
    primitives: what the stage estimator tells apart; "null", which means "uncertain", is one of them.
    groups: group name -> the action primitives that share one gate; each primitive belongs to exactly one group.
    encoder: "keypoints", the robot's own small one, or the keys of VisionModelSettings; features are concatenated in the order of cameras.
    """

    plugin: str
    weights: str
    cameras: tuple[str, ...]
    image_size: tuple[int, int]
    every: int
    groups: dict[str, tuple[str, ...]]
    primitives: tuple[str, ...] = PRIMITIVES
    encoder: str | dict[str, Any] = KEYPOINTS
    success: Completion = field(default_factory=Completion)
    network: NetworkSettings = field(default_factory=NetworkSettings)
    contrastive: ContrastiveSettings = field(default_factory=ContrastiveSettings)
    losses: LossSettings = field(default_factory=LossSettings)
    training: TrainingSettings = field(default_factory=TrainingSettings)

    def __post_init__(self) -> None:
        for key, names in (("cameras", self.cameras), ("primitives", self.primitives)):
            if not names or len(set(names)) < len(names):
                raise ValueError(f"{key} must be one name or more, each once, not [{', '.join(names)}]")
        if "null" not in self.primitives:
            raise ValueError('primitives lacks "null", which stands for "uncertain"; add it, in quotes')
        group_of_primitives(self.groups, self.primitives)
        if isinstance(self.encoder, str) and self.encoder != KEYPOINTS:
            raise ValueError(f"encoder '{self.encoder}' is unknown; set {KEYPOINTS}, or {{folder: /path/to/model, precision: float32}}")
        try:
            _ = self.vision_model
        except ConfigError as error:
            raise ValueError(str(error)) from None

    @property
    def vision_model(self) -> VisionModelSettings | None:
        """The model that encodes the images; None: the robot's keypoint encoder."""
        return None if isinstance(self.encoder, str) else parse(VisionModelSettings, self.encoder, "encoder")


def group_of_primitives(groups: dict[str, tuple[str, ...]], primitives: tuple[str, ...]) -> list[int]:
    """Group index of every primitive. ValueError where one has no group, two groups, or where a group names an unknown one."""
    place: dict[str, int] = {}
    for index, (group, members) in enumerate(groups.items()):
        for member in members:
            if member not in primitives:
                raise ValueError(f"groups.{group}: unknown primitive {member!r}; known: {', '.join(primitives)}")
            if member in place:
                raise ValueError(f"groups.{group}: primitive {member!r} is already in another group")
            place[member] = index
    missing = [name for name in primitives if name not in place]
    if missing:
        raise ValueError(f"groups: primitive {missing[0]!r} is in no group")
    return [place[name] for name in primitives]
