"""When the watchdog stops the arm, when it lets it go again, and how the arm comes to rest."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from policy_node.camera_watch import CameraWatch
from policy_node.watchdog import FIRST_WORD, MODE, POLICY, Watchdog, braking, set_points
from whetstone.profile import RobotProfile, load_profile

PROFILE = load_profile("franka")
COUNT, PERIOD, STALE = len(PROFILE.joint_names), PROFILE.period, PROFILE.guard.stale_after
HERE = PROFILE.home
JOINTS, CAMERA = "joint states", "camera 'front'"


def moving() -> Watchdog:
    """An episode runs, all is heard, the first command has gone through, at 0 s."""
    watchdog = Watchdog(PROFILE)
    for part in (JOINTS, CAMERA, POLICY):
        watchdog.heard(part, 0.0)
    assert watchdog.passes(HERE, HERE, running=True, now=0.0)
    return watchdog


def stopped_at(watchdog: Watchdog, until: float = 2.0, **heard: float) -> float:
    """When it stops, s; heard: part -> until when it is heard, every period, from 0 on. Judged eight times a period."""
    step = PERIOD / 8
    for count in range(1, round(until / step)):
        now = count * step
        for part, last in heard.items():
            if count % 8 == 0 and now <= last + 1e-9:
                watchdog.heard({"joints": JOINTS, "camera": CAMERA, "policy": POLICY}[part], now)
        if watchdog.look(now):
            return now
    return np.inf


def test_a_command_for_the_arm_of_before_a_reset_is_held_back_and_no_more() -> None:
    watchdog, away = moving(), HERE + np.eye(COUNT)[1]
    watchdog.put_elsewhere(0.1)
    assert not watchdog.passes(away, HERE, running=False, now=0.12) and not watchdog.stopped
    assert watchdog.passes(HERE, HERE, running=True, now=0.13)
    assert not watchdog.passes(away, HERE, running=True, now=0.11 + STALE)
    assert watchdog.stopped and "fer_joint2 would jump by 1.00 rad" in watchdog.stopped[0]


def test_it_lets_all_through_while_all_is_heard() -> None:
    assert stopped_at(moving(), joints=9, camera=9, policy=9) == np.inf


@pytest.mark.parametrize(
    ("part", "limit", "said"),
    [
        ("policy", 2 * PERIOD, "policy: no command for"),
        ("camera", STALE, "camera 'front': nothing for"),
        ("joints", STALE, "joint states: nothing for"),
    ],
)
def test_within_two_periods_of_a_death_the_arm_is_stopped(part: str, limit: float, said: str) -> None:
    watchdog = moving()
    died = 10 * PERIOD
    heard = {"joints": 9.0, "camera": 9.0, "policy": 9.0, part: died}
    found = stopped_at(watchdog, **heard)
    assert died + limit - PERIOD / 2 < found <= died + limit + PERIOD / 8 + 1e-9
    assert len(watchdog.stopped) == 1 and watchdog.stopped[0].startswith(said)
    if part == "policy":
        assert found <= died + 2 * PERIOD + 1e-9


def test_who_rests_need_not_be_heard() -> None:
    watchdog = Watchdog(PROFILE)
    for part in (JOINTS, CAMERA, POLICY):
        watchdog.heard(part, 0.0)
    assert not watchdog.look(100.0), "nothing was commanded yet"
    assert watchdog.passes(HERE, HERE, running=False, now=0.0) and not watchdog.look(100.0), "the last command of an episode that is over"
    watchdog = moving()
    watchdog.rest()
    assert not watchdog.look(100.0)


@given(
    command=st.lists(st.floats(allow_nan=True, allow_infinity=True, width=32), min_size=0, max_size=9),
    scale=st.sampled_from([1.0, 1e-2, 0.1]),
)
def test_whatever_passes_is_near_where_the_arm_is(command: list[float], scale: float) -> None:
    watchdog = Watchdog(PROFILE)
    wanted = np.array(command, np.float64)
    wanted = HERE + scale * wanted if len(wanted) == COUNT else wanted
    if watchdog.passes(wanted, HERE, running=True, now=0.0):
        assert wanted.shape == HERE.shape and (np.abs(wanted - HERE) <= 2 * PROFILE.guard.max_step).all()
        assert (wanted >= PROFILE.lower - 1e-6).all() and (wanted <= PROFILE.upper + 1e-6).all()
    else:
        assert watchdog.stopped and watchdog.stopped[0].startswith("command: ")
        assert not watchdog.passes(HERE, HERE, running=True, now=0.0), "stopped is stopped, whatever comes"


def test_near_its_limit_an_arm_is_not_sent_beyond() -> None:
    """A guard keeps to the limits, so what does not came past it."""
    there = HERE.copy()
    there[1] = PROFILE.upper[1] + 0.001  # measured: a sensor has an offset
    watchdog = moving()
    assert watchdog.passes(np.minimum(there, PROFILE.upper), there, running=True, now=0.0)
    assert not watchdog.passes(there + 0.1 * (np.arange(COUNT) == 1), there, running=True, now=0.0)
    assert watchdog.stopped[0].startswith(f"command: {PROFILE.joint_names[1]} would go to {there[1] + 0.1:.2f} rad, outside its limits")


def test_nothing_passes_before_the_arm_is_known() -> None:
    watchdog = Watchdog(PROFILE)
    assert not watchdog.passes(HERE, None, running=True, now=1.0) and not watchdog.stopped, "its joint state may be on its way"
    assert not watchdog.passes(HERE, None, running=True, now=1.0 + FIRST_WORD - PERIOD) and not watchdog.stopped
    assert not watchdog.passes(HERE, None, running=True, now=1.0 + FIRST_WORD + PERIOD)
    assert watchdog.stopped == ("command: where the arm is is not known",)


def test_a_mode_that_nobody_tells_holds_the_arm() -> None:
    """A driver that says in what mode it is must have said so before a command goes through, and go on saying it."""
    watchdog = Watchdog(PROFILE, needed=(MODE,))
    for part in (JOINTS, CAMERA):
        watchdog.heard(part, 0.0)
    assert not watchdog.look(5.0), "nothing moves yet: a driver may take its time"
    assert not watchdog.passes(HERE, HERE, running=True, now=0.0) and not watchdog.stopped
    assert not watchdog.passes(HERE, HERE, running=True, now=FIRST_WORD + PERIOD)
    assert watchdog.stopped == ("robot mode: never heard",)
    for part in (JOINTS, CAMERA):
        watchdog.heard(part, 5.0)
    assert watchdog.release(5.0) == (False, "still stopped: robot mode: never heard")
    watchdog.heard(MODE, 5.0)
    assert watchdog.release(5.0) == (True, "released") and watchdog.passes(HERE, HERE, running=True, now=0.0)
    for part in (JOINTS, CAMERA, POLICY):
        watchdog.heard(part, 5.0 + STALE + PERIOD)
    assert watchdog.look(5.0 + STALE + PERIOD) and watchdog.stopped[0].startswith("robot mode: nothing for")


def test_only_a_human_releases_it_and_not_while_it_is_still_wrong() -> None:
    watchdog = moving()
    assert watchdog.release(0.0) == (False, "not stopped")
    assert watchdog.look(0.01, ["e-stop: pressed"]) and watchdog.stopped == ("e-stop: pressed",)
    assert not watchdog.look(0.02, ["e-stop: pressed"]), "once is enough"
    assert not watchdog.stop("again") and watchdog.stopped == ("e-stop: pressed",), "the first reason is the one to tell"
    assert not watchdog.passes(HERE, HERE, running=True, now=0.0)
    assert watchdog.release(0.03, ["e-stop: pressed"]) == (False, "still stopped: e-stop: pressed")
    assert watchdog.release(1.0) == (False, "still stopped: nothing from joint states, nothing from camera 'front'")
    for part in (JOINTS, CAMERA):
        watchdog.heard(part, 1.0)
    assert watchdog.release(1.1) == (True, "released")
    assert watchdog.passes(HERE, HERE, running=True, now=0.0)
    assert not watchdog.look(1.1), "the policy's silence while it was stopped is not held against it"


def anywhere(profile: RobotProfile, data: st.DataObject) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """An arm anywhere within its limits, moving at up to 1.2 times what it may; and a number from -1 to 1 for each joint."""
    count = len(profile.joint_names)
    part = st.lists(st.floats(0, 1), min_size=count, max_size=count)
    positions, velocities, shares = (np.array(data.draw(part)) for _ in range(3))
    return profile.lower + positions * (profile.upper - profile.lower), (2 * velocities - 1) * 1.2 * profile.velocity, 2 * shares - 1


@pytest.mark.parametrize("robot", ["franka", "so100"])
@given(data=st.data())
def test_braking_is_within_all_limits(robot: str, data: st.DataObject) -> None:
    profile = load_profile(robot)
    positions, velocities, _ = anywhere(profile, data)
    rest, seconds = braking(profile, positions, velocities)
    assert (rest >= profile.lower).all() and (rest <= profile.upper).all() and seconds >= profile.period
    speed = np.clip(velocities, -profile.velocity, profile.velocity)
    assert (np.abs(speed) / seconds <= profile.acceleration * (1 + 1e-9)).all()
    inside = positions + speed * seconds / 2 == rest
    # The cubic that a trajectory controller draws: constant deceleration, never back.
    times = np.linspace(0, seconds, 9)[:, None]
    path = positions + speed * times - speed / seconds * times**2 / 2
    np.testing.assert_allclose(path[-1][inside], rest[inside], atol=1e-9)
    assert (np.diff(np.abs(path - positions), axis=0) >= -1e-9).all()


def test_a_velocity_that_is_no_number_counts_as_none() -> None:
    rest, seconds = braking(PROFILE, HERE, np.full(COUNT, np.nan))
    np.testing.assert_array_equal(rest, HERE)
    assert seconds == PROFILE.period


@pytest.mark.parametrize("robot", ["fr3_crisp", "so101_follower"])
@given(data=st.data())
def test_set_points_of_a_brake_are_within_all_limits_and_go_on_as_the_arm_went(robot: str, data: st.DataObject) -> None:
    profile = load_profile(robot)
    last, velocities, _ = anywhere(profile, data)
    row = set_points(profile, last, velocities)
    rest, seconds = braking(profile, last, velocities, len(row) * profile.period)
    assert seconds == len(row) * profile.period < braking(profile, last, velocities)[1] + profile.period + 1e-9
    np.testing.assert_allclose(row[-1], rest, atol=1e-12)
    assert (row >= profile.lower - 1e-9).all() and (row <= profile.upper + 1e-9).all()
    steps = np.diff(np.vstack([last, row]), axis=0)
    assert (np.abs(steps) <= profile.velocity * profile.period * (1 + 1e-6) + 1e-9).all()
    speed = np.clip(velocities, -profile.velocity, profile.velocity)
    inside = last + speed * seconds / 2 == rest
    changes = np.diff(np.vstack([speed * profile.period, steps, np.zeros(len(last))]), axis=0)[:, inside]
    assert (np.abs(changes) <= profile.acceleration[inside] * profile.period**2 * (1 + 1e-6) + 1e-9).all()
    assert (steps * np.sign(velocities) >= -1e-12).all(), "never back, to where the arm was measured"


def test_an_arm_that_rests_at_its_set_point_is_told_once() -> None:
    np.testing.assert_array_equal(set_points(PROFILE, HERE, np.zeros(COUNT)), HERE[None])


def test_who_was_not_known_is_named_once_they_are() -> None:
    watchdog = moving()
    assert not watchdog.told_more("second: ", "?", ["second: /other"])  # not stopped at all
    assert watchdog.look(0.0, ["e-stop", "second: ?"])
    assert not watchdog.told_more("second: ", "?", ["e-stop", "second: ?"]) and not watchdog.told_more("second: ", "?", ["e-stop"])
    assert watchdog.told_more("second: ", "?", ["second: /other"])
    assert watchdog.stopped == ("e-stop", "second: /other")
    assert not watchdog.told_more("second: ", "?", ["second: /third"])


def test_what_speaks_of_no_use_is_silent_and_said_to_be_why() -> None:
    watchdog = moving()
    for count in range(1, 40):
        now = count * PERIOD
        watchdog.heard(JOINTS, now)
        watchdog.heard(POLICY, now)
        watchdog.unfit(CAMERA, "black", now)
        if watchdog.look(now):
            break
    assert STALE < now <= STALE + 2 * PERIOD and watchdog.stopped[0].startswith("camera 'front': black for 0.")
    assert watchdog.release(now) == (False, "still stopped: black from camera 'front'")
    watchdog.heard(CAMERA, now)
    assert watchdog.release(now)[0]


def test_a_camera_that_was_never_any_good_is_watched_from_its_first_word() -> None:
    watchdog = Watchdog(PROFILE)
    watchdog.unfit(CAMERA, "the same picture", 0.0)
    assert watchdog.passes(HERE, HERE, running=True, now=0.1)
    assert not watchdog.look(STALE - 0.01) and watchdog.look(STALE + 0.01)


def test_two_policies_stop_the_arm_and_one_after_the_other_does_not() -> None:
    watchdog = moving()
    assert watchdog.passes(HERE, HERE, True, PERIOD, "a") is False and watchdog.stopped  # moving() commanded as nobody
    assert watchdog.release(PERIOD)[0]
    assert watchdog.passes(HERE, HERE, True, PERIOD, "a") and watchdog.passes(HERE, HERE, True, 2 * PERIOD, "a")
    assert not watchdog.passes(HERE, HERE, True, 2.5 * PERIOD, "b")
    assert watchdog.stopped == ("second publisher: two policies command the arm",)
    watchdog.stopped = ()
    watchdog.rest()
    assert watchdog.passes(HERE, HERE, False, 3 * PERIOD, "b")
    assert watchdog.passes(HERE, HERE, False, 3 * PERIOD + STALE + 0.01, "c"), "b is dead since"


def picture(value: int, stamp: int) -> bytes:
    """As CDR has it: encapsulation and stamp, some more of a header, pixels."""
    return bytes(4) + stamp.to_bytes(8, "little") + bytes(48) + bytes([value, value // 2, value // 4]) * 1000


def test_a_picture_that_is_none() -> None:
    watch, step = CameraWatch(behind=300, frozen=True), 100
    assert watch.wrong(step, picture(90, step), 0) == ""
    assert watch.wrong(2 * step, picture(90, 2 * step), 0) == "the same picture"
    assert watch.wrong(3 * step, picture(91, 3 * step), 0) == ""
    assert watch.wrong(3 * step, picture(92, 3 * step), 0) == "stamps that do not advance"
    assert watch.wrong(2 * step, picture(93, 2 * step), 0) == "stamps that do not advance"
    assert watch.wrong(4 * step, picture(94, 4 * step), 4 * step + 300) == ""
    assert watch.wrong(5 * step, picture(95, 5 * step), 5 * step + 301).endswith("s behind the joint states")
    assert watch.wrong(6 * step, picture(8, 6 * step), 0) == "black"
    assert watch.wrong(7 * step, picture(9, 7 * step), 0) == ""
    still = CameraWatch(behind=300, frozen=False)
    assert still.wrong(step, picture(90, step), 0) == still.wrong(2 * step, picture(90, 2 * step), 0) == ""
