"""Judge SARM2 on held-out episodes: `python -m reward_node.sarm2.evaluate robot:=franka`.

Role: plays held-out episodes through the reward model as the node would, frame by frame, and says how good it is. Writes
results/reward-<robot>.json. Ground truth is read here to judge, never to score. Does not depend on ROS.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from reward_node.metrics import expected_calibration_error, first_run, roc_auc, value_order_correlation
from reward_node.sarm2.configuration import SARM2Settings
from reward_node.sarm2.dataset import frame_stride, load_episodes, split
from reward_node.sarm2.reward import Encode, SARM2Reward
from whetstone import results
from whetstone.arguments import integer, parse_arguments, run
from whetstone.assets import asset_path
from whetstone.config import find, load_yaml
from whetstone.demonstrations import Demonstration

ARGUMENTS = {"robot": "franka", "data": "", "reward": "sarm2", "results": "results", "seed": "0"}

CONTROL_EPISODES = 12
"""Held-out episodes of a task that are played again as controls (still, reversed, wrong words): each costs a few passes."""


@dataclass
class Scored:
    """One held-out episode: S scored frames. values: (S, 3) progress, completion, contrastive; the rest is ground truth."""

    task: str
    success: bool
    values: np.ndarray
    progress: np.ndarray
    completed: np.ndarray
    seconds: np.ndarray


def scored_frames(reward: SARM2Reward, demonstration: Demonstration) -> tuple[list[dict[str, np.ndarray]], np.ndarray]:
    """(frame sets, indices) of the frames that the node would score."""
    images = demonstration.images()
    rows = np.arange(0, len(demonstration.frame_steps), frame_stride(demonstration, reward.needs.every))
    return [{camera: images[camera][row] for camera in reward.needs.cameras} for row in rows], rows


def play(reward: SARM2Reward, frames: list[dict[str, np.ndarray]], instruction: str) -> tuple[np.ndarray, np.ndarray]:
    """(values (S, 3), CPU seconds (S,)) of an episode of these frames, one by one."""
    reward.reset("evaluation", instruction, 0)
    values, seconds = [], []
    for index, images in enumerate(frames):
        begin = time.thread_time()
        sample = reward.observe(images, index)
        seconds.append(time.thread_time() - begin)
        values.append((sample.progress, sample.completion, sample.contrastive))
    return np.array(values), np.array(seconds)


def score(reward: SARM2Reward, demonstration: Demonstration) -> Scored:
    frames, rows = scored_frames(reward, demonstration)
    values, seconds = play(reward, frames, demonstration.instruction)
    return Scored(
        demonstration.task,
        bool(demonstration.success),
        values,
        np.asarray(demonstration.progress)[rows],
        np.asarray(demonstration.completed, dtype=bool)[rows],
        seconds,
    )


def control_bank(scored: Sequence[Scored]) -> np.ndarray:
    """(N, 3) scores of random frames of random episodes: what the shuffled control draws from."""
    bank = np.concatenate([episode.values for episode in scored])
    return bank[np.random.default_rng(0).permutation(len(bank))[:4096]]


def figures(
    reward: SARM2Reward, robot: str, held_out: Sequence[Demonstration], scored: Sequence[Scored], seed: int
) -> list[dict[str, Any]]:
    """Rows in the results format, of every task and of all."""
    rows: list[dict[str, Any]] = []
    tasks = sorted({episode.task for episode in scored})
    controls = {task: control_values(reward, task, held_out, seed) for task in tasks}
    for task in [*tasks, "all"]:
        numbers = task_figures(reward.settings, [episode for episode in scored if task in (episode.task, "all")])
        numbers |= control_figures([one for name in tasks if task in (name, "all") for one in controls[name]])
        for metric, (value, unit, count) in numbers.items():
            rows.append({"case": f"{robot}/{task}", "subject": "sarm2", "metric": metric, "value": value, "unit": unit, "n": count})
    return rows


def task_figures(settings: SARM2Settings, scored: Sequence[Scored]) -> dict[str, tuple[float | None, str, int]]:
    """Metric -> (value, unit, n) from the scores alone."""
    progress = np.concatenate([episode.values[:, 0] for episode in scored])
    completion = np.concatenate([episode.values[:, 1] for episode in scored])
    truth = np.concatenate([episode.progress for episode in scored])
    completed = np.concatenate([episode.completed for episode in scored])
    success = np.array([episode.success for episode in scored])
    wins = [episode for episode in scored if episode.success]
    failures = [episode for episode in scored if not episode.success]
    last_completion = np.array([episode.values[-3:, 1].mean() for episode in scored])
    last_progress = np.array([episode.values[-3:, 0].mean() for episode in scored])
    said = [first_run(episode.values[:, 1], settings.success.threshold, settings.success.frames) for episode in scored]
    # Wrong: success was declared on a frame on which the task was not done.
    wrong = [run >= 0 and not episode.completed[run] for run, episode in zip(said, scored, strict=True)]
    cost = np.concatenate([episode.seconds[1:] for episode in scored]) * 1e3

    def mean(values: Sequence[float] | np.ndarray) -> float | None:
        return float(np.mean(values)) if len(values) else None

    auc = roc_auc(last_completion, success)
    auc_progress = roc_auc(last_progress, success)
    return {
        "voc_success": (mean([value_order_correlation(until_done(episode)) for episode in wins]), "1", len(wins)),
        "voc_success_whole_clip": (mean([value_order_correlation(episode.values[:, 0]) for episode in wins]), "1", len(wins)),
        "voc_failure": (mean([value_order_correlation(episode.values[:, 0]) for episode in failures]), "1", len(failures)),
        "success_auc_completion": (None if np.isnan(auc) else auc, "1", len(scored)),
        "success_auc_progress": (None if np.isnan(auc_progress) else auc_progress, "1", len(scored)),
        "completion_accuracy": (float(((completion >= 0.5) == completed).mean()), "1", len(completed)),
        "completion_calibration_error": (expected_calibration_error(completion, completed), "1", len(completed)),
        "progress_mse": (float(np.mean((progress - truth) ** 2)), "1", len(progress)),
        "false_success_rate": (mean([one for one, episode in zip(wrong, scored, strict=True) if not episode.success]), "1", len(failures)),
        "early_success_rate": (mean([one for one, episode in zip(wrong, scored, strict=True) if episode.success]), "1", len(wins)),
        "missed_success_rate": (mean([run < 0 for run, episode in zip(said, scored, strict=True) if episode.success]), "1", len(wins)),
        "score_cpu_time_p50": (float(np.percentile(cost, 50)), "ms", len(cost)),
        "score_cpu_time_p95": (float(np.percentile(cost, 95)), "ms", len(cost)),
    }


def until_done(episode: Scored) -> np.ndarray:
    """Progress up to the second scored frame after the task was done: where the loop ends an episode."""
    done = int(np.argmax(episode.completed)) if episode.completed.any() else len(episode.completed)
    return episode.values[: done + 2, 0]


@dataclass(frozen=True)
class Controls:
    """One successful episode under what must not look like progress; the last two are None where no wrong words exist."""

    static_rise: float
    static_voc: float
    noisy_rise: float
    reversed_voc: float
    wrong_progress: float | None
    wrong_success: bool | None


def control_values(reward: SARM2Reward, task: str, held_out: Sequence[Demonstration], seed: int) -> list[Controls]:
    """A still, a still with sensor noise, the clip reversed, other words: for some successful episodes of the task."""
    random = np.random.default_rng(seed)
    settings, encode = reward.settings, reward.encode
    excluded = (task, *settings.compatible.get(task, ()))
    others = sorted({demonstration.instruction for demonstration in held_out if demonstration.task not in excluded})
    wins = [demonstration for demonstration in held_out if demonstration.task == task and demonstration.success]
    values = []
    for demonstration in wins[:CONTROL_EPISODES]:
        frames, _ = scored_frames(reward, demonstration)
        # The same frame sets are played in several orders: encode each once.
        reward.encode = remembering(encode)
        still, _ = play(reward, [frames[0]] * len(frames), demonstration.instruction)
        backwards, _ = play(reward, frames[::-1], demonstration.instruction)
        words, _ = play(reward, frames, str(random.choice(others))) if others else (None, None)
        reward.encode = encode
        grain = [{camera: grainy(image, random) for camera, image in frames[0].items()} for _ in frames]
        noisy, _ = play(reward, grain, demonstration.instruction)
        said = None if words is None else first_run(words[:, 1], settings.success.threshold, settings.success.frames) >= 0
        values.append(
            Controls(
                float(np.ptp(still[:, 0])),
                value_order_correlation(still[:, 0]),
                float(noisy[-3:, 0].mean() - noisy[:3, 0].mean()),
                value_order_correlation(backwards[:, 0]),
                None if words is None else float(words[-3:, 0].mean()),
                said,
            )
        )
    return values


def remembering(encode: Encode) -> Encode:
    """The same function, which answers for a frame set that it has seen (the same object) from memory."""
    known: dict[int, Tensor] = {}

    def answer(images: dict[str, np.ndarray]) -> Tensor:
        if id(images) not in known:
            known[id(images)] = encode(images)
        return known[id(images)]

    return answer


def control_figures(controls: Sequence[Controls]) -> dict[str, tuple[float | None, str, int]]:
    """Metric -> (value, unit, n)."""

    def mean(values: Sequence[float | bool | None]) -> tuple[float | None, str, int]:
        given = [float(value) for value in values if value is not None]
        return (float(np.mean(given)) if given else None, "1", len(given))

    return {
        "static_rise_max": (max((one.static_rise for one in controls), default=None), "1", len(controls)),
        "static_voc": mean([one.static_voc for one in controls]),
        "static_rise_camera_noise": mean([one.noisy_rise for one in controls]),
        "voc_reversed": mean([one.reversed_voc for one in controls]),
        "wrong_instruction_progress": mean([one.wrong_progress for one in controls]),
        "wrong_instruction_false_success_rate": mean([one.wrong_success for one in controls]),
    }


def grainy(image: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """The image with sensor noise of 3 grey levels."""
    return np.clip(image + random.normal(0.0, 3.0, image.shape), 0, 255).astype(np.uint8)


def table(rows: list[dict[str, Any]]) -> str:
    """Markdown: one line per metric, one column per task."""
    cases = list(dict.fromkeys(row["case"] for row in rows))
    cells = {(row["metric"], row["case"]): row for row in rows}
    lines = ["| metric | " + " | ".join(case.partition("/")[2] for case in cases) + " |", "|---" * (len(cases) + 1) + "|"]
    for metric in dict.fromkeys(row["metric"] for row in rows):
        shown = []
        for case in cases:
            value = cells[metric, case]["value"]
            shown.append("-" if value is None else f"{value:.3g}")
        unit = cells[metric, cases[0]]["unit"]
        lines.append(f"| {metric}{'' if unit == '1' else f' ({unit})'} | " + " | ".join(shown) + " |")
    return "\n".join(lines)


def write_card(
    path: Path,
    robot: str,
    settings: SARM2Settings,
    demonstrations: Sequence[Demonstration],
    held_out: Sequence[Demonstration],
    rows: list[dict[str, Any]],
    command: str,
    seconds: float,
) -> None:
    """The model card beside the weights."""
    tasks = sorted({demonstration.task for demonstration in demonstrations})
    wins = sum(bool(demonstration.success) for demonstration in demonstrations)
    rollouts = sum(demonstration.kind == "rollout" for demonstration in demonstrations)
    network, model = settings.network, settings.vision_model
    encoder = "vision encoder" if model is None else f"vision model {Path(model.folder).name} ({model.precision})"
    path.write_text(f"""# Reward model SARM2, {robot}

