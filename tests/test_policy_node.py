"""The policy process over real DDS, with this process as robot and episode manager."""

from __future__ import annotations

import time

import numpy as np
import pytest

pytest.importorskip("rclpy")

from control_msgs.action import ParallelGripperCommand
from graph import PERIOD, Graph
from lifecycle_msgs.msg import Transition
from rclpy.action import ActionServer, GoalResponse
from sensor_msgs.msg import Image, JointState
from trajectory_msgs.msg import JointTrajectory
from weights_sender import Sender
from whetstone_msgs.msg import Action, Command, Episode, Watchdog, WeightsAck
from whetstone_msgs.msg import Guard as GuardMessage

from whetstone import config
from whetstone.commands import ARM_COMMAND
from whetstone.images import to_message
from whetstone.kinematics import ForwardKinematics
from whetstone.profile import load_profile
from whetstone.ros import COMMAND, EVENT, LATCHED, camera_qos, joints_qos, to_ns, to_stamp

PROFILE = load_profile("so100")
START = 5_000_000_000
EXECUTE = 3  # of the stand-in policy


class Robot:
    """Publishes frames, notes what comes back in the order in which it comes."""

    def __init__(self, graph, thinks=0.0, **parameters):
        self.graph = graph
        graph.environment["STAND_IN_THINKS"] = str(thinks)
        node = graph.node
        realtime = parameters.get("realtime", False)
        self.heard, self.commands, self.actions, self.guards, self.goals = [], [], [], [], []
        self.size, self.silent_cameras, self.refusing = (128, 128), (), False
        self.cameras = {camera.name: node.create_publisher(Image, camera.topic, camera_qos(realtime)) for camera in PROFILE.cameras}
        self.joints = node.create_publisher(JointState, PROFILE.joint_states, joints_qos(realtime))
        node.create_subscription(JointTrajectory, PROFILE.command.topic, self.on_command, COMMAND)
        node.create_subscription(Action, "policy/action", self.actions.append, EVENT)
        node.create_subscription(GuardMessage, "guard", self.guards.append, EVENT)
        self.server = ActionServer(
            node,
            ParallelGripperCommand,
            PROFILE.gripper.action,
            self.on_execute,
            goal_callback=self.on_goal,
            handle_accepted_callback=lambda _: None,
        )
        self.graph.start("policy_node", "policy_node", "policy", **{"policy": self.graph.stand_in, **parameters})
        self.graph.until_matched(self.joints, self.graph.episodes, *self.cameras.values())

    def on_command(self, message):
        self.heard.append(("command", to_ns(message.header.stamp)))
        self.commands.append(message)

    def on_goal(self, request):
        self.heard.append(("gripper", request.command.position[0]))
        self.goals.append(request.command.position[0])
        return GoalResponse.REJECT if self.refusing else GoalResponse.ACCEPT

    def on_execute(self, goal):
        goal.succeed()
        return ParallelGripperCommand.Result()

    def frame(self, stamp: int, positions=None) -> None:
        for number, (name, publisher) in enumerate(self.cameras.items()):
            if name not in self.silent_cameras:
                publisher.publish(to_message(np.full((*self.size, 3), 10 + number, np.uint8), stamp, name))
        joints = PROFILE.home if positions is None else positions
        message = JointState(name=[*PROFILE.joint_names, PROFILE.gripper.joint], position=[*map(float, joints), PROFILE.gripper.open])
        message.header.stamp = to_stamp(stamp)
        self.joints.publish(message)

    def answered(self, stamp: int) -> bool:
        return bool(self.commands) and to_ns(self.commands[-1].header.stamp) == stamp

    def step(self, index: int) -> JointTrajectory:
        """One frame and its answer."""
        stamp = START + index * PERIOD
        self.frame(stamp)
        self.graph.until(lambda: self.answered(stamp))
        return self.commands[-1]


@pytest.fixture
def robot(tmp_path, domain):
    graph = Graph(tmp_path, domain)
    yield lambda **parameters: Robot(graph, **parameters)
    graph.close()


