"""The checks of the conformance kit: a record in, one verdict a check out.

Role: pure judgement of what observe.py saw, by what the robot's profile says. A verdict says what was seen and, where that is wrong, what
was expected and what to do. Depends on neither ROS nor a simulator.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Literal

import numpy as np

from robot_bringup.conformance.record import End, Joints, Record, Reset
from whetstone.profile import ARM_COMMANDS, GRIPPER_COMMANDS, Camera, RobotProfile

SHARE = 0.8
"""Of the profile's rate that must arrive: listening takes seconds only, and a busy machine drops a frame."""
PACE = (0.7, 1.3)
"""Seconds of stamps in a second of the wall clock: our nodes send commands by the wall clock."""
OVER = 0.02
"""rad (or the gripper's unit) by which a measured joint may lie outside its limits: servos sag."""
FOLLOWS, STRAYS, RETURNS = 0.5, 0.35, 0.03
"""A joint that was sent out by x moves by at least FOLLOWS x, no other by more than STRAYS x; in the end all are within RETURNS rad."""
SPEEDS = (0.5, 2.0)
"""Slope of the velocities that are told over those that the positions show: degrees, or another unit, are far outside."""
SAME_ARM, SAME_PICTURE = 0.02, 3.0
"""rad, and mean difference of pixel values (of 255), by which two resets to one seed may differ."""
HOME = 0.15
"""rad from the home pose after a reset of a simulator that resets the arm itself."""
BLANK = 1.0
"""Standard deviation of pixel values (of 255) below which a picture shows nothing."""

JOINT_STATE, IMAGE, CLOCK = "sensor_msgs/msg/JointState", "sensor_msgs/msg/Image", "rosgraph_msgs/msg/Clock"
RESET, TRUTH = "whetstone_msgs/srv/ResetScene", "whetstone_msgs/msg/Truth"
RESET_SERVICE, TRUTH_TOPIC, CLOCK_TOPIC = "scene/reset", "truth", "/clock"

Outcome = Literal["passed", "failed", "not tried"]


@dataclass(frozen=True)
class Robot:
    """What is judged. hardware: it may be a real one, so nothing is expected that only a simulator has. resets_arm: its reset puts the arm
    home too."""

    profile: RobotProfile
    hardware: bool = False
    resets_arm: bool = False


@dataclass(frozen=True)
class Verdict:
    """seen: what was found, or why it was not tried. expected, fix: only where it failed."""

    group: str
    name: str
    outcome: Outcome
    seen: str
    expected: str = ""
    fix: str = ""


class _Failed(Exception):
    def __init__(self, seen: str, expected: str, fix: str) -> None:
        super().__init__(seen)
        self.parts = (seen, expected, fix)


class _Untried(Exception):
    pass


Check = Callable[[Record, Robot], str]
"""Returns what was seen; raises _Failed or _Untried."""


def judge(record: Record, robot: Robot) -> list[Verdict]:
    """One verdict for each check of `checks_of`, in that order."""
    verdicts = []
    for group, name, check in checks_of(robot.profile):
        try:
            verdicts.append(Verdict(group, name, "passed", check(record, robot)))
        except _Failed as failed:
            verdicts.append(Verdict(group, name, "failed", *failed.parts))
        except _Untried as untried:
            verdicts.append(Verdict(group, name, "not tried", str(untried)))
    return verdicts


