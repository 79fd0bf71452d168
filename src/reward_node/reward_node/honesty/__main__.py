"""`whetstone evaluate-reward reward:=topreward robot:=franka`: whether a reward model can be trusted.

Role: plays labelled episodes and their controls through a reward plug-in, the way the node does, and writes table, JSON and plots.
Episodes are simulated ones of seeds that nothing was trained on (made where they are missing), or a folder of one's own. Does not depend
on ROS.
"""

from __future__ import annotations

import json
import shutil
from dataclasses import asdict
from pathlib import Path

from reward_node import card
from reward_node.episodes import labelled
from reward_node.honesty.judging import cost, evaluate, rows_of
from reward_node.honesty.report import plot, table
from whetstone import results
from whetstone.arguments import integer, parse_arguments, run, spelled
from whetstone.completion import Completion
from whetstone.config import find, load_yaml, parse, show
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
    "card": "",
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
  card:=''             the model's card, whose figures are to be replaced by these
"""


def main(arguments: list[str]) -> None:
    values = parse_arguments(arguments, ARGUMENTS)
    robot, count, seed, threads = values["robot"], integer(values, "controls"), integer(values, "seed"), integer(values, "threads")
    profile = load_profile(robot)
    source = find("rewards", values["reward"])
    name = Path(values["reward"]).stem
    success = parse(Completion, load_yaml(source).get("success", {}), f"{show(source)}: success")
    page = Path(values["card"]) if values["card"] else None
    if page is not None:
        card.check(page)
    tasks = tuple(values["tasks"].split(",")) if values["tasks"] else None
    reward = load_reward(values["reward"], profile, values["device"])
    _threads(threads)
    episodes = labelled(values["data"], robot, "evaluation", tasks)
    played = evaluate(reward, episodes, profile.rate, count, seed)
    subject = reward.provenance.model_id
    rows = rows_of(played, success, subject, robot) + cost(reward, played, subject, robot)
    command = f"whetstone evaluate-reward {spelled(values, ARGUMENTS, always=('reward', 'robot'))}"
    path = Path(values["results"]) / f"honesty-{name}-{robot}.json"
    results.write(path, rows, command=command)
    folder = Path(values["out"]) / f"{name}-{robot}"
    plot(played, f"{subject}, {robot}: {len(played)} clips", folder / "curves.png")
    text = table(rows)
    provenance = json.dumps(asdict(reward.provenance), indent=1)
    (folder / "report.md").write_text(f"# {name}, {robot}\n\n{text}\n\n![curves](curves.png)\n\n```json\n{provenance}\n```\n")
    if page is not None:
        shutil.copyfile(folder / "curves.png", page.with_suffix(".png"))
        which = f"episodes of {values['data']}" if values["data"] else "simulated episodes of seeds that nothing was trained on"
        heading = f"**Held-out figures** (`{command}`, {path.name}): {len(played)} {which}."
        card.fill(page, f"{heading}\n\n{text}\n\n![curves]({page.stem}.png)")
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
    run(main, HELP)