def test_every_frame_gets_one_command_and_every_third_an_inference(robot) -> None:
    r = robot()
    r.graph.say(Episode.PHASE_RESETTING)
    r.graph.say(Episode.PHASE_RUNNING, start=START)
    offsets = []
    for index in range(9):
        command = r.step(index)
        assert command.joint_names == list(PROFILE.joint_names)
        offsets.append(command.points[0].positions[0] - PROFILE.home[0])
    # Three rows of each chunk, each 0.01 rad further; the guard lets the arm speed up no faster than it may brake.
    np.testing.assert_allclose(offsets, [0.01, 0.02, 0.03] * 3, atol=1e-5)
    r.graph.until(lambda: len(r.actions) == 3)
    assert [to_ns(action.header.stamp) for action in r.actions] == [START + index * PERIOD for index in (0, 3, 6)]
    action = r.actions[0]
    assert (action.episode_id, action.policy_id, action.policy_version, action.horizon, action.execute) == (
        "train-000-0000",
        "stand_in",
        0,
        6,
        EXECUTE,
    )
    assert list(action.names) == [*PROFILE.joint_names, "gripper"] and len(action.chunk) == 6 * len(action.names)
    assert sorted(action.latent) == [10, 11]  # both cameras reached the policy

    # The gripper hears of a change only, and before the arm does.
    opened, closed = PROFILE.opening_to_goal(1.0), PROFILE.opening_to_goal(0.0)
    assert r.goals == pytest.approx([opened, closed])
    kinds = [kind for kind, _ in r.heard]
    assert kinds == ["gripper", *["command"] * 6, "gripper", *["command"] * 3]

    # A frame said again is answered again, with the same command and without another inference.
    before = r.commands[-1]
    r.frame(START + 8 * PERIOD)
    r.graph.until(lambda: len(r.commands) == 10)
    assert r.commands[-1] == before

    # Another episode begins anew; frames from before it are nobody's.
    r.graph.say(Episode.PHASE_ENDED)
    second = START + 100 * PERIOD
    r.graph.say(Episode.PHASE_RUNNING, "train-000-0001", second)
    r.frame(START + 9 * PERIOD)
    r.frame(second)
    r.graph.until(lambda: r.answered(second))
    r.graph.until(lambda: len(r.actions) == 4)
    assert r.actions[-1].episode_id == "train-000-0001"
    assert len(r.commands) == 11


def test_a_gripper_goal_of_the_episode_before_holds_nothing_up(robot) -> None:
    """An episode may end while its last command waits for the gripper: the next one must not wait for that goal, nor hear that command."""
    r = robot()
    r.graph.say(Episode.PHASE_RUNNING, start=START)
    for index in range(6):
        r.step(index)
    # From here on this process spins no more, so that its gripper answers late.
    late, second = START + 6 * PERIOD, START + 100 * PERIOD
    r.frame(late)
    time.sleep(0.5)
    r.graph.say(Episode.PHASE_ENDED)
    r.graph.say(Episode.PHASE_RUNNING, "train-000-0001", second)
    r.frame(second)
    time.sleep(0.5)
    r.graph.until(lambda: r.answered(second), seconds=10)
    assert late not in [to_ns(command.header.stamp) for command in r.commands]
    opened, closed = PROFILE.opening_to_goal(1.0), PROFILE.opening_to_goal(0.0)
    assert r.goals == pytest.approx([opened, closed, opened])


def test_actions_of_the_end_effector_become_joint_targets(robot, tmp_path) -> None:
    policy = tmp_path / "up.yaml"
    policy.write_text("plugin: stand_in\nspace: end_effector_delta\n")
    r = robot(policy=str(policy))
    r.graph.say(Episode.PHASE_RUNNING, start=START)
    kinematics = ForwardKinematics(PROFILE)
    heights = []
    for index in range(EXECUTE):
        heights.append(kinematics.end_effector(np.array(r.step(index).points[0].positions)) - kinematics.end_effector(PROFILE.home))
    np.testing.assert_allclose(heights, np.outer([1, 2, 3], [0, 0, 0.004]), atol=5e-4)
    r.graph.until(lambda: r.actions)
    action = r.actions[0]
    assert action.space == Action.SPACE_END_EFFECTOR_DELTA and list(action.names) == ["x", "y", "z", "rx", "ry", "rz", "gripper"]
    np.testing.assert_allclose(np.array(action.chunk).reshape(6, 7)[0], [0, 0, 0.004, 0, 0, 0, 1], atol=1e-6)


