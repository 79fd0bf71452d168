"""Checks of the ends of topics, actions and the mode: names, types, quality of service, and who is there.

Role: pure judgement of a record. Depends on neither ROS nor a simulator.
"""

from __future__ import annotations

from collections.abc import Sequence

from robot_bringup.conformance.record import End, Record
from robot_bringup.conformance.verdict import Check, Failed, Robot, Untried, needed
from whetstone.profile import ARM_COMMANDS, GRIPPER_COMMANDS, RobotProfile

JOINT_STATE, IMAGE, CLOCK = "sensor_msgs/msg/JointState", "sensor_msgs/msg/Image", "rosgraph_msgs/msg/Clock"
RESET, TRUTH = "whetstone_msgs/srv/ResetScene", "whetstone_msgs/msg/Truth"
RESET_SERVICE, TRUTH_TOPIC, CLOCK_TOPIC = "scene/reset", "truth", "/clock"


def _joint_publisher(r: Record, robot: Robot) -> str:
    topic = robot.profile.joint_states
    return one_publisher(r, topic, JOINT_STATE, "start the robot's driver")


def one_publisher(r: Record, topic: str, type_: str, fix: str) -> str:
    ends = r.publishers.get(topic, [])
    if not ends:
        near = r.elsewhere.get(topic, [])
        hint = f"it is on {', '.join(near)}: give its namespace (namespace:=...), or name it so in the profile" if near else fix
        raise Failed(f"nobody publishes '{topic}'", type_, hint)
    of_type(ends, topic, type_)
    if len(ends) > 1:
        who = ", ".join(end.node for end in ends)
        raise Failed(f"{len(ends)} publishers on '{topic}': {who}", "one", "stop the others, or give each robot a namespace of its own")
    return f"'{topic}' by {ends[0].node}"


def of_type(ends: Sequence[End], topic: str, type_: str) -> None:
    for end in ends:
        if end.type != type_:
            raise Failed(f"'{topic}' is {end.type} ({end.node})", type_, "correct the profile, or put an adapter between")


def _joint_reliable(r: Record, robot: Robot) -> str:
    ends = needed(r.publishers.get(robot.profile.joint_states, []), "nobody publishes joint states")
    for end in ends:
        if not end.reliable:
            raise Failed("best effort", "reliable: our nodes ask for that and would hear nothing", "publish joint states reliably")
    return "reliable"


def _command_heard(r: Record, robot: Robot) -> str:
    topic, type_ = robot.profile.command.topic, ARM_COMMANDS[robot.profile.command.kind]
    ends = r.subscribers.get(topic, [])
    if not ends:
        near = r.elsewhere.get(topic, [])
        hint = f"it is on {', '.join(near)}: give its namespace, or name it so in the profile" if near else "start the controller"
        raise Failed(f"nobody hears '{topic}'", type_, hint)
    of_type(ends, topic, type_)
    for end in ends:
        if end.latched:
            raise Failed(f"{end.node} wants transient local", "volatile: commands are sent so", "subscribe with volatile durability")
    return f"'{topic}' by {', '.join(end.node for end in ends)}"


def _command_free(r: Record, robot: Robot) -> str:
    topic = robot.profile.command.topic
    ends = r.publishers.get(topic, [])
    if ends:
        who = ", ".join(end.node for end in ends)
        raise Failed(f"{who} commands the arm", "nobody, while the kit looks", "stop the run, or whatever it is")
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
            raise Failed(seen, type_, f"it is on {', '.join(near)}" if near else "start the gripper's driver, or correct gripper.action")
        return f"action '{gripper.action}'"
    ends = r.subscribers.get(gripper.topic, [])
    if not ends:
        raise Failed(f"nobody hears '{gripper.topic}'", type_, "start the gripper's driver, or correct gripper.topic")
    of_type(ends, gripper.topic, type_)
    return f"'{gripper.topic}'"


def _mode(r: Record, robot: Robot) -> str:
    mode = robot.profile.mode
    if mode is None:
        raise Untried("the profile has no mode")
    if not robot.hardware:
        raise Untried("simulators have none")
    ends = r.publishers.get(mode.topic, [])
    if not ends:
        raise Failed(f"nobody publishes '{mode.topic}'", mode.type, "start the state broadcaster; the watchdog lets no command through")
    of_type(ends, mode.topic, mode.type)
    return f"'{mode.topic}'"


def checks(profile: RobotProfile) -> list[tuple[str, str, Check]]:
    """(group, name, check) of what is looked at here."""
    return [
        ("topics", "joint states: one publisher", _joint_publisher),
        ("topics", "joint states: reliable", _joint_reliable),
        ("topics", "command: heard by the driver", _command_heard),
        ("topics", "command: nobody else sends", _command_free),
        ("topics", "gripper: its driver listens", _gripper_offered),
        ("topics", "mode: published", _mode),
    ]
