"""Runs a plan from start to end in this process's charge.

Role: what `whetstone run` and the demo share: prepare, start the nodes under the supervisor, show progress, say how it
ended. Does not depend on ROS.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

from rich.console import Console

from robot_bringup import records
from robot_bringup.command import command
from robot_bringup.console import RunConsole
from robot_bringup.episode_machine import POINTS_AT_LOG
from robot_bringup.plan import Plan
from robot_bringup.preparation import Preparation
from robot_bringup.supervisor import Command, Result, Supervisor, last_words
from whetstone import jsonfile
from whetstone.errors import WhetstoneError


class RunEnded(WhetstoneError):
    """A run ended before it was over. code: for the caller's exit."""

    def __init__(self, reason: str, code: int = 1):
        super().__init__(reason)
        self.code = code

    @classmethod
    def of(cls, result: Result, run_dir: Path) -> RunEnded:
        return cls(f"{result.reason} (logs: {run_dir / 'logs'})", result.code)


def run(plan: Plan, console: Console, beside: Sequence[Command] = ()) -> Result:
    """Start the plan, and the commands beside it, and wait for its end. Raises WhetstoneError where it cannot start; then nothing runs."""
    for node in plan.nodes:
        command(node, plan.run_dir)  # an executable that is not installed must be known before anything is created
    with closing(Preparation(plan)) as preparation:
        console.print(f"run directory: {plan.run_dir}", highlight=False, soft_wrap=True)

        def explain() -> str | None:
            outcome = jsonfile.read(plan.run_dir / records.OUTCOME)
            return _with_last_words(outcome["reason"], plan.run_dir / "logs") if outcome else None

        judge = "a human's word" if plan.arguments.get("sim") == "none" else "truth"
        view = RunConsole(plan.run_dir, plan.segments, console, judge)
        supervisor = Supervisor(
            [*(command(node, preparation.parameter_files[node.name]) for node in plan.nodes), *beside],
            essential=plan.essential,
            log_dir=plan.run_dir / "logs",
            environment=plan.environment,
            explain=explain,
            say=view.say,
        )
        with view:
            result = supervisor.run(view.update)
    rewards = plan.run_dir / records.REWARDS
    if result.code == 0 and rewards.is_file():
        with rewards.open(encoding="utf-8") as file:
            count = sum(1 for _ in file)
        console.print(f"{count} rewards: {rewards}", highlight=False, soft_wrap=True)
    return result


def _with_last_words(reason: str, logs: Path) -> str:
    """Where the manager points at a node's log, what that log says."""
    name, found, _ = reason.partition(POINTS_AT_LOG)
    return f"{name}: {last_words(logs / f'{name.split()[0]}.log')}" if found else reason
