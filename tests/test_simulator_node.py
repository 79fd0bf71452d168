"""The simulator process over real DDS: what a driver publishes and takes, lockstep, real time."""

from __future__ import annotations

import time

import numpy as np
import pytest

pytest.importorskip("rclpy")

from action_msgs.msg import GoalStatusArray
from control_msgs.action import ParallelGripperCommand
from graph import PERIOD, Graph
from rclpy.action import ActionClient
from rosgraph_msgs.msg import Clock
from sensor_msgs.msg import Image, JointState
from trajectory_msgs.msg import JointTrajectory, JointTrajectoryPoint
from whetstone_msgs.msg import Episode, Reward, Truth
from whetstone_msgs.srv import ResetScene

from robot_bringup.gripper_server import RESULT_TIMEOUT
from whetstone.images import to_array
from whetstone.profile import load_profile
from whetstone.ros import COMMAND, EVENT, STATE, camera_qos, to_ns, to_stamp

PROFILE = load_profile("so100")
EPISODE_ID = "train-000-0000"


class Driver:
    """The other side: commands, rewards, and what the simulator said."""

    def __init__(self, graph, **parameters):
        self.graph = graph
        node = graph.node
        self.frames, self.images, self.truths, self.clocks = [], [], [], []
        node.create_subscription(JointState, PROFILE.joint_states, self.frames.append, STATE)
        for camera in PROFILE.cameras:
            qos = camera_qos(parameters.get("realtime", False))
            node.create_subscription(Image, camera.topic, lambda message, name=camera.name: self.images.append((name, message)), qos)
        node.create_subscription(Truth, "truth", self.truths.append, EVENT)
        node.create_subscription(Clock, "/clock", self.clocks.append, STATE)
        self.commands = node.create_publisher(JointTrajectory, PROFILE.command.topic, COMMAND)
        self.rewards = node.create_publisher(Reward, "reward", EVENT)
        self.gripper = ActionClient(node, ParallelGripperCommand, PROFILE.gripper.action)
        self.graph.start("robot_bringup", "simulator", "simulator", **parameters)
        self.graph.until_matched(self.commands, self.graph.episodes)

    def reset(self, seed=3, episode_id=EPISODE_ID, task="pick_and_place"):
        return self.graph.call(ResetScene, "scene/reset", ResetScene.Request(episode_id=episode_id, task=task, seed=seed))

    def begin(self, seed=3, episode_id=EPISODE_ID, **fields) -> int:
        """Reset and run; returns the stamp of the first frame once it is there."""
        start = to_ns(self.reset(seed, episode_id).start)
        self.graph.say(Episode.PHASE_RUNNING, episode_id, start, **fields)
        self.graph.until(lambda: self.frames and to_ns(self.frames[-1].header.stamp) >= start)
        return start

    def command(self, stamp: int, positions, names=PROFILE.joint_names) -> None:
        point = JointTrajectoryPoint(positions=[float(value) for value in positions])
        point.time_from_start.nanosec = PERIOD
        message = JointTrajectory(joint_names=list(names), points=[point])
        message.header.stamp = to_stamp(stamp)
        self.commands.publish(message)

    def positions(self) -> np.ndarray:
        return np.array(self.frames[-1].position)

    def stamps(self) -> list[int]:
        return [to_ns(frame.header.stamp) for frame in self.frames]

    def step(self, stamp: int, positions) -> None:
        """Answer the frame and wait for the next one."""
        self.command(stamp, positions)
        self.graph.until(lambda: self.stamps()[-1] == stamp + PERIOD)

    def reward(self, stamp: int) -> None:
        message = Reward(episode_id=EPISODE_ID)
        message.header.stamp = to_stamp(stamp)
        self.rewards.publish(message)


@pytest.fixture
def driver(tmp_path, domain):
    graph = Graph(tmp_path, domain)
    yield lambda **parameters: Driver(graph, **parameters)
    graph.close()


