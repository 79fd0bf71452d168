"""Fixtures of this package's tests; the stand-ins are in reward_toy.py."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from whetstone.demonstrations import Demonstration, load_demonstrations

# pytest imports test files by path, so a module beside them is found only when its folder is on the path.
sys.path.insert(0, str(Path(__file__).parent))


@pytest.fixture(autouse=True)
def one_thread() -> None:
    """As the trainers run: with more, sums of a backward pass may be added up in another order."""
    import torch

    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def dots(tmp_path_factory: pytest.TempPathFactory) -> list[Demonstration]:
    from reward_toy import write_dots

    directory = tmp_path_factory.mktemp("dots")
    write_dots(directory, 48)
    return load_demonstrations(directory)
