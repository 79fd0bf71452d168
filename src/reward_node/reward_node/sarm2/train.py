"""Train SARM2 for one robot: `python -m reward_node.sarm2.train robot:=franka out:=assets`.

Role: the training loop, the weights file, the model card, a first look at held-out episodes. Writes <out>/reward_<robot>.safetensors and
.md. One thread, a few minutes. Checkpoints and TensorBoard curves go to <logs>/reward_<robot>; interrupted, the
same command with resume:=true goes on. Does not depend on ROS.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file

from reward_node.honesty.judging import evaluate, rows_of
from reward_node.honesty.playing import Played
from reward_node.honesty.report import table
from reward_node.sarm2 import card
from reward_node.sarm2.configuration import SARM2Settings
from reward_node.sarm2.dataset import Windows, load_episodes, split
from reward_node.sarm2.encoder import build_encoder
from reward_node.sarm2.losses import loss
from reward_node.sarm2.reward import SARM2Model, SARM2Reward, build_model, metadata
from reward_node.training import Training
from whetstone import files
from whetstone.arguments import boolean, integer, parse_arguments, run, spelled
from whetstone.config import config_hash, find, parse, show
from whetstone.profile import load_profile
from whetstone.rewards import own_settings

ARGUMENTS = {
    "robot": "franka",
    "data": "",
    "out": "assets",
    "reward": "sarm2",
    "seed": "0",
    "resume": "false",
    "logs": "build/training",
}
CONTROLS = 3
"""Held-out successes of a task that are played again as controls."""


def fit(settings: SARM2Settings, windows: Windows, model: SARM2Model, seed: int, folder: Path, resume: bool = False) -> None:
    """AdamW with warm-up and cosine decay. Deterministic under the seed, whether in one go or resumed.

    folder: of the checkpoint, which `resume` goes on from, and of the TensorBoard curves. InputError where it cannot.
    """
    torch.manual_seed(seed)
    training = settings.training
    mean, scale = windows.statistics()
    model.network.feature_mean.copy_(mean)
    model.network.feature_scale.copy_(scale)
    optimiser = torch.optim.AdamW(model.parameters(), lr=training.learning_rate, weight_decay=training.weight_decay)
    noise = torch.Generator().manual_seed(seed)
    fingerprint = config_hash([settings, seed, windows.instructions, windows.progress])
    loop = Training(folder, model, optimiser, training.steps, resume, [windows.random, noise], fingerprint=fingerprint)
    model.train()
    for step in loop:
        warm = min(1.0, (step + 1) / 50)
        for group in optimiser.param_groups:
            group["lr"] = training.learning_rate * warm * 0.5 * (1.0 + math.cos(math.pi * step / training.steps))
        batch = windows.batch(training.batch)
        seen = torch.cat([batch.features, batch.state], dim=-1)
        seen = seen + torch.randn(seen.shape, generator=noise) * model.network.feature_scale * training.feature_noise
        features, state = seen.split([batch.features.shape[-1], batch.state.shape[-1]], dim=-1)
        embedded = model.text(windows.instructions)
        scores = model.network(features, embedded[batch.sentence], state)
        value, parts = loss(scores, batch.labels, settings.losses)
        optimiser.zero_grad()
        value.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        loop.note(loss=float(value.detach()), **parts)
    model.eval()


def save(model: SARM2Model, bank: np.ndarray, path: Path, information: dict[str, str]) -> None:
    """Weights as float16, and `control_bank`, the scores that the shuffled control draws from. Written whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    state = {f"model.{name}": tensor.half().contiguous() for name, tensor in model.state_dict().items()}
    state["control_bank"] = torch.from_numpy(bank.astype(np.float16))
    with files.replacing(path) as partial:
        save_file(state, partial, metadata=information)


def control_bank(played: Sequence[Played]) -> np.ndarray:
    """(N, 3) scores of random frames of random episodes: what the shuffled control draws from."""
    columns = [np.concatenate([getattr(one.curve, name) for one in played]) for name in ("progress", "completion", "contrastive")]
    bank = np.stack(columns, axis=1)
    return bank[np.random.default_rng(0).permutation(len(bank))[:4096]]


def main(arguments: list[str]) -> None:
    from whetstone.text import TextEncoder

    values = parse_arguments(arguments, ARGUMENTS)
    robot, seed = values["robot"], integer(values, "seed")
    resume = boolean(values, "resume")
    profile = load_profile(robot)
    torch.set_num_threads(1)
    source = find("rewards", values["reward"])
    config = own_settings(source)
    settings = parse(SARM2Settings, config, show(source))
    episodes = load_episodes(values["data"], robot)
    encoder = build_encoder(settings, robot, show(source))
    training, held_out = split(episodes, settings.training.held_out, seed)
    print(f"{len(training)} episodes to train on, {len(held_out)} held out")
    begin = time.process_time()
    windows = Windows(settings, encoder, training, seed)
    torch.manual_seed(seed)
    model = build_model(settings, encoder.feature_size, TextEncoder())
    path = Path(values["out"]) / settings.weights.format(robot=robot)
    fit(settings, windows, model, seed, Path(values["logs"]) / path.stem, resume)
    seconds = time.process_time() - begin
    information = metadata(settings, encoder.feature_size, encoder.identity)
    save(model, np.zeros((1, 3), np.float32), path, information)
    command = f"python -m reward_node.sarm2.train {spelled(values, ARGUMENTS, always=('robot', 'seed'))}"
    card.write(path.with_suffix(".md"), robot, settings, episodes, len(held_out), command, seconds)
    print(f"wrote {path} ({path.stat().st_size / 1e6:.1f} MB), trained in {seconds:.0f} s")
    played = evaluate(SARM2Reward.from_file(config, robot, path), held_out, profile.rate, CONTROLS, seed)
    save(model, control_bank(played), path, information)
    print(table(rows_of(played, settings.success, "sarm2", robot)))


if __name__ == "__main__":
    run(main)
