"""Records what the base policy does, success or not, in the format of the demonstrations: what a reward model must judge.

Role: `python -m robot_bringup.collect robot:=franka out:=build/rollouts [policy:=flow_vla] [tasks:=a,b] [seed:=0]`. The scripted
experts' faults are not the policy's; trained on theirs alone, a reward model takes a cube beside the tray for one in it. Does not
depend on ROS.
"""

from __future__ import annotations

from pathlib import Path

from tqdm import tqdm

from robot_bringup.offline import Acting, proprioception
from robot_bringup.recording import Recording
from robot_bringup.sim.simulation import Simulation
from whetstone import config
from whetstone.arguments import integer, parse_arguments, run
from whetstone.contracts import Policy
from whetstone.demonstrations import FRAME_STRIDE
from whetstone.plugins import configured
from whetstone.profile import load_profile
from whetstone.task import TaskSpec, load_task

COUNTS = {"pick_and_place": 160}
OTHER_COUNT = 40
AFTER_SUCCESS = 24  # control steps recorded after the task is done: the loop ends an episode within some of them


def record(sim: Simulation, policy: Policy, task: TaskSpec, seed: int, path: Path) -> bool:
    """One exploring episode, as in training, to `path`; returns whether it succeeded."""
    acting = Acting(sim, policy, task, seed, "exploring")
    recording, left = Recording(sim), AFTER_SUCCESS
    for step in range(task.max_steps):
        frame, decide = step % FRAME_STRIDE == 0, acting.due(step)
        seen = sim.observe(images=frame or decide or acting.watching)
        truth = acting.judge()
        if frame:
            recording.frame(step, seen, truth)
        left -= acting.done
        if left < 0:
            break
        if decide:
            acting.decide(step, seen)
        recording.act(proprioception(seen), acting.act(step, seen))
    recording.save(path, task, "rollout", seed, acting.done)
    return acting.done


def collect(robot: str, out: Path, policy_name: str, tasks: list[str], seed: int) -> None:
    """Fill out/<robot>/<task>/ with episodes of the policy; what is there already is kept."""
    profile = load_profile(robot)
    plugin, settings = configured("whetstone.policies", policy_name)
    policy = plugin.load(settings, profile)
    sim = Simulation(profile)
    for name in tasks:
        task = load_task(name, robot)
        count, done = COUNTS.get(name, OTHER_COUNT), 0
        for index in tqdm(range(count), desc=f"{robot} {name}", disable=None):
            path = out / robot / name / f"rollout-{index:04d}.npz"
            if not path.exists():
                done += record(sim, policy, task, seed + 10_000 * config.available("tasks").index(name) + index, path)
        print(f"{robot} {name}: {count} episodes of the policy, {done} of the new ones succeeded", flush=True)
    sim.close()


def main(arguments: list[str]) -> None:
    defaults = {"robot": "franka", "out": "build/rollouts", "policy": "flow_vla", "tasks": "", "seed": "3600000"}
    given = parse_arguments(arguments, defaults)
    tasks = given["tasks"].split(",") if given["tasks"] else config.available("tasks")
    collect(given["robot"], Path(given["out"]), given["policy"], tasks, integer(given, "seed"))


if __name__ == "__main__":
    run(main)
