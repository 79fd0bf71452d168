"""Checks of joint states, clocks and cameras: content, rates, stamps.

Role: pure judgement of a record. Depends on neither ROS nor a simulator.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import numpy as np

from robot_bringup.conformance.record import Joints, Record
from robot_bringup.conformance.topic_checks import CLOCK, CLOCK_TOPIC, IMAGE, of_type, one_publisher
from robot_bringup.conformance.verdict import Check, Failed, Robot, Untried, needed
from whetstone.profile import Camera, RobotProfile

SHARE = 0.8
"""Of the profile's rate that must arrive: listening takes seconds only, and a busy machine drops a frame."""
PACE = (0.7, 1.3)
"""Seconds of stamps in a second of the wall clock: our nodes send commands by the wall clock."""
OVER = 0.02
"""rad (or the gripper's unit) by which a measured joint may lie outside its limits: servos sag."""
BLANK = 1.0
"""Standard deviation of pixel values (of 255) below which a picture shows nothing."""


def joint_states_of(r: Record) -> list[Joints]:
    return needed(r.heard(), "no joint state came")


def _names(r: Record, robot: Robot) -> str:
    wanted = [*robot.profile.joint_names, robot.profile.gripper.joint]
    orders = {one.names for one in joint_states_of(r)}
    for names in orders:
        missing = [name for name in wanted if name not in names]
        if missing:
            seen = f"no {', '.join(missing)} in {', '.join(names) or 'a message without names'}"
            raise Failed(seen, "all of them in every message", "correct the profile's names, or merge the driver's joint states")
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise Failed(
                f"{', '.join(twice)} twice in one message", "each once", "mend the driver: which of the two holds is anybody's guess"
            )
    return f"{len(wanted)} joints, {'in one order' if len(orders) == 1 else f'in {len(orders)} orders (any will do)'}"


def _lengths(r: Record, robot: Robot) -> str:
    for one in joint_states_of(r):
        if len(one.positions) != len(one.names):
            raise Failed(f"{len(one.positions)} positions for {len(one.names)} names", "one each", "mend the driver")
    return "one each"


def columns(messages: Sequence[Joints], names: Sequence[str], field: str = "positions") -> np.ndarray:
    """(messages, names), NaN where there is none."""
    rows = np.full((len(messages), len(names)), np.nan)
    for row, one in zip(rows, messages):
        values = getattr(one, field)
        for column, name in enumerate(names):
            if name in one.names and one.names.index(name) < len(values):
                row[column] = values[one.names.index(name)]
    return rows


def _finite(r: Record, robot: Robot) -> str:
    for one in joint_states_of(r):
        bad = [name for name, value in zip(one.names, one.positions) if not np.isfinite(value)]
        if bad:
            raise Failed(f"position of {', '.join(bad)} is not finite", "numbers", "mend the driver: our nodes stop at such a message")
    return f"{len(joint_states_of(r))} messages"


def _within(r: Record, robot: Robot) -> str:
    profile = robot.profile
    rows = columns(joint_states_of(r), profile.joint_names)
    beyond = np.maximum(profile.lower - rows, rows - profile.upper)  # rad outside; NaN where a message has no such joint
    known = [column for column in range(len(profile.joint_names)) if not np.isnan(beyond[:, column]).all()]
    worst = max(needed(known, "no position of its joints came"), key=lambda column: np.nanmax(beyond[:, column]))
    message = int(np.nanargmax(beyond[:, worst]))
    if beyond[message, worst] > OVER:
        limits = f"{profile.lower[worst]:.3f} to {profile.upper[worst]:.3f} rad"
        seen = f"{profile.joint_names[worst]} at {rows[message, worst]:.3f}"
        raise Failed(seen, limits, "move the arm inside; if it is, unit, sign or offset are wrong")
    return f"nearest to one: {profile.joint_names[worst]}, {max(0.0, -beyond[message, worst]):.2f} rad away"