def test_a_policy_that_watches_is_shown_every_control_step_and_a_decision_s_last(robot, tmp_path) -> None:
    policy = tmp_path / "watching.yaml"
    policy.write_text("plugin: stand_in\nwatches: true\n")
    r = robot(policy=str(policy))
    r.graph.say(Episode.PHASE_RUNNING, start=START)
    for index in range(7):
        r.step(index)
    r.graph.until(lambda: len(r.actions) == 3)
    stamps = [[round((stamp * 1e6 - START) / PERIOD) for stamp in action.latent] for action in r.actions]
    assert stamps == [[0], [1, 2, 3], [4, 5, 6]]


def test_in_real_time_a_policy_that_watches_is_shown_each_step_once(robot, tmp_path) -> None:
    """Also those that come while it thinks."""
    policy = tmp_path / "watching.yaml"
    policy.write_text("plugin: stand_in\nwatches: true\n")
    r = robot(thinks=0.1, policy=str(policy), realtime=True)
    r.graph.say(Episode.PHASE_RUNNING, start=START)
    index = 0
    while len(r.actions) < 5 and index < 200:
        r.frame(START + index * PERIOD)
        index += 1
        end = time.monotonic() + PERIOD / 1e9
        r.graph.until(lambda end=end: time.monotonic() >= end)
    steps = [round((stamp * 1e6 - START) / PERIOD) for action in r.actions for stamp in action.latent]
    assert steps == sorted(set(steps)) and len(steps) > 1.5 * len(r.actions)
    for action in r.actions:
        assert round(action.latent[-1]) == round(to_ns(action.header.stamp) / 1e6), "a decision's own comes right before it"


def test_guard_limits_what_the_policy_asks_and_says_so(robot) -> None:
    r = robot()
    r.graph.say(Episode.PHASE_RUNNING, start=START)
    r.step(0)
    r.frame(START + PERIOD, PROFILE.home + 1.0)  # the arm is not where the command assumes
    r.graph.until(lambda: r.answered(START + PERIOD))
    r.graph.until(lambda: r.guards)
    assert any(reason.startswith("step") for reason in r.guards[0].reasons)
    assert to_ns(r.guards[0].header.stamp) == START + PERIOD
    command = np.array(r.commands[-1].points[0].positions)
    assert np.all(np.abs(command - np.clip(PROFILE.home + 1.0, PROFILE.lower, PROFILE.upper)) <= PROFILE.guard.max_step + 1e-6)


def test_missing_camera_is_named(robot) -> None:
    r = robot(deadline=2.0)
    r.silent_cameras = ("wrist",)
    r.graph.say(Episode.PHASE_RUNNING, start=START)
    r.frame(START)
    assert r.graph.until_exit("policy") == 2
    log = r.graph.log("policy")
    assert "camera/wrist/image_raw" in log and "Traceback" not in log
    assert r.commands == []


def test_image_of_another_size_is_named(robot) -> None:
    r = robot()
    r.size = (64, 96)
    r.graph.say(Episode.PHASE_RUNNING, start=START)
    r.frame(START)
    assert r.graph.until_exit("policy") == 2
    assert "camera 'front': image is 96x64, but 128x128 is needed" in r.graph.log("policy")


def test_while_the_watchdog_stops_the_arm_the_gripper_hears_nothing(robot) -> None:
    r = robot(realtime=True, gated=True)
    watchdog = r.graph.node.create_publisher(Watchdog, "watchdog", LATCHED)
    watchdog.publish(Watchdog(stopped=True, reasons=["e-stop: pressed"]))
    r.graph.until_matched(watchdog)
    time.sleep(0.3)  # heard before the episode begins
    r.graph.say(Episode.PHASE_RUNNING, start=START)
    index = 0

    def fed(done) -> bool:
        nonlocal index
        r.frame(START + index * PERIOD)
        index += 1
        return bool(done())

    r.graph.until(lambda: fed(lambda: len(r.actions) >= 4))
    assert r.goals == []
    watchdog.publish(Watchdog(stopped=False))
    r.graph.until(lambda: fed(lambda: r.goals))
    assert r.goals == pytest.approx([PROFILE.opening_to_goal(0.0)])  # what it wishes by now


