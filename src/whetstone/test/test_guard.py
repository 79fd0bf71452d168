"""The guard: whatever comes in, what goes out is finite, inside the limits and reachable."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from whetstone_samples import robot

from whetstone.guard import Guard, GuardResult
from whetstone.profile import load_profile

PROFILE = robot()
GUARD = Guard(PROFILE)
DT = PROFILE.period
anything = st.floats(allow_nan=True, allow_infinity=True)
rows = st.lists(anything, min_size=3, max_size=3) | st.lists(anything, max_size=5)
within = st.tuples(st.floats(-1, 1), st.floats(-0.2, 2), st.floats(0, 1))


def assert_safe(result: GuardResult) -> None:
    arm = result.command[:-1]
    assert result.command.shape == (3,) and np.isfinite(result.command).all()
    assert np.all(PROFILE.lower <= arm) and np.all(arm <= PROFILE.upper) and 0 <= result.command[-1] <= 1
    assert result.velocity.shape == (2,) and np.all(np.abs(result.velocity) <= PROFILE.velocity + 1e-9)
    assert not result.held or result.reasons


@given(st.lists(st.tuples(rows, rows, anything, anything), min_size=1, max_size=6))
def test_any_input_gives_a_safe_command(calls: list) -> None:
    previous = None
    for target, measured, dt, age in calls:
        with np.errstate(all="raise", under="ignore"):
            previous = GUARD.check(np.array(target), np.array(measured), previous, dt, age)
        assert_safe(previous)


@given(st.lists(within, min_size=1, max_size=60), within)
def test_limits_hold_along_a_path_that_the_arm_follows(targets: list, start: tuple) -> None:
    """The arm reaches each command: then position, step, velocity and acceleration all hold at once."""
    previous, measured = None, np.array(start)
    speed = np.zeros(2)
    for target in targets:
        result = GUARD.check(np.array(target), measured, previous, DT, 0.0)
        assert_safe(result)
        assert not result.held
        step = result.command[:-1] - measured[:-1]
        assert np.all(np.abs(step) <= PROFILE.guard.max_step + 1e-9)
        velocity = step / DT
        assert np.all(np.abs(velocity) <= PROFILE.velocity + 1e-9)
        # Braking towards a position limit ends with a remainder of at most a dt^2 / 8.
        assert np.all(np.abs(velocity - speed) <= PROFILE.acceleration * DT * 1.125 + 1e-9)
        previous, measured, speed = result, result.command, velocity


@given(within, within)
def test_a_still_target_is_reached_and_then_left_alone(start: tuple, target: tuple) -> None:
    previous, measured = None, np.array(start)
    for _ in range(200):
        previous = GUARD.check(np.array(target), measured, previous, DT, 0.0)
        measured = previous.command
    np.testing.assert_allclose(measured, target, atol=1e-3)
    assert previous is not None and previous.reasons == ()


@given(
    st.lists(within, min_size=1, max_size=30),
    within,
    st.sampled_from(["stale", "not finite", "measured", "asked"]),
    st.tuples(st.floats(-0.05, 0.05), st.floats(-0.05, 0.05)),
)
def test_a_hold_brakes_the_arm_and_then_leaves_it_alone(targets: list, start: tuple, why: str, sag: tuple) -> None:
    """No harder than it may, never back, and it does not follow an arm that hangs below what it is told."""
    previous, measured = None, np.array(start)
    for target in targets:
        previous = GUARD.check(np.array(target), measured, previous, DT, 0.0)
        measured = previous.command
    assert previous is not None
    last, speed = previous.command[:-1], previous.velocity
    way = np.sign(speed)
    for _ in range(20):
        seen = previous.command + np.append(sag, 0.0)
        if why == "asked":
            previous = GUARD.hold("asked", seen, previous, DT)
        else:
            target = np.full(3, np.nan if why == "not finite" else 0.0)
            seen = np.full(3, np.nan) if why == "measured" else seen
            previous = GUARD.check(target, seen, previous, DT, 1.0 if why == "stale" else 0.0)
        assert_safe(previous)
        assert previous.held and previous.send
        velocity = (previous.command[:-1] - last) / DT
        np.testing.assert_allclose(previous.velocity, velocity, atol=1e-9)
        assert np.all(np.abs(velocity - speed) <= PROFILE.acceleration * DT * 1.125 + 1e-9)
        assert np.all(velocity * way >= -1e-9)
        last, speed = previous.command[:-1], velocity
    assert not speed.any()


def test_a_late_command_goes_no_further_than_one_in_time_and_after_a_pause_it_starts_from_rest() -> None:
    """Whoever takes it goes there in one control period, however late it is."""
    moving = GuardResult(np.zeros(3), np.array([1.0, 0.0]), False, ())
    for dt, reached in ((DT, 1.0 * DT), (1.9 * DT, 1.0 * DT), (2.1 * DT, 5.0 * DT * DT), (0.5, 5.0 * DT * DT), (1e9, 5.0 * DT * DT)):
        result = GUARD.check(np.array([0.29, 0.0, 0.0]), np.zeros(3), moving, dt, 0.0)
        assert result.command[0] == pytest.approx(reached)
        assert result.velocity[0] == pytest.approx(reached / DT)


@given(st.lists(anything, min_size=2, max_size=2), within, st.floats(0.35, 1e6))
def test_a_first_hold_is_where_the_arm_is(target: list, measured: tuple, age: float) -> None:
    result = GUARD.check(np.array([*target, 0.5]), np.array(measured), None, DT, age)
    assert result.held and result.send
    np.testing.assert_allclose(result.command, measured)


def test_a_command_within_limits_passes_unchanged() -> None:
    measured = np.array([0.0, 1.0, 0.0])
    result = GUARD.check(np.array([0.01, 0.99, 1.0]), measured, None, DT, 0.05)
    np.testing.assert_allclose(result.command, [0.01, 0.99, 1.0])
    np.testing.assert_allclose(result.velocity, [0.2, -0.2])
    assert result.reasons == () and not result.held


@pytest.mark.parametrize(
    ("target", "measured", "dt", "age", "reason"),
    [
        ([0.0, np.nan, 0.0], [0, 0, 0], DT, 0, "not finite: b"),
        ([np.inf, 0.0, np.nan], [0, 0, 0], DT, 0, "not finite: a, gripper"),
        ([0.0, 0.0], [0, 0, 0], DT, 0, "shape: the command is (2,), not (3,)"),
        ([[0.0] * 3], [0, 0, 0], DT, 0, "shape: the command is (1, 3), not (3,)"),
        (["x", 0, 0], [0, 0, 0], DT, 0, "shape: the command is not an array of numbers"),
        ([0.0] * 3, [0, 0, 0], DT, 0.31, "stale observation 0.31 s"),
        ([0.0] * 3, [0, 0, 0], DT, -0.5, "stale observation -0.50 s"),
        ([0.0] * 3, [0, 0, 0], DT, np.nan, "stale observation nan s"),
        ([0.0] * 3, [0, 0, 0], 0.0, 0, "control period of 0.0 s"),
        ([0.0] * 3, [0, np.nan, 0], DT, 0, "measured state is not 3 finite numbers"),
    ],
)
def test_a_refusal_is_named(target: list, measured: list, dt: float, age: float, reason: str) -> None:
    result = GUARD.check(target, np.array(measured), None, dt, age)  # type: ignore[arg-type]
    assert result.held and result.reasons == (reason,)


@pytest.mark.parametrize(
    ("target", "last", "speed", "reason"),
    [
        ([0.04, 0.0], [0.0, 0.0], [0.0, 0.0], "acceleration: a"),
        ([0.1, 0.0], [0.0, 0.0], [1.0, 0.0], "velocity: a"),
        ([0.5, 0.0], [0.29, 0.0], [1.0, 0.0], "step: a"),
        ([2.0, 0.0], [1.0, 0.0], [0.0, 0.0], "velocity: a"),
    ],
)
def test_a_limit_is_named(target: list, last: list, speed: list, reason: str) -> None:
    previous = GuardResult(np.array([*last, 0.0]), np.array(speed), False, ())
    measured = np.zeros(3) if last[0] < 1 else np.array([1.0, 0.0, 0.0])
    result = GUARD.check(np.array([*target, 0.0]), measured, previous, DT, 0.0)
    assert reason in result.reasons and not result.held


def test_step_is_counted_from_the_measured_position_not_from_the_last_command() -> None:
    previous = GuardResult(np.array([0.9, 0.0, 0.0]), np.zeros(2), False, ())
    result = GUARD.check(np.array([0.9, 0.0, 0.0]), np.zeros(3), previous, DT, 0.0)
    assert result.command[0] == pytest.approx(0.3)


def test_an_arm_outside_its_limits_is_held_at_the_limit() -> None:
    result = GUARD.check(np.array([1.5, 0.0, 0.0]), np.array([1.2, 0.0, 0.0]), None, DT, 0.0)
    assert result.command[0] == 1.0


def test_without_any_knowledge_of_the_arm_nothing_is_sent() -> None:
    blind = GUARD.check(np.zeros(3), np.full(3, np.nan), None, DT, 0.0)
    assert not blind.send
    known = GUARD.check(np.zeros(3), np.zeros(3), None, DT, 0.0)
    again = GUARD.check(np.zeros(3), np.full(3, np.nan), known, DT, 0.0)
    assert again.send and np.array_equal(again.command, known.command)
    seen = GUARD.check(np.array([0.5, 0.0, 0.0]), np.array([0.5, 0.0, 0.0]), blind, DT, 0.0)
    assert seen.command[0] == 0.5, "where it is, and not where nobody sent it"


@pytest.mark.parametrize("name", ["franka", "so100"])
def test_full_speed_into_a_limit_stops_there_without_a_jerk(name: str) -> None:
    profile = load_profile(name)
    guard = Guard(profile)
    target = np.append(profile.upper + 1, 0.0)
    previous, measured, speed = None, np.append(profile.home, 0.0), np.zeros(len(profile.joints))
    for _ in range(400):
        previous = guard.check(target, measured, previous, profile.period, 0.0)
        velocity = (previous.command[:-1] - measured[:-1]) / profile.period
        assert np.all(np.abs(velocity - speed) <= profile.acceleration * profile.period * 1.125 + 1e-9)
        measured, speed = previous.command, velocity
    np.testing.assert_allclose(measured[:-1], profile.upper, atol=1e-6)


class Planar:
    """A hand at the end of two links of 1 m, which must stay left of a wall and above a table."""

    def excess(self, joints: np.ndarray) -> tuple[float, str]:
        first, second = joints[0], joints[0] + joints[1]
        x, y = np.cos(first) + np.cos(second), np.sin(first) + np.sin(second)
        return max((0.0, ""), (x - 1.7, "x above 1.7 m"), (0.2 - y, "y below 0.2 m"))


@given(st.lists(within, min_size=1, max_size=60), within)
def test_the_hand_stays_inside_its_workspace_and_all_other_limits_hold(targets: list, start: tuple) -> None:
    guard, reach = Guard(PROFILE, Planar()), Planar()
    previous, measured, speed = None, np.array(start), np.zeros(2)
    outside = reach.excess(measured[:-1])[0]
    for target in targets:
        result = guard.check(np.array(target), measured, previous, DT, 0.0)
        assert_safe(result)
        velocity = (result.command[:-1] - measured[:-1]) / DT
        assert np.all(np.abs(velocity) <= PROFILE.velocity + 1e-9)
        assert np.all(np.abs(velocity - speed) <= PROFILE.acceleration * DT * 1.125 + 1e-9)
        now = reach.excess(result.command[:-1])[0]
        assert now <= max(outside, 0.0) + 1e-3, "inside it stays, outside it comes nearer"
        outside = now
        previous, measured, speed = result, result.command, velocity


def test_a_command_through_the_wall_is_braked_and_named() -> None:
    guard, start = Guard(PROFILE, Planar()), np.array([0.6, 0.8, 1.0])
    assert Planar().excess(start[:-1])[0] == 0
    previous, measured, reasons = None, start, set()
    for _ in range(100):
        previous = guard.check(np.array([0.0, 0.0, 1.0]), measured, previous, DT, 0.0)
        measured = previous.command
        reasons.update(previous.reasons)
    assert "workspace: x above 1.7 m" in reasons or "workspace: y below 0.2 m" in reasons
    assert previous is not None and not previous.velocity.any() and not np.allclose(measured[:-1], 0, atol=0.1), "it rests before the wall"
    back = guard.check(start, measured, previous, DT, 0.0)
    assert back.velocity.any(), "and may go back"