def test_lockstep_frame_is_whole_and_waits_for_its_command(driver) -> None:
    sim = driver()
    start = sim.begin()
    frame = sim.frames[-1]
    assert PROFILE.sim is not None
    assert list(frame.name) == list(PROFILE.sim.joints)
    home = frame.position[: len(PROFILE.joints)]
    np.testing.assert_allclose(home, PROFILE.home, atol=0.2)
    sim.graph.until(lambda: len(sim.images) == len(PROFILE.cameras) and sim.truths and sim.clocks)
    for name, message in sim.images:
        assert to_ns(message.header.stamp) == start
        camera = PROFILE.camera(name)
        image = to_array(message, "front")
        assert image.shape == (camera.height, camera.width, 3) and image.std() > 5
    assert (sim.truths[0].episode_id, sim.truths[0].success, sim.truths[0].stage) == (EPISODE_ID, False, 0)

    # A frame that nobody answers is said again with the same stamp; wrong answers are no answers.
    for count, (stamp, names) in enumerate(
        [(start, ()), (start, [*PROFILE.joint_names[:-1], "elbow"]), (start - PERIOD, PROFILE.joint_names)]
    ):
        sim.command(stamp, home if names else [], names)
        sim.graph.until(lambda seen=count + 2: len(sim.frames) >= seen)
    assert set(sim.stamps()) == {start}
    for reason in ("names no joints", "'elbow' is unknown"):
        assert reason in sim.graph.log("simulator")

    target = np.array(home) + [0.08, 0, 0, 0, 0]
    for step in range(8):
        sim.step(start + step * PERIOD, target)
    assert sim.positions()[0] == pytest.approx(target[0], abs=0.02)
    sim.command(start, home)  # the answer to an old frame
    sim.step(start + 8 * PERIOD, target)
    assert sim.stamps()[-1] == start + 9 * PERIOD


def test_same_seed_same_episode_and_time_never_goes_back(driver) -> None:
    sim = driver()
    runs = []
    for count, seed in enumerate((5, 5, 6)):
        sim.frames.clear()
        sim.images.clear()
        start = sim.begin(seed, f"train-000-{count:04d}")
        assert not runs or start > runs[-1][0]
        home = sim.positions()[: len(PROFILE.joints)]
        for step in range(3):
            sim.step(start + step * PERIOD, home + 0.02 * (step + 1))
        sim.graph.until(lambda: len(sim.images) >= 8)
        pictures = {(name, to_ns(message.header.stamp) - start): bytes(message.data) for name, message in sim.images}
        runs.append((start + 3 * PERIOD, [list(frame.position) for frame in sim.frames], pictures))
    assert runs[0][1:] == runs[1][1:]
    assert runs[0][2] != runs[2][2]


def test_last_frame_is_not_stepped_past(driver) -> None:
    sim = driver(deadline=1.5)
    start = sim.begin(max_steps=2)
    home = sim.positions()[: len(PROFILE.joints)]
    sim.step(start, home)
    sim.step(start + PERIOD, home)
    sim.command(start + 2 * PERIOD, home)
    began = time.monotonic()
    sim.graph.until(lambda: time.monotonic() - began > 2.0)  # longer than the deadline: nobody is missing
    assert sim.stamps()[-1] == start + 2 * PERIOD
    assert sim.graph.processes["simulator"].poll() is None


def test_waits_for_the_reward_of_the_scored_frame_before(driver) -> None:
    sim = driver(wait_for_reward=True, reward_every=2, deadline=5.0)
    start = sim.begin()
    home = sim.positions()[: len(PROFILE.joints)]
    sim.step(start, home)
    sim.step(start + PERIOD, home)
    sim.command(start + 2 * PERIOD, home)
    sim.graph.until(lambda: sim.stamps().count(start + 2 * PERIOD) >= 2)  # said again: it waits for the reward of frame 0
    sim.reward(start)
    sim.graph.until(lambda: sim.stamps()[-1] == start + 3 * PERIOD)
    sim.step(start + 3 * PERIOD, home)
    sim.command(start + 4 * PERIOD, home)
    assert sim.graph.until_exit("simulator") == 2
    assert "no reward from the reward node for the frame of step 4" in sim.graph.log("simulator")


def test_an_evaluation_waits_for_no_reward(driver) -> None:
    sim = driver(wait_for_reward=True, reward_every=2)
    start = sim.begin(mode=Episode.MODE_EVALUATE)
    home = sim.positions()[: len(PROFILE.joints)]
    for step in range(5):
        sim.step(start + step * PERIOD, home)


def test_missing_policy_is_named(driver) -> None:
    sim = driver(deadline=1.5)
    sim.begin()
    assert sim.graph.until_exit("simulator") == 2
    log = sim.graph.log("simulator")
    assert PROFILE.command.topic in log and "policy node" in log and "Traceback" not in log


def test_unknown_task_is_refused(driver) -> None:
    sim = driver()
    response = sim.reset(task="juggle")
    assert not response.ok and "juggle" in response.reason


