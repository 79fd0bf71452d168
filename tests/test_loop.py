"""The whole loop from one command: real simulator, real DDS, all nodes; only the policy and the learner are stand-ins."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from contextlib import ExitStack, contextmanager

import numpy as np
import pytest

pytest.importorskip("rclpy")

from graph import install_stand_ins

from robot_bringup.command import executable
from whetstone.store import RolloutStore
from whetstone.task import load_task

EPISODES, ITERATIONS, EXECUTE = 2, 2, 3
STEPS = load_task("pick_and_place", "so100").max_steps


@contextmanager
def whetstone(tmp_path, name: str, domain: int, mode: str, *arguments: str):
    """One run of the plan as a process, `name` its run directory; nothing of it is left behind."""
    plugins = tmp_path / name / "plugins"
    environment = {**os.environ, **install_stand_ins(plugins)}
    if mode == "refine":
        stand_in = plugins / "stand_in.yaml"
        arguments = (
            f"policy:={stand_in}", f"learner:={stand_in}", "evaluation_episodes:=1", "base_evaluation:=false", "deployment:=greedy",
            "seed:=4", *arguments,
        )  # fmt: skip
    argv = [
        *executable("robot_bringup", "whetstone"), "run", mode, "robot:=so100", "reward:=constant", f"domain_id:={domain}",
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


def test_two_iterations_twice_alike(tmp_path, domains) -> None:
    runs = []
    for count in range(2):
        arguments = f"iterations:={ITERATIONS}", f"episodes:={EPISODES}"
        with whetstone(tmp_path, f"run{count}", next(domains), "refine", *arguments) as process:
            ended(process)
        runs.append(tmp_path / f"run{count}" / "run")

    updates = [json.loads(line) for line in (runs[0] / "updates.jsonl").read_text().splitlines()]
    assert [(update["iteration"], update["version"], update["deployed"]) for update in updates] == [(0, 1, True), (1, 2, True)]
    decisions = EPISODES * -(-STEPS // EXECUTE)
    for update in updates:
        assert update["metrics"]["episodes"] == EPISODES
        assert update["metrics"]["decisions"] == decisions
        # The images in the rollouts are those that the policy saw: their mean is what it noted.
        assert update["metrics"]["image_error"] < 1e-3
        assert update["metrics"]["reward_success_rate"] == 0
    assert sorted(path.name for path in (runs[0] / "weights").iterdir()) == ["000001.safetensors", "000002.safetensors"]

    stores = [RolloutStore(run / "rollouts") for run in runs]
    episodes = stores[0].list()
    assert len(episodes) == EPISODES * ITERATIONS
    for episode_id in episodes:
        first, second = (store.read(episode_id) for store in stores)
        # New weights act from the next iteration on.
        assert set(first.policy_versions.tolist()) == {first.iteration}
        scored = (first.stamps - first.stamps[0]) // 50_000_000 % 4 == 0
        np.testing.assert_array_equal(np.isfinite(first.rewards["progress"][:-1]), scored)
        for name in ("stamps", "actions", "proprioception"):
            np.testing.assert_array_equal(getattr(first, name), getattr(second, name), err_msg=f"{episode_id}: {name}")
        for camera, images in first.images.items():
            np.testing.assert_array_equal(images, second.images[camera])
            assert first.last_images[camera].shape == images.shape[1:]


def test_one_reward_node_scores_two_runs_at_once(tmp_path, domains) -> None:
    domain, robots = next(domains), ("left", "right")
    with ExitStack() as stack:
        shared = stack.enter_context(whetstone(tmp_path, "shared", domain, "reward", f"robots:={','.join(robots)}"))
        runs = {
            name: stack.enter_context(
                whetstone(tmp_path, name, domain, "refine", f"namespace:={name}", "without:=reward", "iterations:=1", "episodes:=2")
            )
            for name in robots
        }
        for process in runs.values():
            ended(process)
        shared.send_signal(signal.SIGINT)
        output, _ = shared.communicate(timeout=20)
        assert shared.returncode == 130, output
    for name in robots:
        store = RolloutStore(tmp_path / name / "run" / "rollouts")
        assert len(store.list()) == 2
        for episode_id in store.list():
            rollout = store.read(episode_id)
            scored = (rollout.stamps - rollout.stamps[0]) // 50_000_000 % 4 == 0
            np.testing.assert_array_equal(np.isfinite(rollout.rewards["progress"][:-1]), scored)
            assert rollout.reward_model_id == "constant"
