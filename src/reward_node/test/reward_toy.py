"""Small stand-ins for the frozen encoders, and toy episodes, so that the tests of the network need no trained asset."""

from __future__ import annotations

import zlib
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from reward_node.sarm2.configuration import NetworkSettings, SARM2Settings, TrainingSettings
from reward_node.sarm2.reward import SARM2Model, SARM2Reward, build_model, encode_one
from whetstone.demonstrations import save_demonstration
from whetstone.task import PRIMITIVES as TASK_PRIMITIVES

PRIMITIVES = ("reach", "push", "null")
SIZE = (16, 16)
CAMERAS = ("front", "wrist")


class BlockEncoder(nn.Module):
    """Mean colour of 4x4 blocks of every camera: enough to see where a dot is."""

    feature_size = 2 * 4 * 4 * 3
    identity = "blocks"

    def features(self, images: dict[str, np.ndarray]) -> Tensor:
        rows = []
        for camera in CAMERAS:
            batch = torch.from_numpy(np.ascontiguousarray(images[camera])).float() / 255.0
            rows.append(batch.reshape(-1, 4, 4, 4, 4, 3).mean(dim=(2, 4)).flatten(1))
        return torch.cat(rows, dim=1)


class WordEncoder(nn.Module):
    """A learnt vector per word, averaged."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(64, 8)

    def forward(self, texts: list[str]) -> Tensor:
        rows = [[zlib.crc32(word.encode()) % 64 for word in text.split()] or [0] for text in texts]
        return torch.stack([self.table(torch.tensor(row)).mean(dim=0) for row in rows])


def small_settings(**training: float) -> SARM2Settings:
    return SARM2Settings(
        plugin="sarm2",
        weights="reward_{robot}.safetensors",
        cameras=CAMERAS,
        image_size=SIZE,
        every=4,
        groups={"pick": ("reach",), "push": ("push",), "uncertain": ("null",)},
        primitives=PRIMITIVES,
        network=NetworkSettings(width=32, heads=2, stage_layers=1, value_layers=2, experts=4, expert_width=32, recent=4, dropout=0.0),
        training=TrainingSettings(**{"steps": 150, "batch": 64, "learning_rate": 3e-3, **training}),  # type: ignore[arg-type]
    )


def small_model(settings: SARM2Settings, seed: int = 0) -> SARM2Model:
    torch.manual_seed(seed)
    return build_model(settings, BlockEncoder.feature_size, WordEncoder()).eval()


def small_reward(settings: SARM2Settings | None = None, model: SARM2Model | None = None) -> SARM2Reward:
    settings = settings or small_settings()
    encoder = BlockEncoder()
    return SARM2Reward(settings, model or small_model(settings), lambda images: encode_one(encoder, images), "sarm2@test", "0" * 12)


def random_frames(count: int, seed: int = 0) -> list[dict[str, np.ndarray]]:
    random = np.random.default_rng(seed)
    return [{camera: random.integers(0, 256, (*SIZE, 3), dtype=np.uint8) for camera in CAMERAS} for _ in range(count)]


def dot_image(place: float, colour: int) -> np.ndarray:
    """A black image with a bright dot at `place` in [0, 1] along its width."""
    image = np.zeros((*SIZE, 3), np.uint8)
    column = int(round(place * (SIZE[1] - 4)))
    image[6:10, column : column + 4, colour] = 255
    return image


def write_dots(directory: Path, count: int) -> None:
    """Toy episodes: a red or green dot goes right. Some stop half-way: failures. The first joint is where the dot is."""
    random = np.random.default_rng(7)
    for index in range(count):
        colour, fails = index % 2, index % 4 >= 2
        frames = 24
        end = random.uniform(0.3, 0.6) if fails else 1.0
        place = np.minimum(np.linspace(0, random.uniform(1.1, 1.3), frames), end)
        image = np.stack([dot_image(value, colour) for value in place])
        task, name = (("stack", "red"), ("pick_and_place", "green"))[colour]  # neither may be true of the other
        steps = np.arange(frames) * 2
        joints = np.stack([place.repeat(2), np.zeros(2 * frames)], axis=1).astype(np.float32)
        save_demonstration(
            directory / "toy" / task / f"{index:03d}.npz",
            {"robot": "toy", "task": task, "instruction": f"move the {name} dot right", "kind": "failure" if fails else "expert"},
            index,
            not fails,
            {
                "proprioception": joints,
                "actions": np.zeros((2 * frames, 2), np.float32),
                "frame_steps": steps,
                "progress": place.astype(np.float32),
                "primitive": np.full(frames, TASK_PRIMITIVES.index(PRIMITIVES[colour])),
                "completed": place >= 0.97,
                "state": np.zeros((frames, 1), np.float32),
                "pixels": np.zeros((frames, 2, 6, 3), np.float32),
            },
            {camera: image for camera in CAMERAS},
        )
