"""The whole loop from one command: real simulator, real DDS, all nodes; only the policy and the learner are stand-ins."""

from __future__ import annotations

import json
import os
import signal
import subprocess

import numpy as np
import pytest

pytest.importorskip("rclpy")

from graph import install_stand_ins

from robot_bringup.command import executable
from whetstone.store import RolloutStore
from whetstone.task import load_task

EPISODES, ITERATIONS, EXECUTE = 2, 2, 3
STEPS = load_task("pick_and_place", "so100").max_steps


def refine(tmp_path, name: str, domain: int):
    """One run of the plan; returns (exit code, output, run directory)."""
    plugins = tmp_path / name / "plugins"
    environment = {**os.environ, **install_stand_ins(plugins)}
    run_dir = tmp_path / name / "run"
    stand_in = str(plugins / "stand_in.yaml")
    argv = [
        *executable("robot_bringup", "whetstone"), "run", "refine", "robot:=so100", "reward:=constant",
        f"policy:={stand_in}", f"learner:={stand_in}",
        f"iterations:={ITERATIONS}", f"episodes:={EPISODES}", "evaluation_episodes:=1", "base_evaluation:=false",
        "deployment:=greedy", f"domain_id:={domain}", f"run_dir:={run_dir}", "seed:=4",
    ]  # fmt: skip
    process = subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment, start_new_session=True)
    try:
        output, _ = process.communicate(timeout=240)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        raise AssertionError(f"the run did not end: {process.communicate()[0]}") from None
    return process.returncode, output, run_dir


def test_two_iterations_twice_alike(tmp_path, domains) -> None:
    runs = []
    for count in range(2):
        code, output, run_dir = refine(tmp_path, f"run{count}", next(domains))
        assert code == 0, output
        runs.append(run_dir)

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
