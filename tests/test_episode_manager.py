"""The episode manager as a process over real DDS, among stand-ins for its peers."""

from __future__ import annotations

import gc
import os
import signal
import subprocess
import time

import pytest
import rclpy
import yaml
from rclpy.context import Context
from rclpy.executors import SingleThreadedExecutor
from rclpy.lifecycle import LifecycleNode, TransitionCallbackReturn
from rclpy.node import Node
from sensor_msgs.msg import JointState
from std_srvs.srv import Trigger
from whetstone_msgs.msg import Episode, Reward, Update, Watchdog, WeightsAck
from whetstone_msgs.srv import ResetScene

from robot_bringup import records, schedule
from robot_bringup.command import executable
from robot_bringup.schedule import Segment
from whetstone import jsonfile
from whetstone.ros import EPISODE, EVENT, LATCHED, STATE, to_ns, to_stamp

PERIOD = 50_000_000
STEPS = 12
TRAIN = Segment("train", "", 2, 2, 0, False)
EVALUATE = Segment("evaluate", "refined", 1, 2, 2_000_000, True)


class Peer(LifecycleNode):
    """Notes its transitions."""

    def __init__(self, name, bench, **more):
        super().__init__(name, namespace="/so100", context=bench.context, **more)
        self.bench = bench

    def on_configure(self, state):
        self.bench.transitions.append(("configure", self.get_name()))
        return TransitionCallbackReturn.FAILURE if self.get_name() in self.bench.broken else TransitionCallbackReturn.SUCCESS

    def on_activate(self, state):
        self.bench.transitions.append(("activate", self.get_name()))
        return super().on_activate(state)

    def on_deactivate(self, state):
        self.bench.transitions.append(("deactivate", self.get_name()))
        return super().on_deactivate(state)


class Bench:
    """Simulator, learner and policy in this process; the manager in its own."""

    def __init__(
        self, tmp_path, domain, segments, *,
        peers=("simulator", "policy", "learner"), completion=0.0, broken=(), mute=(), lost_reset=False, **parameters,
    ):  # fmt: skip
        self.run_dir, self.broken, self.completion = tmp_path / "run", broken, completion
        self.transitions, self.episodes, self.silent = [], [], False
        self.weights_status, self.weights_reason = WeightsAck.STATUS_APPLIED, ""
        self.context = Context()
        rclpy.init(context=self.context, domain_id=domain)
        self.executor = SingleThreadedExecutor(context=self.context)
        self.nodes = [Peer(name, self) for name in peers]
        node = self.node = Node("stand_in", namespace="/so100", context=self.context)
        for each in (*self.nodes, node):
            self.executor.add_node(each)
            if each.get_name() in mute:  # what happens where rmw has not met the client yet
                each._service_change_state.send_response = lambda *_: None
        self.frames = node.create_publisher(JointState, "joint_states", STATE)
        self.rewards = node.create_publisher(Reward, "reward", EVENT)
        self.updates = node.create_publisher(Update, "learner/update", LATCHED)
        self.acks = node.create_publisher(WeightsAck, "weights/ack", EVENT)
        self.watchdog = node.create_publisher(Watchdog, "watchdog", EPISODE)
        node.create_subscription(Episode, "episode", self.on_episode, EPISODE)
        reset = node.create_service(ResetScene, "scene/reset", self.on_reset)
        if lost_reset:
            answer = reset.send_response
            reset.send_response = lambda *_: setattr(reset, "send_response", answer)
        node.create_timer(0.01, self.step)
        names = ("pause", "resume", "stop", "success", "failure")
        self.services = {name: node.create_client(Trigger, f"episode_manager/{name}") for name in names}
        self.episode, self.index, self.start = None, 0, 0
        values = {
            "robot": "so100",
            "task": "pick_and_place",
            "schedule": schedule.to_json(segments),
            "managed": ["simulator", "policy", "learner"],
            "run_dir": str(self.run_dir),
            "max_steps": STEPS,
            "reward_every": 4,
            "success_threshold": 0.8,
            "success_frames": 2,
            **parameters,
        }
        file = tmp_path / "parameters.yaml"
        file.write_text(yaml.safe_dump({"/**": {"ros__parameters": values}}))
        argv = [*executable("robot_bringup", "episode_manager"), "--ros-args", "-r", "__ns:=/so100", "--params-file", str(file)]
        self.log = tmp_path / "manager.log"
        with self.log.open("wb") as log:
            environment = {**os.environ, "ROS_DOMAIN_ID": str(domain)}
            self.process = subprocess.Popen(argv, stdout=log, stderr=subprocess.STDOUT, env=environment)

    def on_reset(self, request, response):
        self.start, self.index = self.start + 1000 * PERIOD, 0
        response.ok, response.start = request.seed < 5_000_000, to_stamp(self.start)
        response.reason = "" if response.ok else "no such scene"
        return response

    def on_episode(self, message):
        self.episodes.append(message)
        self.episode = message
        if message.phase == Episode.PHASE_UPDATING:
            version = message.iteration + 1
            self.acks.publish(WeightsAck(version=version, status=self.weights_status, reason=self.weights_reason))
            self.updates.publish(Update(iteration=message.iteration, version=version, deployed=True, names=["kl"], values=[0.01]))

    def step(self):
        if self.episode is None or self.episode.phase != Episode.PHASE_RUNNING or self.silent:
            return
        stamp = to_stamp(self.start + self.index * PERIOD)
        frame = JointState()
        frame.header.stamp = stamp
        self.frames.publish(frame)
        if self.index % 4 == 0:
            reward = Reward(episode_id=self.episode.episode_id, completion=self.completion, progress=0.5, total=0.5, valid=True)
            reward.header.stamp = stamp
            self.rewards.publish(reward)
        if self.episode.mode == Episode.MODE_EVALUATE and self.index == STEPS:
            self.services["failure" if self.episode.index else "success"].call_async(Trigger.Request())
        self.index += 1

    def until(self, condition, seconds=120.0):
        deadline = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < deadline, f"it did not happen in time; last: {self.episodes[-1:]} {self.output()}"
            self.executor.spin_once(timeout_sec=0.02)

    def until_phase(self, phase):
        self.until(lambda: self.episode is not None and self.episode.phase == phase)

    def call(self, name):
        self.until(self.services[name].service_is_ready)
        future = self.services[name].call_async(Trigger.Request())
        self.until(future.done)
        answer = future.result()
        assert answer is not None
        return answer.success, answer.message

    def finish(self):
        self.until(lambda: self.process.poll() is not None)
        return self.process.returncode

    def output(self):
        return self.log.read_text()

    def close(self):
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        self.executor.shutdown()
        for node in (*self.nodes, self.node):
            node.destroy_node()
        rclpy.try_shutdown(context=self.context)