def _gripper_range(r: Record, robot: Robot) -> str:
    gripper = robot.profile.gripper
    low, high = sorted((gripper.closed, gripper.open))
    rows = columns(joint_states_of(r), [gripper.joint])[:, 0]
    found = rows[np.isfinite(rows)]
    if not len(found):
        raise Untried("no position of it came")
    slack = 0.1 * (high - low)
    if found.min() < low - slack or found.max() > high + slack:
        raise Failed(
            f"{gripper.joint} at {found.min():.4f} to {found.max():.4f}", f"{low:g} to {high:g}", "correct gripper.closed and gripper.open"
        )
    return f"{gripper.joint} at {found[-1]:.4f} ({100 * robot.profile.position_to_opening(found[-1]):.0f} % open)"


def _velocities(r: Record, robot: Robot) -> str:
    names = robot.profile.joint_names
    heard = joint_states_of(r)
    given = [one for one in heard if len(one.velocities)]
    if not given:
        return "none; the watchdog takes the positions' differences"
    rows = columns(given, names, "velocities")
    if len(given) < len(heard) or not np.isfinite(rows).all():
        raise Failed("of some joints, or at some times, or not finite", "all joints, always, or none ever", "mend the driver")
    return f"at most {np.abs(rows).max():.3f} rad/s while it rests"


def _joint_rate(r: Record, robot: Robot) -> str:
    return _rate([one.arrival for one in r.heard()], r, robot.profile.rate)


def _rate(arrivals: Sequence[float], r: Record, wanted: float) -> str:
    seconds = r.heard_to - r.heard_from
    if seconds <= 0:
        raise Untried("nothing was listened to")
    rate = len(arrivals) / seconds
    if rate < SHARE * wanted:
        raise Failed(
            f"{rate:.1f} Hz", f"{wanted:g} Hz", "raise it, or lower `rate` in the profile; a simulator may be slower than real time"
        )
    return f"{rate:.1f} Hz"


def _joint_pause(r: Record, robot: Robot) -> str:
    arrivals = np.array([one.arrival for one in joint_states_of(r)])
    pause = float(np.diff(np.concatenate([[r.heard_from], arrivals, [r.heard_to]])).max())
    if pause > robot.profile.guard.stale_after:
        raise Failed(
            f"{pause:.2f} s without one",
            f"at most {robot.profile.guard.stale_after:g} s (guard.stale_after)",
            "the watchdog would stop the arm",
        )
    return f"at most {1000 * pause:.0f} ms"


def _joint_stamps(r: Record, robot: Robot) -> str:
    return _forward([one.stamp for one in joint_states_of(r)])


def _forward(stamps: Sequence[int]) -> str:
    if not all(stamps):
        raise Failed("a stamp of 0", "the time of measurement", "stamp the messages")
    steps = np.diff(np.array(stamps, np.int64))
    if len(steps) and steps.min() <= 0:
        seen = "two messages with one stamp" if steps.min() == 0 else f"a stamp {-steps.min() / 1e9:.3f} s before the last"
        raise Failed(seen, "each later than the last", "one publisher only; a simulator must not turn its clock back while a run goes on")
    return f"{len(stamps)} stamps"


def _pace(r: Record, robot: Robot) -> str:
    heard = joint_states_of(r)
    wall = heard[-1].arrival - heard[0].arrival
    if len(heard) < 3 or wall <= 0:
        raise Untried("too few joint states came")
    pace = (heard[-1].stamp - heard[0].stamp) / 1e9 / wall
    if not PACE[0] <= pace <= PACE[1]:
        raise Failed(f"{pace:.2f} s of stamps a second", "1", "commands go by the wall clock: let the simulator run in real time")
    return f"{pace:.2f} s a second"


def _clock(r: Record, robot: Robot) -> str:
    ends = r.publishers.get(CLOCK_TOPIC, [])
    if not ends:
        if robot.hardware:
            return "none: wall time"
        raise Failed("nobody publishes /clock", CLOCK, "bridge the simulator's clock")
    of_type(ends, CLOCK_TOPIC, CLOCK)
    if len(ends) > 1:
        raise Untried(f"{len(ends)} simulators publish it on this domain; our nodes go by the messages' stamps")
    ticks = needed(r.clock, "nothing came on it")
    steps = np.diff([one.stamp for one in ticks])
    if len(steps) and steps.min() < 0:
        raise Failed(f"back by {-steps.min() / 1e9:.3f} s", "never back", "do not reset the simulator's time while a run goes on")
    times, stamps = np.array([one.arrival for one in ticks]), np.array([one.stamp for one in ticks], float)
    heard = [one for one in joint_states_of(r) if times[0] <= one.arrival <= times[-1]]
    if heard:
        away = np.median([one.stamp - np.interp(one.arrival, times, stamps) for one in heard]) / 1e9
        if abs(away) > robot.profile.guard.stale_after:
            raise Failed(f"joint states are stamped {away:+.2f} s from it", "the same time", "give the driver use_sim_time:=true")
    return "never back, and the joint states go by it"


