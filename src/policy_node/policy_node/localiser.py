"""The frozen second half of the policy's backbone: keypoints + proprioception -> an embedding that says where things are from the hand.

Role: trained once per robot on demonstrations' labels, frozen ever after. A policy that learns from twenty demonstrations cannot
also learn the arm's kinematics to the millimetre; this network has them. Depends on torch; knows nothing of tasks or ROS.
"""

from __future__ import annotations

import hashlib
import time
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import nn
from tqdm import tqdm

from policy_node.train_vision import HELD_OUT, targets_of
from whetstone.arguments import integer, parse_arguments, run
from whetstone.assets import asset_path
from whetstone.demonstrations import STATE_NAMES, load_demonstrations
from whetstone.errors import AssetError
from whetstone.vision import VisionEncoder

BATCH = 512


class Localiser(nn.Module):
    """Its embedding is read out linearly into positions (m) in training, so that distances in it mean distances on the table."""

    feature_mean: torch.Tensor
    feature_scale: torch.Tensor
    proprioception_mean: torch.Tensor
    proprioception_scale: torch.Tensor

    def __init__(self, features: int, columns: int, size: int = 64, targets: int = len(STATE_NAMES) + 6):
        super().__init__()
        self.size = size
        self.network = nn.Sequential(
            nn.Linear(features + columns, 256), nn.GELU(), nn.Linear(256, 256), nn.GELU(), nn.Linear(256, size), nn.LayerNorm(size)
        )
        self.readout = nn.Linear(size, targets)
        self.register_buffer("feature_mean", torch.zeros(features))
        self.register_buffer("feature_scale", torch.ones(features))
        self.register_buffer("proprioception_mean", torch.zeros(columns))
        self.register_buffer("proprioception_scale", torch.ones(columns))
        self.identity = ""

    @classmethod
    def load(cls, robot: str) -> Localiser:
        """From assets/localiser_<robot>.safetensors. Raises AssetError."""
        path = asset_path(f"localiser_{robot}.safetensors")
        try:
            state = {name: value.float() for name, value in load_file(str(path)).items()}
            sizes = (len(state["feature_mean"]), len(state["proprioception_mean"]), *state["readout.weight"].shape[::-1])
            localiser = cls(*sizes)
            localiser.load_state_dict(state)
        except Exception as error:  # safetensors and torch raise their own types; whatever it is, the file is unusable
            raise AssetError(f"{path.name}: cannot be loaded ({error}); make it again with `make assets`") from None
        localiser.identity = hashlib.sha256(path.read_bytes()).hexdigest()[:12]
        return localiser.eval().requires_grad_(False)

    def forward(self, features: torch.Tensor, proprioception: torch.Tensor) -> torch.Tensor:
        """(B, features), (B, columns) rad and opening -> (B, size)."""
        normal = (features - self.feature_mean) / self.feature_scale
        joints = (proprioception - self.proprioception_mean) / self.proprioception_scale
        return self.network(torch.cat([normal, joints], dim=-1))


def train(robot: str, data: Path, out: Path, steps: int, seed: int) -> dict[str, float]:
    """Train, save assets/localiser_<robot>.safetensors, return the held-out median errors (m)."""
    torch.manual_seed(seed)
    rng = np.random.default_rng(seed)
    vision = VisionEncoder.load(robot)
    features, joints, targets, held = [], [], [], []
    for index, demonstration in enumerate(tqdm(load_demonstrations(data / robot), desc="features", disable=None)):
        kept = demonstration.frame_steps < len(demonstration.proprioception)
        features.append(vision.features({camera: frames[kept] for camera, frames in demonstration.images().items()}))
        joints.append(torch.from_numpy(demonstration.proprioception[demonstration.frame_steps[kept]]))
        targets.append(torch.from_numpy(targets_of(demonstration)[kept]))
        held += [index % HELD_OUT == 0] * int(kept.sum())
    feature, joint, target, out_of = torch.cat(features), torch.cat(joints), torch.cat(targets), torch.tensor(held)
    kept = torch.nonzero(~out_of)[:, 0].numpy()
    localiser = Localiser(feature.shape[1], joint.shape[1])
    localiser.feature_mean.copy_(feature[kept].mean(0))
    localiser.feature_scale.copy_(feature[kept].std(0) + 0.02)
    localiser.proprioception_mean.copy_(joint[kept].mean(0))
    localiser.proprioception_scale.copy_(joint[kept].std(0) + 0.01)
    mean, scale = target[kept].mean(0), target[kept].std(0) + 1e-3
    optimiser = torch.optim.AdamW(localiser.parameters(), lr=2e-3, weight_decay=1e-3)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, 2e-3, total_steps=steps, pct_start=0.1)
    progress, started = tqdm(range(steps), desc=f"localiser {robot}", disable=None), time.time()
    for step in progress:
        index = torch.from_numpy(rng.choice(kept, BATCH))
        noisy = feature[index] + 0.01 * torch.randn(BATCH, feature.shape[1])
        loss = nn.functional.smooth_l1_loss(localiser.readout(localiser(noisy, joint[index])), (target[index] - mean) / scale, beta=0.05)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        schedule.step()
        if step % 1000 == 999 and progress.disable:
            print(f"localiser {robot}: step {step + 1}/{steps} loss {loss.item():.4f} {time.time() - started:.0f} s", flush=True)
    localiser.eval()
    save_file(
        {name: value.half().contiguous() for name, value in localiser.state_dict().items()}, str(out / f"localiser_{robot}.safetensors")
    )
    with torch.no_grad():
        guess = localiser.readout(localiser(feature[out_of], joint[out_of])) * scale + mean
    median = (guess - target[out_of]).abs().median(0).values
    names = (*STATE_NAMES, *(f"{cube}_from_hand_{axis}" for cube in ("red", "blue") for axis in "xyz"))
    return dict(zip(names, (float(value) for value in median), strict=True))


def main(arguments: list[str]) -> None:
    given = parse_arguments(arguments, {"robot": "franka", "data": "build/demonstrations", "out": "assets", "steps": "5000", "seed": "0"})
    errors = train(given["robot"], Path(given["data"]), Path(given["out"]), integer(given, "steps"), integer(given, "seed"))
    print(f"{given['robot']} held-out median error: " + ", ".join(f"{name} {value:.4f}" for name, value in errors.items()))


if __name__ == "__main__":
    run(main)
