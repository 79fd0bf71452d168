"""Runs the real-time loop in several ways, one after the other, and writes the rows.

Role: `make bench-control` (python -m robot_bringup.bench_control): the nodes of `whetstone run evaluate realtime:=true` with the simulated
robot, over real DDS, a policy that takes `think` seconds and is asked for a chunk five times a second; and in their place the naive
loop (plain_node.py). A process beside them (listener_node.py) notes what reaches the driver's topic. results/bench-control.json. Does not
depend on ROS.

jitter: between two commands at the driver's topic, off the control period. latency: from the observation (its joint state's arrival) to
the first command that answers it. seam_jump: rad, of the largest joint, between what the new chunk and the one before want at the step
where the new one takes over; of the plain loop between the last row sent and the first. bend: rad, second difference of three
consecutive commands, of the largest joint: what the driver sees of it behind the guard. cpu: cores that policy and watchdog use.
"""

from __future__ import annotations

import dataclasses
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from rich.console import Console

from robot_bringup.bench_control.listener_node import RECORD
from robot_bringup.plan import NodeSpec, Plan, plan
from robot_bringup.running import RunEnded, run
from robot_bringup.supervisor import Command
from whetstone import config, jsonfile, results
from whetstone.arguments import integer, parse_arguments, spelled
from whetstone.arguments import run as run_main
from whetstone.errors import ConfigError, InputError

ARGUMENTS = {
    "robot": "franka",
    "task": "pick_and_place",
    "rates": "20,50",
    "subjects": "plain,synchronous,whetstone,rtc,ensemble",
    "think": "0.1",
    "episodes": "6",
    "domain_id": "",
    "results": "results/bench-control.json",
}
HELP = """make bench-control ARGS='name:=value ...': how evenly, soon and smoothly commands reach the arm

  robot:=franka  task:=pick_and_place
  rates:=20,50            control rates, Hz
  subjects:=plain,synchronous,whetstone,rtc,ensemble     whetstone: asynchronous, the newer chunk commands
  think:=0.1              seconds that an inference takes at least
  episodes:=6             of each subject at each rate
  domain_id:=             ROS domain; empty: $ROS_DOMAIN_ID
  results:=results/bench-control.json
"""
INFERENCES = 5
"""Per second."""
SUBJECTS: dict[str, dict[str, str]] = {
    "plain": {},
    "synchronous": {"inference": "synchronous"},
    "whetstone": {},
    "rtc": {"chunking": "rtc"},
    "ensemble": {"chunking": "ensemble"},
}


def planned(subject: str, robot: Path, policy: Path, values: dict[str, str], run_dir: Path) -> tuple[Plan, tuple[Command, ...]]:
    """The run, and what runs beside it."""
    given = {"robot": str(robot), "policy": str(policy), "task": values["task"], "evaluation_episodes": values["episodes"]}
    given |= {"realtime": "true", "run_dir": str(run_dir), "namespace": "bench_control", "deployment": "greedy", **SUBJECTS[subject]}
    found = plan("evaluate", given | ({"domain_id": values["domain_id"]} if values["domain_id"] else {}))
    beside = [_beside("robot_bringup.bench_control.listener_node", "listener", found, robot=str(robot), run_dir=str(run_dir))]
    if subject == "plain":
        managed = [node.name for node in found.nodes if node.name not in ("watchdog", "episode_manager")]
        nodes = [_manages(node, managed) for node in found.nodes if node.name not in ("watchdog", "policy")]
        found = dataclasses.replace(found, nodes=tuple(nodes))
        beside.append(_beside("robot_bringup.bench_control.plain_node", "policy", found, robot=str(robot), policy=str(policy)))
    return found, tuple(beside)


def _manages(node: NodeSpec, managed: list[str]) -> NodeSpec:
    return dataclasses.replace(node, parameters={**node.parameters, "managed": managed}) if node.name == "episode_manager" else node


def _beside(module: str, name: str, around: Plan, **parameters: str) -> Command:
    words = [word for key, value in parameters.items() for word in ("-p", f"{key}:={value}")]
    names = ("-r", f"__node:={name}", "-r", f"__ns:=/{around.namespace}")
    return Command(name, (sys.executable, "-m", module, "--ros-args", *names, *words))