def _camera_published(camera: Camera, r: Record, robot: Robot) -> str:
    return one_publisher(r, camera.topic, IMAGE, "start the camera, or bridge or remap it to this topic")


def _images(camera: Camera, r: Record) -> list:
    return needed(r.seen(camera.name), "no image came")


def _camera_readable(camera: Camera, r: Record, robot: Robot) -> str:
    for one in _images(camera, r):
        if one.wrong:
            raise Failed(one.wrong, "an encoding of whetstone.images", "rgb8 or bgr8")
    return ", ".join(sorted({one.encoding for one in _images(camera, r)}))


def _camera_size(camera: Camera, r: Record, robot: Robot) -> str:
    sizes = {(one.width, one.height) for one in _images(camera, r)}
    if sizes != {(camera.width, camera.height)}:
        seen = ", ".join(f"{width}x{height}" for width, height in sorted(sizes))
        raise Failed(seen, f"{camera.width}x{camera.height}", "set the camera so, or `cameras` in a profile of your own")
    return f"{camera.width}x{camera.height}"


def _camera_blank(camera: Camera, r: Record, robot: Robot) -> str:
    spread = max(one.spread for one in _images(camera, r))
    if spread < BLANK:
        raise Failed(f"all pixels alike (spread {spread:.1f})", "a picture", "cap, light or the renderer")
    return f"spread {spread:.0f} of 255"


def _camera_rate(camera: Camera, r: Record, robot: Robot) -> str:
    return _rate([one.arrival for one in _images(camera, r)], r, robot.profile.rate)


def _camera_stamps(camera: Camera, r: Record, robot: Robot) -> str:
    return _forward([one.stamp for one in _images(camera, r)])


def _camera_clock(camera: Camera, r: Record, robot: Robot) -> str:
    images, heard = _images(camera, r), joint_states_of(r)
    times, stamps = np.array([one.arrival for one in heard]), np.array([one.stamp for one in heard], float)
    away = float(np.median([one.stamp - np.interp(one.arrival, times, stamps) for one in images])) / 1e9
    if abs(away) > robot.profile.guard.stale_after:
        raise Failed(
            f"{away:+.2f} s from the joint states",
            f"at most {robot.profile.guard.stale_after:g} s",
            "one clock for both: NTP, or use_sim_time",
        )
    return f"{1000 * away:+.0f} ms"


def checks(profile: RobotProfile) -> list[tuple[str, str, Check]]:
    """(group, name, check) of what is looked at here."""
    found: list[tuple[str, str, Check]] = [
        ("joint states", "names", _names),
        ("joint states", "as many positions as names", _lengths),
        ("joint states", "finite", _finite),
        ("joint states", "within the limits", _within),
        ("joint states", "gripper in its range", _gripper_range),
        ("joint states", "velocities", _velocities),
        ("joint states", "rate", _joint_rate),
        ("joint states", "no pause", _joint_pause),
        ("joint states", "stamps go forward", _joint_stamps),
        ("clock", "stamps at the pace of the wall clock", _pace),
        ("clock", "/clock", _clock),
    ]
    for camera in profile.cameras:
        group = f"camera {camera.name}"
        found += [
            (group, "published", partial(_camera_published, camera)),
            (group, "readable", partial(_camera_readable, camera)),
            (group, "size", partial(_camera_size, camera)),
            (group, "shows something", partial(_camera_blank, camera)),
            (group, "rate", partial(_camera_rate, camera)),
            (group, "stamps go forward", partial(_camera_stamps, camera)),
            (group, "clock of the joint states", partial(_camera_clock, camera)),
        ]
    return found