**What it is.** A small SARM2 (arXiv 2606.10305): stage estimator ({network.stage_layers} layers) and value head
({network.value_layers} layers, width {network.width}, {network.experts} experts, top {network.top}) over the features of the frozen
{encoder} and the instruction. It sees the first frame of the episode and the last {network.recent} scored frames of
{", ".join(settings.cameras)} (one score every {settings.every} control steps), nothing else: no proprioception, no simulator state.
It gives progress and completion; the contrastive signal compares progress over {settings.contrastive.window} scored frames with a
dead zone of {settings.contrastive.dead_zone}.

**Made by** `{command}` in {seconds:.0f} CPU seconds on one thread, from {len(demonstrations)} simulated episodes ({wins} successes,
{len(demonstrations) - wins} failures) of {", ".join(tasks)}: scripted experts with faults and {rollouts} episodes of the base policy,
whose faults are its own. {len(held_out)} of them were held out. Labels came from the simulator and are used in training only.

**Held-out figures**, through the same path as the node. VOC is the rank correlation of progress with time up to two scored frames
after the task was done. Success is declared as in the configuration (completion >= {settings.success.threshold} on
{settings.success.frames} scored frames): false and early are declarations on a frame on which the task was not done. `static` repeats
the first frame. AUC uses the mean of the last 3 scores.

{table(rows)}

**Limits.** Rendered images of these scenes only; on a real robot train it on that robot's recordings. It knows the tasks named
above: under other words its scores mean nothing. It has seen the faults of the base policy: for another one, record its episodes and
train again.
""")


def main(arguments: list[str]) -> None:
    values = parse_arguments(arguments, ARGUMENTS)
    robot, seed = values["robot"], integer(values, "seed")
    torch.set_num_threads(1)
    config = load_yaml(find("rewards", values["reward"]))
    reward = SARM2Reward.from_file(config, robot, asset_path(str(config["weights"]).format(robot=robot)))
    _, held_out = split(load_episodes(values["data"], robot), reward.settings.training.held_out, seed)
    scored = [score(reward, demonstration) for demonstration in tqdm(held_out, desc="held out", unit="episode")]
    rows = figures(reward, robot, held_out, scored, seed)
    command = f"python -m reward_node.sarm2.evaluate robot:={robot} seed:={seed}"
    results.write(Path(values["results"]) / f"reward-{robot}.json", rows, command=command)
    print(table(rows))


if __name__ == "__main__":
    run(main)
