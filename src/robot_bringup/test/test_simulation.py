"""The simulated robots: seeded, truthful, and solvable by their scripted experts."""

from __future__ import annotations

import numpy as np
import pytest

from robot_bringup.sim.expert import Expert, Faults
from robot_bringup.sim.simulation import Simulation
from whetstone import config
from whetstone.guard import Guard
from whetstone.profile import load_profile
from whetstone.task import load_task

ROBOTS = ("franka", "so100")


@pytest.fixture(scope="module", params=ROBOTS)
def sim(request):
    simulation = Simulation(load_profile(request.param))
    yield simulation
    simulation.close()


def play(sim: Simulation, task_name: str, seed: int, faults: Faults) -> bool:
    """An expert's episode through the guard, without images."""
    task = load_task(task_name, sim.profile.name)
    sim.reset(task, seed)
    expert, guard, previous = Expert(sim, task, faults, seed), Guard(sim.profile), None
    for _ in range(task.max_steps):
        seen = sim.observe(images=False)
        targets, opening = expert.act()
        measured = np.append(seen.positions, seen.gripper_opening)
        previous = guard.check(np.append(targets, opening), measured, previous, sim.profile.period)
        sim.step(previous.command[:-1], float(previous.command[-1]))
        if sim.truth().success:
            return True
    return False


@pytest.mark.parametrize("task", config.available("tasks"))
def test_expert_solves_the_task(sim, task):
    solved = sum(play(sim, task, seed, Faults()) for seed in range(5))
    assert solved >= 4


@pytest.mark.parametrize(
    "faults", [Faults(miss=1.6, blind=True), Faults(drop=True, blind=True), Faults(other=True, blind=True), Faults(stop=0.2)]
)
def test_a_faulty_demonstration_is_not_a_success(sim, faults):
    assert sum(play(sim, "pick_and_place", seed, faults) for seed in range(4)) <= 1


def test_reset_is_repeatable_bit_for_bit(sim):
    task = load_task("pick_and_place", sim.profile.name)
    seen = []
    for _ in range(2):
        sim.reset(task, 42)
        for step in range(6):
            sim.step(sim.profile.home + 0.05 * np.sin(step), 0.5)
        seen.append(sim.observe())
    assert np.array_equal(seen[0].positions, seen[1].positions)
    assert all(np.array_equal(seen[0].images[camera], seen[1].images[camera]) for camera in seen[0].images)
    sim.reset(task, 43)
    assert not np.array_equal(sim.observe().images["front"], seen[0].images["front"])


def test_cameras_have_the_profile_size_and_see_different_things(sim):
    sim.reset(load_task("reach", sim.profile.name), 1)
    images = sim.observe().images
    assert set(images) == {camera.name for camera in sim.profile.cameras}
    for camera in sim.profile.cameras:
        assert images[camera.name].shape == (camera.height, camera.width, 3) and images[camera.name].dtype == np.uint8
        assert images[camera.name].std() > 10
    assert not np.array_equal(images["front"], images["wrist"])


def test_driver_and_model_angles_convert_back(sim):
    angles = np.linspace(-0.5, 0.5, len(sim.profile.joints))
    assert np.allclose(sim.to_driver(sim.to_model(angles)), angles)


def test_arm_follows_its_targets(sim):
    sim.reset(load_task("reach", sim.profile.name), 3)
    goal = sim.profile.home.copy()
    goal[0] += 0.2
    for _ in range(30):
        sim.step(goal, 0.0)
    state = sim.observe(images=False)
    assert np.abs(state.positions - goal).max() < 0.05
    assert state.gripper_opening < 0.1


def test_layouts_differ_and_stay_in_their_ranges(sim):
    ranges = sim.profile.sim.model["layout"]
    task = load_task("pick_and_place", sim.profile.name)
    places = []
    for seed in range(20):
        sim.reset(task, seed)
        cube = sim.world.cube("red_cube")
        assert ranges["red_cube"]["x"][0] - 0.01 <= cube[0] <= ranges["red_cube"]["x"][1] + 0.01
        places.append(cube[:2].copy())
    assert np.std(places, axis=0).min() > 0.01


def test_progress_rises_along_a_success_and_is_one_at_its_end(sim):
    task = load_task("pick_and_place", sim.profile.name)
    sim.reset(task, 5)
    expert, curve = Expert(sim, task, Faults(), 5), []
    for _ in range(task.max_steps):
        targets, opening = expert.act()
        sim.step(targets, opening)
        curve.append(sim.truth().progress)
        if sim.truth().success:
            break
    assert curve[-1] == 1.0
    assert np.corrcoef(np.arange(len(curve)), curve)[0, 1] > 0.9
    assert max(np.diff(curve) * -1) < 0.05
