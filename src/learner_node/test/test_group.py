"""Updates that several processes make together: the same steps as one alone."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from test_checkpoint import LEARNERS, iteration

from learner_node.group import Group

pytest.importorskip("accelerate")

NAMES = ("flow_refinement", "recap", "ppo")
SCRIPT = """
import json, sys
from pathlib import Path
from test_group import NAMES, updates
from learner_node.group import group

found = {"size": group().size, **{name: updates(name) for name in NAMES}}
Path(sys.argv[1], f"{group().rank}.json").write_text(json.dumps(found))
"""


def updates(name: str) -> dict[str, Any]:
    """Metrics and weights of three updates."""
    learner, reports = LEARNERS[name](), []
    for number in range(3):
        reports.append(learner.update(iteration(number), number, number == 2).metrics)
    return {"reports": reports, "state": {key: value.ravel().tolist() for key, value in learner.trainable_state().items()}}


def test_two_processes_take_the_steps_of_one(tmp_path: Path) -> None:
    script = tmp_path / "updates.py"
    script.write_text(SCRIPT)
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join([str(Path(__file__).parent), *sys.path])}
    done = subprocess.run(
        [*launcher, str(script), str(tmp_path)], env=environment, capture_output=True, text=True, timeout=240, check=False
    )
    assert done.returncode == 0, done.stderr
    both = [json.loads((tmp_path / f"{rank}.json").read_text()) for rank in range(2)]
    assert [one["size"] for one in both] == [2, 2]
    for name in NAMES:
        alone, first, second = updates(name), both[0][name], both[1][name]
        assert first["state"] == second["state"], "replicas must not drift apart"
        for key, value in alone["state"].items():
            assert first["state"][key] == pytest.approx(value, abs=1e-4), key
        for one, other in zip(alone["reports"], first["reports"], strict=True):
            assert other == pytest.approx(one, rel=1e-3, abs=1e-5, nan_ok=True)


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
