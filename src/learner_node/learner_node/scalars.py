"""Curves of a run: each update's metrics, to TensorBoard and, where asked for, to Weights & Biases.

Role: neither is needed to learn, so neither can end a run: what cannot be written is said once. Knows nothing of ROS.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any


class Scalars:
    """folder: of the TensorBoard files. project: of Weights & Biases; empty: not there. first: steps from here on are written anew.

    say: takes one line about what does not work.
    """

    def __init__(self, folder: Path, project: str = "", first: int = 0, say: Callable[[str], object] = print) -> None:
        self._folder, self._project, self._first, self._say = folder, project, first, say
        self._begun = False
        self._writers: dict[str, Callable[[dict[str, float], int], object]] = {}
        self._closers: list[Callable[[], object]] = []

    def add(self, step: int, values: dict[str, float]) -> None:
        """Values that are no numbers are left out. The first call opens what is written to: that takes seconds."""
        if not self._begun:
            self._begun = True
            self._open("TensorBoard", self._tensorboard)
            if self._project:
                self._open("Weights & Biases", self._wandb)
        finite = {name: float(value) for name, value in values.items() if math.isfinite(value)}
        for name, write in list(self._writers.items()):
            try:
                write(finite, step)
            except Exception as error:
                del self._writers[name]
                self._say(f"{name} gets no more curves: {' '.join(str(error).split())}")

    def close(self) -> None:
        for close in self._closers:
            try:
                close()
            except Exception as error:
                self._say(f"curves may be incomplete: {' '.join(str(error).split())}")
        self._writers, self._closers = {}, []

    def _open(self, name: str, make: Callable[[], None]) -> None:
        try:
            make()
        except ImportError as error:
            self._say(f"{name} gets no curves: {error.name} is not installed (pip install {error.name})")
        except Exception as error:
            self._say(f"{name} gets no curves: {' '.join(str(error).split())}")

    def _tensorboard(self) -> None:
        from torch.utils.tensorboard import SummaryWriter

        curves: Any = SummaryWriter(str(self._folder), purge_step=self._first)

        def write(values: dict[str, float], step: int) -> None:
            for name, value in values.items():
                curves.add_scalar(name, value, step)
            curves.flush()

        self._writers["TensorBoard"] = write
        self._closers.append(curves.close)

    def _wandb(self) -> None:
        import wandb  # type: ignore[import-not-found]

        run_dir = self._folder.parent
        run = wandb.init(project=self._project, name=run_dir.name, id=run_dir.name, resume="allow", dir=str(run_dir))
        self._writers["Weights & Biases"] = lambda values, step: run.log(values, step=step)
        self._closers.append(run.finish)
