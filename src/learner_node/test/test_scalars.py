"""Curves: to TensorBoard, to Weights & Biases where asked for, and never the end of a run."""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from learner_node.scalars import Scalars


def test_tensorboard_reads_what_was_written_and_a_resumed_run_writes_over(tmp_path: Path) -> None:
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    said: list[str] = []
    scalars = Scalars(tmp_path, say=said.append)
    for step in range(3):
        scalars.add(step, {"loss": step / 2, "kl": float("nan")})
    scalars.close()
    scalars = Scalars(tmp_path, first=1, say=said.append)
    scalars.add(1, {"loss": 9.0})
    scalars.close()
    found = accumulator.EventAccumulator(str(tmp_path)).Reload()
    assert found.Tags()["scalars"] == ["loss"] and said == []
    assert [(event.step, event.value) for event in found.Scalars("loss")] == [(0, 0.0), (1, 9.0)]


def test_what_is_not_installed_is_said_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    monkeypatch.setitem(sys.modules, "wandb", None)
    said: list[str] = []
    scalars = Scalars(tmp_path, "arms", say=said.append)
    assert said == [], "nothing is opened before there is something to write"
    scalars.add(0, {"loss": 1.0})
    scalars.add(1, {"loss": 1.0})
    scalars.close()
    assert len(said) == 2 and said[1] == "Weights & Biases gets no curves: wandb is not installed (pip install wandb)"


def test_weights_and_biases_by_its_own_interface(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[Any] = []

    class Run:
        def log(self, values: dict[str, float], step: int) -> None:
            if step == 2:
                raise ConnectionError("no network")
            calls.append((values, step))

        def finish(self) -> None:
            calls.append("finished")

    module = ModuleType("wandb")
    module.init = lambda **given: calls.append(given) or Run()  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "wandb", module)
    said: list[str] = []
    scalars = Scalars(tmp_path / "run-7" / "tensorboard", "arms", say=said.append)
    for step in range(4):
        scalars.add(step, {"loss": 1.0, "kl": float("inf")})
    scalars.close()
    assert calls[0]["project"] == "arms" and calls[0]["name"] == "run-7"
    assert calls[1:] == [({"loss": 1.0}, 0), ({"loss": 1.0}, 1), "finished"]
    assert said == ["Weights & Biases gets no more curves: no network"]
