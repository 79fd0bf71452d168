"""The checks of the conformance kit: a record in, one verdict a check out.

Role: pure judgement of what observe.py saw, by what the robot's profile says; each concern in a file of its own, put together here. A
verdict says what was seen and, where that is wrong, what was expected and what to do. Depends on neither ROS nor a simulator.
"""

from __future__ import annotations

from robot_bringup.conformance import motion_checks, scene_checks, stream_checks, topic_checks
from robot_bringup.conformance.record import Record
from robot_bringup.conformance.verdict import Check, Failed, Robot, Untried, Verdict
from whetstone.profile import RobotProfile


def judge(record: Record, robot: Robot) -> list[Verdict]:
    """One verdict for each check of `checks_of`, in that order."""
    verdicts = []
    for group, name, check in checks_of(robot.profile):
        try:
            verdicts.append(Verdict(group, name, "passed", check(record, robot)))
        except Failed as failed:
            verdicts.append(Verdict(group, name, "failed", *failed.parts))
        except Untried as untried:
            verdicts.append(Verdict(group, name, "not tried", str(untried)))
    return verdicts


def checks_of(profile: RobotProfile) -> list[tuple[str, str, Check]]:
    """(group, name, check) of everything that is looked at."""
    return [check for part in (topic_checks, stream_checks, scene_checks, motion_checks) for check in part.checks(profile)]