def test_real_time_commands_at_its_own_rate_and_holds_on_stale_observations(robot) -> None:
    r = robot(realtime=True)
    r.graph.say(Episode.PHASE_RUNNING, start=START)
    index = 0

    def fed(count: int) -> bool:
        """Frames keep coming while this is waited for; the robot's own clock stands in for the wall's."""
        nonlocal index
        r.frame(START + index * PERIOD)
        index += 1
        return len(r.commands) >= count

    r.graph.until(lambda: fed(5))
    assert all(to_ns(command.header.stamp) == 0 for command in r.commands)  # to be started on arrival
    r.guards.clear()
    r.graph.until(lambda: any("stale" in reason for guard in r.guards for reason in guard.reasons))
    assert any(guard.held for guard in r.guards)
    assert r.graph.processes["policy"].poll() is None


@pytest.mark.parametrize("inference", ["asynchronous", "synchronous"])
def test_a_policy_that_thinks_for_long(robot, inference) -> None:
    """Asynchronous: the arm goes on along its chunk, and the next one takes over later than it was asked for; synchronous: it waits."""
    r = robot(thinks=0.06, realtime=True, inference=inference)
    r.graph.say(Episode.PHASE_RUNNING, start=START)
    began, sent = time.monotonic(), 0

    def paced(actions: int) -> bool:
        nonlocal sent
        while time.monotonic() - began > sent * PERIOD / 1e9:
            r.frame(START + sent * PERIOD)
            sent += 1
        return len(r.actions) >= actions

    def waits() -> int:
        return sum(any("the policy has no command" in reason for reason in guard.reasons) for guard in r.guards)

    r.graph.until(lambda: paced(6))
    later = r.actions[2:]
    assert all(action.delay >= 1 for action in later)  # 0.06 s are more than a period
    if inference == "asynchronous":
        assert any(np.isfinite(action.seam_jump) for action in later)  # the chunk before still had rows: it went on along them
    else:
        assert all(np.isnan(action.seam_jump) for action in later)  # it came from rest
        r.graph.until(lambda: paced(6) and waits() >= len(later))  # a report may come after the chunk that ends the wait


class SlowArm:
    """A robot in real time that goes where it is told, hanging `sag` below; its joints may speed up by 1 rad/s^2 only. A tick a period."""

    def __init__(self, robot, tmp_path, **parameters):
        path = tmp_path / "slow.yaml"
        text = config.find("robots", "so100").read_text()
        assert text.count("acceleration: 30.0") == len(PROFILE.joints)
        path.write_text(text.replace("acceleration: 30.0", "acceleration: 1.0"))
        self.r = robot(realtime=True, robot=str(path), **parameters)
        self.sag, self.ticks, self.began, self.records = 0.0, 0, time.monotonic(), []
        records = self.r.graph.node.create_subscription(Command, "policy/command", self.records.append, EVENT)
        self.r.graph.until(records.get_publisher_count)

    def until(self, done) -> None:
        def paced() -> bool:
            while time.monotonic() - self.began > self.ticks * PERIOD / 1e9:
                commands = self.r.commands
                position = np.array(commands[-1].points[0].positions) if commands else PROFILE.home
                self.r.frame(START + self.ticks * PERIOD, position - self.sag)
                self.ticks += 1
            return bool(done())

        self.r.graph.until(paced, 60)

    def wait(self, periods: int) -> None:
        end = self.ticks + periods
        self.until(lambda: self.ticks >= end)

    def speeds(self) -> np.ndarray:
        """(N,) rad/s: of the first joint as commanded."""
        return np.array([command.points[0].velocities[0] for command in self.r.commands])

    def changes(self, first: int) -> np.ndarray:
        """rad/s: from each command to the next the speed of the first joint, from this record on. Where this machine held the node up for
        more than two periods there is none: the driver came to rest meanwhile."""
        stamps = np.array([to_ns(one.header.stamp) for one in self.records[first:]])
        positions = np.array([one.position[0] for one in self.records[first:]])
        seconds = np.diff(stamps) / 1e9
        changes = np.diff(np.diff(positions) / np.minimum(seconds, PERIOD / 1e9))
        return changes[np.maximum(seconds[1:], seconds[:-1]) <= 2 * PERIOD / 1e9]