def rows_of(case: str, subject: str, found: dict[str, Any], rate: float) -> list[dict[str, Any]]:
    """Rows from what the listener noted. Raises InputError where it heard nothing."""
    if len(found["intervals"]) < 10 or not found["latencies"]:
        raise InputError(f"{case}, {subject}: no command reached the driver's topic; use more episodes")
    jitter = np.abs(np.array(found["intervals"]) - 1 / rate) * 1e3
    latency, inference = np.array(found["latencies"]) * 1e3, np.array(found["inferences"]) * 1e3
    values: list[tuple[str, float, str, int]] = [
        ("jitter_p50", float(np.percentile(jitter, 50)), "ms", len(jitter)),
        ("jitter_p99", float(np.percentile(jitter, 99)), "ms", len(jitter)),
        ("jitter_max", float(jitter.max()), "ms", len(jitter)),
        ("latency_p50", float(np.percentile(latency, 50)), "ms", len(latency)),
        ("latency_p95", float(np.percentile(latency, 95)), "ms", len(latency)),
        ("inference_p50", float(np.percentile(inference, 50)), "ms", len(inference)),
    ]
    for name, key in (("seam_jump", "seam_jumps"), ("bend", "bends")):
        if found[key]:
            values += [(f"{name}_p{q}", float(np.percentile(found[key], q)), "rad", len(found[key])) for q in (50, 95)]
    if len(found["cpu"]) > 1:
        (began, before), (ended, after) = found["cpu"][0], found["cpu"][-1]
        values.append(("cpu", (after - before) / (ended - began), "cores", len(found["cpu"])))
    return [
        {"case": case, "subject": subject, "metric": metric, "value": round(value, 5), "unit": unit, "n": n}
        for metric, value, unit, n in values
    ]


def measure(subject: str, rate: int, values: dict[str, str], folder: Path, console: Console) -> list[dict[str, Any]]:
    robot, policy = folder / f"{values['robot']}_{rate}.yaml", folder / f"slow_{rate}.yaml"
    robot.write_text(yaml.safe_dump({**config.load_yaml(config.find("robots", values["robot"])), "rate": float(rate)}))
    slow = {"plugin": "delayed", "inner": "flow_vla", "seconds": float(values["think"]), "execute": max(1, rate // INFERENCES)}
    policy.write_text(yaml.safe_dump(slow))
    run_dir = folder / f"{subject}_{rate}"
    found, beside = planned(subject, robot, policy, values, run_dir)
    ended = run(found, console, beside=beside)
    if ended.code:
        raise RunEnded.of(ended, run_dir)
    noted = jsonfile.read(run_dir / RECORD)
    if noted is None:
        raise InputError(f"{run_dir}: the listener left no {RECORD}; see {run_dir / 'logs'}")
    return rows_of(f"{rate}Hz", subject, noted, rate)


def table(rows: Sequence[dict[str, Any]]) -> str:
    """Markdown: a line for each case and subject."""
    metrics = list(dict.fromkeys(row["metric"] for row in rows))
    units = {row["metric"]: row["unit"] for row in rows}
    lines = ["| | " + " | ".join(f"{name} ({units[name]})" for name in metrics) + " |", "| --- |" + " --- |" * len(metrics)]
    for case, subject in dict.fromkeys((row["case"], row["subject"]) for row in rows):
        own = {row["metric"]: row["value"] for row in rows if (row["case"], row["subject"]) == (case, subject)}
        lines.append(f"| {case}, {subject} | " + " | ".join(f"{own[name]:.3g}" if name in own else "-" for name in metrics) + " |")
    return "\n".join(lines) + "\n"


def main(arguments: list[str]) -> None:
    values = parse_arguments(arguments, ARGUMENTS)
    subjects = values["subjects"].split(",")
    for subject in subjects:
        if subject not in SUBJECTS:
            raise ConfigError(config.unknown("subject", subject, SUBJECTS))
    try:
        rates = [int(word) for word in values["rates"].split(",")]
    except ValueError:
        raise ConfigError(f"rates:={values['rates']} must be integers joined by commas") from None
    if min(rates) < 1 or integer(values, "episodes") < 1:
        raise ConfigError("rates:= and episodes:= must be at least 1")
    console, rows = Console(), []
    with tempfile.TemporaryDirectory(prefix="bench_control_") as folder:
        for rate in rates:
            for subject in subjects:
                rows += measure(subject, rate, values, Path(folder), console)
    command = f"make bench-control ARGS='{spelled(values, ARGUMENTS)}'".replace(" ARGS=''", "")
    results.merge(Path(values["results"]), rows, command=command, configurations={})
    print(table(rows), end="")


if __name__ == "__main__":
    run_main(main, HELP)
