"""The demonstration: one run that shows a policy getting better, its table, its rows and its report.

Role: `whetstone demo` (one case) and `whetstone demo-study` (all robots and seeds, and the controls, resumable). The run is
the refine plan; what is added here is reading its results. Does not depend on ROS.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from robot_bringup import figures, records
from robot_bringup.plan import Plan, plan
from robot_bringup.preparation import configuration_hash
from robot_bringup.report import write_report
from robot_bringup.run_arguments import ARGUMENTS, Argument
from robot_bringup.running import RunEnded, run
from whetstone import config, jsonfile, results
from whetstone.arguments import spelled
from whetstone.errors import ConfigError

DEMO_ARGUMENTS: tuple[Argument, ...] = (
    Argument("control", "false", "train on shuffled rewards instead, same budget: how much of a gain is not learning", "boolean"),
    Argument("results", "", "results file to merge the figures into; empty: results.json in the run directory", "path", optional=True),
)
STUDY_ARGUMENTS: tuple[Argument, ...] = (
    Argument("robots", "franka,so100", "robots, joined by commas"),
    Argument("seeds", "0,1,2", "seeds, joined by commas"),
    Argument("controls", "true", "run the shuffled-reward controls too", "boolean"),
    Argument("jobs", "1", "runs at a time, each on its own ROS domain", "integer", low=1, high=16),
    Argument("results", "results/demo.json", "results file; cases in it that were made with this configuration are not run again", "path"),
)
_OWN = ("robot", "seed", "run_dir")  # what the study gives each case itself
_CONTROL_REWARD = "shuffled"


@dataclass(frozen=True)
class Case:
    """A demo before it runs. name: its key in the results file."""

    plan: Plan
    control: bool
    name: str
    results: Path


def case(given: Mapping[str, str]) -> Case:
    """The demo that the arguments describe: those of refine and DEMO_ARGUMENTS. Raises ConfigError."""
    refine, own = _split(given, DEMO_ARGUMENTS)
    control = own["control"]
    if control:
        refine |= {"reward": _CONTROL_REWARD, "base_evaluation": "false"}
    planned = plan("refine", refine)
    if not planned.arguments["evaluation_episodes"]:
        raise ConfigError("argument evaluation_episodes:=0 leaves nothing to show; use at least 1")
    name = figures.case_of(planned.arguments) + (" control" if control else "")
    return Case(planned, control, name, Path(own["results"] or planned.run_dir / "results.json"))


def demo(given: Mapping[str, str], console: Console) -> int:
    """Run the case, print the table, write rows and report. Returns the exit code."""
    chosen = case(given)
    run_dir = chosen.plan.run_dir
    configuration = configuration_hash(chosen.plan)
    console.print(chosen.name, highlight=False, soft_wrap=True)
    ended = run(chosen.plan, console)
    if ended.code == 0:
        rows = figures.rows(run_dir, control=chosen.control)
        results.merge(chosen.results, rows, command=f"whetstone demo {spelled(given)}".strip(), configurations={chosen.name: configuration})
        console.print(table(rows, chosen.name))
        console.print(f"results: {chosen.results}", highlight=False, soft_wrap=True)
    if (run_dir / records.EPISODES).exists():
        console.print(f"report:  {write_report(run_dir)}", highlight=False, soft_wrap=True)
    if ended.code:
        raise RunEnded.of(ended, run_dir)
    outcome = jsonfile.read(run_dir / records.OUTCOME)
    return 0 if outcome and outcome["result"] == "finished" else 1


def table(rows: list[dict[str, Any]], title: str) -> Table:
    """Success rates with their intervals for the terminal."""
    shown = Table(title=title, title_justify="left")
    for heading, justify in (("policy", "left"), ("success", "right"), ("95 % interval", "right"), ("episodes", "right")):
        shown.add_column(heading, justify=justify)  # type: ignore[arg-type]
    names = {
        figures.BASE: "base, best mode",
        f"{figures.BASE}_greedy": "  greedy",
        f"{figures.BASE}_sampled": "  sampled",
        figures.REFINED: "refined",
        figures.CONTROL: "control (shuffled rewards)",
    }
    for row in rows:
        interval = f"{100 * row['low']:.0f} to {100 * row['high']:.0f} %"
        shown.add_row(names[row["metric"]], f"{100 * row['value']:.0f} %", interval, str(row["n"]))
    return shown


def study(given: Mapping[str, str], console: Console) -> int:
    """Every robot and seed, then the controls; what the results file has already is skipped. Returns the exit code."""
    shared, own = _split(given, STUDY_ARGUMENTS)
    for name in shared:
        if name in _OWN:
            raise ConfigError(f"argument {name} is set by the study for each case; use robots:=, seeds:= or controls:=")
    base_domain = plan("refine", shared).domain_id
    waiting = []
    for control in (False, True) if own["controls"] else (False,):
        for seed in own["seeds"].split(","):
            for robot in own["robots"].split(","):
                one = {**shared, "robot": robot.strip(), "seed": seed.strip(), "results": own["results"], "control": str(control).lower()}
                chosen = case(one)
                metrics = (figures.CONTROL,) if control else (figures.BASE, figures.REFINED)
                place = figures.case_of(chosen.plan.arguments)
                if results.has(Path(own["results"]), place, metrics, chosen.name, configuration_hash(chosen.plan)):
                    console.print(f"{chosen.name}: there already", highlight=False)
                else:
                    waiting.append((chosen.name, one))
    if waiting:
        _run_cases(waiting, own["jobs"], base_domain, console)
        # Each case has named its own command.
        results.merge(Path(own["results"]), [], command=f"whetstone demo-study {spelled(given)}".strip(), configurations={})
    return 0


def _run_cases(waiting: list[tuple[str, dict[str, str]]], jobs: int, base_domain: int, console: Console) -> None:
    """Each case in its own process on its own domain; a failed case does not stop the others. RunEnded names those that failed."""
    running: dict[int, tuple[str, subprocess.Popen[bytes]]] = {}
    failed = []
    try:
        while waiting or running:
            for slot in range(jobs):
                if slot in running and running[slot][1].poll() is not None:
                    name, process = running.pop(slot)
                    console.print(f"{name}: {'done' if process.returncode == 0 else 'failed'}", highlight=False)
                    failed += [name] if process.returncode else []
                if slot not in running and waiting:
                    name, given = waiting.pop(0)
                    running[slot] = (name, _start(given, base_domain + slot, quiet=jobs > 1))
            time.sleep(0.2)
    finally:
        for _, process in running.values():
            if process.poll() is None:
                process.terminate()
        for _, process in running.values():
            process.wait()
    if failed:
        raise RunEnded(f"{len(failed)} of the study's cases failed: {', '.join(failed)}")


def _start(given: Mapping[str, str], domain: int, *, quiet: bool) -> subprocess.Popen[bytes]:
    words = [f"{name}:={value}" for name, value in given.items()] + [f"domain_id:={domain}"]
    output = subprocess.DEVNULL if quiet else None
    return subprocess.Popen([sys.executable, "-m", "robot_bringup.cli", "demo", *words], stdout=output, env=os.environ)


def _split(given: Mapping[str, str], own: tuple[Argument, ...]) -> tuple[dict[str, str], dict[str, Any]]:
    """(what belongs to the refine plan, typed values of `own`). Raises ConfigError for a name in neither."""
    mine = {argument.name: argument for argument in own}
    known = [argument.name for argument in ARGUMENTS if "refine" in argument.modes]
    for name in given:
        if name not in mine and name not in known:
            raise ConfigError(config.unknown("argument", name, [*known, *mine]))
    typed = {name: argument.read(given.get(name, argument.default)) for name, argument in mine.items()}
    return {name: value for name, value in given.items() if name not in mine}, typed