def test_an_arm_in_motion_is_braked_when_its_episode_ends_and_then_left_alone(robot, tmp_path) -> None:
    arm = SlowArm(robot, tmp_path)
    arm.r.graph.say(Episode.PHASE_RUNNING, start=START)
    for phase in (Episode.PHASE_PAUSED, Episode.PHASE_ENDED):
        arm.until(lambda: len(arm.r.commands) and arm.speeds()[-1] > 0.12)
        arm.sag, moving = 0.02, len(arm.records) - 2
        arm.r.graph.say(phase, start=START)
        arm.wait(20)
        assert not any(arm.r.commands[-1].points[0].velocities), "it came to rest,"
        changes = arm.changes(moving)
        assert len(changes) and (changes > -1.13 * PERIOD / 1e9).all(), "no harder than 1 rad/s^2,"
        count = len(arm.r.commands)
        arm.wait(10)
        assert len(arm.r.commands) == count, "and nobody commands it"
        arm.sag = 0.0
        arm.r.graph.say(Episode.PHASE_RUNNING, start=START)


def test_let_go_after_a_stop_the_arm_begins_where_it_is(robot, tmp_path) -> None:
    """Also where the episode manager did not hear of it, because a human was quick."""
    arm = SlowArm(robot, tmp_path, gated=True)
    watchdog = arm.r.graph.node.create_publisher(Watchdog, "watchdog", LATCHED)
    through: list[JointTrajectory] = []
    arm.r.graph.node.create_subscription(JointTrajectory, ARM_COMMAND, through.append, COMMAND)
    arm.r.graph.until_matched(watchdog)
    arm.r.graph.say(Episode.PHASE_RUNNING, start=START)
    arm.until(lambda: through and list(through[-1].points)[0].velocities[0] > 0.1)
    watchdog.publish(Watchdog(stopped=True, reasons=["stopped by a human"]))
    heard = len(arm.records)
    arm.wait(10)
    assert len(arm.records) > heard, "the policy is alive all the while"
    through.clear()
    watchdog.publish(Watchdog(stopped=False))
    arm.wait(3)
    first = list(through[0].points)[0]
    assert abs(first.positions[0] - PROFILE.home[0]) < 3e-3 and abs(first.velocities[0]) < 0.06


def test_weights_wait_for_the_last_thought_and_for_the_arm_to_rest_and_the_next_episode_for_them(robot, tmp_path) -> None:
    """Also where episodes follow each other at once; the stand-in policy ends the node if it is used twice at a time."""
    arm = SlowArm(robot, tmp_path, thinks=0.2)
    sender = Sender(arm.r.graph.node)
    arm.r.graph.until_matched(sender.chunks, sender.manifests)
    for version in (1, 2):
        name = f"train-000-{version:04d}"
        arm.r.graph.say(Episode.PHASE_RUNNING, name, START + arm.ticks * PERIOD)
        arm.until(lambda name=name: arm.r.actions and arm.r.actions[-1].episode_id == name)
        sender.push(version, bias=0.01)
        arm.wait(20)
        arm.until(lambda: arm.speeds()[-1] > 0.05)
        assert [ack.version for ack in sender.acks] == [*range(1, version)], "not in an episode"
        arm.r.graph.say(Episode.PHASE_ENDED, name)
    arm.r.graph.say(Episode.PHASE_RUNNING, "train-000-0003", START + arm.ticks * PERIOD)
    arm.until(lambda: arm.r.actions[-1].episode_id == "train-000-0003")
    assert [ack.status for ack in sender.acks] == [WeightsAck.STATUS_APPLIED] * 2 and arm.r.actions[-1].policy_version == 2
    first = next(action for action in arm.r.actions if action.episode_id == "train-000-0002")
    assert first.policy_version == 1


