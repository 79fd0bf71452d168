"""The simulated trajectory controller takes what the real one takes and says why it ignores the rest."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

from robot_bringup.trajectory import TrajectoryController

PERIOD = 50_000_000
NAMES = ("a", "b")


def trajectory(*points: tuple[float, list[float]], names=NAMES, stamp: int = 0) -> SimpleNamespace:
    return SimpleNamespace(
        header=SimpleNamespace(stamp=SimpleNamespace(sec=stamp // 10**9, nanosec=stamp % 10**9)),
        joint_names=list(names),
        points=[
            SimpleNamespace(positions=positions, time_from_start=SimpleNamespace(sec=0, nanosec=round(seconds * 1e9)))
            for seconds, positions in points
        ],
    )


@pytest.fixture
def controller() -> TrajectoryController:
    controller = TrajectoryController(NAMES)
    controller.hold(np.array([0.0, 1.0]))
    return controller


def test_reaches_the_point_at_its_time_and_holds(controller: TrajectoryController) -> None:
    now = 10 * PERIOD
    assert controller.accept(trajectory((0.1, [1.0, 3.0])), now) is None
    np.testing.assert_allclose(controller.sample(now + PERIOD), [0.5, 2.0])
    np.testing.assert_allclose(controller.sample(now + 2 * PERIOD), [1.0, 3.0])
    np.testing.assert_allclose(controller.sample(now + 9 * PERIOD), [1.0, 3.0])


def test_new_point_starts_where_the_old_one_is(controller: TrajectoryController) -> None:
    controller.accept(trajectory((0.1, [1.0, 1.0])), 0)
    controller.sample(PERIOD)
    assert controller.accept(trajectory((0.05, [0.0, 1.0]), stamp=PERIOD), PERIOD) is None
    np.testing.assert_allclose(controller.sample(PERIOD + PERIOD // 2), [0.25, 1.0])


def test_several_points(controller: TrajectoryController) -> None:
    controller.accept(trajectory((0.05, [1.0, 1.0]), (0.1, [1.0, 0.0])), 0)
    np.testing.assert_allclose(controller.sample(PERIOD), [1.0, 1.0])
    np.testing.assert_allclose(controller.sample(PERIOD * 3 // 2), [1.0, 0.5])


def test_joints_in_another_order(controller: TrajectoryController) -> None:
    assert controller.accept(trajectory((0.05, [7.0, 8.0]), names=("b", "a")), 0) is None
    np.testing.assert_allclose(controller.sample(PERIOD), [8.0, 7.0])


@pytest.mark.parametrize(
    ("message", "word"),
    [
        (trajectory(), "no points"),
        (trajectory((0.05, [1.0, 1.0]), names=()), "no joints"),
        (trajectory((0.05, [1.0, 1.0]), names=("a", "elbow")), "'elbow' is unknown"),
        (trajectory((0.05, [1.0]), names=("a",)), "'b' is missing"),
        (trajectory((0.05, [1.0, 1.0, 1.0]), names=("a", "b", "a")), "twice"),
        (trajectory((0.05, [1.0])), "1 positions for 2"),
        (trajectory((0.05, [1.0, float("nan")])), "not finite"),
        (trajectory((0.1, [1.0, 1.0]), (0.1, [1.0, 1.0])), "order of time"),
        (trajectory((0.05, [1.0, 1.0]), stamp=1), "ended"),
    ],
)
def test_ignored_with_a_reason(controller: TrajectoryController, message: SimpleNamespace, word: str) -> None:
    reason = controller.accept(message, 20 * PERIOD)
    assert reason is not None and word in reason
    np.testing.assert_allclose(controller.sample(30 * PERIOD), [0.0, 1.0])
