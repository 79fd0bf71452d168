"""`whetstone evaluate-reward reward:=topreward robot:=franka`: whether a reward model can be trusted.

Role: plays labelled episodes and their controls through a reward plug-in, the way the node does, and writes table, JSON and plots.
Episodes are simulated ones of seeds that nothing was trained on (made where they are missing), or a folder of one's own. Does not depend
on ROS.
"""

from __future__ import annotations

import json
import resource
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from reward_node.episodes import labelled
from reward_node.honesty.clips import clip_of
from reward_node.honesty.figures import figures
from reward_node.honesty.playing import Played, play, play_with_controls
from reward_node.honesty.report import plot, table
from reward_node.sarm2.configuration import SARM2Settings
from reward_node.signals import SuccessSettings
from whetstone import results
from whetstone.arguments import integer, parse_arguments, run
from whetstone.config import find, load_yaml, parse, show
from whetstone.contracts import RewardModel
from whetstone.demonstrations import Demonstration
from whetstone.profile import load_profile
from whetstone.rewards import load_reward

ARGUMENTS = {
    "reward": "sarm2",
    "robot": "franka",
    "data": "",
    "tasks": "",
    "controls": "6",
    "device": "cpu",
    "threads": "2",
    "out": "build/honesty",
    "results": "results",
    "seed": "0",
}
HELP = """whetstone evaluate-reward name:=value ...: whether a reward model can be trusted

  reward:=sarm2        a configuration in config/rewards, or a path that ends in .yaml
  robot:=franka
  data:=''             folders of labelled episodes, joined by commas; empty: simulated ones of seeds that nothing else uses
  tasks:=''            tasks, joined by commas; empty: all that the episodes have
  controls:=6          successful clips of each task that are played again as controls
  device:=cpu  threads:=2
  out:=build/honesty   folder of table and plots
  results:=results     folder of honesty-<reward>-<robot>.json
"""


def evaluate(
    reward: RewardModel, episodes: Sequence[Demonstration], rate: float, compatible: dict[str, tuple[str, ...]], count: int, seed: int
) -> list[Played]:
    """Every episode played once; of each task `count` successes with controls, under the seed."""
    random = np.random.default_rng(seed)
    instructions = {episode.task: episode.instruction for episode in episodes}
    left = dict.fromkeys(instructions, count)
    played = []
    for episode in tqdm(episodes, desc="clips", unit="clip", disable=None):
        clip = clip_of(episode, reward.needs, rate)
        if clip.success and left[clip.task]:
            left[clip.task] -= 1
            played.append(play_with_controls(reward, clip, instructions, compatible, random))
        else:
            played.append(Played(clip, play(reward, clip)))
    return played


def rows_of(played: Sequence[Played], success: SuccessSettings, subject: str, robot: str) -> list[dict[str, Any]]:
    """In the results format, of every task and of all."""
    rows = []
    for task in [*sorted({one.clip.task for one in played}), "all"]:
        found = figures([one for one in played if task in (one.clip.task, "all")], success)
        rows += [
            {"case": f"{robot}/{task}", "subject": subject, "metric": metric, "value": value, "unit": unit, "n": n}
            for metric, (value, unit, n) in found.items()
        ]
    return rows


def cost(reward: RewardModel, subject: str, robot: str, scores: int) -> list[dict[str, Any]]:
    """Memory and tokens: of the process, of the weights, per score."""
    found: dict[str, tuple[float, str]] = {
        "peak_memory": (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e6, "MB"),
        "weights": (reward.needs.memory / 1e6, "MB"),
    }
    tokens = getattr(reward, "counters", {}).get("tokens")
    if tokens:
        found["tokens_per_score"] = (tokens / scores, "1")
    if reward.needs.device.startswith("cuda"):
        import torch

        found["peak_memory"] = (torch.cuda.max_memory_allocated() / 1e6, "MB")
    return [
        {"case": f"{robot}/all", "subject": subject, "metric": metric, "value": float(f"{value:.4g}"), "unit": unit}
        for metric, (value, unit) in found.items()
    ]


def main(arguments: list[str]) -> None:
    if any(word in ("-h", "--help") for word in arguments):
        print(HELP, end="")
        return
    values = parse_arguments(arguments, ARGUMENTS)
    robot, count, seed, threads = values["robot"], integer(values, "controls"), integer(values, "seed"), integer(values, "threads")
    profile = load_profile(robot)
    source = find("rewards", values["reward"])
    name = Path(values["reward"]).stem
    success = parse(SuccessSettings, load_yaml(source).get("success", {}), f"{show(source)}: success")
    compatible = parse(SARM2Settings, load_yaml(find("rewards", "sarm2")), "config/rewards/sarm2.yaml").compatible
    tasks = tuple(values["tasks"].split(",")) if values["tasks"] else None
    reward = load_reward(values["reward"], profile, values["device"])
    _threads(threads)
    episodes = labelled(values["data"], robot, "evaluation", tasks)
    played = evaluate(reward, episodes, profile.rate, compatible, count, seed)
    subject = reward.provenance.model_id
    scores = sum(len(curve.raw) for one in played for curve in (one.curve, *one.controls.values()))
    rows = rows_of(played, success, subject, robot) + cost(reward, subject, robot, scores)
    command = f"whetstone evaluate-reward reward:={name} robot:={robot} seed:={seed}"
    path = Path(values["results"]) / f"honesty-{name}-{robot}.json"
    results.write(path, rows, command=command)
    folder = Path(values["out"]) / f"{name}-{robot}"
    plot(played, f"{subject}, {robot}: {len(played)} clips", folder / "curves.png")
    text = table(rows)
    provenance = json.dumps(asdict(reward.provenance), indent=1)
    (folder / "report.md").write_text(f"# {name}, {robot}\n\n{text}\n\n![curves](curves.png)\n\n```json\n{provenance}\n```\n")
    reasons = sorted({reason for one in played for reason in one.curve.invalid})
    print(text)
    for reason in reasons[:5]:
        print(f"not valid: {reason}")
    print(f"wrote {path}, {folder / 'report.md'}, {folder / 'curves.png'}")


def _threads(count: int) -> None:
    """After the model is loaded: some choose for themselves."""
    import torch

    torch.set_num_threads(count)


if __name__ == "__main__":
    run(main)
