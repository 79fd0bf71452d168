"""Trains the frozen vision encoder of a robot on simulated frames: from pixels to where things are.

Role: `python -m policy_node.train_vision robot:=franka data:=build/demonstrations out:=assets [steps:=N] [seed:=0]`. Uses the labels of
demonstrations (positions of objects and hand), which only training sees. Does not depend on ROS or the simulator.
"""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import torch
from torch import nn
from tqdm import tqdm

from whetstone.arguments import integer, parse_arguments, run
from whetstone.demonstrations import STATE_NAMES, Demonstration, load_demonstrations
from whetstone.precision import autocast
from whetstone.vision import CAMERAS, VisionEncoder

BATCH = 32
HELD_OUT = 8  # every 8th episode is kept for the figures


def targets_of(demonstration: Demonstration) -> np.ndarray:
    """(F, 27): the labelled state, and where the cubes are from the hand (what the wrist camera sees best)."""
    state = np.clip(demonstration.state, -0.6, 1.2)  # a cube that fell off the table is just gone
    state[:, 2:18:3] = np.maximum(state[:, 2:18:3], 0)
    hand, red, blue = state[:, 0:3], state[:, 3:6], state[:, 6:9]
    return np.concatenate([state, red - hand, blue - hand], axis=1).astype(np.float32)


def load_frames(demonstrations: list[Demonstration]) -> tuple[dict[str, np.ndarray], np.ndarray, np.ndarray]:
    """camera -> (N, H, W, 3) uint8 of all episodes, (N, targets), and (N, cameras, 6, 3) pixels."""
    images: dict[str, list[np.ndarray]] = {camera: [] for camera in CAMERAS}
    for demonstration in tqdm(demonstrations, desc="reading", disable=None):
        for camera, frames in demonstration.images().items():
            images[camera].append(frames)
    return (
        {camera: np.concatenate(frames) for camera, frames in images.items()},
        np.concatenate([targets_of(d) for d in demonstrations]),
        np.concatenate([d.pixels for d in demonstrations]),
    )


def keypoint_loss(features: torch.Tensor, pixels: torch.Tensor, keypoints: int) -> torch.Tensor:
    """Each tower's first six keypoints are the six named points: where they are if in the image, a low peak if not.

    features: (B, 3 * keypoints * cameras) in the order x, y, peak per tower; pixels: (B, cameras, 6, 3). Without this the towers
    find the objects ten times slower.
    """
    total = torch.zeros(())
    for camera, tower in enumerate(features.split(3 * keypoints, dim=-1)):
        point = torch.stack([tower[:, :6], tower[:, keypoints : keypoints + 6]], dim=-1)
        wanted = pixels[:, camera, :, :2]
        seen = ((wanted.abs().amax(-1) < 1.05) & (pixels[:, camera, :, 2] > 0)).float()
        distance = nn.functional.smooth_l1_loss(point, wanted.clamp(-1, 1), beta=0.05, reduction="none").sum(-1)
        peak = tower[:, 2 * keypoints : 2 * keypoints + 6]
        presence = (peak - seen).square()
        total = total + (distance * seen).sum() / seen.sum().clamp(min=1) + 0.2 * presence.mean()
    return total


def train(robot: str, data: Path, out: Path, steps: int, seed: int) -> dict[str, float]:
    """Train, save assets/vision_<robot>.safetensors, return the held-out median errors (m)."""
    torch.manual_seed(seed)
    rng = np.random.default_rng(seed)
    demonstrations = load_demonstrations(data / robot)
    held_out = demonstrations[::HELD_OUT]
    images, targets, pixels = load_frames([d for i, d in enumerate(demonstrations) if i % HELD_OUT])
    mean, scale = targets.mean(0), targets.std(0) + 1e-3
    encoder = VisionEncoder()
    head = nn.Sequential(nn.Linear(encoder.feature_size, 192), nn.ReLU(), nn.Linear(192, targets.shape[1]))
    parameters = [*encoder.parameters(), *head.parameters()]
    optimiser = torch.optim.AdamW(parameters, lr=3e-3, weight_decay=1e-4)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, 3e-3, total_steps=steps, pct_start=0.1)
    encoder.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    progress = tqdm(range(steps), desc=f"vision {robot}", disable=None)
    started = time.time()
    for step in progress:
        index = rng.integers(0, len(targets), BATCH)
        # Brightness and noise: a camera is not a renderer.
        gain = torch.from_numpy(rng.uniform(0.85, 1.15, (BATCH, 1, 1, 1)).astype(np.float32))
        batch = {
            camera: (torch.from_numpy(frames[index]).permute(0, 3, 1, 2).float() / 255 * gain).contiguous(memory_format=torch.channels_last)
            for camera, frames in images.items()
        }
        wanted = torch.from_numpy((targets[index] - mean) / scale)
        with autocast():  # a third of the time
            features = encoder(batch)
        features = features.float()
        loss = nn.functional.smooth_l1_loss(head(features), wanted, beta=0.2)
        loss = loss + 2 * keypoint_loss(features, torch.from_numpy(pixels[index]), encoder.keypoints)
        optimiser.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimiser.step()
        schedule.step()
        if step % 100 == 99:
            progress.set_postfix(loss=f"{loss.item():.4f}")
            if progress.disable:
                print(f"vision {robot}: step {step + 1}/{steps} loss {loss.item():.4f} {time.time() - started:.0f} s", flush=True)
    encoder.eval()
    out.mkdir(parents=True, exist_ok=True)
    encoder.save(out / f"vision_{robot}.safetensors")
    errors = []
    with torch.no_grad():
        for demonstration in held_out:
            guess = head(encoder.features(demonstration.images())).numpy() * scale + mean
            errors.append(np.abs(guess - targets_of(demonstration)))
    median = np.median(np.concatenate(errors), axis=0)
    names = (*STATE_NAMES, *(f"{cube}_from_hand_{axis}" for cube in ("red", "blue") for axis in "xyz"))
    return dict(zip(names, (float(value) for value in median)))


def main(arguments: list[str]) -> None:
    given = parse_arguments(arguments, {"robot": "franka", "data": "build/demonstrations", "out": "assets", "steps": "4000", "seed": "0"})
    errors = train(given["robot"], Path(given["data"]), Path(given["out"]), integer(given, "steps"), integer(given, "seed"))
    print(f"{given['robot']} held-out median error: " + ", ".join(f"{name} {value:.4f}" for name, value in errors.items()))


if __name__ == "__main__":
    run(main)
