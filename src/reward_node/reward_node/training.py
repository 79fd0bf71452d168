"""A training loop's bookkeeping: progress bar, TensorBoard, checkpoints from which it goes on.

Role: what the trainers share beside their losses. Depends on torch; TensorBoard is used where it is installed.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from whetstone import files
from whetstone.errors import InputError

Source = np.random.Generator | torch.Generator


class Training:
    """Iterate over it for the step numbers. folder: of checkpoint and curves; random: the sources of randomness to keep with them, beside
    torch's own on the CPU, which dropout draws from.

    resume: go on from folder/checkpoint.pt; InputError where there is none or it is of another model or run. What was drawn before the
    interruption is not drawn again: the weights are those of a run in one go. fingerprint: of settings and data, by which a run is told
    from another; seconds: between two checkpoints.
    """

    def __init__(
        self,
        folder: Path,
        model: torch.nn.Module,
        optimiser: torch.optim.Optimizer,
        steps: int,
        resume: bool,
        random: Sequence[Source],
        seconds: float = 60.0,
        fingerprint: str = "",
    ) -> None:
        self._path = folder / "checkpoint.pt"
        self._model, self._optimiser, self._steps, self._random = model, optimiser, steps, [*random, torch.default_generator]
        self._seconds = seconds
        # The schedule of the learning rate depends on the number of steps, so a run with another number is another run.
        self._run = {"steps": steps, "fingerprint": fingerprint}
        self._first = 0
        self._means: dict[str, float] = {}
        folder.mkdir(parents=True, exist_ok=True)
        if resume:
            self._load()
        try:
            from torch.utils.tensorboard import SummaryWriter

            self._curves: Any = SummaryWriter(str(folder), purge_step=self._first)
        except ImportError:
            self._curves = None

    def __iter__(self) -> Iterator[int]:
        saved = time.monotonic()
        self._bar = tqdm(range(self._first, self._steps), initial=self._first, total=self._steps, desc="training", unit="step")
        for step in self._bar:
            self._step = step
            yield step
            if time.monotonic() - saved > self._seconds:
                self._save(step + 1)
                saved = time.monotonic()
        self._save(self._steps)
        if self._curves is not None:
            self._curves.close()

    def note(self, **values: float) -> None:
        """Scalars of this step, for the bar (smoothed) and TensorBoard; not-a-number is left out."""
        for name, value in values.items():
            if value != value:
                continue
            self._means[name] = 0.95 * self._means.get(name, value) + 0.05 * value
            if self._curves is not None:
                self._curves.add_scalar(name, value, self._step)
        self._bar.set_postfix({name: f"{value:.3f}" for name, value in self._means.items()}, refresh=False)

    def _save(self, step: int) -> None:
        states = [_state(source) for source in self._random]
        model, optimiser = self._model.state_dict(), self._optimiser.state_dict()
        with files.replacing(self._path) as partial:
            torch.save({"step": step, "run": self._run, "model": model, "optimiser": optimiser, "random": states}, partial)

    def _load(self) -> None:
        try:
            whole = torch.load(self._path, weights_only=True)
            if whole["run"] != self._run:
                raise ValueError("it is of a run with other settings, other data or another number of steps")
            self._model.load_state_dict(whole["model"])
            self._optimiser.load_state_dict(whole["optimiser"])
            self._first = int(whole["step"])
            for source, state in zip(self._random, whole["random"], strict=True):
                _restore(source, state)
        except Exception as error:  # torch raises many types; whatever it is, training cannot go on from it
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise InputError(f"{self._path}: training cannot go on from it ({reason}); begin anew with resume:=false") from error


def _state(source: Source) -> Any:
    return source.get_state() if isinstance(source, torch.Generator) else source.bit_generator.state


def _restore(source: Source, state: Any) -> None:
    if isinstance(source, torch.Generator):
        source.set_state(state)
    else:
        source.bit_generator.state = state
