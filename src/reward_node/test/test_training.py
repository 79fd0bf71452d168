"""The training loop's bookkeeping: resumed runs end as runs in one go, curves, and what it refuses to go on from."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from reward_node.training import Training
from whetstone.errors import InputError

STEPS = 9


class Interrupted(Exception):
    """Stands for whatever ends a training early."""


def clock(seconds_per_call: float) -> SimpleNamespace:
    """Stands in for the time module: every look at the clock is so much later than the one before."""
    calls = iter(range(10_000))
    return SimpleNamespace(monotonic=lambda: next(calls) * seconds_per_call)


def train(folder: Path, resume: bool = False, stop: int | None = None, seed: int = 0, **changed: Any) -> dict[str, torch.Tensor]:
    """A toy that draws from all that is random in a training: NumPy, a generator of torch's, and dropout. Returns the weights."""
    torch.manual_seed(seed)
    size = int(changed.pop("inputs", 3))
    model = torch.nn.Sequential(torch.nn.Linear(size, 8), torch.nn.Dropout(0.5), torch.nn.Linear(8, 1))
    optimiser = torch.optim.AdamW(model.parameters(), lr=0.05)
    random, noise = np.random.default_rng(seed), torch.Generator().manual_seed(seed)
    loop = Training(folder, model, optimiser, changed.pop("steps", STEPS), resume, [random, noise], **changed)
    for step in loop:
        if step == stop:
            raise Interrupted
        inputs = torch.from_numpy(random.normal(size=(4, size))).float()
        value = (model(inputs) - torch.randn(4, 1, generator=noise)).square().mean()
        optimiser.zero_grad()
        value.backward()
        optimiser.step()
        loop.note(loss=float(value.detach()), odd=float("nan") if step % 2 else 1.0)
    return model.state_dict()


def interrupt(folder: Path, stop: int, **changed: Any) -> None:
    with pytest.raises(Interrupted):
        train(folder, stop=stop, **changed)


@pytest.fixture
def often(monkeypatch: pytest.MonkeyPatch) -> None:
    """A checkpoint after every step."""
    monkeypatch.setattr("reward_node.training.time", clock(61.0))


@pytest.mark.usefixtures("often")
@pytest.mark.parametrize("stop", range(1, STEPS))
def test_resumed_training_ends_as_in_one_go(tmp_path: Path, stop: int) -> None:
    whole = train(tmp_path / "whole")
    interrupt(tmp_path / "parts", stop)
    resumed = train(tmp_path / "parts", resume=True, seed=1)  # another seed: nothing but the checkpoint may matter
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)
    assert not all(torch.equal(whole[name], other) for name, other in train(tmp_path / "other", seed=1).items())


def test_steps_after_the_last_checkpoint_are_done_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A checkpoint every third step, interrupted between two of them, twice."""
    whole = train(tmp_path / "whole")
    monkeypatch.setattr("reward_node.training.time", clock(25.0))
    interrupt(tmp_path / "parts", 5)
    assert torch.load(tmp_path / "parts" / "checkpoint.pt", weights_only=True)["step"] == 3
    interrupt(tmp_path / "parts", 7, resume=True)
    resumed = train(tmp_path / "parts", resume=True)
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)


def test_a_finished_training_is_left_as_it_is(tmp_path: Path) -> None:
    whole, again = train(tmp_path), train(tmp_path, resume=True, stop=0)
    assert all(torch.equal(whole[name], again[name]) for name in whole)


def break_file(path: Path) -> None:
    path.write_bytes(b"junk")


@pytest.mark.parametrize(
    ("changed", "prepare", "message"),
    [
        ({}, Path.unlink, "No such file"),
        ({}, break_file, "training cannot go on from it"),
        ({"inputs": 4}, None, "training cannot go on from it"),
        ({"steps": STEPS + 1}, None, "another number of steps"),
        ({"fingerprint": "other"}, None, "other settings, other data"),
    ],
)
def test_what_it_cannot_go_on_from(tmp_path: Path, changed: dict[str, Any], prepare: Callable[[Path], None] | None, message: str) -> None:
    train(tmp_path, fingerprint="one")
    if prepare is not None:
        prepare(tmp_path / "checkpoint.pt")
    with pytest.raises(InputError, match=f"checkpoint.pt: .*{message}.*begin anew with resume:=false"):
        train(tmp_path, resume=True, **{"fingerprint": "one", **changed})


@pytest.mark.usefixtures("often")
def test_curves_go_on_where_the_checkpoint_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What TensorBoard is told: every scalar with its step, no not-a-number, and which steps are drawn anew."""
    told: list[Any] = []

    class Writer:
        def __init__(self, folder: str, purge_step: int) -> None:
            told.append((folder, purge_step))

        def add_scalar(self, name: str, value: float, step: int) -> None:
            told.append((name, step))

        def close(self) -> None:
            told.append("closed")

    module = ModuleType("torch.utils.tensorboard")
    module.SummaryWriter = Writer  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", module)
    interrupt(tmp_path, 2)
    assert told == [(str(tmp_path), 0), ("loss", 0), ("odd", 0), ("loss", 1)]
    told.clear()
    train(tmp_path, resume=True)
    assert told[:4] == [(str(tmp_path), 2), ("loss", 2), ("odd", 2), ("loss", 3)]
    assert told[-3:] == [("loss", 8), ("odd", 8), "closed"]


def test_it_trains_without_tensorboard(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)  # makes the import fail
    train(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint.pt"]
