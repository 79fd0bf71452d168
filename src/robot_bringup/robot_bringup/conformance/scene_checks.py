"""Checks of a simulator's scene: ground truth and resets.

Role: pure judgement of a record. Depends on neither ROS nor a simulator.
"""

from __future__ import annotations

import numpy as np

from robot_bringup.conformance.record import Record, Reset
from robot_bringup.conformance.topic_checks import RESET, RESET_SERVICE, TRUTH, TRUTH_TOPIC, of_type
from robot_bringup.conformance.verdict import Check, Failed, Robot, Untried, needed
from whetstone.profile import RobotProfile

SAME_ARM, SAME_PICTURE = 0.02, 3.0
"""rad, and mean difference of pixel values (of 255), by which two resets to one seed may differ."""
HOME = 0.15
"""rad from the home pose after a reset of a simulator that resets the arm itself."""


def _simulated(r: Record, robot: Robot, part: str) -> None:
    if part in r.untried:
        raise Untried(r.untried[part])
    if robot.hardware:
        raise Untried("only a simulator does that")


def _truth(r: Record, robot: Robot) -> str:
    _simulated(r, robot, "truth")
    ends = r.publishers.get(TRUTH_TOPIC, [])
    if not ends:
        raise Failed(
            "nobody publishes 'truth'", TRUTH, "start the simulator's node of ours (whetstone run sim sim:=...): the evaluator needs it"
        )
    of_type(ends, TRUTH_TOPIC, TRUTH)
    if not r.truths:
        raise Failed("nothing came on 'truth'", "one for each frame", "see the log of the node that publishes it")
    first = min((one.stamp for one in r.joints), default=0)
    known = [stamp for stamp in r.truths if stamp >= first]  # it is latched: it also came of frames before the kit
    strange = set(known) - {one.stamp for one in r.joints}
    if len(strange) > 0.2 * len(known):
        raise Failed(
            f"{len(strange)} of {len(known)} speak of no frame", "stamps of joint states", "stamp it with the frame that it judges"
        )
    return f"{len(r.truths)} frames judged"


def _resets(r: Record, robot: Robot) -> list[Reset]:
    _simulated(r, robot, "reset")
    if RESET not in r.services.get(RESET_SERVICE, []):
        raise Untried(f"nobody offers '{RESET_SERVICE}' (whetstone run sim sim:=... does)")
    return r.resets


def _known(r: Record, robot: Robot) -> list[Reset]:
    return needed([one for one in _resets(r, robot) if one.ok], "no reset was answered with ok")


def _reset_answers(r: Record, robot: Robot) -> str:
    done = needed([one for one in _resets(r, robot) if one.seed >= 0], "it was not found in time to be asked")
    for one in done:
        if not one.answered:
            raise Failed(f"no answer (task {one.task}, seed {one.seed})", "an answer", "see the log of the node that offers it")
        if not one.ok:
            raise Failed(f"refused: {one.reason}", "ok", "do what the reason says")
        if not one.frames:
            raise Failed("no joint state afterwards", "frames go on", "see the simulator's log")
    return f"{len(done)} resets"


def _reset_time(r: Record, robot: Robot) -> str:
    for one in _known(r, robot):
        if any(stamp <= one.before for stamp in one.frames):
            raise Failed("a stamp after it that is not later than one before it", "later ones", "do not turn the clock back")
        if one.frames and max(one.frames) < one.start:
            raise Failed(
                f"frames end {(one.start - max(one.frames)) / 1e9:.2f} s before `start`",
                "a frame at or after it",
                "answer with the first frame's stamp",
            )
    return "stamps go forward over it"


def _reset_home(r: Record, robot: Robot) -> str:
    known = _known(r, robot)
    if not robot.resets_arm:
        raise Untried("the policy node parks this arm in a run")
    arms = needed([one.arm for one in known if one.arm is not None], "where the arm was afterwards is not known")
    away = max(float(np.abs(arm - robot.profile.home).max()) for arm in arms)
    if away > HOME:
        raise Failed(f"{away:.2f} rad from home", f"at most {HOME:g}", "put the arm home in the reset")
    return f"{away:.3f} rad from home"


def _reset_repeats(r: Record, robot: Robot) -> str:
    first, again = _same_seed(_known(r, robot))
    picture, arm, moved = _apart_by(first, again), 0.0, ""
    if robot.resets_arm:
        if first.arm is None or again.arm is None:
            raise Untried("where the arm was afterwards is not known")
        arm = float(np.abs(first.arm - again.arm).max())
        moved = f", the arm by {arm:.3f} rad"
    if picture > SAME_PICTURE or arm > SAME_ARM:
        limits = f"at most {SAME_PICTURE:g}{f' and {SAME_ARM:g}' if moved else ''}"
        raise Failed(f"pictures differ by {picture:.1f} of 255{moved}", limits, "put every object where task and seed say, each time")
    return f"pictures differ by {picture:.2f} of 255{moved}"


def _reset_differs(r: Record, robot: Robot) -> str:
    known = _known(r, robot)
    first, again = _same_seed(known)
    other = next((one for one in known if one.seed != first.seed), None)
    if other is None:
        raise Untried("one seed only")
    same, apart = _apart_by(first, again), _apart_by(first, other)
    if apart < 0.5 or apart < 1.5 * same:
        raise Failed(f"pictures of two seeds differ by {apart:.2f} of 255", "objects elsewhere", "place the objects by the seed")
    return f"pictures differ by {apart:.2f} of 255"


def _same_seed(known: list[Reset]) -> tuple[Reset, Reset]:
    for one in known:
        again = next((later for later in known if later is not one and later.seed == one.seed), None)
        if again is not None:
            return one, again
    raise Untried("no seed was reset to twice")


def _apart_by(first: Reset, second: Reset) -> float:
    """Mean difference of pixel values (of 255) of the camera that saw the most of it."""
    for one, other in ((first, second), (second, first)):
        lost = sorted(set(other.pictures) - set(one.pictures))
        if lost:
            seen = f"no picture of {', '.join(lost)} that is of after the reset to seed {one.seed}"
            raise Failed(seen, "pictures go on, with stamps of the joint states' clock", "see the simulator's log")
    names = needed(list(first.pictures), "no picture came after a reset")
    return max(_difference(first.pictures[name], second.pictures[name]) for name in names)


def _difference(first: np.ndarray, second: np.ndarray) -> float:
    if first.shape != second.shape:
        return 255.0
    return float(np.abs(first.astype(np.int16) - second).mean())


def _reset_refuses(r: Record, robot: Robot) -> str:
    wrong = needed([one for one in _resets(r, robot) if one.seed < 0], "it was not asked")[0]
    if not wrong.answered or wrong.ok or not wrong.reason:
        seen = "no answer" if not wrong.answered else "ok" if wrong.ok else "no reason"
        raise Failed(seen, "ok false and a reason", "answer what is wrong; the run says it then")
    return wrong.reason


def checks(profile: RobotProfile) -> list[tuple[str, str, Check]]:
    """(group, name, check) of what is looked at here."""
    return [
        ("scene", "truth", _truth),
        ("scene", "reset: answers", _reset_answers),
        ("scene", "reset: time goes on", _reset_time),
        ("scene", "reset: arm at home", _reset_home),
        ("scene", "reset: a seed is a scene", _reset_repeats),
        ("scene", "reset: another seed, another scene", _reset_differs),
        ("scene", "reset: unknown task refused", _reset_refuses),
    ]
