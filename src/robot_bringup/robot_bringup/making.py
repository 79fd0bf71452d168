"""Makes what lies in assets/ again: demonstrations, vision encoder, reward model, base policy, for each robot.

Role: `whetstone assets`: runs the training scripts of the packages in their order, as processes, so that nothing here imports
them. Demonstrations already made are kept, so an interrupted making goes on where it stopped.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from robot_bringup.run_arguments import Argument
from robot_bringup.supervisor import last_words
from whetstone import config
from whetstone.errors import ConfigError, InputError

ASSETS_ARGUMENTS: tuple[Argument, ...] = (
    Argument("robots", "franka,so100", "robots, joined by commas; they are worked on side by side"),
    Argument("data", "build/demonstrations", "folder of the demonstrations", "path"),
)

# glibc gives the memory of each step's activations back and asks for it again: a quarter of the time of training on a CPU.
KEEP_MEMORY = {"MALLOC_MMAP_THRESHOLD_": str(32 << 20), "MALLOC_TRIM_THRESHOLD_": str(8 << 30)}


@dataclass(frozen=True)
class Stage:
    """One script: python -m `module`, with these arguments ({robot}, {data} and {out}, the assets folder, are filled in)."""

    name: str
    module: str
    arguments: tuple[str, ...]


STAGES: tuple[Stage, ...] = (
    Stage("demonstrations", "robot_bringup.demonstrate", ("robot:={robot}", "out:={data}")),
    Stage("vision encoder", "policy_node.train_vision", ("robot:={robot}", "data:={data}", "out:={out}")),
    Stage("localiser", "policy_node.localiser", ("robot:={robot}", "data:={data}", "out:={out}")),
    Stage("base policy", "policy_node.imitate", ("robot:={robot}", "data:={data}", "out:={out}")),
    Stage("rollouts", "robot_bringup.collect", ("robot:={robot}", "out:={data}/../rollouts")),
    Stage("reward model", "reward_node.sarm2.train", ("robot:={robot}", "data:={data}/{robot},{data}/../rollouts/{robot}", "out:={out}")),
    Stage("pocket VLM", "reward_node.pocket.train", ("robot:={robot}", "data:={data}/{robot},{data}/../rollouts/{robot}", "out:={out}")),
    Stage("its calibration", "reward_node.calibration", ("reward:=topreward", "robot:={robot}")),
    Stage("reward model judged", "reward_node.honesty", ("reward:=sarm2", "robot:={robot}", "card:=assets/reward_{robot}.md")),
    Stage("pocket VLM judged", "reward_node.honesty", ("reward:=topreward", "robot:={robot}", "card:=assets/pocket_{robot}.md")),
)


def make_assets(given: Mapping[str, str], console: Console) -> int:
    """Run all stages for all robots. Raises InputError naming the stage that failed. Returns the exit code."""
    own = {argument.name: argument for argument in ASSETS_ARGUMENTS}
    for name in given:
        if name not in own:
            raise ConfigError(config.unknown("argument", name, own))
    typed = {name: argument.read(given.get(name, argument.default)) for name, argument in own.items()}
    robots = [robot.strip() for robot in typed["robots"].split(",")]
    for robot in robots:
        config.find("robots", robot)
    data, out = Path(typed["data"]), config.root() / "assets"  # nowhere else: a stage reads there what the one before it made
    logs = data.parent / "logs"
    for folder in (data, out, logs):
        folder.mkdir(parents=True, exist_ok=True)
    waiting = {robot: list(STAGES) for robot in robots}
    running: dict[str, tuple[Stage, subprocess.Popen[bytes], float]] = {}
    try:
        while waiting or running:
            for robot in robots:
                if robot in running and running[robot][1].poll() is not None:
                    stage, process, began = running.pop(robot)
                    if process.returncode:
                        words = last_words(_log(logs, robot, stage))
                        raise InputError(f"assets: {stage.name} of {robot} failed (exit code {process.returncode}): {words}")
                    console.print(f"{robot}: {stage.name} done in {time.monotonic() - began:.0f} s", highlight=False)
                if robot not in running and robot in waiting:
                    stage = waiting[robot].pop(0)
                    if not waiting[robot]:
                        del waiting[robot]
                    console.print(f"{robot}: {stage.name} ... (log: {_log(logs, robot, stage)})", highlight=False, soft_wrap=True)
                    running[robot] = (stage, _start(stage, robot, data, out, logs), time.monotonic())
            time.sleep(0.2)
    finally:
        for _, process, _ in running.values():
            process.terminate()
        for _, process, _ in running.values():
            process.wait()
    return 0


def _start(stage: Stage, robot: str, data: Path, out: Path, logs: Path) -> subprocess.Popen[bytes]:
    words = [argument.format(robot=robot, data=data, out=out) for argument in stage.arguments]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "LP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1", **KEEP_MEMORY}
    with _log(logs, robot, stage).open("wb") as log:
        return subprocess.Popen([sys.executable, "-m", stage.module, *words], stdout=log, stderr=subprocess.STDOUT, env=environment)


def _log(logs: Path, robot: str, stage: Stage) -> Path:
    return logs / f"assets-{robot}-{stage.name.replace(' ', '-')}.log"
