"""Everything that goes wrong around a moving arm, one thing after the other: policy, watchdog and simulated arm as processes in real time.

This process stands between the simulated robot and the rest, where it spoils what cameras and joint states say, and is the episode manager
and the human who releases the arm. The motion of the arm is recorded at the source; at the end it proves that the limits held.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import yaml

pytest.importorskip("rclpy")

from graph import ROBOT, Graph
from sensor_msgs.msg import Image, JointState
from std_msgs.msg import Bool
from std_srvs.srv import Trigger
from trajectory_msgs.msg import JointTrajectory
from whetstone_msgs.msg import Episode, Guard, Watchdog
from whetstone_msgs.srv import ResetScene

from whetstone.profile import load_profile
from whetstone.ros import CAMERA_LIVE, EVENT, LATCHED, STATE, deserialize, joints_qos, to_ns, to_stamp

PROFILE = load_profile(ROBOT)
COUNT = len(PROFILE.joints)
SWING, PACE = 0.4, 3.0  # rad, rad/s of the sine: 1.2 rad/s at most
SECOND = 1_000_000_000

_POLICY = '''
from pathlib import Path

import numpy as np
from whetstone.contracts import Chunk, PolicySpec


class Swing:
    """The first joint swings about home. What the file `word` says comes in place of that."""

    def __init__(self, config, profile):
        self.word, self.home = Path(config["word"]), profile.home
        self.spec = PolicySpec("swing", ("front", "wrist"), (128, 128), profile.joint_names, 8, 2, profile.rate, "5w1n6")

    @classmethod
    def load(cls, config, profile, device="cpu"):
        return cls(config, profile)

    def reset(self, instruction, seed, mode):
        pass

    def act(self, observation):
        rows = np.tile(np.append(self.home, 1.0), (8, 1))
        word = self.word.read_text() if observation.stamp else ""  # the self-test is before any fault
        if word == "shape":
            return Chunk(rows[:, :-1].astype(np.float32))
        if word:
            return Chunk(np.full((8, len(self.home) + 1), float(word), np.float32))
        rows[:, 0] += AMPLITUDE * np.sin(PACE * (observation.stamp / 1e9 + np.arange(1, 9) / self.spec.rate))
        return Chunk(rows.astype(np.float32))

    def trainable_state(self):
        return {}

    def load_trainable_state(self, state):
        pass
'''


class Lab:
    """spoil_image, spoil_joints: what becomes of a message on its way; None: it is lost."""

    def __init__(self, graph: Graph) -> None:
        self.graph, node, folder = graph, graph.node, graph.tmp_path / "plugins"
        info = folder / "swing-0.dist-info"
        info.mkdir()
        (info / "METADATA").write_text("Metadata-Version: 2.1\nName: swing\nVersion: 0\n")
        (info / "entry_points.txt").write_text("[whetstone.policies]\nswing = swing:Swing\n")
        (folder / "swing.py").write_text(_POLICY.replace("AMPLITUDE", str(SWING)).replace("PACE", str(PACE)))
        self.word = folder / "word"
        self.word.write_text("")
        self.policy = folder / "swing.yaml"
        self.policy.write_text(yaml.safe_dump({"plugin": "swing", "word": str(self.word)}))
        robot = graph.tmp_path / "robot.yaml"
        robot.write_text(yaml.safe_dump({"extends": ROBOT, "name": ROBOT, "guard": {"stale_after": 1.0}}))  # of a busy machine
        self.shared = {"robot": str(robot), "realtime": True}

        self.spoil_image: Callable[[Image], Image | None] = lambda message: message
        self.spoil_joints: Callable[[JointState], JointState | None] = lambda message: message
        self.motion: list[tuple[int, np.ndarray, np.ndarray]] = []  # stamp, position, velocity of the arm itself,
        self.came: list[float] = []  # and when each was heard, s
        self.commands: list[np.ndarray] = []
        self.stops: list[Watchdog] = []
        self.guards: list[Guard] = []
        self._pictures = 0
        remap = [(PROFILE.joint_states, "arm/joint_states")]
        self._cameras = {}
        for camera in PROFILE.cameras:
            remap.append((camera.topic, f"arm/{camera.topic}"))
            out = self._cameras[camera.name] = node.create_publisher(Image, camera.topic, CAMERA_LIVE)
            node.create_subscription(Image, f"arm/{camera.topic}", lambda data, out=out: self._on_image(data, out), CAMERA_LIVE, raw=True)
        self._joints = node.create_publisher(JointState, PROFILE.joint_states, joints_qos(True))
        node.create_subscription(JointState, "arm/joint_states", self._on_joints, STATE)
        node.create_subscription(JointTrajectory, PROFILE.command.topic, lambda one: self.commands.append(_row(one)), 50)
        node.create_subscription(Watchdog, "watchdog", self.stops.append, LATCHED)
        node.create_subscription(Guard, "guard", self.guards.append, EVENT)
        self.button = node.create_publisher(Bool, "e_stop", LATCHED)

        graph.start("robot_bringup", "simulator", "simulator", remap=tuple(remap), **self.shared)
        graph.start("policy_node", "watchdog", "watchdog", hardware=True, patience=8.0, **self.shared)
        self.start("policy")
        reset = graph.call(ResetScene, "scene/reset", ResetScene.Request(episode_id="e", task="pick_and_place", seed=1))
        assert reset is not None
        self.begun = to_ns(reset.start)
        graph.until(lambda: len(self.motion) > 3)
        self.run()

    def start(self, name: str) -> None:
        self.graph.start("policy_node", "policy_node", name, policy=str(self.policy), gated=True, **self.shared)

    # On the way from the robot.

    def _on_image(self, data: Any, out: Any) -> None:
        message = deserialize(data, Image)
        self._pictures += 1
        message.data[0] = self._pictures % 251  # a sensor has noise
        spoilt = self.spoil_image(message)
        if spoilt is not None:
            out.publish(spoilt)

    def _on_joints(self, message: JointState) -> None:
        columns = [list(message.name).index(name) for name in PROFILE.joint_names]
        position, velocity = np.array(message.position)[columns], np.array(message.velocity)[columns]
        self.motion.append((to_ns(message.header.stamp), position, velocity))
        self.came.append(time.monotonic())
        spoilt = self.spoil_joints(message)
        if spoilt is not None:
            self._joints.publish(spoilt)

    # What a human and the episode manager do.

    def run(self) -> None:
        self.graph.say(Episode.PHASE_RUNNING, "e", self.begun, max_steps=100_000)

    def until_swinging(self) -> None:
        """On its way, at speed."""
        self.graph.until(lambda: abs(self.motion[-1][2][0]) > 0.6, 20)

    def until_stopped(self, *reasons: str) -> None:
        """By the watchdog, for one of these reasons; and the arm comes to rest."""
        self.graph.until(lambda: bool(self.stops) and self.stops[-1].stopped, 20)
        said = list(self.stops[-1].reasons)
        assert any(one.startswith(reason) for one in said for reason in reasons), said
        self.graph.say(Episode.PHASE_PAUSED, "e", self.begun)
        self.until_resting()

    def until_resting(self) -> None:
        """For 0.3 s of its own time."""

        def rests() -> bool:
            recent = [position for stamp, position, _ in self.motion if stamp > self.motion[-1][0] - 0.3 * SECOND]
            return len(recent) >= 6 and float(np.ptp(recent, axis=0).max()) < 2e-3

        self.graph.until(rests, 20)

    def release(self) -> None:
        """As soon as the watchdog lets a human do it; the arm swings again."""
        self.word.write_text("")
        self.spoil_image = self.spoil_joints = lambda message: message

        def released() -> bool:
            answer = self.graph.call(Trigger, "watchdog/release", Trigger.Request())
            return answer is not None and answer.success

        self.graph.until(released, 20)
        self.run()
        self.until_swinging()
        assert not self.stops[-1].stopped, self.stops[-1].reasons


def _row(message: Any) -> np.ndarray:
    assert list(message.joint_names) == list(PROFILE.joint_names) and not message.header.frame_id
    return np.array([*message.points][0].positions)


def changed(**values) -> Callable:
    """The message with other fields."""

    def spoil(message):
        for name, value in values.items():
            setattr(message, name, value)
        return message

    return spoil


def shifted(seconds: float) -> Callable:
    """With another stamp."""

    def spoil(message):
        message.header.stamp = to_stamp(to_ns(message.header.stamp) + round(seconds * SECOND))
        return message

    return spoil


def frozen() -> Callable[[Image], Image]:
    """The same pictures again and again, with new stamps."""
    kept: dict[str, bytes] = {}

    def spoil(message: Image) -> Image:
        message.data = kept.setdefault(message.header.frame_id, bytes(message.data))
        return message

    return spoil


def reordered(message: JointState) -> JointState:
    order = list(range(len(message.name)))[::-1]
    for field in ("name", "position", "velocity"):
        values = list(getattr(message, field))
        setattr(message, field, [values[i] for i in order])
    return message


def without_elbow(message: JointState) -> JointState:
    keep = [i for i, name in enumerate(message.name) if "elbow" not in name]
    names, positions = list(message.name), list(message.position)
    return JointState(header=message.header, name=[names[i] for i in keep], position=[positions[i] for i in keep])


def not_a_number(message: JointState) -> JointState:
    message.position = [float("nan"), *list(message.position)[1:]]
    return message


@pytest.fixture
def lab(tmp_path, domain):
    graph = Graph(tmp_path, domain)
    try:
        yield Lab(graph)
    finally:
        graph.close()


def test_whatever_goes_wrong_around_a_moving_arm_it_comes_to_rest_within_its_limits(lab: Lab) -> None:
    graph = lab.graph
    lab.until_swinging()

    lab.button.publish(Bool(data=True))
    lab.until_stopped("e-stop: pressed")
    lab.button.publish(Bool(data=False))
    lab.release()

    for spoil, reason in (
        (frozen(), "the same picture for "),
        (changed(data=bytes(128 * 128 * 3)), "black for "),
        (shifted(-2.0), "pictures "),
        (lambda _: None, "nothing for "),
    ):
        lab.spoil_image = spoil
        lab.until_stopped(f"camera 'front': {reason}", f"camera 'wrist': {reason}")
        lab.release()
    ticks = iter(range(10**6))
    lab.spoil_image = lambda message: shifted(-0.1 * next(ticks))(message)  # time goes backwards
    lab.until_stopped("camera 'front': ", "camera 'wrist': ")
    lab.release()

    for spoil, reason in (
        (lambda _: None, "joint states: nothing for "),  # the driver is gone
        (not_a_number, "joint states: joint state: position of 'shoulder_pan_joint' is nan"),
        (without_elbow, "joint states: joint state has no position of 'elbow_flex_joint'"),
        (shifted(-5.0), "joint states: their clock was set back by "),
    ):
        lab.spoil_joints = spoil
        lab.until_stopped(reason)
        lab.release()
    lab.spoil_joints = reordered  # the same, said in another order
    seen = len(lab.motion)
    graph.until(lambda: len(lab.motion) > seen + 30)
    lab.until_swinging()
    assert not lab.stops[-1].stopped
    lab.spoil_joints = lambda message: message

    for word in ("nan", "inf"):
        lab.word.write_text(word)
        lab.guards.clear()
        lab.until_resting()
        assert any(one.held and any("finite" in reason for reason in one.reasons) for one in lab.guards)
        lab.word.write_text("")
        lab.until_swinging()
    lab.guards.clear()
    lab.word.write_text("1e9")
    seen = len(lab.motion)
    graph.until(lambda: len(lab.motion) > seen + 10)
    lab.until_resting()  # as far as the limits let it go, and not held
    assert np.abs(lab.motion[-1][1] - PROFILE.home).max() > 0.3
    assert {reason.split(":")[0] for one in lab.guards if not one.held for reason in one.reasons} >= {"velocity", "acceleration"}
    lab.word.write_text("")
    graph.until(lambda: np.abs(lab.motion[-1][1][1:] - PROFILE.home[1:]).max() < 0.1, 20)
    lab.until_swinging()
    assert not lab.stops[-1].stopped, lab.stops[-1].reasons

    lab.start("second_policy")
    lab.until_stopped("second publisher: two policies command the arm")
    graph.processes["policy"].terminate()
    graph.until_exit("policy")
    lab.release()

    graph.processes["second_policy"].kill()
    lab.until_stopped("policy: no command for ")
    graph.processes["second_policy"].wait()
    lab.start("policy")  # and one that begins anew
    lab.release()

    lab.word.write_text("shape")
    lab.until_stopped("policy: no command for ")
    assert graph.until_exit("policy") == 2
    assert "the policy answers (8, 5), its horizon and action space say (8, 6)" in graph.log("policy")

    lab.word.write_text("")
    lab.start("policy")
    lab.release()
    lab.spoil_image = changed(width=96, height=128, step=96 * 3, data=bytes([120]) * (96 * 128 * 3))
    lab.until_stopped("policy: no command for ", "camera 'front': the same picture", "camera 'wrist': the same picture")
    assert graph.until_exit("policy") == 2
    assert "image is 96x128, but 128x128 is needed" in graph.log("policy")
    assert graph.processes["watchdog"].poll() is None and graph.processes["simulator"].poll() is None

    commands = np.array(lab.commands)
    assert np.isfinite(commands).all()
    assert (commands >= PROFILE.lower - 1e-6).all() and (commands <= PROFILE.upper + 1e-6).all()
    stamps = np.array([stamp for stamp, _, _ in lab.motion]) / SECOND
    positions = np.array([position for _, position, _ in lab.motion])
    velocities = np.array([velocity for _, _, velocity in lab.motion])
    assert np.ptp(positions[:, 0]) > 2 * SWING, "it moved"
    assert (positions > PROFILE.lower - 0.02).all() and (positions < PROFILE.upper + 0.02).all()
    # A simulator that a busy machine held up has heard several commands when its own time goes on: what follows is no arm's motion.
    late = np.convolve(np.diff(lab.came) > 2 * PROFILE.period, np.ones(8), "full")[: len(stamps) - 1] > 0
    assert late.mean() < 0.5
    seconds = np.diff(stamps)[:, None]
    between = np.where(late[:, None], 0, np.abs(np.diff(positions, axis=0)) / seconds)
    # What is commanded keeps to the velocity; a servo that was behind catches up somewhat faster.
    assert (between <= 1.3 * PROFILE.velocity).all(), between.max(axis=0)
    turned = np.where(late[:, None], 0, np.abs(np.diff(velocities, axis=0)) / seconds / PROFILE.acceleration)
    # At full speed it ran into its table.
    assert (turned <= 3.0).all(), turned.max(axis=0)
    # A brake or a hold goes on from what the arm was told before, so that the servo brakes no harder than a command may ask it to.
    stops = np.array([to_ns(one.header.stamp) for one in lab.stops if one.stopped]) / SECOND
    since = stamps[1:, None] - stops
    braked = turned[((since > -0.05) & (since < 0.6)).any(axis=1)]
    assert (braked <= 1.5).all(), braked.max(axis=0)
