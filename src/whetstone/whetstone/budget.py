"""Which folders go when a disk budget is spent.

Role: the one rule for everything that a run keeps by the folder (rollouts, bags). Standard library only.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path

PROTECTED = "protected"
"""A file of this name in a folder keeps the folder whatever the budget."""
PARTIAL = ".partial-"
"""How the name of a folder begins that is not there whole."""


def prune(root: Path, sizes: Mapping[str, int], budget: int, protected: Callable[[str], bool], more: int = 0) -> list[str]:
    """Delete folders under `root`, the oldest first, until all together take at most `budget` bytes; protected ones and the newest stay.

    sizes: bytes of each folder, by its name, the oldest first; more: bytes that count besides. Returns the names of those that went.
    Raises OSError.
    """
    total, gone = sum(sizes.values()) + more, []
    for name in list(sizes)[:-1]:
        if total <= budget:
            break
        if not protected(name):
            # Renamed first: a folder that is half deleted must not look like a whole one.
            partial = root / f"{PARTIAL}{os.getpid()}-{name}"
            (root / name).rename(partial)
            shutil.rmtree(partial, ignore_errors=True)
            total -= sizes[name]
            gone.append(name)
    return gone
