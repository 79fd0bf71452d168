"""Objects count as placed when they stay where they belong. A stand-in node joins them to MuJoCo; nothing is sent over DDS."""

from __future__ import annotations

import pytest

pytest.importorskip("rclpy")

import mujoco
import numpy as np
from geometry_msgs.msg import PoseStamped

from robot_bringup import objects
from robot_bringup.objects import Objects
from robot_bringup.sim.simulation import Simulation
from whetstone.profile import load_profile
from whetstone.task import load_task

PROFILE = load_profile("so100_isaac")
TASK = load_task("pick_and_place", PROFILE.asset_name)


class Table:
    """Another simulator's, where time goes on between two objects that it is told to put: what Objects asks of a node, with MuJoCo
    behind."""

    def __init__(self, seed: int) -> None:
        self.simulation = Simulation(PROFILE, cameras=False)
        self.simulation.reset(TASK, seed)
        self.hears, self.told = {}, []

    def create_publisher(self, _, topic, __):
        name = topic.split("/")[1]

        class Publisher:
            publish = staticmethod(lambda message: self.put(name, message.pose))

        return Publisher()

    def create_subscription(self, _, topic, callback, __):
        self.hears[topic.split("/")[1]] = callback

    def layout(self, seed: int) -> dict[str, np.ndarray]:
        return self.simulation.world.poses(self.simulation.draw(TASK, seed)[1])

    def put(self, name: str, pose) -> None:
        p, q = pose.position, pose.orientation
        self.told.append(name)
        self.simulation.world.put(name, np.array([p.x, p.y, p.z, q.w, q.x, q.y, q.z]))
        if name == "red_cube":  # the last two come in one go
            self.goes_on(0.01)

    @property
    def stamp(self) -> int:
        return round(self.simulation.data.time * 1e9)

    def goes_on(self, seconds: float) -> None:
        mujoco.mj_step(self.simulation.model, self.simulation.data, round(seconds / self.simulation.model.opt.timestep))
        for name, hear in self.hears.items():
            message, world = PoseStamped(), self.simulation.world
            position = world.cube(name) if name.endswith("cube") else world.place_of(name)
            message.pose.position.x, message.pose.position.y, message.pose.position.z = position.tolist()
            hear(message)

    def away(self, seed: int) -> float:
        """m, of the object that is furthest from where the seed puts it."""
        world, wanted = self.simulation.world, self.layout(seed)
        return max(float(np.hypot(*(world.cube(name) - wanted[name][:3])[:2])) for name in ("red_cube", "blue_cube"))


@pytest.mark.parametrize("seeds", [(5, 18), (13, 14), (17, 18)])
def test_a_cube_that_is_put_where_another_still_stands_is_told_again(monkeypatch, seeds: tuple[int, int]) -> None:
    monkeypatch.setattr(objects, "AGAIN", 0.0)
    before, after = seeds
    table = Table(before)
    placing = Objects(table, tuple(table.layout(after)), "topics", "")  # type: ignore[arg-type]
    table.goes_on(0.1)
    placing.place(table.layout(after))
    asked = 0
    while not placing.placed(table.stamp):
        table.goes_on(0.005)
        asked += 1
        assert asked < 1000, f"not placed: {placing.missing()}"
    table.goes_on(1.0)
    assert table.away(after) < objects.PLACED, "it was said to be there, and is not"
    assert table.told.count("red_cube") > 1, "the two did not meet: this scene shows nothing"


def test_nothing_counts_before_it_was_asked_for() -> None:
    """Poses that are right by chance, or old."""
    table = Table(3)
    placing = Objects(table, tuple(table.layout(3)), "topics", "")  # type: ignore[arg-type]
    table.goes_on(0.1)
    placing.place(table.layout(3))
    assert set(placing.missing()) == set(table.layout(3)) and not placing.placed(table.stamp)
    assert sorted(table.told) == sorted(table.layout(3))