@pytest.fixture
def bench(tmp_path, domains):
    made = []

    def make(*segments, **more):
        made.append(Bench(tmp_path, next(domains), segments, **more))
        return made[-1]

    yield make
    for each in made:
        each.close()
    # destroy_node() leaves the services of a lifecycle node, which answer nobody but are found; they go with the last reference.
    made.clear()
    gc.collect()


def outcome(bench):
    return jsonfile.read(bench.run_dir / records.OUTCOME)


def test_a_whole_run(bench):
    run = bench(EVALUATE, TRAIN)
    assert run.finish() == 0, run.output()
    assert outcome(run) == {"result": "finished", "reason": "all episodes are done"}
    names = ["simulator", "policy", "learner"]
    assert [name for what, name in run.transitions if what == "activate"] == names
    assert sorted(name for what, name in run.transitions if what == "configure") == sorted(names)
    assert sorted(name for what, name in run.transitions if what == "deactivate") == sorted(names)
    found = records.read_all(run.run_dir / records.EPISODES)
    assert [(r["episode_id"], r["outcome"], r["policy_version"]) for r in found] == [
        ("refined-0000", "success", 0), ("refined-0001", "timeout", 0),
        ("train-000-0000", "timeout", 0), ("train-000-0001", "timeout", 0),
        ("train-001-0000", "timeout", 1), ("train-001-0001", "timeout", 1),
    ]  # fmt: skip
    assert all(r["steps"] == STEPS for r in found)
    assert found[2]["reward"] == {"samples": 4, "invalid": 0, "max_progress": 0.5, "max_completion": 0.0, "mean_total": 0.5}
    assert [r["metrics"] for r in records.read_all(run.run_dir / records.UPDATES)] == [{"kl": 0.01}] * 2
    running = [e for e in run.episodes if e.phase == Episode.PHASE_RUNNING]
    assert [e.seed for e in running] == [2_000_000, 2_000_001, 0, 1, 2, 3]
    assert [e.greedy for e in running] == [True, True, False, False, False, False]
    assert running[0].instruction == "put the red cube in the tray"
    assert run.episodes[-1].phase == Episode.PHASE_FINISHED


def test_completion_by_the_reward_ends_a_training_episode(bench):
    run = bench(TRAIN, completion=0.93)
    assert run.finish() == 0, run.output()
    ended = [e for e in run.episodes if e.phase == Episode.PHASE_ENDED]
    assert [(e.outcome, e.reason) for e in ended] == [(Episode.OUTCOME_SUCCESS, "reward model: completion 0.93 on 2 frames")] * 4
    starts = {e.episode_id: to_ns(e.start) for e in run.episodes if e.phase == Episode.PHASE_RUNNING}
    assert all(to_ns(e.header.stamp) == starts[e.episode_id] + 4 * PERIOD for e in ended)


