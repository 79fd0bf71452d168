"""Checks of a small motion: every joint and the gripper go where they are told, and nothing else moves.

Role: pure judgement of a record. Depends on neither ROS nor a simulator.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import numpy as np

from robot_bringup.conformance.record import Record
from robot_bringup.conformance.stream_checks import OVER, columns
from robot_bringup.conformance.verdict import Check, Failed, Robot, Untried, needed
from whetstone.profile import RobotProfile

FOLLOWS, STRAYS, RETURNS = 0.5, 0.35, 0.03
"""A joint that was sent out by x moves by at least FOLLOWS x, no other by more than STRAYS x; in the end all are within RETURNS rad."""
SPEEDS = (0.5, 2.0)
"""Slope of the velocities that are told over those that the positions show: degrees, or another unit, are far outside."""


def _swings(r: Record) -> list:
    if "motion" in r.untried:
        raise Untried(r.untried["motion"])
    return needed(r.swings, "it was not moved")


def _during(r: Record, begin: float, end: float, names: Sequence[str]) -> np.ndarray:
    rows = columns([one for one in r.joints if begin <= one.arrival <= end], names)
    rows = rows[np.isfinite(rows).all(axis=1)]
    if len(rows) < 3:
        raise Failed("fewer than three joint states came while it moved", "a steady stream", "see the driver's log")
    return rows


def _follows(r: Record, robot: Robot) -> str:
    shares = []
    for swing in _swings(r):
        column = robot.profile.joint_names.index(swing.joint)
        rows = _during(r, swing.begin, swing.end, robot.profile.joint_names)[:, column]
        went = float(((rows - rows[0]) * np.sign(swing.by)).max())
        back = float(-((rows - rows[0]) * np.sign(swing.by)).min())
        shares.append(went / abs(swing.by))
        if went < FOLLOWS * abs(swing.by):
            way = f", and {back:.3f} the other way" if back > FOLLOWS * abs(swing.by) else ""
            fix = "its sign is wrong" if way else "is the controller active, its clock right, and the joint in its list?"
            raise Failed(f"{swing.joint} went {went:.3f} rad{way}", f"{abs(swing.by):.3f} rad", fix)
    return f"by {100 * min(shares):.0f} to {100 * max(shares):.0f} % of what was asked"


def _strays(r: Record, robot: Robot) -> str:
    names, worst = robot.profile.joint_names, 0.0
    for swing in _swings(r):
        rows = _during(r, swing.begin, swing.end, names)
        moved = np.abs(rows - rows[0]).max(axis=0)
        moved[names.index(swing.joint)] = 0.0
        worst = max(worst, float(moved.max()))
        if moved.max() > STRAYS * abs(swing.by):
            seen = f"{names[int(moved.argmax())]} moved by {moved.max():.3f} rad when {swing.joint} was asked to"
            raise Failed(seen, "only the one that was asked", "the driver's order of joints is another than the profile's")
    return f"at most {worst:.3f} rad"


def _returns(r: Record, robot: Robot) -> str:
    swings, names = _swings(r), robot.profile.joint_names
    before = _during(r, swings[0].begin, swings[0].end, names)[0]
    away = float(np.abs(_during(r, swings[-1].begin, swings[-1].end, names)[-1] - before).max())
    if away > RETURNS:
        raise Failed(
            f"{away:.3f} rad from where it was", f"at most {RETURNS:g}", "it does not follow to the end; see the controller's gains"
        )
    return f"to {away:.3f} rad"


def _speeds(r: Record, robot: Robot) -> str:
    slopes = []
    for swing in _swings(r):
        during = [one for one in r.joints if swing.begin <= one.arrival <= swing.end]
        rows = columns(during, [swing.joint])[:, 0]
        told = columns(during, [swing.joint], "velocities")[:, 0]
        time = np.array([one.stamp for one in during], float) / 1e9
        if not np.isfinite(told).all():
            raise Untried("the driver tells none")
        if len(rows) < 5 or (np.diff(time) <= 0).any() or not np.isfinite(rows).all():
            raise Untried("too few joint states, or their stamps do not go forward")
        shown = np.gradient(rows, time)
        if not (shown**2).sum() > 1e-4:
            raise Untried("it did not move")
        slopes.append(float((told * shown).sum() / (shown**2).sum()))
        if not SPEEDS[0] <= slopes[-1] <= SPEEDS[1]:
            seen = f"{swing.joint}: {slopes[-1]:.2f} times what its positions show"
            raise Failed(seen, "1 (rad/s)", "unit or sign of the velocities; leave them out rather than wrong")
    return f"{min(slopes):.2f} to {max(slopes):.2f} times what the positions show"


def _apart(r: Record, robot: Robot) -> str:
    if not r.others:
        raise Untried("one robot only; namespace:=left,right looks at two")
    swings = _swings(r)
    worst = 0.0
    for name, messages in r.others.items():
        during = [one for one in messages if swings[0].begin <= one.arrival <= swings[-1].end]
        if len(during) < 3:
            raise Failed(f"'{name}' told nothing meanwhile", "joint states of both", "start both robots, each in its namespace")
        rows = columns(during, robot.profile.joint_names)
        moved = float(np.nanmax(np.abs(rows - rows[0]), initial=0.0))
        worst = max(worst, moved)
        if moved > STRAYS * abs(swings[0].by):
            raise Failed(f"'{name}' moved by {moved:.3f} rad", "it rests", "both hear one command topic: give each a namespace of its own")
    return f"at most {worst:.3f} rad"


def _beyond(r: Record, robot: Robot) -> str:
    if "limits" in r.untried:
        raise Untried(r.untried["limits"])
    if r.beyond is None:
        raise Untried("it was not asked")
    sent, profile = r.beyond, robot.profile
    column = profile.joint_names.index(sent.joint)
    limit = (profile.lower if sent.side < 0 else profile.upper)[column]
    messages = [one for one in r.joints if sent.begin <= one.arrival <= sent.end]
    rows = columns(messages, profile.joint_names)
    if len(rows) < 3 or not np.isfinite(rows).all():
        raise Failed("joint states stopped, or are no numbers any more", "the robot goes on", "a driver must outlive a wrong command")
    furthest = float((sent.side * (rows[:, column] - limit)).max())
    away = float(np.abs(rows[-1] - rows[0]).max())
    if away > 2 * RETURNS:
        raise Failed(
            f"it did not come back: {away:.2f} rad away", "back where it was", "it must take commands again after one out of range"
        )
    if furthest > OVER:
        return f"{sent.joint} went {furthest:.2f} rad beyond its limit: this driver has none there, the guard is all there is"
    return f"{sent.joint} stopped {'at' if furthest > -OVER else f'{-furthest:.2f} rad before'} its limit"


def _grips(wanted: float, r: Record, robot: Robot) -> str:
    if "gripper" in r.untried:
        raise Untried(r.untried["gripper"])
    grip = next((one for one in r.grips if one.wanted == wanted), None)
    if grip is None:
        raise Untried("it was not asked")
    if grip.answer in ("refused", "aborted", "none"):
        said = "no result" if grip.answer == "none" else grip.answer
        raise Failed(said, "a result: reached, or stalled on an object", "see the gripper driver's log; is gripper.scale right?")
    if not np.isfinite(grip.opening):
        raise Failed("where it is, is not known", "its joint in the joint states", "mend the driver")
    if abs(grip.opening - wanted) > 0.25 and grip.answer != "stalled":
        raise Failed(f"{100 * grip.opening:.0f} % open", f"{100 * wanted:.0f} %", "gripper.closed, gripper.open and gripper.scale")
    return f"{100 * grip.opening:.0f} % open{f', {grip.answer}' if grip.answer else ''}"


def checks(profile: RobotProfile) -> list[tuple[str, str, Check]]:
    """(group, name, check) of what is looked at here."""
    return [
        ("motion", "each joint follows", _follows),
        ("motion", "no other joint moves", _strays),
        ("motion", "comes back", _returns),
        ("motion", "velocities agree with positions", _speeds),
        ("motion", "other robots rest", _apart),
        ("limits", "a target out of range", _beyond),
        ("gripper", "closes", partial(_grips, 0.0)),
        ("gripper", "opens", partial(_grips, 1.0)),
    ]
