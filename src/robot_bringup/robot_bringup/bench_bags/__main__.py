"""What bags cost: each part in turn, and the rows.

Role: `make bench-bags` (python -m robot_bringup.bench_bags), results/bench-bags.json. Does not depend on ROS.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from rich.console import Console

from robot_bringup.bench_bags import evaluating, parity, reading, recording
from whetstone import config, results
from whetstone.arguments import integer, parse_arguments, spelled
from whetstone.arguments import run as run_main
from whetstone.errors import ConfigError

ARGUMENTS = {
    "parts": "recording,parity,reading,evaluating",
    "seconds": "20",
    "robot": "so100",
    "reward": "sarm2",
    "episodes": "2",
    "domain_id": "0",
    "results": "results/bench-bags.json",
}
HELP = """make bench-bags ARGS='name:=value ...': what bags cost

  parts:=recording,parity,reading,evaluating     what is measured
  seconds:=20                 recording: s in real time, of our recorder and of the plain way
  robot:=so100  reward:=sarm2  episodes:=2      parity: the run that is recorded and replayed
  domain_id:=0                ROS domain
  results:=results/bench-bags.json
"""


def main(arguments: list[str]) -> None:
    values = parse_arguments(arguments, ARGUMENTS)
    console, domain = Console(), integer(values, "domain_id")
    parts: dict[str, Callable[[Path], list[dict[str, Any]]]] = {
        "recording": lambda folder: recording.rows(integer(values, "seconds"), domain, folder),
        "parity": lambda folder: parity.rows(values["robot"], values["reward"], integer(values, "episodes"), domain, folder, console),
        "reading": lambda folder: reading.rows(folder, robot=values["robot"]),
        "evaluating": lambda folder: evaluating.rows(folder, robot=values["robot"]),
    }
    chosen = values["parts"].split(",")
    for part in chosen:
        if part not in parts:
            raise ConfigError(config.unknown("part", part, parts))
    for part in chosen:
        with tempfile.TemporaryDirectory(prefix=f"bench_bags_{part}_") as folder:
            rows = parts[part](Path(folder))
        command = f"make bench-bags ARGS='{spelled(values, ARGUMENTS)}'".replace(" ARGS=''", "")
        results.merge(Path(values["results"]), rows, command=command, configurations={})
        for row in rows:
            print(f"{row['case']}: {row['subject']}: {row['metric']} {row['value']:g} {row['unit']}".rstrip())


if __name__ == "__main__":
    run_main(main, HELP)
