"""Runs lerobot_policy_checks.py in a process of its own: lerobot brings torchvision, and transformers decides once for a process whether it
has it. Reward models' tests shall not see it, and SmolVLA must."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path


def test_lerobot_s_policies() -> None:
    command = [sys.executable, "-m", "pytest", "-q", "--no-header", "-p", "no:cacheprovider", "lerobot_policy_checks.py"]
    done = subprocess.run(command, cwd=Path(__file__).parent, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout[-8000:] + done.stderr[-2000:]
    assert " passed" in done.stdout and "skipped" not in done.stdout
