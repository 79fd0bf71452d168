"""Each check of the conformance kit passes on a sound record and fails on one that is spoilt in just that."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from robot_bringup.conformance import topic_checks
from robot_bringup.conformance.checks import checks_of, judge
from robot_bringup.conformance.record import Beyond, End, Grip, Joints, Picture, Record, Reset, Swing, Tick
from robot_bringup.conformance.verdict import Robot
from whetstone.profile import ARM_COMMANDS, GRIPPER_COMMANDS, load_profile

PROFILE = load_profile("franka")
COLUMNS = (*PROFILE.joint_names, PROFILE.gripper.joint)
COMMAND, STATES = PROFILE.command.topic, PROFILE.joint_states
MODE: Any = PROFILE.mode
PERIOD = PROFILE.period


def joints(arrival: float, positions: np.ndarray, velocities: np.ndarray | None = None) -> Joints:
    row = np.append(positions, PROFILE.gripper.open)
    speed = np.zeros(8) if velocities is None else np.append(velocities, 0.0)
    return Joints(arrival, int((arrival + 100) * 1e9), COLUMNS, row, speed)


def sound() -> Record:
    """A robot without a fault: 3 s of listening, one swing a joint, a target out of range, the gripper, four resets."""
    r = Record(heard_from=0.0, heard_to=3.0)
    r.publishers = {STATES: [End("/f/driver", topic_checks.JOINT_STATE)], "/clock": [End("/gz", topic_checks.CLOCK)], COMMAND: []}
    r.publishers |= {camera.topic: [End("/f/camera", topic_checks.IMAGE)] for camera in PROFILE.cameras}
    r.publishers |= {"truth": [End("/f/scene", topic_checks.TRUTH)], MODE.topic: [End("/f/driver", MODE.type)]}
    r.subscribers = {COMMAND: [End("/f/driver", ARM_COMMANDS["joint_trajectory"])]}
    r.actions = {PROFILE.gripper.action: [GRIPPER_COMMANDS["gripper_command"]]}
    r.services = {topic_checks.RESET_SERVICE: [topic_checks.RESET]}
    times = np.arange(1, 60) * PERIOD
    r.joints = [joints(time, PROFILE.home) for time in times]
    r.clock = [Tick(time, int((time + 100) * 1e9)) for time in np.arange(0, 61) * PERIOD]
    for camera in PROFILE.cameras:
        r.pictures[camera.name] = [
            Picture(time + 0.01, int((time + 100) * 1e9), camera.width, camera.height, "rgb8", "", 60.0) for time in times
        ]
    time, middle = 4.0, (PROFILE.lower + PROFILE.upper) / 2
    r.others["right"] = []
    for index, name in enumerate(PROFILE.joint_names):
        by = 0.06 if PROFILE.home[index] <= middle[index] else -0.06
        r.swings.append(Swing(name, by, time, time + 1.0))
        for at in np.linspace(0.0, 1.0, 20):
            row, speed = PROFILE.home.copy(), np.zeros(7)
            row[index] += 0.9 * by * np.sin(np.pi * at) ** 2
            speed[index] = 0.9 * by * np.pi * np.sin(2 * np.pi * at)
            r.joints.append(joints(time + 0.001 + 0.998 * at, row, speed))
            r.others["right"].append(joints(time + 0.001 + 0.998 * at, PROFILE.home))
        time += 1.0
    r.beyond = Beyond("fer_joint4", -1, PROFILE.lower[3] - 0.15, time, time + 1.0)
    for at in np.linspace(0.01, 0.99, 20):
        row = PROFILE.home.copy()
        row[3] += (PROFILE.lower[3] - row[3]) * np.sin(np.pi * at) ** 2
        r.joints.append(joints(time + at, row))
    r.truths = [one.stamp for one in r.joints]
    r.grips = [Grip(0.0, "reached", 0.02), Grip(1.0, "stalled", 0.98)]
    pictures = {seed: {"front": np.full((8, 8, 3), 40 * seed, np.uint8)} for seed in (1, 2)}
    for call, seed in enumerate((1, 2, 1)):
        start = int((200 + call) * 1e9)
        r.resets.append(Reset("push", seed, True, True, "", start, start - 1, (start + 1, start + 9), PROFILE.home.copy(), pictures[seed]))
    r.resets.append(Reset("no_such_task", -1, True, False, "unknown task 'no_such_task'"))
    return r


def each(r: Record, change: Callable[[Joints], Joints], low: float = 0.0, high: float = 99.0) -> None:
    r.joints = [change(one) if low <= one.arrival <= high else one for one in r.joints]


def with_position(one: Joints, column: int, value: float) -> Joints:
    row = one.positions.copy()
    row[column] = value
    return replace(one, positions=row)


def scaled_speed(one: Joints, by: float) -> Joints:
    return replace(one, velocities=one.velocities * by)


def _set(r: Record, field: str, value) -> None:
    setattr(r, field, value)


def images(**change) -> Callable[[Record], None]:
    return lambda r: r.pictures.update(front=[replace(one, **change) for one in r.pictures["front"]])


def shifted(r: Record, seconds: float) -> None:
    r.pictures["front"] = [replace(one, stamp=one.stamp + int(seconds * 1e9)) for one in r.pictures["front"]]


def reset(index: int, **change) -> Callable[[Record], None]:
    def spoil(r: Record) -> None:
        r.resets[index] = replace(r.resets[index], **change)

    return spoil


def swap_swings(r: Record) -> None:
    """The driver's first two joints are each other's."""

    def swapped(one: Joints) -> Joints:
        row = one.positions.copy()
        row[[0, 1]] = PROFILE.home[[0, 1]] + (row[[1, 0]] - PROFILE.home[[1, 0]])
        return replace(one, positions=row)

    each(r, swapped, 4.0)


def drift(r: Record) -> None:
    each(r, lambda one: with_position(one, 0, 0.05 * (one.arrival - 4)), 4.0)


FRONT = PROFILE.camera("front").topic
SPOILT: list[tuple[str, str, Callable[[Record], object], str]] = [
    (
        "topics",
        "joint states: one publisher",
        lambda r: r.publishers[STATES].append(End("/f/other", topic_checks.JOINT_STATE)),
        "2 publishers",
    ),
    ("topics", "joint states: one publisher", lambda r: _set(r, "publishers", {}), "nobody publishes"),
    ("topics", "joint states: one publisher", lambda r: r.publishers.update({STATES: [End("/f/d", "x/msg/Y")]}), "is x/msg/Y"),
    (
        "topics",
        "joint states: reliable",
        lambda r: r.publishers.update({STATES: [End("/d", topic_checks.JOINT_STATE, False)]}),
        "best effort",
    ),
    ("topics", "command: heard by the driver", lambda r: r.subscribers.update({COMMAND: []}), "nobody hears"),
    ("topics", "command: heard by the driver", lambda r: r.subscribers.update({COMMAND: [End("/d", "x/msg/Y")]}), "is x/msg/Y"),
    (
        "topics",
        "command: heard by the driver",
        lambda r: r.subscribers.update({COMMAND: [End("/d", ARM_COMMANDS["joint_trajectory"], True, True)]}),
        "transient local",
    ),
    ("topics", "command: nobody else sends", lambda r: r.publishers.update({COMMAND: [End("/f/moveit", "")]}), "/f/moveit commands"),
    ("topics", "gripper: its driver listens", lambda r: _set(r, "actions", {}), "no action server"),
    ("topics", "gripper: its driver listens", lambda r: r.actions.update({PROFILE.gripper.action: ["x/action/Y"]}), "is x/action/Y"),
    ("joint states", "names", lambda r: each(r, lambda one: replace(one, names=("a", *COLUMNS[1:]))), "no fer_joint1"),
    (
        "joint states",
        "names",
        lambda r: each(r, lambda one: replace(one, names=(*COLUMNS, "fer_joint1"), positions=np.append(one.positions, 0))),
        "fer_joint1 twice",
    ),
    ("joint states", "as many positions as names", lambda r: each(r, lambda one: replace(one, positions=one.positions[:5])), "5 positions"),
    ("joint states", "finite", lambda r: each(r, lambda one: with_position(one, 2, np.nan), 1, 1.2), "fer_joint3 is not finite"),
    ("joint states", "within the limits", lambda r: each(r, lambda one: with_position(one, 3, -140.0), 0, 3), "fer_joint4 at -140"),
    ("joint states", "gripper in its range", lambda r: each(r, lambda one: with_position(one, 7, 0.08)), "0.08"),
    ("joint states", "velocities", lambda r: each(r, lambda one: replace(one, velocities=one.velocities[:3])), "of some joints"),
    ("joint states", "rate", lambda r: _set(r, "joints", r.joints[::2]), "Hz"),
    ("joint states", "no pause", lambda r: _set(r, "joints", [one for one in r.joints if not 1 < one.arrival < 1.5]), "s without one"),
    ("joint states", "stamps go forward", lambda r: each(r, lambda one: replace(one, stamp=10**9 + 1), 1, 1.1), "before the last"),
    ("joint states", "stamps go forward", lambda r: each(r, lambda one: replace(one, stamp=0)), "stamp of 0"),
    (
        "clock",
        "stamps at the pace of the wall clock",
        lambda r: each(r, lambda one: replace(one, stamp=int((one.arrival / 4 + 100) * 1e9))),
        "0.25 s of stamps",
    ),
    ("clock", "/clock", lambda r: r.publishers.pop("/clock"), "nobody publishes /clock"),
    ("clock", "/clock", lambda r: r.clock.append(Tick(3.1, 5)), "back by"),
    ("clock", "/clock", lambda r: _set(r, "clock", [replace(one, stamp=one.stamp + 10**10) for one in r.clock]), "stamped -10.00 s"),
    ("camera front", "published", lambda r: r.publishers.pop(FRONT), "nobody publishes"),
    ("camera front", "readable", images(wrong="image encoding '32FC1' is not supported"), "32FC1"),
    ("camera front", "size", images(width=640, height=480), "640x480"),
    ("camera front", "shows something", images(spread=0.2), "all pixels alike"),
    ("camera front", "rate", lambda r: r.pictures.update(front=r.pictures["front"][::3]), "Hz"),
    ("camera front", "stamps go forward", images(stamp=77), "one stamp"),
    ("camera front", "clock of the joint states", lambda r: shifted(r, -2.0), "-2.0"),
    ("scene", "truth", lambda r: r.publishers.pop("truth"), "nobody publishes 'truth'"),
    ("scene", "truth", lambda r: _set(r, "truths", []), "nothing came"),
    ("scene", "truth", lambda r: _set(r, "truths", [one + 1 for one in r.truths]), "speak of no frame"),
    ("scene", "reset: answers", reset(1, answered=False), "no answer"),
    ("scene", "reset: answers", reset(1, ok=False, reason="busy"), "refused: busy"),
    ("scene", "reset: answers", reset(1, frames=()), "no joint state afterwards"),
    ("scene", "reset: time goes on", reset(1, before=10**15), "not later"),
    ("scene", "reset: time goes on", reset(1, start=10**15), "before `start`"),
    ("scene", "reset: arm at home", reset(1, arm=PROFILE.home + 0.3), "0.30 rad from home"),
    ("scene", "reset: a seed is a scene", reset(2, pictures={"front": np.full((8, 8, 3), 60, np.uint8)}), "differ by 20.0"),
    ("scene", "reset: a seed is a scene", reset(2, pictures={}), "no picture of front"),
    ("scene", "reset: another seed, another scene", reset(1, pictures={}), "no picture of front"),
    ("scene", "reset: another seed, another scene", reset(1, pictures={"front": np.full((8, 8, 3), 40, np.uint8)}), "0.00 of 255"),
    ("scene", "reset: unknown task refused", reset(3, ok=True), "ok"),
    ("scene", "reset: unknown task refused", reset(3, reason=""), "no reason"),
    ("motion", "each joint follows", lambda r: each(r, lambda one: joints(one.arrival, PROFILE.home), 4.0), "went 0.000 rad"),
    (
        "motion",
        "each joint follows",
        lambda r: each(r, lambda one: replace(one, positions=np.append(2 * PROFILE.home, 0) - one.positions), 4.0),
        "the other way",
    ),
    ("motion", "no other joint moves", swap_swings, "fer_joint2 moved"),
    ("motion", "comes back", drift, "rad from where it was"),
    ("motion", "velocities agree with positions", lambda r: each(r, lambda one: scaled_speed(one, 57.3), 4.0), "57."),
    ("motion", "velocities agree with positions", lambda r: each(r, lambda one: scaled_speed(one, -1), 4.0), "-1."),
    (
        "motion",
        "other robots rest",
        lambda r: r.others.update(right=[one for one in r.joints if one.arrival >= 4]),
        "'right' moved",
    ),
    ("motion", "other robots rest", lambda r: r.others.update(right=[]), "'right' told nothing"),
    ("limits", "a target out of range", lambda r: each(r, lambda one: with_position(one, 3, np.nan), 11.5), "stopped, or are no numbers"),
    ("limits", "a target out of range", lambda r: each(r, lambda one: with_position(one, 3, -3.2), 11.6), "did not come back"),
    ("gripper", "closes", lambda r: _set(r, "grips", [Grip(0.0, "refused", 1.0)]), "refused"),
    ("gripper", "closes", lambda r: _set(r, "grips", [Grip(0.0, "", 0.9)]), "90 % open"),
    ("gripper", "opens", lambda r: _set(r, "grips", [Grip(1.0, "reached", np.nan)]), "not known"),
    ("gripper", "opens", lambda r: _set(r, "grips", [Grip(1.0, "none", 0.0)]), "no result"),
]


def test_a_sound_robot_passes_everything() -> None:
    verdicts = judge(sound(), Robot(PROFILE, resets_arm=True))
    assert {(one.name, one.seen) for one in verdicts if one.outcome == "failed"} == set()
    assert {one.name for one in verdicts if one.outcome == "not tried"} == {"mode: published"}


@pytest.mark.parametrize(("group", "name", "spoil", "words"), SPOILT, ids=[f"{name}: {words}" for _, name, _, words in SPOILT])
def test_a_fault_fails_the_check_that_is_meant_for_it(group: str, name: str, spoil: Callable[[Record], object], words: str) -> None:
    record = sound()
    spoil(record)
    verdict = next(one for one in judge(record, Robot(PROFILE, resets_arm=True)) if (one.group, one.name) == (group, name))
    assert verdict.outcome == "failed" and words in verdict.seen, verdict
    assert verdict.expected and verdict.fix


def test_a_driver_that_has_no_mode_on_hardware_fails() -> None:
    record = sound()
    record.publishers.pop(MODE.topic)
    hardware = Robot(PROFILE, hardware=True)
    assert next(one for one in judge(record, hardware) if one.name == "mode: published").outcome == "failed"
    assert next(one for one in judge(sound(), hardware) if one.name == "mode: published").outcome == "passed"


def test_every_check_is_seen_to_fail() -> None:
    spoilt = {(group, name) for group, name, _, _ in SPOILT} | {("topics", "mode: published")}
    of_cameras = {(group.replace("wrist", "front"), name) for group, name, _ in checks_of(PROFILE)}
    assert of_cameras == spoilt


def test_a_robot_of_which_nothing_is_heard_gives_verdicts_all_the_same() -> None:
    verdicts = judge(Record(), Robot(PROFILE))
    assert len(verdicts) == len(checks_of(PROFILE))
    assert [one.name for one in verdicts if one.outcome == "passed"] == ["command: nobody else sends"]


@pytest.mark.parametrize(
    ("name", "spoil", "words"),
    [
        ("within the limits", lambda r: each(r, lambda one: replace(one, names=tuple("abcdefgh"))), "no position of its joints came"),
        ("reset: arm at home", lambda r: _set(r, "resets", [replace(one, arm=None) for one in r.resets]), "is not known"),
        ("reset: a seed is a scene", reset(2, arm=None), "is not known"),
        ("reset: a seed is a scene", lambda r: _set(r, "resets", [replace(one, pictures={}) for one in r.resets]), "no picture came"),
        ("reset: another seed, another scene", lambda r: _set(r, "resets", r.resets[::2]), "one seed only"),
        ("reset: another seed, another scene", lambda r: _set(r, "resets", r.resets[:2]), "no seed was reset to twice"),
    ],
)
def test_what_cannot_be_judged_is_not_tried(name: str, spoil: Callable[[Record], object], words: str) -> None:
    record = sound()
    spoil(record)
    verdict = next(one for one in judge(record, Robot(PROFILE, resets_arm=True)) if one.name == name)
    assert verdict.outcome == "not tried" and words in verdict.seen, verdict


def test_a_joint_that_is_missing_is_no_reason_not_to_look_at_the_others() -> None:
    record = sound()
    each(record, lambda one: with_position(replace(one, names=("a", *COLUMNS[1:])), 3, -3.2))
    verdict = next(one for one in judge(record, Robot(PROFILE)) if one.name == "within the limits")
    assert verdict.outcome == "failed" and verdict.seen == "fer_joint4 at -3.200", verdict


def test_a_gripper_on_a_topic_or_in_the_arms_command_is_looked_at_as_such() -> None:
    profile = load_profile("so101_follower")
    found = {name: check for _, name, check in checks_of(profile)}
    assert found["gripper: its driver listens"](Record(), Robot(profile)) == "it travels with the arm's command"
    own = replace(profile, gripper=replace(profile.gripper, kind="forward", topic="jaw/commands"))
    record = Record(subscribers={"jaw/commands": [End("/d", GRIPPER_COMMANDS["forward"])]})
    assert found["gripper: its driver listens"](record, Robot(own)) == "'jaw/commands'"


def test_a_driver_without_limits_is_told_of_but_not_failed() -> None:
    record = sound()
    each(record, lambda one: with_position(one, 3, one.positions[3] - 0.1) if 11.4 < one.arrival < 11.6 else one, 11.0)
    verdict = next(one for one in judge(record, Robot(PROFILE)) if one.group == "limits")
    assert verdict.outcome == "passed" and "the guard is all there is" in verdict.seen
