"""The mirror tells of another simulator's scene what our own tells of it."""

from __future__ import annotations

import numpy as np
import pytest

from robot_bringup.sim.expert import Expert, Faults
from robot_bringup.sim.mirror import Mirror
from robot_bringup.sim.simulation import Simulation
from whetstone.profile import load_profile
from whetstone.task import load_task


def poses(simulation: Simulation, mirror: Mirror) -> dict[str, np.ndarray]:
    found = {}
    for name in mirror.objects:
        body = simulation.data.body(name)
        found[name] = np.concatenate([body.xpos, body.xquat])
    return found


def row(simulation: Simulation) -> np.ndarray:
    state = simulation.observe(images=False)
    return np.append(state.positions, state.gripper_opening)


@pytest.mark.parametrize("task_name", ["pick_and_place", "tray_then_button"])
def test_an_expert_s_episode_has_the_same_truth_in_both(task_name: str) -> None:
    profile, task = load_profile("franka"), load_task(task_name, "franka")
    simulation, mirror = Simulation(profile, cameras=False), Mirror(load_profile("franka_gazebo"))
    simulation.reset(task, 5)
    mirror.begin(task, row(simulation), poses(simulation, mirror))
    expert = Expert(simulation, task, Faults(), 0)
    stages = set()
    for _ in range(task.max_steps):
        simulation.step(*expert.act())
        ours, theirs = simulation.truth(), mirror.update(row(simulation), poses(simulation, mirror))
        assert (theirs.success, theirs.stage, theirs.stages) == (ours.success, ours.stage, ours.stages)
        assert theirs.progress == pytest.approx(ours.progress, abs=0.02)
        stages.add(ours.stage)
        if ours.success:
            break
    assert simulation.truth().success and len(stages) == simulation.truth().stages + 1


def test_objects_lie_where_our_own_simulator_puts_them() -> None:
    profile, task = load_profile("so100"), load_task("push", "so100")
    simulation, mirror = Simulation(profile, cameras=False), Mirror(profile)
    simulation.reset(task, 11)
    wanted = mirror.layout(task, 11)
    for name, pose in poses(simulation, mirror).items():
        np.testing.assert_allclose(pose[:2], wanted[name][:2], atol=1e-3)  # the cubes settle
    assert set(wanted) == set(mirror.objects)
