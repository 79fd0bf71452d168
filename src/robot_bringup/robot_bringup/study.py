"""Which learner to choose: every learner on every task, robot and seed, from the same base policy and the same budget of episodes.

Role: `python -m robot_bringup.study` (`make study`): rehearsals (rehearse.py: the nodes' plug-ins in one process, without ROS) with an
evaluation on held-out scenes after every few iterations; rows and a plot in results/study.json and .png. A case that the file has, made
with the same configuration, is not run again, so a study may be cut off and go on. Training knows the reward alone, evaluation the truth
alone.
Does not depend on rclpy.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from robot_bringup import schedule
from robot_bringup.figures import BASE, CONTROL, REFINED
from robot_bringup.preparation import assets_table
from robot_bringup.rehearse import Rehearsal, made_for, one_thread
from robot_bringup.statistics import wilson
from robot_bringup.study_figures import BASE_SUBJECT, PLUS_20, draw, table
from whetstone import config, jsonfile, results
from whetstone.arguments import integer, parse_arguments, run, spelled
from whetstone.contracts import PolicyMode
from whetstone.errors import ConfigError
from whetstone.profile import load_profile
from whetstone.task import load_task

ARGUMENTS = {
    "robots": "franka,so100",
    "tasks": "pick_and_place,push",
    "seeds": "0,1,2",
    "learners": "filtered_bc,ra_bc,flow_refinement,spiral,dsrl,ppo",
    "controls": "dsrl",
    "reward": "sarm2",
    "policy": "flow_vla",
    "iterations": "6",
    "episodes": "48",
    "evaluation_episodes": "50",
    "every": "2",
    "jobs": "1",
    "results": "results/study.json",
}
HELP = """make study ARGS='name:=value ...': which learner to choose

  robots:=franka,so100  tasks:=pick_and_place,push  seeds:=0,1,2
  learners:=...           of config/learners, joined by commas
  controls:=dsrl          learners that learn from shuffled rewards too, or none: what is gained without a reward that means something
  reward:=sarm2
  policy:=flow_vla        of learners whose own file names none
  iterations:=6  episodes:=48  evaluation_episodes:=50     the last ones held out
  every:=2                iterations from one evaluation to the next; the last one is always followed by one
  jobs:=1                 cases at a time, one thread each
  results:=results/study.json     figures; the plot lies beside it
