"""`whetstone conform`: whether a running robot is the one that its profile describes.

Role: arguments, what is allowed, the table, the JSON and the exit code. Looking and moving: observe.py; judging: checks.py.
"""

from __future__ import annotations

import dataclasses
import select
import sys
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table

from robot_bringup.conformance.checks import judge
from robot_bringup.conformance.verdict import Robot, Verdict
from robot_bringup.simulators import SIMULATORS, robot_in
from whetstone import config, jsonfile
from whetstone.arguments import boolean, parse_arguments, ros_domain, run
from whetstone.errors import ConfigError
from whetstone.profile import RobotProfile, load_profile
from whetstone.task import load_task

HELP = f"""whetstone conform name:=value ...: check a running robot against its profile (docs/simulators.md); also --name value

  robot:=franka         a file of config/robots
  sim:=none             what it is: {", ".join(SIMULATORS)}; none: it may be hardware
  namespace:=           of the robot, / for none; empty: the robot's name; left,right: two robots, which must not hear each other's commands
  move:=                true: moves each joint by 0.06 rad and back, and the gripper; false: nothing moves. Empty: simulators only.
                        On what may be hardware it says so first and waits for Enter, or for 10 s where there is no terminal
  reset:=               true: resets the scene four times; false: never. Empty: simulators only
  task:=pick_and_place  whose scenes a simulator is reset to
  seconds:=3            to listen
  patience:=10          seconds that a robot may take to appear, and a reset to be done
  json:=FILE            the verdicts, as a file too
  domain_id:=           ROS domain; empty: $ROS_DOMAIN_ID, else 0

Exit code 0: nothing failed; 1: something did; 2: wrong arguments.
"""
_DEFAULTS = {
    "robot": "franka", "sim": "none", "namespace": "", "move": "", "reset": "", "task": "pick_and_place", "seconds": "3", "patience": "10",
    "json": "", "domain_id": "",
}  # fmt: skip
_MARKS = {"passed": "[green]passed[/]", "failed": "[red]FAILED[/]", "not tried": "[yellow]not tried[/]"}
_WAIT = 10.0


def main(words: list[str]) -> None:
    """Raises ConfigError. Ends the process with 1 where a check failed."""
    values = parse_arguments(_spelled(words), _DEFAULTS)
    sim = values["sim"]
    if sim not in (*SIMULATORS, "none"):
        raise ConfigError(config.unknown("sim", sim, (*SIMULATORS, "none")))
    profile = load_profile(robot_in(values["robot"], sim))
    namespaces = _namespaces(values["namespace"], Path(values["robot"]).stem, profile)
    hardware = sim == "none"
    move, reset = (boolean(values, key) if values[key] else not hardware for key in ("move", "reset"))
    load_task(values["task"], profile.asset_name)
    seconds, patience = _number(values, "seconds", 0.5), _number(values, "patience", 0.5)
    domain = ros_domain(values["domain_id"])
    console = Console(highlight=False, soft_wrap=True, width=None if sys.stdout.isatty() else 150)
    if move and hardware:
        _warn(profile, namespaces, console)
    from robot_bringup.conformance.observe import Observer  # only now: ROS takes a second

    observer = Observer(profile, namespaces, domain, patience)
    try:
        observer.look(seconds, reset, values["task"])
        for robot in observer.robots.values():
            if not reset:
                robot.record.untried["reset"] = "reset:=true resets the scene"
            if not move:
                said = f"move:=true moves it{': it may be hardware' if hardware else ''}"
                robot.record.untried.update(motion=said, limits=said, gripper=said)
            elif hardware:
                robot.record.untried["limits"] = "never on what may be hardware"
        if move:
            observer.move(limits=not hardware)
    finally:
        observer.close()
    judged = Robot(profile, hardware, sim == "mujoco")
    verdicts = {name: judge(robot.record, judged) for name, robot in observer.robots.items()}
    for name, found in verdicts.items():
        _show(found, f"{profile.name} in /{name}", console)
    if values["json"]:
        _write(Path(values["json"]), profile.name, sim, verdicts)
    if any(one.outcome == "failed" for found in verdicts.values() for one in found):
        sys.exit(1)


def _spelled(words: Sequence[str]) -> list[str]:
    """--name value as name:=value, besides what is so already."""
    spelled, rest = [], list(words)
    while rest:
        word = rest.pop(0)
        if word.startswith("--") and ":=" not in word:
            name, equals, value = word[2:].partition("=")
            if not equals and not rest:
                raise ConfigError(f"argument '{word}' has no value; say {word} VALUE or {name}:=VALUE")
            word = f"{name.replace('-', '_')}:={value if equals else rest.pop(0)}"
        spelled.append(word)
    return spelled


def _namespaces(text: str, default: str, profile: RobotProfile) -> list[str]:
    names = [name.strip().strip("/") for name in (text or default).split(",")]
    if len(set(names)) != len(names) or (len(names) > 1 and "" in names):
        raise ConfigError(f"argument namespace:={text} must name each robot's namespace once")
    if len(names) > 1:
        for topic in (profile.joint_states, profile.command.topic, profile.gripper.topic, profile.gripper.action):
            profile.topic(topic, names[0])
    return names


def _number(values: dict[str, str], key: str, low: float) -> float:
    try:
        value = float(values[key])
    except ValueError:
        value = float("nan")
    if not low <= value <= 3600:
        raise ConfigError(f"argument {key}:={values[key]} must be a number from {low:g} to 3600 (seconds)")
    return value


def _warn(profile: RobotProfile, namespaces: list[str], console: Console) -> None:
    """Say plainly what is about to happen, and let a human stop it."""
    where = ", ".join(f"/{name}" for name in namespaces)
    console.print(f"This MOVES {profile.name} in {where}: {', '.join(profile.joint_names)} by 0.06 rad each and back, one after the other;")
    console.print("then the gripper shuts and opens. Keep the emergency stop in hand, and the gripper empty.")
    if sys.stdin.isatty():
        console.print("Enter begins, Ctrl-C does not.")
        sys.stdin.readline()
        return
    console.print(f"It begins in {_WAIT:g} s; Ctrl-C stops it.")
    select.select([], [], [], _WAIT)


def _show(verdicts: list[Verdict], title: str, console: Console) -> None:
    table = Table(title=title, title_justify="left", show_edge=False, pad_edge=False)
    for column in ("part", "check", "verdict", "seen"):
        table.add_column(column, overflow="fold")
    part = ""
    for one in verdicts:
        table.add_row("" if one.group == part else one.group, one.name, _MARKS[one.outcome], one.seen)
        if one.outcome == "failed":
            table.add_row("", "", "", f"expected: {one.expected}\nfix: {one.fix}")
        part = one.group
    console.print(table, soft_wrap=False)
    counts = {word: sum(one.outcome == word for one in verdicts) for word in _MARKS}
    console.print(", ".join(f"{count} {word}" for word, count in counts.items()) + "\n")


def _write(path: Path, robot: str, sim: str, verdicts: dict[str, list[Verdict]]) -> None:
    found = {name: [dataclasses.asdict(one) for one in each] for name, each in verdicts.items()}
    jsonfile.write(path, {"robot": robot, "sim": sim, "checks": found})


if __name__ == "__main__":
    run(main, HELP)
