"""How fast the whole loop runs, and where the time of a control step goes.

Role: `whetstone bench`: every node, real DDS, lockstep, cameras on, rewards scored, rollouts recorded; writes rows of
results/bench-loop.json. Does not depend on ROS.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from robot_bringup import figures, records
from robot_bringup.plan import Plan, plan
from robot_bringup.preparation import configuration_hash
from robot_bringup.run_arguments import ARGUMENTS, Argument
from robot_bringup.running import RunEnded, run
from robot_bringup.supervisor import Command
from whetstone import jsonfile, results
from whetstone.config import unknown
from whetstone.errors import ConfigError, InputError
from whetstone.profile import load_profile

BENCH_ARGUMENTS: tuple[Argument, ...] = (
    Argument("robots", "franka,so100", "robots, joined by commas"),
    Argument("results", "results/bench-loop.json", "results file to merge the figures into", "path"),
)
_DEFAULTS = {"iterations": "1", "episodes": "12", "evaluation_episodes": "0", "base_evaluation": "false"}
_WARM_UP = 2
"""Episodes at the start that are not counted."""


def bench(given: Mapping[str, str], console: Console) -> int:
    """Run one training iteration per robot and write its figures. Returns the exit code."""
    own = {argument.name: argument for argument in BENCH_ARGUMENTS}
    known = [argument.name for argument in ARGUMENTS if "refine" in argument.modes and argument.name not in ("robot", "run_dir")]
    for name in given:
        if name not in own and name not in known:
            raise ConfigError(unknown("argument", name, [*known, *own]))
    typed = {name: argument.read(given.get(name, argument.default)) for name, argument in own.items()}
    shared = {**_DEFAULTS, **{name: value for name, value in given.items() if name not in own}}
    plans = [plan("refine", {**shared, "robot": robot.strip()}) for robot in typed["robots"].split(",")]
    for planned in plans:
        rows = measure(planned, console)
        configurations = {rows[0]["case"]: configuration_hash(planned)}
        results.merge(Path(typed["results"]), rows, command="make bench", configurations=configurations)
        console.print(_table(rows))
    console.print(f"results: {typed['results']}", highlight=False, soft_wrap=True)
    return 0


def measure(planned: Plan, console: Console) -> list[dict[str, Any]]:
    """Run the plan with the probe beside it. Raises RunEnded where the run fails."""
    run_dir = planned.run_dir
    probe = Command(
        "probe",
        (sys.executable, "-m", "robot_bringup.probe_node", "--ros-args", "-r", f"__ns:=/{planned.namespace}", "-p", f"run_dir:={run_dir}"),
    )
    ended = run(planned, console, beside=(probe,))
    if ended.code:
        raise RunEnded.of(ended, run_dir)
    measured = jsonfile.read(run_dir / records.PROBE)
    if measured is None:
        raise InputError(f"{run_dir}: the probe left no {records.PROBE}; see {run_dir / 'logs'}")
    case = "/".join(figures.case_of(planned.arguments).split("/")[:2])
    rate = load_profile(planned.arguments["robot"]).rate
    return rows_of(case, records.read_all(run_dir / records.EPISODES), measured, rate)


def rows_of(case: str, episodes: Sequence[Mapping[str, Any]], measured: Mapping[str, Any], rate: float) -> list[dict[str, Any]]:
    """Rows from the lines of episodes.jsonl, the probe's figures and the control rate (Hz). All times per control step."""
    counted = [record for record in episodes if record["outcome"] != "aborted"][_WARM_UP:]
    steps, seconds = sum(record["steps"] for record in counted), sum(record["seconds"] for record in counted)
    if not steps or not seconds:
        raise InputError(f"{case}: no episode was measured; use episodes:={_WARM_UP + 1} or more")
    all_steps = sum(record["steps"] for record in episodes)
    step = 1e3 * seconds / steps
    simulator = measured["simulator"]
    parts = {f"simulator_{name}": simulator.get(f"{name}_ms", 0.0) for name in ("physics", "render", "publish")}
    parts["policy_inference"] = 1e3 * measured["policy"]["seconds"] / all_steps
    measures = [("real_time_factor", steps / seconds / rate, "x"), ("steps_per_second", steps / seconds, "1/s"), ("step_time", step, "ms")]
    measures += [(f"step_time_{name}", value, "ms") for name, value in parts.items()]
    measures.append(("step_time_transport_and_rest", step - sum(parts.values()), "ms"))
    # Reward inference overlaps with stepping, so it is no part of the sum.
    measures.append(("reward_inference_overlapped", 1e3 * measured["reward"]["seconds"] / all_steps, "ms"))
    return [
        {"case": case, "subject": figures.SUBJECT, "metric": name, "value": round(value, 3), "unit": unit, "n": steps}
        for name, value, unit in measures
    ]


def _table(rows: Sequence[Mapping[str, Any]]) -> Table:
    shown = Table(title=rows[0]["case"], title_justify="left")
    shown.add_column("per control step")
    shown.add_column("value", justify="right")
    for row in rows:
        shown.add_row(row["metric"].replace("_", " "), f"{row['value']:.2f} {row['unit']}")
    return shown
