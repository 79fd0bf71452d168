"""Imitation learning of the base policy from demonstrations.

Role: `python -m policy_node.imitate robot:=franka data:=build/demonstrations out:=assets [steps:=N]
[demonstrations:=task=count,...] [seed:=0]`. Reads demonstrations only; does not depend on ROS or a simulator.
"""

from __future__ import annotations

import json
import time
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file
from tqdm import tqdm

from policy_node.flow_vla import FlowVLAConfig, FlowVLAPolicy
from policy_node.localiser import Localiser
from whetstone import config
from whetstone.arguments import counts, integer, parse_arguments, run
from whetstone.demonstrations import Demonstration, load_demonstrations
from whetstone.precision import autocast
from whetstone.profile import load_profile
from whetstone.vision import VisionEncoder

BATCH = 256
# What a lab has after an hour of teleoperation; see `demonstrate.py` for the demonstrator's habit that leaves it half-way to the task.
DEMONSTRATIONS = "pick_and_place=170,push=30,reach=30,stack=30,tray_then_button=9"


def chunks_of(demonstration: Demonstration, horizon: int) -> tuple[np.ndarray, np.ndarray]:
    """Indices of the frames that have an action, and their chunks (N, horizon, columns); the last action is held past the end."""
    actions = demonstration.actions
    kept = np.flatnonzero(demonstration.frame_steps < len(actions))
    rows = np.minimum(demonstration.frame_steps[kept, None] + np.arange(horizon), len(actions) - 1)
    return kept, actions[rows]


def imitate(robot: str, data: Path, out: Path, steps: int, counts: dict[str, int], seed: int) -> FlowVLAPolicy:
    """Train on successful demonstrations, save assets/policy_<robot>.safetensors."""
    torch.manual_seed(seed)
    rng = np.random.default_rng(seed)
    profile = load_profile(robot)
    settings = config.load(FlowVLAConfig, "policies", "flow_vla")
    policy = FlowVLAPolicy(settings, profile, VisionEncoder.load(robot), Localiser.load(robot))
    network = policy.network.train()
    features, states, leads, chunks, texts = [], [], [], [], []
    for task in counts:
        every = [d for d in load_demonstrations(data / robot, (task,)) if d.success and d.kind in ("noisy", "habitual")]
        good = ([d for d in every if d.kind == "habitual"] or every)[: counts[task]]
        for demonstration in tqdm(good, desc=f"features {task}", disable=None):
            kept, rows = chunks_of(demonstration, settings.horizon)
            keypoints = policy.vision.features({camera: frames[kept] for camera, frames in demonstration.images().items()})
            states.append(torch.from_numpy(demonstration.proprioception[demonstration.frame_steps[kept]]))
            features.append(policy.localiser(keypoints, states[-1]))
            commanded = np.concatenate([demonstration.proprioception[:1], demonstration.actions[:-1]])
            leads.append(torch.from_numpy(commanded[demonstration.frame_steps[kept]]))
            chunks.append(torch.from_numpy(rows))
            texts += [demonstration.instruction] * len(kept)
    feature, state, lead, chunk = torch.cat(features), torch.cat(states), torch.cat(leads), torch.cat(chunks)
    network.proprioception_mean.copy_(state.mean(0))
    network.proprioception_scale.copy_(state.std(0) + 0.01)
    network.lead_scale.copy_((lead - state).std(0) + 0.005)
    network.delta_scale.copy_((chunk[..., :-1] - state[:, None, :-1]).std(0) + 0.005)
    target = network.normalise(chunk, state)
    sentences = sorted(set(texts))
    which = torch.tensor([sentences.index(text) for text in texts])
    optimiser = torch.optim.AdamW(network.parameters(), lr=1e-3, weight_decay=1e-3)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, 1e-3, total_steps=steps, pct_start=0.1)
    progress = tqdm(range(steps), desc=f"imitation {robot}", disable=None)
    started = time.time()
    for step in progress:
        index = torch.from_numpy(rng.integers(0, len(target), BATCH))
        inputs = network.inputs(feature[index], state[index], lead[index], network.text(sentences)[which[index]])
        inputs = inputs + 0.02 * torch.randn_like(inputs)  # keypoints jitter by about this much between two like frames
        with autocast():  # half the time
            loss = network.loss(inputs, target[index]).mean()
        optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimiser.step()
        schedule.step()
        if step % 500 == 499:
            progress.set_postfix(loss=f"{loss.item():.4f}")
            if progress.disable:
                print(f"imitation {robot}: step {step + 1}/{steps} loss {loss.item():.4f} {time.time() - started:.0f} s", flush=True)
    network.eval()
    out.mkdir(parents=True, exist_ok=True)
    policy.save(out / f"policy_{robot}.safetensors")
    with torch.no_grad():
        inputs = network.inputs(feature, state, lead, network.text(sentences)[which])
    replay = {"inputs": inputs.half().contiguous(), "chunks": target.half().contiguous(), "instruction": which.to(torch.uint8)}
    save_file(replay, str(out / f"policy_{robot}_demonstrations.safetensors"), {"instructions": json.dumps(sentences)})
    return policy


def main(arguments: list[str]) -> None:
    defaults = {
        "robot": "franka",
        "data": "build/demonstrations",
        "out": "assets",
        "steps": "3000",
        "demonstrations": DEMONSTRATIONS,
        "seed": "0",
    }
    given = parse_arguments(arguments, defaults)
    robot = given["robot"]
    tasks = counts(given, "demonstrations", "task")
    policy = imitate(robot, Path(given["data"]), Path(given["out"]), integer(given, "steps"), tasks, integer(given, "seed"))
    print(f"policy for {robot}: {sum(p.numel() for p in policy.network.parameters())} parameters, {policy.spec.config_hash}")


if __name__ == "__main__":
    run(main)