def test_a_goal_that_the_gripper_refused_is_given_again(robot, tmp_path) -> None:
    """Its driver may hold for a fault that is soon gone; the wish does not change by that."""
    arm = SlowArm(robot, tmp_path)
    arm.r.refusing = True
    arm.r.graph.say(Episode.PHASE_RUNNING, start=START)
    arm.until(lambda: len(arm.r.goals) >= 3)
    arm.r.refusing = False
    known = len(arm.r.goals)
    arm.until(lambda: len(arm.r.goals) > known)
    known = len(arm.r.goals)
    arm.wait(30)
    assert len(arm.r.goals) == known and arm.r.goals[-1] == pytest.approx(PROFILE.opening_to_goal(0.0))


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ("", "policy 'stand_in' cannot go on from another chunk; choose chunking:=switch or ensemble"),
        (
            "inpaints: true\nspace: joint_delta\n",
            "chunking:=rtc needs joint targets; policy 'stand_in' acts in joint_delta, where two chunks begin at different poses; "
            "choose chunking:=switch or ensemble",
        ),
    ],
)
def test_a_policy_that_cannot_go_on_from_another_chunk_is_named(tmp_path, domain, settings, said) -> None:
    graph = Graph(tmp_path, domain)
    try:
        policy = tmp_path / "going_on.yaml"
        policy.write_text(f"plugin: stand_in\n{settings}")
        graph.start("policy_node", "policy_node", "policy", active=False, policy=str(policy), chunking="rtc")
        with pytest.raises(AssertionError):
            graph.transition("policy", Transition.TRANSITION_CONFIGURE)
        assert graph.until_exit("policy") == 2
        assert said in graph.log("policy")
    finally:
        graph.close()


def test_a_human_takes_over_at_once_and_the_policy_goes_on_with_a_fresh_look(robot) -> None:
    r = robot()
    records = []
    r.graph.node.create_subscription(Command, "policy/command", records.append, EVENT)
    teleop = r.graph.node.create_publisher(JointState, "teleop/command", COMMAND)
    r.graph.until_matched(teleop)
    r.graph.say(Episode.PHASE_RUNNING, start=START)
    for index in range(4):
        r.step(index)

    wanted = PROFILE.home.copy()
    wanted[1] += 0.15

    def drive(index: int) -> np.ndarray:
        names = [*PROFILE.joint_names, PROFILE.gripper.joint]
        teleop.publish(JointState(name=names, position=[*map(float, wanted), PROFILE.gripper.open]))
        r.graph.until(lambda: time.sleep(0.1) is None)  # so that it is heard before the frame
        r.frame(START + index * PERIOD)
        r.graph.until(lambda: r.answered(START + index * PERIOD))
        return np.array(r.commands[-1].points[0].positions)

    commands = [drive(index) for index in range(4, 8)]
    moved = np.array([command[1] - PROFILE.home[1] for command in commands])
    assert (np.diff(moved) >= 0).all() and 0 < moved[0] < 0.1  # towards the human's device, at the guard's pace: no jump
    assert moved[-1] == pytest.approx(0.15, abs=1e-6)
    assert commands[-1][0] < 0.02 + PROFILE.home[0]  # the policy would have gone on to 0.03
    r.graph.until(lambda: len(records) >= 8)
    assert [record.source for record in records[:8]] == [Command.SOURCE_POLICY] * 4 + [Command.SOURCE_HUMAN] * 4

    # What is no target of this arm counts for nothing, and does no harm.
    time.sleep(0.3)
    teleop.publish(JointState(name=["elbow"], position=[0.3]))
    inferences = len(r.actions)
    r.step(8)  # the human let go: the arm holds for this frame,
    r.step(9)  # and the policy looks anew at the next
    r.graph.until(lambda: len(r.actions) > inferences)
    assert to_ns(r.actions[-1].header.stamp) == START + 9 * PERIOD
    r.graph.until(lambda: len(records) >= 10)
    assert [record.source for record in records[8:10]] == [Command.SOURCE_POLICY] * 2
    assert "'teleop/command': joint state has no position of 'shoulder_pan_joint'" in r.graph.log("policy")