def test_gripper_accepts_at_once_and_reports_arrival(driver) -> None:
    sim = driver()
    start = sim.begin()
    home = sim.positions()[: len(PROFILE.joints)]
    sim.graph.until(sim.gripper.server_is_ready)
    goal = ParallelGripperCommand.Goal()
    goal.command.name, goal.command.position = [PROFILE.gripper.joint], [PROFILE.opening_to_position(0.2)]
    accepted = sim.gripper.send_goal_async(goal)
    sim.graph.until(accepted.done)  # although nothing moves until the arm's command comes
    assert accepted.result().accepted
    result = accepted.result().get_result_async()
    step = 0
    while not result.done():
        sim.step(start + step * PERIOD, home)
        step += 1
        assert step < 100
    assert result.result().result.reached_goal
    finger = list(sim.frames[-1].name).index(PROFILE.gripper.joint)
    assert PROFILE.position_to_opening(sim.positions()[finger]) == pytest.approx(0.2, abs=0.05)

    goal.command.position = [float("nan")]
    refused = sim.gripper.send_goal_async(goal)
    sim.graph.until(refused.done)
    assert not refused.result().accepted


def test_finished_gripper_goals_are_forgotten(driver) -> None:
    """rclpy's default keeps them for 15 minutes and lists them all in every status message, which slows a run down fourfold."""
    sim = driver()
    statuses: list[GoalStatusArray] = []
    sim.graph.node.create_subscription(GoalStatusArray, f"{PROFILE.gripper.action}/_action/status", statuses.append, EVENT)
    sim.begin()
    sim.graph.until(sim.gripper.server_is_ready)

    def send(opening: float) -> None:
        goal = ParallelGripperCommand.Goal()
        goal.command.name, goal.command.position = [PROFILE.gripper.joint], [PROFILE.opening_to_position(opening)]
        accepted = sim.gripper.send_goal_async(goal)
        sim.graph.until(accepted.done)

    for opening in (0.2, 0.4, 0.6):  # each new goal ends the one before
        send(opening)
    sim.graph.until(lambda: bool(statuses) and len(statuses[-1].status_list) == 3)
    ended = time.monotonic()
    sim.graph.until(lambda: time.monotonic() - ended > RESULT_TIMEOUT + 1)
    send(0.8)
    sim.graph.until(lambda: len(statuses[-1].status_list) == 2, seconds=10)  # the one under way and the one that it ended


def test_real_time_goes_on_without_commands_and_holds(driver) -> None:
    sim = driver(realtime=True)
    start = sim.begin()
    sim.graph.until(lambda: len(sim.frames) >= 10)
    began, count = time.monotonic(), len(sim.frames)
    sim.graph.until(lambda: len(sim.frames) >= count + 40)
    seconds = time.monotonic() - began
    assert seconds > 1.5  # 40 frames at 20 Hz take 2 s and never much less
    assert all(later - earlier == PERIOD for earlier, later in zip(sim.stamps(), sim.stamps()[1:]))
    np.testing.assert_allclose(sim.frames[-1].position, sim.frames[count].position, atol=0.02)
    target = np.array(sim.positions()[: len(PROFILE.joints)]) + [0.1, 0, 0, 0, 0]
    sim.command(0, target)  # a stamp of zero: now
    sim.graph.until(lambda: abs(sim.positions()[0] - target[0]) < 0.03)
    sim.graph.until(lambda: sim.images and sim.clocks)
    assert to_ns(sim.clocks[-1].clock) > start


def test_in_real_time_a_scene_waits_until_nobody_commands_the_arm(driver) -> None:
    """A policy that brakes at an episode's end would send the arm back to where it was, out of the new scene's home pose."""
    sim = driver(realtime=True)
    sim.begin()
    home = sim.positions()[: len(PROFILE.joints)]
    sim.command(0, home + 0.2)
    sim.graph.until(lambda: sim.positions()[0] > home[0] + 0.15)
    sim.command(0, home + 0.2)
    first = sim.reset(seed=4, episode_id="train-000-0001")
    assert first.pending and not first.ok and not first.reason
    answers = []

    def back() -> bool:
        answers.append(sim.reset(seed=4, episode_id="train-000-0001"))
        return not answers[-1].pending

    sim.graph.until(back, seconds=10)
    count = len(sim.frames)
    sim.graph.until(lambda: len(sim.frames) > count + 5)
    assert answers[-1].ok and np.abs(sim.positions()[: len(PROFILE.joints)] - PROFILE.home).max() < 0.05
