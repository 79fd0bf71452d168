"""Updates that several processes make together: the same steps as one alone."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from test_checkpoint import LEARNERS, iteration

from learner_node.group import Group
from whetstone.errors import ConfigError
from whetstone.sharding import sharded

pytest.importorskip("accelerate")

NAMES = ("flow_refinement", "recap", "ppo")
LAUNCHER = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
SCRIPT = """
import json, sys
from pathlib import Path
from test_group import NAMES, updates
from learner_node.group import group

found = {"size": group().size, **{name: updates(name) for name in NAMES}}
found["sharded"] = {name: updates(name, group().mesh) for name in NAMES}
Path(sys.argv[1], f"{group().rank}.json").write_text(json.dumps(found))
"""


def updates(name: str, mesh: Any = None) -> dict[str, Any]:
    """Metrics and weights of three updates. mesh: the learner is sharded, and before the last update another one goes on for it."""
    learner, reports, known = made(name, mesh), [], {}
    for number in range(3):
        if number == 2 and mesh is not None:
            state, learner = learner.checkpoint(), made(name, mesh)
            assert learner.resume(state, known.get) == 0
        known |= {one.episode_id: one for one in iteration(number)}
        reports.append(learner.update(iteration(number), number, number == 2).metrics)
    held = sum(
        (value.to_local() if mesh is not None and sharded(value) else value).numel() for value in learner.policy.network.parameters()
    )
    state = {key: value.ravel().tolist() for key, value in learner.trainable_state().items()}
    return {"reports": reports, "state": state, "held": held}


def made(name: str, mesh: Any) -> Any:
    learner = LEARNERS[name]()
    if mesh is not None:
        learner.shard(mesh)
    return learner


def test_two_processes_take_the_steps_of_one(tmp_path: Path) -> None:
    script = tmp_path / "updates.py"
    script.write_text(SCRIPT)
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join([str(Path(__file__).parent), *sys.path])}
    done = subprocess.run(
        [*LAUNCHER, str(script), str(tmp_path)], env=environment, capture_output=True, text=True, timeout=240, check=False
    )
    assert done.returncode == 0, done.stderr
    both = [json.loads((tmp_path / f"{rank}.json").read_text()) for rank in range(2)]
    assert [one["size"] for one in both] == [2, 2]
    for name, how in [(name, how) for name in NAMES for how in ("replicated", "sharded")]:
        alone, (first, second) = updates(name), ((one["sharded"] if how == "sharded" else one)[name] for one in both)
        assert first["state"] == second["state"], "replicas must not drift apart"
        assert first["held"] < 0.7 * alone["held"] if how == "sharded" else first["held"] == alone["held"]
        for key, value in alone["state"].items():
            assert first["state"][key] == pytest.approx(value, abs=1e-4), key
        for one, other in zip(alone["reports"], first["reports"], strict=True):
            assert other == pytest.approx(one, rel=1e-3, abs=1e-5, nan_ok=True)


def test_its_processes_die_with_a_killed_torchrun(tmp_path: Path) -> None:
    script = tmp_path / "waits.py"
    script.write_text(
        "import os, sys, time; from pathlib import Path; from learner_node.group import group\n"
        "group(); Path(sys.argv[1], f'{group().rank}.pid').write_text(str(os.getpid())); time.sleep(300)\n"
    )
    process = subprocess.Popen([*LAUNCHER, str(script), str(tmp_path)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + 120
        while len(found := [path for path in tmp_path.glob("*.pid") if path.read_text()]) < 2:
            assert time.monotonic() < deadline and process.poll() is None
            time.sleep(0.1)
        members = [int(path.read_text()) for path in found]
    finally:
        process.kill()
        process.wait()
    deadline = time.monotonic() + 30
    while any(alive(member) for member in members):
        assert time.monotonic() < deadline, "they live on"
        time.sleep(0.1)


def alive(member: int) -> bool:
    try:
        return Path(f"/proc/{member}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_shares_and_portions() -> None:
    """Whatever the sizes, shares are a partition and the mean of the portioned means is the mean."""
    for size in range(1, 6):
        for count in range(1, 12):
            members = []
            for rank in range(size):
                one = Group()
                one.rank, one.size = rank, size
                members.append(one)
            rows = [list(range(count))[one.share(count)] for one in members]
            assert sum(rows, []) == list(range(count))
            parts = [
                sum(mine) / len(mine) * one.portion(len(mine), count) if mine else 0.0 for one, mine in zip(members, rows, strict=True)
            ]
            assert sum(parts) / size == pytest.approx(sum(range(count)) / count)


def test_a_network_without_units_cannot_be_sharded() -> None:
    learner = LEARNERS["flow_refinement"]()
    learner.policy.network = torch.nn.Linear(2, 2)
    with pytest.raises(ConfigError, match="network 'Linear' names no units, so it cannot be sharded"):
        learner.shard(None)