"""
GAIN = 0.2
MODES: tuple[PolicyMode, ...] = ("greedy", "sampled")
_SHUFFLED = "shuffled"


@dataclass(frozen=True)
class Case:
    """One refinement, or (learner empty) the evaluation of the base policy. control: from shuffled rewards."""

    robot: str
    task: str
    seed: int
    learner: str
    control: bool
    reward: str
    policy: str
    iterations: int
    episodes: int
    evaluated: int
    every: int

    @property
    def place(self) -> str:
        return f"{self.robot}/{self.task}/seed{self.seed}"

    @property
    def subject(self) -> str:
        return (f"{self.learner}, shuffled rewards" if self.control else self.learner) or BASE_SUBJECT

    @property
    def name(self) -> str:
        """Its key among the configurations of the results file."""
        return f"{self.place} {self.subject}"

    def configuration(self) -> str:
        """Hash of what its figures depend on: settings, files and weights."""
        names = {"robots": self.robot, "tasks": self.task, "rewards": self.reward, "policies": self.policy}
        names |= {"learners": self.learner} if self.learner else {}
        files = {kind: config.load_yaml(config.find(kind, name)) for kind, name in names.items()}
        settings = [self.seed, self.control, self.episodes, self.evaluated, *((self.iterations, self.every) if self.learner else (0,))]
        return config.config_hash({"settings": settings, "files": files, "assets": assets_table(load_profile(self.robot).asset_name)})


def measure(case: Case) -> list[dict[str, Any]]:
    """The case's rows; success_base of a learner comes from the base policy's own case."""
    one_thread()
    first = schedule.test_seeds(case.seed)
    with Rehearsal(
        robot=case.robot,
        task=case.task,
        policy=case.policy,
        reward=_SHUFFLED if case.control else case.reward,
        learner=case.learner or "behaviour_cloning",
        seed=case.seed,
    ) as rehearsal:
        if not case.learner:
            rates = {mode: rehearsal.evaluate(mode, case.evaluated, first) for mode in MODES}
            best = max(rates, key=lambda mode: rates[mode])
            found = {f"{BASE}_{mode}": rate for mode, rate in rates.items()} | {BASE: rates[best]}
            return [_rate(case, metric, rate) for metric, rate in found.items()]
        rows = []
        for iteration in range(case.iterations):
            last = iteration + 1 == case.iterations
            rehearsal.iterate(iteration, case.episodes, last)
            if not last and (iteration + 1) % case.every:
                continue
            rate = rehearsal.evaluate("greedy", case.evaluated, first)
            rows.append(_rate(case, f"success_after_{(iteration + 1) * case.episodes}", rate))
            if last:
                rows.append(_rate(case, CONTROL if case.control else REFINED, rate))
        return rows


def _measured(case: Case) -> tuple[Case, list[dict[str, Any]]]:
    return case, measure(case)


def gained(rows: Sequence[dict[str, Any]], base: float, place: str, subject: str) -> list[dict[str, Any]]:
    """Rows that compare with the base policy: its success, and the training episodes until the learner's was 20 points above it (none
    where it never was)."""
    made = [{"case": place, "subject": subject, "metric": BASE, "value": base, "unit": "1"}]
    after = {int(row["metric"].rpartition("_")[2]): row["value"] for row in rows if row["metric"].startswith("success_after_")}
    enough = [count for count, value in sorted(after.items()) if value >= base + GAIN - 1e-9]
    if enough:
        made.append({"case": place, "subject": subject, "metric": PLUS_20, "value": enough[0], "unit": "episodes"})
    return made


def _rate(case: Case, metric: str, rate: float) -> dict[str, Any]:
    low, high = wilson(round(rate * case.evaluated), case.evaluated)
    row = {"case": case.place, "subject": case.subject, "metric": metric, "value": rate, "unit": "1", "n": case.evaluated}
    return {**row, "low": round(low, 4), "high": round(high, 4)}


def cases(values: dict[str, str]) -> list[Case]:
    """All of the study, the base policies first. Raises ConfigError naming what does not exist."""
    counts = {name: integer(values, name) for name in ("iterations", "episodes", "evaluation_episodes", "every", "jobs")}
    if min(counts.values()) < 1:
        raise ConfigError("iterations:=, episodes:=, evaluation_episodes:=, every:= and jobs:= must be at least 1")
    robots, tasks, learners = (_words(values, name) for name in ("robots", "tasks", "learners"))
    controls = [] if values["controls"] == "none" else _words(values, "controls")
    try:
        seeds = [int(word) for word in _words(values, "seeds")]
    except ValueError:
        raise ConfigError(f"seeds:={values['seeds']} must be integers joined by commas") from None
    kinds = (
        ("robots", robots),
        ("tasks", tasks),
        ("learners", [*learners, *controls]),
        ("rewards", [values["reward"]]),
        ("policies", [values["policy"]]),
    )
    for kind, names in kinds:
        for name in names:
            config.find(kind, name)
    for seed in seeds:
        schedule.test_seeds(seed)
    found = []
    for learner, control in [("", False), *((one, False) for one in learners), *((one, True) for one in controls)]:
        for seed in seeds:
            for task in tasks:
                for robot in robots:
                    load_task(task, load_profile(robot).asset_name)
                    own = made_for(learner) if learner else ""
                    found.append(
                        Case(
                            robot,
                            task,
                            seed,
                            learner,
                            control,
                            values["reward"],
                            own or values["policy"],
                            counts["iterations"],
                            counts["episodes"],
                            counts["evaluation_episodes"],
                            counts["every"],
                        )
                    )
    return found


def _words(values: dict[str, str], name: str) -> list[str]:
    words = [word.strip() for word in values[name].split(",")]
    if not all(words):
        raise ConfigError(f"{name}:={values[name]} must be names joined by commas")
    return words


def compare(path: Path) -> None:
    """Put the rows beside the base policy's into the file (see `gained`), and draw it."""
    data = jsonfile.read(path)
    rows = data["rows"] if data else []
    base = {row["case"]: row["value"] for row in rows if row["subject"] == BASE_SUBJECT and row["metric"] == BASE}
    new = []
    for place, subject in sorted({(row["case"], row["subject"]) for row in rows} - {(place, BASE_SUBJECT) for place in base}):
        if place in base:
            own = [row for row in rows if (row["case"], row["subject"]) == (place, subject)]
            new += gained(own, base[place], place, subject)
    if data and new:
        results.merge(path, new, command=data["command"], configurations={})
        draw([*rows, *new], path.with_suffix(".png"))


def main(arguments: list[str]) -> None:
    values = parse_arguments(arguments, ARGUMENTS)
    path = Path(values["results"])
    waiting = []
    for case in cases(values):
        # A learner's or a base policy's own figure says that the case is there; those that compare are made anew.
        metric = BASE if not case.learner else CONTROL if case.control else REFINED
        if results.has(path, case.place, [metric], case.name, case.configuration()):
            print(f"{case.name}: there already", flush=True)
        else:
            waiting.append(case)
    command = f"make study ARGS='{spelled(values, ARGUMENTS)}'".replace(" ARGS=''", "")
    os.environ |= {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    # A new process every few cases, or whatever a renderer leaves behind adds up over hours.
    with get_context("spawn").Pool(integer(values, "jobs"), maxtasksperchild=4) as pool:
        for case, rows in pool.imap_unordered(_measured, waiting):
            results.merge(path, rows, command=command, configurations={case.name: case.configuration()})
            shown = next(row for row in reversed(rows) if row["metric"] in (BASE, REFINED, CONTROL))
            print(f"{case.name}: {shown['value']:.0%} of {shown['n']} held-out episodes ({shown['metric']})", flush=True)
    compare(path)
    data = jsonfile.read(path)
    print(table(data["rows"] if data else []), end="")


if __name__ == "__main__":
    run(main, HELP)
