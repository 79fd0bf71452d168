"""The whole loop from one command: real simulator, real DDS, all nodes; only the policy and the learner are stand-ins."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from contextlib import ExitStack, contextmanager

import numpy as np
import pytest

pytest.importorskip("rclpy")

from graph import install_stand_ins, process_of

from robot_bringup.bench_weights.network import lossy, unavailable
from robot_bringup.command import executable
from whetstone.config import root
from whetstone.store import RolloutStore
from whetstone.task import load_task

EPISODES, ITERATIONS, EXECUTE = 2, 2, 3
STEPS = load_task("pick_and_place", "so100").max_steps


@contextmanager
def whetstone(
    tmp_path, name: str, domain: int, mode: str, *arguments: str, seconds: float = 0.0, every: int = 0, within: tuple[str, ...] = ()
):
    """One run of the plan as a process, `name` its run directory; nothing of it is left behind. seconds: that an update takes; every:
    episodes after which one is made while the robot goes on; within: what stands before the command."""
    plugins = tmp_path / name / "plugins"
    environment = {**os.environ, **install_stand_ins(plugins), "STAND_IN_SECONDS": str(seconds)}
    if within:
        # As docs/weights.md has it for several machines.
        environment["ROS_AUTOMATIC_DISCOVERY_RANGE"] = "SUBNET"
        environment["FASTRTPS_DEFAULT_PROFILES_FILE"] = str(root() / "config" / "dds" / "lossy.xml")
    (plugins / "stand_in.yaml").write_text(f"plugin: stand_in\nupdate_every: {every}\n")
    stand_in = plugins / "stand_in.yaml"
    if mode == "refine":
        arguments = ("evaluation_episodes:=1", "base_evaluation:=false", "deployment:=greedy", "seed:=4", *arguments)
    if mode != "learner":
        arguments = ("reward:=constant", *arguments)
    if mode != "reward":
        arguments = (f"policy:={stand_in}", f"learner:={stand_in}", *arguments)
    argv = [
        *within, *executable("robot_bringup", "whetstone"), "run", mode, "robot:=so100", f"domain_id:={domain}",
        f"run_dir:={tmp_path / name / 'run'}", *arguments,
    ]  # fmt: skip
    process = subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment, start_new_session=True)
    try:
        yield process
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.communicate()


def ended(process: subprocess.Popen[str], seconds: float = 240) -> str:
    """Its output once it has ended well."""
    output, _ = process.communicate(timeout=seconds)
    assert process.returncode == 0, output
    return output


def until(condition, process: subprocess.Popen[str], seconds: float = 120.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.02)


def lines(path) -> int:
    return path.read_bytes().count(b"\n") if path.exists() else 0


def cut_off(tmp_path, domains, *arguments: str) -> None:
    """A run whose learner is killed in the middle of its first update, and which is killed itself in the middle of an episode."""
    run = tmp_path / "run1" / "run"
    with whetstone(tmp_path, "run1", next(domains), "refine", *arguments, seconds=2.0) as process:
        # An episode counts from when it is on the disk.
        until(lambda: len(RolloutStore(run / "rollouts").list()) == EPISODES, process)
        until(lambda: "updating" in (run / "logs" / "learner.log").read_text(), process)
        os.kill(process_of(run, "learner"), signal.SIGKILL)
        until(lambda: lines(run / "updates.jsonl") == 1, process)
        log = (run / "logs" / "learner.log").read_text()
        assert f"resumed after the beginning; {EPISODES} episodes since then" in log
        time.sleep(0.3)
        process.kill()
        output, _ = process.communicate(timeout=20)
        assert "learner was killed (SIGKILL); started again, 1 of 3" in output
    assert lines(run / "episodes.jsonl") < EPISODES * ITERATIONS, "it was meant to be cut off in the middle of training"
    with whetstone(tmp_path, "run1", next(domains), "refine", "resume:=true", *arguments) as process:
        ended(process)
    assert "resumed after iteration 0, weights version 1; 0 episodes since then" in (run / "logs" / "learner.log").read_text()


def test_two_iterations_are_alike_whether_cut_off_or_not(tmp_path, domains) -> None:
    arguments = f"iterations:={ITERATIONS}", f"episodes:={EPISODES}"
    with whetstone(tmp_path, "run0", next(domains), "refine", *arguments) as process:
        ended(process)
    cut_off(tmp_path, domains, *arguments)
    runs = [tmp_path / f"run{count}" / "run" for count in range(2)]

    updates, others = ([json.loads(line) for line in (run / "updates.jsonl").read_text().splitlines()] for run in runs)
    for update in (*updates, *others):
        del update["metrics"]["update_seconds"]
    assert updates == others
    assert [(update["iteration"], update["version"], update["deployed"]) for update in updates] == [(0, 1, True), (1, 2, True)]
    decisions = EPISODES * -(-STEPS // EXECUTE)
    for update in updates:
        assert update["metrics"]["episodes"] == EPISODES
        assert update["metrics"]["decisions"] == decisions
        # The images in the rollouts are those that the policy saw: their mean is what it noted.
        assert update["metrics"]["image_error"] < 1e-3
        assert update["metrics"]["reward_success_rate"] == 0
    for name in ("000001.safetensors", "000002.safetensors"):
        assert (runs[0] / "weights" / name).read_bytes() == (runs[1] / "weights" / name).read_bytes()
    assert [lines(run / "episodes.jsonl") for run in runs] == [EPISODES * ITERATIONS + 1] * 2
    assert [lines(run / "evaluation.jsonl") for run in runs] == [1, 1]

    stores = [RolloutStore(run / "rollouts") for run in runs]
    episodes = stores[0].list()
    assert len(episodes) == EPISODES * ITERATIONS
    for episode_id in episodes:
        first, second = (store.read(episode_id) for store in stores)
        # New weights act from the next iteration on.
        assert set(first.policy_versions.tolist()) == {first.iteration}
        scored = (first.stamps - first.stamps[0]) // 50_000_000 % 4 == 0
        np.testing.assert_array_equal(np.isfinite(first.rewards["progress"][:-1]), scored)
        # A simulator that was started again counts from zero.
        np.testing.assert_array_equal(first.stamps - first.stamps[0], second.stamps - second.stamps[0])
        for name in ("actions", "proprioception"):
            np.testing.assert_array_equal(getattr(first, name), getattr(second, name), err_msg=f"{episode_id}: {name}")
        for camera, images in first.images.items():
            np.testing.assert_array_equal(images, second.images[camera])
            assert first.last_images[camera].shape == images.shape[1:]


def test_one_reward_node_scores_two_runs_at_once_one_updates_within_the_iteration_the_other_in_two_processes(tmp_path, domains) -> None:
    domain, robots, common = next(domains), ("left", "right"), ("without:=reward", "iterations:=1")
    with ExitStack() as stack:
        shared = stack.enter_context(whetstone(tmp_path, "shared", domain, "reward", f"robots:={','.join(robots)}"))
        runs = {
            name: stack.enter_context(whetstone(tmp_path, name, domain, "refine", *common, f"namespace:={name}", *own, every=every))
            for name, every, *own in (("left", 1, "episodes:=8"), ("right", 0, "episodes:=2", "learner_processes:=2"))
        }
        for process in runs.values():
            ended(process)
        shared.send_signal(signal.SIGINT)
        output, _ = shared.communicate(timeout=20)
        assert shared.returncode == 130, output
    for name in robots:
        store = RolloutStore(tmp_path / name / "run" / "rollouts")
        assert len(store.list()) == (8 if name == "left" else 2)
        for episode_id in store.list():
            rollout = store.read(episode_id)
            scored = (rollout.stamps - rollout.stamps[0]) // 50_000_000 % 4 == 0
            np.testing.assert_array_equal(np.isfinite(rollout.rewards["progress"][:-1]), scored)
            assert rollout.reward_model_id == "constant"
        updates = [json.loads(line) for line in (tmp_path / name / "run" / "updates.jsonl").read_text().splitlines()]
        assert sum(update["metrics"]["episodes"] for update in updates) == len(store.list()) and updates[0]["deployed"]
        versions = [store.read(episode_id).policy_versions for episode_id in store.list()]
        if name == "left":  # new weights came while it went on, and were applied between episodes
            assert updates[0]["interim"] and "interim" not in updates[-1] and updates[0]["metrics"]["episodes"] < 8
            assert all(len(set(one.tolist())) == 1 for one in versions) and versions[0][0] == 0 and versions[-1][0] >= 1
        else:
            assert len(updates) == 1 and all((one == 0).all() for one in versions)


def test_four_robots_feed_one_learner(tmp_path, domains) -> None:
    """Each a run of its own, two of them, where the machine allows, in a network namespace apart; the learner is killed on the way."""
    domain, robots = next(domains), [f"robot{index}" for index in range(4)]
    serving = f"robots:={','.join(robots)}"
    with ExitStack() as stack:
        here, there = ((), ()) if unavailable() else stack.enter_context(lossy(0))
        reward = stack.enter_context(whetstone(tmp_path, "reward", domain, "reward", serving, within=here))
        learner = stack.enter_context(
            whetstone(tmp_path, "learner", domain, "learner", serving, f"iterations:={ITERATIONS}", "seed:=4", within=here)
        )
        runs = []
        for name, where in zip(robots, (here, here, there, there), strict=True):
            own = f"namespace:={name}", "without:=reward,learner", f"iterations:={ITERATIONS}", "episodes:=1"
            runs.append(stack.enter_context(whetstone(tmp_path, name, domain, "refine", *own, within=where)))
        log = tmp_path / "learner" / "run" / "logs" / "learner.log"
        until(lambda: log.exists() and "updating after iteration 0" in log.read_text(), learner)
        os.kill(process_of(tmp_path / "learner" / "run", "learner"), signal.SIGKILL)
        for process in runs:
            ended(process)
        for process in (reward, learner):
            process.send_signal(signal.SIGINT)
            assert process.wait(20) == 130
    store = RolloutStore(tmp_path / "learner" / "run" / "rollouts")
    assert store.list() == sorted(f"{name}.train-{iteration:03d}-0000" for name in robots for iteration in range(ITERATIONS))
    for name in robots:
        run = tmp_path / name / "run"
        updates = [json.loads(line) for line in (run / "updates.jsonl").read_text().splitlines()]
        assert [(update["iteration"], update["version"], update["metrics"]["episodes"]) for update in updates] == [(0, 1, 4), (1, 2, 4)]
        assert not (run / "rollouts").exists()
        for iteration in range(ITERATIONS):
            rollout = store.read(f"{name}.train-{iteration:03d}-0000")
            assert set(rollout.policy_versions.tolist()) == {iteration}, "all drive with what was learned from all"