def test_pause_resume_and_stop(bench):
    run = bench(TRAIN, max_steps=100_000)
    run.until_phase(Episode.PHASE_RUNNING)
    assert run.call("pause") == (True, "paused")
    run.until_phase(Episode.PHASE_PAUSED)
    assert run.call("pause") == (False, "already paused")
    assert run.call("resume") == (True, "resumed")
    run.until_phase(Episode.PHASE_RUNNING)
    assert run.call("failure") == (True, "failure")
    assert run.call("stop") == (True, "stopped by a human")
    assert run.finish() == 0, run.output()
    assert outcome(run) == {"result": "stopped", "reason": "stopped by a human"}
    assert [r["outcome"] for r in records.read_all(run.run_dir / records.EPISODES)] == ["failure", "aborted"]


def test_a_stop_of_the_watchdog_pauses_until_it_is_released(bench):
    run = bench(TRAIN, max_steps=100_000)
    run.until_phase(Episode.PHASE_RUNNING)
    for reasons, phase in ((["e-stop: pressed"], Episode.PHASE_PAUSED), ([], Episode.PHASE_RUNNING)):
        run.watchdog.publish(Watchdog(stopped=bool(reasons), reasons=reasons))
        run.until_phase(phase)
    assert [e.reason for e in run.episodes if e.phase == Episode.PHASE_PAUSED] == ["watchdog: e-stop: pressed"]
    stops = records.read_all(run.run_dir / records.STOPS)
    assert [(one["stopped"], one["reasons"], one["release"]) for one in stops] == [
        (True, ["e-stop: pressed"], "/so100/watchdog/release"),
        (False, [], "/so100/watchdog/release"),
    ]
    # Who paused the run resumes it.
    assert run.call("pause") == (True, "paused")
    run.until_phase(Episode.PHASE_PAUSED)
    for count, reasons in ((3, ["e-stop: pressed"]), (4, [])):
        run.watchdog.publish(Watchdog(stopped=bool(reasons), reasons=reasons))
        run.until(lambda count=count: len(records.read_all(run.run_dir / records.STOPS)) == count)
    assert run.episode.phase == Episode.PHASE_PAUSED and run.call("resume") == (True, "resumed")
    run.until_phase(Episode.PHASE_RUNNING)
    assert run.call("stop") == (True, "stopped by a human")
    assert run.finish() == 0, run.output()


def test_a_node_that_never_appears_is_named(bench):
    run = bench(TRAIN, peers=("simulator", "learner"), startup_deadline=8.0)
    assert run.finish() != 0
    assert "policy" in outcome(run)["reason"]
    assert "8 s" in outcome(run)["reason"]
    assert any(e.phase == Episode.PHASE_WAITING and e.reason == "waiting for policy" for e in run.episodes)


def test_a_node_that_cannot_be_configured_is_named(bench):
    run = bench(TRAIN, broken=("learner",))
    assert run.finish() != 0
    assert outcome(run) == {"result": "failed", "reason": "learner could not be configured; its log says why"}


def test_answers_that_are_lost_do_not_stop_the_run(bench):
    run = bench(TRAIN, mute=("learner", "simulator"))
    assert run.finish() == 0
    assert outcome(run)["result"] == "finished"
    assert run.transitions.count(("configure", "learner")) == run.transitions.count(("activate", "learner")) == 1


def test_an_answer_about_the_scene_that_is_lost_is_asked_for_again(bench):
    run = bench(EVALUATE, lost_reset=True)
    assert run.finish() == 0, run.output()
    assert outcome(run)["result"] == "finished"


def test_a_simulator_that_falls_silent_is_named(bench):
    run = bench(TRAIN, frame_deadline=1.0)
    run.silent = True
    assert run.finish() != 0
    assert outcome(run)["reason"] == "simulator sent no frame for 1 s"
    assert run.episodes[-1].phase == Episode.PHASE_FINISHED


@pytest.mark.parametrize("status", [WeightsAck.STATUS_REFUSED, WeightsAck.STATUS_ROLLED_BACK])
def test_weights_that_the_policy_did_not_keep_end_the_run(bench, status):
    run = bench(TRAIN)
    run.weights_status, run.weights_reason = status, "the policy answers values that are not finite"
    assert run.finish() != 0
    assert outcome(run)["reason"] == "policy refused weights version 1: the policy answers values that are not finite"


def test_a_scene_that_cannot_be_reset_ends_the_run_with_the_reason(bench):
    run = bench(Segment("evaluate", "refined", 1, 1, 5_000_000, True))
    assert run.finish() != 0
    assert outcome(run)["reason"] == "the scene could not be brought back: no such scene"


def test_an_interrupt_aborts_the_episode_and_tells_everybody(bench):
    run = bench(TRAIN, max_steps=100_000)
    run.until_phase(Episode.PHASE_RUNNING)
    run.process.send_signal(signal.SIGINT)
    began = time.monotonic()
    run.until_phase(Episode.PHASE_FINISHED)
    assert run.finish() == 0
    assert time.monotonic() - began < 5
    assert [e.outcome for e in run.episodes if e.phase == Episode.PHASE_ENDED] == [Episode.OUTCOME_ABORTED]
    assert outcome(run)["result"] == "stopped"
