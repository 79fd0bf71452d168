"""A configuration of its own for tests: real robots and tasks, a policy, rewards and learner without weights."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))  # recording_samples


@pytest.fixture
def root(tmp_path, monkeypatch):
    """$WHETSTONE_ROOT; the working directory is an empty folder beside it."""
    source = Path(__file__).resolve().parents[3] / "config"
    folder = tmp_path / "root"
    for kind in ("robots", "tasks"):
        shutil.copytree(source / kind, folder / "config" / kind)
    for kind, name, text in (
        ("policies", "still", "plugin: still\ndeployment: greedy\n"),
        ("policies", "flow_vla", "plugin: flow_vla\nweights: 'policy_{robot}.safetensors'\n"),
        ("rewards", "constant", "plugin: constant\nevery: 5\nsuccess: {threshold: 0.7, frames: 3}\n"),
        ("rewards", "sarm2", "plugin: sarm2\nevery: 4\nweights: 'reward_{robot}.safetensors'\n"),
        ("rewards", "shuffled", "plugin: shuffled\nevery: 4\ninner: sarm2\n"),
        ("learners", "flow_refinement", "plugin: flow_refinement\n"),
    ):
        path = folder / "config" / kind / f"{name}.yaml"
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
    work = tmp_path / "work"
    work.mkdir()
    monkeypatch.setenv("WHETSTONE_ROOT", str(folder))
    monkeypatch.delenv("ROS_DOMAIN_ID", raising=False)
    monkeypatch.chdir(work)
    return folder
