"""Records what the base policy does, success or not, in the format of the demonstrations: what a reward model must judge.

Role: `python -m robot_bringup.collect robot:=franka out:=build/rollouts [policy:=flow_vla] [tasks:=a,b] [seed:=0]`. The scripted
experts' faults are not the policy's; trained on theirs alone, a reward model takes a cube beside the tray for one in it. Does not
depend on ROS.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from tqdm import tqdm

from robot_bringup.offline import TRUTH_FRAMES
from robot_bringup.recording import Recording
from robot_bringup.sim.simulation import Simulation
from whetstone import config
from whetstone.arguments import integer, parse_arguments, run
from whetstone.contracts import Observation, Policy
from whetstone.demonstrations import FRAME_STRIDE
from whetstone.gripper import GripperTrigger
from whetstone.guard import Guard
from whetstone.plugins import load_plugin
from whetstone.profile import RobotProfile, load_profile
from whetstone.task import TaskSpec, load_task

COUNTS = {"pick_and_place": 160}
OTHER_COUNT = 40
AFTER_SUCCESS = 24  # control steps recorded after the task is done: the loop ends an episode within some of them


def record(sim: Simulation, policy: Policy, task: TaskSpec, profile: RobotProfile, seed: int, path: Path) -> bool:
    """One sampled episode to `path`; returns whether it succeeded."""
    sim.reset(task, seed)
    policy.reset(task.instruction, seed, False)
    guard, recording = Guard(profile), Recording(sim)
    trigger, goal = GripperTrigger(profile.gripper.hysteresis), 1.0
    previous, chunk, held, left, done = None, np.zeros(0), 0, AFTER_SUCCESS, False
    for step in range(task.max_steps):
        frame, decide = step % FRAME_STRIDE == 0, step % policy.spec.execute == 0
        seen = sim.observe(images=frame or decide)
        measured = np.append(seen.positions, seen.gripper_opening).astype(np.float32)
        truth = sim.truth()
        held = held + 1 if truth.success else 0
        done = done or held >= TRUTH_FRAMES
        if frame:
            recording.frame(step, seen, truth)
        left -= done
        if left < 0:
            break
        if decide:
            copies = {name: image.copy() for name, image in seen.images.items()}
            chunk = policy.act(Observation(step * profile.period_ns, copies, measured)).actions
        previous = guard.check(chunk[step % policy.spec.execute], measured, previous, profile.period)
        recording.act(measured, previous.command)
        due = trigger.update(float(previous.command[-1]))
        goal = goal if due is None else due
        sim.step(previous.command[:-1], goal)
    recording.save(path, task, "rollout", seed, done)
    return done


def collect(robot: str, out: Path, policy_name: str, tasks: list[str], seed: int) -> None:
    """Fill out/<robot>/<task>/ with episodes of the policy; what is there already is kept."""
    profile = load_profile(robot)
    data = config.load_yaml(config.find("policies", policy_name))
    policy = load_plugin("whetstone.policies", policy_name).load(data, profile)
    sim = Simulation(profile)
    for name in tasks:
        task = load_task(name, robot)
        count, done = COUNTS.get(name, OTHER_COUNT), 0
        for index in tqdm(range(count), desc=f"{robot} {name}", disable=None):
            path = out / robot / name / f"rollout-{index:04d}.npz"
            if not path.exists():
                done += record(sim, policy, task, profile, seed + 10_000 * config.available("tasks").index(name) + index, path)
        print(f"{robot} {name}: {count} episodes of the policy, {done} of the new ones succeeded", flush=True)
    sim.close()


def main(arguments: list[str]) -> None:
    defaults = {"robot": "franka", "out": "build/rollouts", "policy": "flow_vla", "tasks": "", "seed": "3600000"}
    given = parse_arguments(arguments, defaults)
    tasks = given["tasks"].split(",") if given["tasks"] else config.available("tasks")
    collect(given["robot"], Path(given["out"]), given["policy"], tasks, integer(given, "seed"))


if __name__ == "__main__":
    run(main)