def checks_of(profile: RobotProfile) -> list[tuple[str, str, Check]]:
    """(group, name, check) of everything that is looked at."""
    found: list[tuple[str, str, Check]] = [
        ("topics", "joint states: one publisher", _joint_publisher),
        ("topics", "joint states: reliable", _joint_reliable),
        ("topics", "command: heard by the driver", _command_heard),
        ("topics", "command: nobody else sends", _command_free),
        ("topics", "gripper: its driver listens", _gripper_offered),
        ("topics", "mode: published", _mode),
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
    return [
        *found,
        ("scene", "truth", _truth),
        ("scene", "reset: answers", _reset_answers),
        ("scene", "reset: time goes on", _reset_time),
        ("scene", "reset: arm at home", _reset_home),
        ("scene", "reset: a seed is a scene", _reset_repeats),
        ("scene", "reset: another seed, another scene", _reset_differs),
        ("scene", "reset: unknown task refused", _reset_refuses),
        ("motion", "each joint follows", _follows),
        ("motion", "no other joint moves", _strays),
        ("motion", "comes back", _returns),
        ("motion", "velocities agree with positions", _speeds),
        ("motion", "other robots rest", _apart),
        ("limits", "a target out of range", _beyond),
        ("gripper", "closes", partial(_grips, 0.0)),
        ("gripper", "opens", partial(_grips, 1.0)),
    ]


# Topics.


def _joint_publisher(r: Record, robot: Robot) -> str:
    topic = robot.profile.joint_states
    return _one_publisher(r, topic, JOINT_STATE, "start the robot's driver")


def _one_publisher(r: Record, topic: str, type_: str, fix: str) -> str:
    ends = r.publishers.get(topic, [])
    if not ends:
        near = r.elsewhere.get(topic, [])
        hint = f"it is on {', '.join(near)}: give its namespace (namespace:=...), or name it so in the profile" if near else fix
        raise _Failed(f"nobody publishes '{topic}'", type_, hint)
    _of_type(ends, topic, type_)
    if len(ends) > 1:
        who = ", ".join(end.node for end in ends)
        raise _Failed(f"{len(ends)} publishers on '{topic}': {who}", "one", "stop the others, or give each robot a namespace of its own")
    return f"'{topic}' by {ends[0].node}"


def _of_type(ends: Sequence[End], topic: str, type_: str) -> None:
    for end in ends:
        if end.type != type_:
            raise _Failed(f"'{topic}' is {end.type} ({end.node})", type_, "correct the profile, or put an adapter between")


def _joint_reliable(r: Record, robot: Robot) -> str:
    ends = _needed(r.publishers.get(robot.profile.joint_states, []), "nobody publishes joint states")
    for end in ends:
        if not end.reliable:
            raise _Failed("best effort", "reliable: our nodes ask for that and would hear nothing", "publish joint states reliably")
    return "reliable"


def _command_heard(r: Record, robot: Robot) -> str:
    topic, type_ = robot.profile.command.topic, ARM_COMMANDS[robot.profile.command.kind]
    ends = r.subscribers.get(topic, [])
    if not ends:
        near = r.elsewhere.get(topic, [])
        hint = f"it is on {', '.join(near)}: give its namespace, or name it so in the profile" if near else "start the controller"
        raise _Failed(f"nobody hears '{topic}'", type_, hint)
    _of_type(ends, topic, type_)
    for end in ends:
        if end.latched:
            raise _Failed(f"{end.node} wants transient local", "volatile: commands are sent so", "subscribe with volatile durability")
    return f"'{topic}' by {', '.join(end.node for end in ends)}"


def _command_free(r: Record, robot: Robot) -> str:
    topic = robot.profile.command.topic
    ends = r.publishers.get(topic, [])
    if ends:
        who = ", ".join(end.node for end in ends)
        raise _Failed(f"{who} commands the arm", "nobody, while the kit looks", "stop the run, or whatever it is")
    return "nobody"


def _gripper_offered(r: Record, robot: Robot) -> str:
    gripper = robot.profile.gripper
    if gripper.kind == "with_arm":
        return "it travels with the arm's command"
    type_ = GRIPPER_COMMANDS[gripper.kind]
    if gripper.action:
        types = r.actions.get(gripper.action, [])
        if type_ not in types:
            near = r.elsewhere.get(gripper.action, [])
            seen = f"'{gripper.action}' is {', '.join(types)}" if types else f"no action server '{gripper.action}'"
            raise _Failed(seen, type_, f"it is on {', '.join(near)}" if near else "start the gripper's driver, or correct gripper.action")
        return f"action '{gripper.action}'"
    ends = r.subscribers.get(gripper.topic, [])
    if not ends:
        raise _Failed(f"nobody hears '{gripper.topic}'", type_, "start the gripper's driver, or correct gripper.topic")
    _of_type(ends, gripper.topic, type_)
    return f"'{gripper.topic}'"


def _mode(r: Record, robot: Robot) -> str:
    mode = robot.profile.mode
    if mode is None:
        raise _Untried("the profile has no mode")
    if not robot.hardware:
        raise _Untried("simulators have none")
    ends = r.publishers.get(mode.topic, [])
    if not ends:
        raise _Failed(f"nobody publishes '{mode.topic}'", mode.type, "start the state broadcaster; the watchdog lets no command through")
    _of_type(ends, mode.topic, mode.type)
    return f"'{mode.topic}'"


# Joint states.


def _heard(r: Record) -> list[Joints]:
    return _needed(r.heard(), "no joint state came")


def _needed(found: list, why: str) -> list:
    if not found:
        raise _Untried(why)
    return found


def _names(r: Record, robot: Robot) -> str:
    wanted = [*robot.profile.joint_names, robot.profile.gripper.joint]
    orders = {one.names for one in _heard(r)}
    for names in orders:
        missing = [name for name in wanted if name not in names]
        if missing:
            seen = f"no {', '.join(missing)} in {', '.join(names) or 'a message without names'}"
            raise _Failed(seen, "all of them in every message", "correct the profile's names, or merge the driver's joint states")
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise _Failed(
                f"{', '.join(twice)} twice in one message", "each once", "mend the driver: which of the two holds is anybody's guess"
            )
    return f"{len(wanted)} joints, {'in one order' if len(orders) == 1 else f'in {len(orders)} orders (any will do)'}"


def _lengths(r: Record, robot: Robot) -> str:
    for one in _heard(r):
        if len(one.positions) != len(one.names):
            raise _Failed(f"{len(one.positions)} positions for {len(one.names)} names", "one each", "mend the driver")
    return "one each"


def _columns(messages: Sequence[Joints], names: Sequence[str], field: str = "positions") -> np.ndarray:
    """(messages, names), NaN where there is none."""
    rows = np.full((len(messages), len(names)), np.nan)
    for row, one in zip(rows, messages):
        values = getattr(one, field)
        for column, name in enumerate(names):
            if name in one.names and one.names.index(name) < len(values):
                row[column] = values[one.names.index(name)]
    return rows


def _finite(r: Record, robot: Robot) -> str:
    for one in _heard(r):
        bad = [name for name, value in zip(one.names, one.positions) if not np.isfinite(value)]
        if bad:
            raise _Failed(f"position of {', '.join(bad)} is not finite", "numbers", "mend the driver: our nodes stop at such a message")
    return f"{len(_heard(r))} messages"


def _within(r: Record, robot: Robot) -> str:
    profile = robot.profile
    rows = _columns(_heard(r), profile.joint_names)
    beyond = np.maximum(profile.lower - rows, rows - profile.upper)  # rad outside; NaN where a message has no such joint
    known = [column for column in range(len(profile.joint_names)) if not np.isnan(beyond[:, column]).all()]
    worst = max(_needed(known, "no position of its joints came"), key=lambda column: np.nanmax(beyond[:, column]))
    message = int(np.nanargmax(beyond[:, worst]))
    if beyond[message, worst] > OVER:
        limits = f"{profile.lower[worst]:.3f} to {profile.upper[worst]:.3f} rad"
        seen = f"{profile.joint_names[worst]} at {rows[message, worst]:.3f}"
        raise _Failed(seen, limits, "move the arm inside; if it is, unit, sign or offset are wrong")
    return f"nearest to one: {profile.joint_names[worst]}, {max(0.0, -beyond[message, worst]):.2f} rad away"


def _gripper_range(r: Record, robot: Robot) -> str:
    gripper = robot.profile.gripper
    low, high = sorted((gripper.closed, gripper.open))
    rows = _columns(_heard(r), [gripper.joint])[:, 0]
    found = rows[np.isfinite(rows)]
    if not len(found):
        raise _Untried("no position of it came")
    slack = 0.1 * (high - low)
    if found.min() < low - slack or found.max() > high + slack:
        raise _Failed(
            f"{gripper.joint} at {found.min():.4f} to {found.max():.4f}", f"{low:g} to {high:g}", "correct gripper.closed and gripper.open"
        )
    return f"{gripper.joint} at {found[-1]:.4f} ({100 * robot.profile.position_to_opening(found[-1]):.0f} % open)"


def _velocities(r: Record, robot: Robot) -> str:
    names = robot.profile.joint_names
    heard = _heard(r)
    given = [one for one in heard if len(one.velocities)]
    if not given:
        return "none; the watchdog takes the positions' differences"
    rows = _columns(given, names, "velocities")
    if len(given) < len(heard) or not np.isfinite(rows).all():
        raise _Failed("of some joints, or at some times, or not finite", "all joints, always, or none ever", "mend the driver")
    return f"at most {np.abs(rows).max():.3f} rad/s while it rests"


def _joint_rate(r: Record, robot: Robot) -> str:
    return _rate([one.arrival for one in r.heard()], r, robot.profile.rate)


def _rate(arrivals: Sequence[float], r: Record, wanted: float) -> str:
    seconds = r.heard_to - r.heard_from
    if seconds <= 0:
        raise _Untried("nothing was listened to")
    rate = len(arrivals) / seconds
    if rate < SHARE * wanted:
        raise _Failed(
            f"{rate:.1f} Hz", f"{wanted:g} Hz", "raise it, or lower `rate` in the profile; a simulator may be slower than real time"
        )
    return f"{rate:.1f} Hz"


def _joint_pause(r: Record, robot: Robot) -> str:
    arrivals = np.array([one.arrival for one in _heard(r)])
    pause = float(np.diff(np.concatenate([[r.heard_from], arrivals, [r.heard_to]])).max())
    if pause > robot.profile.guard.stale_after:
        raise _Failed(
            f"{pause:.2f} s without one",
            f"at most {robot.profile.guard.stale_after:g} s (guard.stale_after)",
            "the watchdog would stop the arm",
        )
    return f"at most {1000 * pause:.0f} ms"


def _joint_stamps(r: Record, robot: Robot) -> str:
    return _forward([one.stamp for one in _heard(r)])


def _forward(stamps: Sequence[int]) -> str:
    if not all(stamps):
        raise _Failed("a stamp of 0", "the time of measurement", "stamp the messages")
    steps = np.diff(np.array(stamps, np.int64))
    if len(steps) and steps.min() <= 0:
        seen = "two messages with one stamp" if steps.min() == 0 else f"a stamp {-steps.min() / 1e9:.3f} s before the last"
        raise _Failed(seen, "each later than the last", "one publisher only; a simulator must not turn its clock back while a run goes on")
    return f"{len(stamps)} stamps"


# Clocks.


def _pace(r: Record, robot: Robot) -> str:
    heard = _heard(r)
    wall = heard[-1].arrival - heard[0].arrival
    if len(heard) < 3 or wall <= 0:
        raise _Untried("too few joint states came")
    pace = (heard[-1].stamp - heard[0].stamp) / 1e9 / wall
    if not PACE[0] <= pace <= PACE[1]:
        raise _Failed(f"{pace:.2f} s of stamps a second", "1", "commands go by the wall clock: let the simulator run in real time")
    return f"{pace:.2f} s a second"


def _clock(r: Record, robot: Robot) -> str:
    ends = r.publishers.get(CLOCK_TOPIC, [])
    if not ends:
        if robot.hardware:
            return "none: wall time"
        raise _Failed("nobody publishes /clock", CLOCK, "bridge the simulator's clock")
    _of_type(ends, CLOCK_TOPIC, CLOCK)
    if len(ends) > 1:
        raise _Untried(f"{len(ends)} simulators publish it on this domain; our nodes go by the messages' stamps")
    ticks = _needed(r.clock, "nothing came on it")
    steps = np.diff([one.stamp for one in ticks])
    if len(steps) and steps.min() < 0:
        raise _Failed(f"back by {-steps.min() / 1e9:.3f} s", "never back", "do not reset the simulator's time while a run goes on")
    times, stamps = np.array([one.arrival for one in ticks]), np.array([one.stamp for one in ticks], float)
    heard = [one for one in _heard(r) if times[0] <= one.arrival <= times[-1]]
    if heard:
        away = np.median([one.stamp - np.interp(one.arrival, times, stamps) for one in heard]) / 1e9
        if abs(away) > robot.profile.guard.stale_after:
            raise _Failed(f"joint states are stamped {away:+.2f} s from it", "the same time", "give the driver use_sim_time:=true")
    return "never back, and the joint states go by it"


# Cameras.


def _camera_published(camera: Camera, r: Record, robot: Robot) -> str:
    return _one_publisher(r, camera.topic, IMAGE, "start the camera, or bridge or remap it to this topic")


def _images(camera: Camera, r: Record) -> list:
    return _needed(r.seen(camera.name), "no image came")


def _camera_readable(camera: Camera, r: Record, robot: Robot) -> str:
    for one in _images(camera, r):
        if one.wrong:
            raise _Failed(one.wrong, "an encoding of whetstone.images", "rgb8 or bgr8")
    return ", ".join(sorted({one.encoding for one in _images(camera, r)}))


def _camera_size(camera: Camera, r: Record, robot: Robot) -> str:
    sizes = {(one.width, one.height) for one in _images(camera, r)}
    if sizes != {(camera.width, camera.height)}:
        seen = ", ".join(f"{width}x{height}" for width, height in sorted(sizes))
        raise _Failed(seen, f"{camera.width}x{camera.height}", "set the camera so, or `cameras` in a profile of your own")
    return f"{camera.width}x{camera.height}"


def _camera_blank(camera: Camera, r: Record, robot: Robot) -> str:
    spread = max(one.spread for one in _images(camera, r))
    if spread < BLANK:
        raise _Failed(f"all pixels alike (spread {spread:.1f})", "a picture", "cap, light or the renderer")
    return f"spread {spread:.0f} of 255"


def _camera_rate(camera: Camera, r: Record, robot: Robot) -> str:
    return _rate([one.arrival for one in _images(camera, r)], r, robot.profile.rate)


def _camera_stamps(camera: Camera, r: Record, robot: Robot) -> str:
    return _forward([one.stamp for one in _images(camera, r)])


def _camera_clock(camera: Camera, r: Record, robot: Robot) -> str:
    images, heard = _images(camera, r), _heard(r)
    times, stamps = np.array([one.arrival for one in heard]), np.array([one.stamp for one in heard], float)
    away = float(np.median([one.stamp - np.interp(one.arrival, times, stamps) for one in images])) / 1e9
    if abs(away) > robot.profile.guard.stale_after:
        raise _Failed(
            f"{away:+.2f} s from the joint states",
            f"at most {robot.profile.guard.stale_after:g} s",
            "one clock for both: NTP, or use_sim_time",
        )
    return f"{1000 * away:+.0f} ms"


# Scene.


def _simulated(r: Record, robot: Robot, part: str) -> None:
    if part in r.untried:
        raise _Untried(r.untried[part])
    if robot.hardware:
        raise _Untried("only a simulator does that")


def _truth(r: Record, robot: Robot) -> str:
    _simulated(r, robot, "truth")
    ends = r.publishers.get(TRUTH_TOPIC, [])
    if not ends:
        raise _Failed(
            "nobody publishes 'truth'", TRUTH, "start the simulator's node of ours (whetstone run sim sim:=...): the evaluator needs it"
        )
    _of_type(ends, TRUTH_TOPIC, TRUTH)
    if not r.truths:
        raise _Failed("nothing came on 'truth'", "one for each frame", "see the log of the node that publishes it")
    first = min((one.stamp for one in r.joints), default=0)
    known = [stamp for stamp in r.truths if stamp >= first]  # it is latched: it also came of frames before the kit
    strange = set(known) - {one.stamp for one in r.joints}
    if len(strange) > 0.2 * len(known):
        raise _Failed(
            f"{len(strange)} of {len(known)} speak of no frame", "stamps of joint states", "stamp it with the frame that it judges"
        )
    return f"{len(r.truths)} frames judged"


def _resets(r: Record, robot: Robot) -> list[Reset]:
    _simulated(r, robot, "reset")
    if RESET not in r.services.get(RESET_SERVICE, []):
        raise _Untried(f"nobody offers '{RESET_SERVICE}' (whetstone run sim sim:=... does)")
    return r.resets


def _known(r: Record, robot: Robot) -> list[Reset]:
    return _needed([one for one in _resets(r, robot) if one.ok], "no reset was answered with ok")


def _reset_answers(r: Record, robot: Robot) -> str:
    done = _needed([one for one in _resets(r, robot) if one.seed >= 0], "it was not found in time to be asked")
    for one in done:
        if not one.answered:
            raise _Failed(f"no answer (task {one.task}, seed {one.seed})", "an answer", "see the log of the node that offers it")
        if not one.ok:
            raise _Failed(f"refused: {one.reason}", "ok", "do what the reason says")
        if not one.frames:
            raise _Failed("no joint state afterwards", "frames go on", "see the simulator's log")
    return f"{len(done)} resets"


def _reset_time(r: Record, robot: Robot) -> str:
    for one in _known(r, robot):
        if any(stamp <= one.before for stamp in one.frames):
            raise _Failed("a stamp after it that is not later than one before it", "later ones", "do not turn the clock back")
        if one.frames and max(one.frames) < one.start:
            raise _Failed(
                f"frames end {(one.start - max(one.frames)) / 1e9:.2f} s before `start`",
                "a frame at or after it",
                "answer with the first frame's stamp",
            )
    return "stamps go forward over it"


def _reset_home(r: Record, robot: Robot) -> str:
    known = _known(r, robot)
    if not robot.resets_arm:
        raise _Untried("the policy node parks this arm in a run")
    arms = _needed([one.arm for one in known if one.arm is not None], "where the arm was afterwards is not known")
    away = max(float(np.abs(arm - robot.profile.home).max()) for arm in arms)
    if away > HOME:
        raise _Failed(f"{away:.2f} rad from home", f"at most {HOME:g}", "put the arm home in the reset")
    return f"{away:.3f} rad from home"


def _reset_repeats(r: Record, robot: Robot) -> str:
    first, again = _same_seed(_known(r, robot))
    picture, arm, moved = _apart_by(first, again), 0.0, ""
    if robot.resets_arm:
        if first.arm is None or again.arm is None:
            raise _Untried("where the arm was afterwards is not known")
        arm = float(np.abs(first.arm - again.arm).max())
        moved = f", the arm by {arm:.3f} rad"
    if picture > SAME_PICTURE or arm > SAME_ARM:
        limits = f"at most {SAME_PICTURE:g}{f' and {SAME_ARM:g}' if moved else ''}"
        raise _Failed(f"pictures differ by {picture:.1f} of 255{moved}", limits, "put every object where task and seed say, each time")
    return f"pictures differ by {picture:.2f} of 255{moved}"


def _reset_differs(r: Record, robot: Robot) -> str:
    known = _known(r, robot)
    first, again = _same_seed(known)
    other = next((one for one in known if one.seed != first.seed), None)
    if other is None:
        raise _Untried("one seed only")
    same, apart = _apart_by(first, again), _apart_by(first, other)
    if apart < 0.5 or apart < 1.5 * same:
        raise _Failed(f"pictures of two seeds differ by {apart:.2f} of 255", "objects elsewhere", "place the objects by the seed")
    return f"pictures differ by {apart:.2f} of 255"


def _same_seed(known: list[Reset]) -> tuple[Reset, Reset]:
    for one in known:
        again = next((later for later in known if later is not one and later.seed == one.seed), None)
        if again is not None:
            return one, again
    raise _Untried("no seed was reset to twice")


def _apart_by(first: Reset, second: Reset) -> float:
    """Mean difference of pixel values (of 255) of the camera that saw the most of it."""
    for one, other in ((first, second), (second, first)):
        lost = sorted(set(other.pictures) - set(one.pictures))
        if lost:
            seen = f"no picture of {', '.join(lost)} that is of after the reset to seed {one.seed}"
            raise _Failed(seen, "pictures go on, with stamps of the joint states' clock", "see the simulator's log")
    names = _needed(list(first.pictures), "no picture came after a reset")
    return max(_difference(first.pictures[name], second.pictures[name]) for name in names)


def _difference(first: np.ndarray, second: np.ndarray) -> float:
    if first.shape != second.shape:
        return 255.0
    return float(np.abs(first.astype(np.int16) - second).mean())


def _reset_refuses(r: Record, robot: Robot) -> str:
    wrong = _needed([one for one in _resets(r, robot) if one.seed < 0], "it was not asked")[0]
    if not wrong.answered or wrong.ok or not wrong.reason:
        seen = "no answer" if not wrong.answered else "ok" if wrong.ok else "no reason"
        raise _Failed(seen, "ok false and a reason", "answer what is wrong; the run says it then")
    return wrong.reason


# Motion.


def _swings(r: Record) -> list:
    if "motion" in r.untried:
        raise _Untried(r.untried["motion"])
    return _needed(r.swings, "it was not moved")


def _during(r: Record, begin: float, end: float, names: Sequence[str]) -> np.ndarray:
    rows = _columns([one for one in r.joints if begin <= one.arrival <= end], names)
    rows = rows[np.isfinite(rows).all(axis=1)]
    if len(rows) < 3:
        raise _Failed("fewer than three joint states came while it moved", "a steady stream", "see the driver's log")
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
            raise _Failed(f"{swing.joint} went {went:.3f} rad{way}", f"{abs(swing.by):.3f} rad", fix)
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
            raise _Failed(seen, "only the one that was asked", "the driver's order of joints is another than the profile's")
    return f"at most {worst:.3f} rad"


def _returns(r: Record, robot: Robot) -> str:
    swings, names = _swings(r), robot.profile.joint_names
    before = _during(r, swings[0].begin, swings[0].end, names)[0]
    away = float(np.abs(_during(r, swings[-1].begin, swings[-1].end, names)[-1] - before).max())
    if away > RETURNS:
        raise _Failed(
            f"{away:.3f} rad from where it was", f"at most {RETURNS:g}", "it does not follow to the end; see the controller's gains"
        )
    return f"to {away:.3f} rad"


def _speeds(r: Record, robot: Robot) -> str:
    slopes = []
    for swing in _swings(r):
        during = [one for one in r.joints if swing.begin <= one.arrival <= swing.end]
        rows = _columns(during, [swing.joint])[:, 0]
        told = _columns(during, [swing.joint], "velocities")[:, 0]
        time = np.array([one.stamp for one in during], float) / 1e9
        if not np.isfinite(told).all():
            raise _Untried("the driver tells none")
        if len(rows) < 5 or (np.diff(time) <= 0).any() or not np.isfinite(rows).all():
            raise _Untried("too few joint states, or their stamps do not go forward")
        shown = np.gradient(rows, time)
        if not (shown**2).sum() > 1e-4:
            raise _Untried("it did not move")
        slopes.append(float((told * shown).sum() / (shown**2).sum()))
        if not SPEEDS[0] <= slopes[-1] <= SPEEDS[1]:
            seen = f"{swing.joint}: {slopes[-1]:.2f} times what its positions show"
            raise _Failed(seen, "1 (rad/s)", "unit or sign of the velocities; leave them out rather than wrong")
    return f"{min(slopes):.2f} to {max(slopes):.2f} times what the positions show"


def _apart(r: Record, robot: Robot) -> str:
    if not r.others:
        raise _Untried("one robot only; namespace:=left,right looks at two")
    swings = _swings(r)
    worst = 0.0
    for name, messages in r.others.items():
        during = [one for one in messages if swings[0].begin <= one.arrival <= swings[-1].end]
        if len(during) < 3:
            raise _Failed(f"'{name}' told nothing meanwhile", "joint states of both", "start both robots, each in its namespace")
        rows = _columns(during, robot.profile.joint_names)
        moved = float(np.nanmax(np.abs(rows - rows[0]), initial=0.0))
        worst = max(worst, moved)
        if moved > STRAYS * abs(swings[0].by):
            raise _Failed(f"'{name}' moved by {moved:.3f} rad", "it rests", "both hear one command topic: give each a namespace of its own")
    return f"at most {worst:.3f} rad"


def _beyond(r: Record, robot: Robot) -> str:
    if "limits" in r.untried:
        raise _Untried(r.untried["limits"])
    if r.beyond is None:
        raise _Untried("it was not asked")
    sent, profile = r.beyond, robot.profile
    column = profile.joint_names.index(sent.joint)
    limit = (profile.lower if sent.side < 0 else profile.upper)[column]
    messages = [one for one in r.joints if sent.begin <= one.arrival <= sent.end]
    rows = _columns(messages, profile.joint_names)
    if len(rows) < 3 or not np.isfinite(rows).all():
        raise _Failed("joint states stopped, or are no numbers any more", "the robot goes on", "a driver must outlive a wrong command")
    furthest = float((sent.side * (rows[:, column] - limit)).max())
    away = float(np.abs(rows[-1] - rows[0]).max())
    if away > 2 * RETURNS:
        raise _Failed(
            f"it did not come back: {away:.2f} rad away", "back where it was", "it must take commands again after one out of range"
        )
    if furthest > OVER:
        return f"{sent.joint} went {furthest:.2f} rad beyond its limit: this driver has none there, the guard is all there is"
    return f"{sent.joint} stopped {'at' if furthest > -OVER else f'{-furthest:.2f} rad before'} its limit"


def _grips(wanted: float, r: Record, robot: Robot) -> str:
    if "gripper" in r.untried:
        raise _Untried(r.untried["gripper"])
    grip = next((one for one in r.grips if one.wanted == wanted), None)
    if grip is None:
        raise _Untried("it was not asked")
    if grip.answer in ("refused", "aborted", "none"):
        said = "no result" if grip.answer == "none" else grip.answer
        raise _Failed(said, "a result: reached, or stalled on an object", "see the gripper driver's log; is gripper.scale right?")
    if not np.isfinite(grip.opening):
        raise _Failed("where it is, is not known", "its joint in the joint states", "mend the driver")
    if abs(grip.opening - wanted) > 0.25 and grip.answer != "stalled":
        raise _Failed(f"{100 * grip.opening:.0f} % open", f"{100 * wanted:.0f} %", "gripper.closed, gripper.open and gripper.scale")
    return f"{100 * grip.opening:.0f} % open{f', {grip.answer}' if grip.answer else ''}"
