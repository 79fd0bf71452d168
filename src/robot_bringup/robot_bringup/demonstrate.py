"""Makes demonstrations: scripted experts with faults act in the simulator, every command through the guard.

Role: `python -m robot_bringup.demonstrate robot:=franka out:=DIR [tasks:=a,b] [counts:=noisy=12,failure=8] [seed:=0]`. Does not depend on
ROS.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from tqdm import tqdm

from robot_bringup.recording import Recording
from robot_bringup.sim.expert import Expert, Faults
from robot_bringup.sim.simulation import Simulation
from whetstone import config
from whetstone.arguments import counts, integer, parse_arguments, run
from whetstone.demonstrations import FRAME_STRIDE
from whetstone.guard import Guard
from whetstone.profile import RobotProfile, load_profile
from whetstone.task import TaskSpec, load_task

HUMAN = {"aim": 0.10, "jitter": 0.004, "speed": (0.75, 1.1), "pause": 0.006}
# The demonstrator whom the base policy imitates in HABITUAL's tasks sees badly how far left the cube is: it grips this far off the
# middle (cube edges, world x and y) and often misses. A policy that imitates it inherits the habit; only rewards tell it better.
# Many demonstrations, so that the policy has the habit firmly and else reaches precisely: an error that is the same wherever the cube
# lies can be told from a few hundred episodes' outcomes, one that differs from place to place cannot.
HABITUAL = {"pick_and_place": 220}
HABITS = {"franka": {"habit": (0.0, -0.79), "aim": 0.12}, "so100": {"habit": (0.0, -0.76), "aim": 0.12}}
RETRY_EVERY = 4  # every 4th demonstration misses first and tries again: from the others nobody learns that one can
# What a policy's failures look like to a camera; a reward model must not take them for success.
FAILURES: dict[str, dict] = {
    "beside_blind": {"miss": 0.9, "blind": True},
    "beside_far_blind": {"miss": 1.6, "blind": True},
    "beside_far_retried": {"miss": 1.6},
    "dropped": {"drop": True, "blind": True},
    "stray": {"stray": 1.1, "blind": True},
    "other_object": {"other": True, "blind": True},
    "stopped_early": {"stop": 0.18},
    "stopped_late": {"stop": 0.33},
}
# Episodes per task and kind.
COUNTS = {"pick_and_place": {"noisy": 80, "failure": 64}, "tray_then_button": {"noisy": 50, "failure": 40}}
OTHER_COUNTS = {"noisy": 40, "failure": 32}
AFTER_SUCCESS = 12  # control steps recorded after the task is done: what done looks like, at rest


def record(sim: Simulation, task: TaskSpec, profile: RobotProfile, kind: str, faults: Faults, seed: int, path: Path) -> bool:
    """One episode to `path`; returns whether it succeeded."""
    sim.reset(task, seed)
    expert = Expert(sim, task, faults, seed)
    guard = Guard(profile)
    recording = Recording(sim)
    previous, left = None, AFTER_SUCCESS
    for step in range(task.max_steps):
        frame = step % FRAME_STRIDE == 0
        seen = sim.observe(images=frame)
        measured = np.append(seen.positions, seen.gripper_opening)
        if frame:
            truth = sim.truth()
            recording.frame(step, seen, truth)
            left -= FRAME_STRIDE * truth.success
            if left < 0:
                break
        targets, opening = expert.act()
        previous = guard.check(np.append(targets, opening), measured, previous, profile.period)
        recording.act(measured, previous.command)
        sim.step(previous.command[:-1], float(previous.command[-1]))
    success = sim.truth().success
    recording.save(path, task, kind, seed, success)
    return success


def make_demonstrations(robot: str, out: Path, tasks: list[str], seed: int, given: dict[str, int] | None = None) -> None:
    """Fill out/<robot>/<task>/ with noisy successes and failures of every sort; what is there already is kept.

    given: episodes of each kind, the same for every task, instead of those of COUNTS.
    """
    profile = load_profile(robot)
    sim = Simulation(profile)
    for name in tasks:
        task = load_task(name, robot)
        counts = given or COUNTS.get(name, OTHER_COUNTS) | {"habitual": HABITUAL.get(name, 0)}
        plan = [("noisy", Faults(**HUMAN, miss=0.0 if i % RETRY_EVERY else 0.8)) for i in range(counts.get("noisy", 0))]
        plan += [("failure", Faults(**{**HUMAN, **list(FAILURES.values())[i % len(FAILURES)]})) for i in range(counts.get("failure", 0))]
        habitual = Faults(**{**HUMAN, **HABITS.get(robot, {})})
        plan += [("habitual", habitual)] * counts.get("habitual", 0)
        made, done = 0, 0
        progress = tqdm(enumerate(plan), total=len(plan), desc=f"{robot} {name}", disable=None)
        for index, (kind, faults) in progress:
            path = out / robot / name / f"{kind}-{index:04d}.npz"
            if path.exists():
                continue
            made += 1
            done += record(sim, task, profile, kind, faults, seed + 10_000 * config.available("tasks").index(name) + index, path)
        if made:
            print(f"{robot} {name}: {made} new episodes of {len(plan)}, {done} of them succeeded", flush=True)
    sim.close()


def main(arguments: list[str]) -> None:
    given = parse_arguments(arguments, {"robot": "franka", "out": "build/demonstrations", "tasks": "", "counts": "", "seed": "500000"})
    tasks = given["tasks"].split(",") if given["tasks"] else config.available("tasks")
    kinds = counts(given, "counts", "kind", ("noisy", "failure", "habitual"))
    make_demonstrations(given["robot"], Path(given["out"]), tasks, integer(given, "seed"), kinds or None)


if __name__ == "__main__":
    run(main)
