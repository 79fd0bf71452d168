"""Checkpoints: all that a learner has in mind, as one file that is there whole or not at all.

Role: takes what a learner consists of (modules, optimisers, random generators, arrays, plain values; nested in dictionaries and lists)
apart into tensors and JSON and puts it back in place, and keeps the newest few of such files in a folder. Nothing in a file is code: a
.safetensors file whose metadata holds the structure. Depends on torch; knows nothing of ROS.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import torch

from whetstone import files
from whetstone.errors import InputError
from whetstone.sharding import sharded, share, whole

_SUFFIX = ".safetensors"
_FORMAT = 1


def capture(part: Any) -> Any:
    """A copy of what has a state: modules and optimisers as their state_dict, random generators as theirs; dictionaries and lists of such,
    arrays and plain values as they are."""
    if isinstance(part, (torch.nn.Module, torch.optim.Optimizer)):
        return capture(part.state_dict())
    if isinstance(part, torch.Generator):
        return part.get_state()
    if isinstance(part, np.random.Generator):
        return capture(dict(part.bit_generator.state))
    if isinstance(part, dict):
        return {key: capture(value) for key, value in part.items()}
    if isinstance(part, (list, tuple)):
        return [capture(value) for value in part]
    if isinstance(part, torch.Tensor):
        return whole(part.detach()).cpu().clone()
    return part.copy() if isinstance(part, np.ndarray) else part


def put_back(part: Any, state: Any) -> None:
    """Give `part` the state that `capture` took. Raises InputError where they do not fit together."""
    try:
        if isinstance(part, torch.optim.Optimizer):
            part.load_state_dict(_shared_out(state, part))
        elif isinstance(part, torch.nn.Module):
            part.load_state_dict(state)
        elif isinstance(part, torch.Generator):
            part.set_state(state)
        elif isinstance(part, np.random.Generator):
            part.bit_generator.state = state
        elif isinstance(part, torch.Tensor):
            with torch.no_grad():
                part.copy_(state)
        elif isinstance(part, dict):
            for key, value in part.items():
                put_back(value, state[key])
        elif isinstance(part, (list, tuple)):
            for value, kept in zip(part, state, strict=True):
                put_back(value, kept)
        else:
            raise TypeError(f"{type(part).__name__} cannot be put back")
    except (RuntimeError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"checkpoint: {' '.join(str(error).split())}") from None


def _shared_out(state: dict[str, Any], optimiser: torch.optim.Optimizer) -> dict[str, Any]:
    """This process's share of an optimiser's state, where its parameters are sharded."""
    own = [value for group in optimiser.param_groups for value in group["params"]]
    if not any(sharded(value) for value in own):
        return state

    def mine(value: Any, parameter: torch.Tensor) -> Any:
        return share(value, parameter) if isinstance(value, torch.Tensor) and value.shape == parameter.shape else value

    moments = {index: {name: mine(value, own[index]) for name, value in one.items()} for index, one in state["state"].items()}
    return {**state, "state": moments}


def save(path: str | os.PathLike[str], state: dict[str, Any]) -> None:
    """Write a tree of dictionaries, lists, tensors, arrays and plain values, whole or not at all. Raises InputError where it cannot."""
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    tensors: dict[str, torch.Tensor] = {}
    structure = json.dumps(_apart(state, tensors))
    try:
        with files.replacing(path) as partial:
            save_file(tensors, partial, {"format": str(_FORMAT), "structure": structure})
    except (OSError, SafetensorError) as error:
        said = getattr(error, "strerror", None) or " ".join(str(error).split())
        raise InputError(f"checkpoint {path} cannot be written: {said}") from None


def load(path: str | os.PathLike[str]) -> dict[str, Any]:
    """The inverse of `save`; arrays are arrays again, tensors tensors. Raises InputError naming the file."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(os.fspath(path), "pt") as file:
            metadata = file.metadata() or {}
            if metadata.get("format") != str(_FORMAT):
                raise ValueError(f"format {metadata.get('format')} is not {_FORMAT}")
            return _together(json.loads(metadata["structure"]), file)
    except FileNotFoundError:
        raise InputError(f"{path}: no such file") from None
    except (OSError, ValueError, KeyError, TypeError, IndexError, SafetensorError) as error:
        raise InputError(f"{path}: not a usable checkpoint: {' '.join(str(error).split())}") from None


class Checkpoints:
    """Numbered checkpoints in a folder; the newest `keep` stay."""

    def __init__(self, folder: str | os.PathLike[str], keep: int = 2) -> None:
        self.folder = Path(folder)
        files.sweep(self.folder)
        self._keep = keep

    def save(self, number: int, state: dict[str, Any]) -> Path:
        """Raises InputError where it cannot be written; the older ones are still there then."""
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise InputError(f"{self.folder} cannot be made: {error.strerror}") from None
        path = self.folder / f"{number:06d}{_SUFFIX}"
        save(path, state)
        for old in self._paths()[: -self._keep]:
            old.unlink(missing_ok=True)
        return path

    def newest(self) -> tuple[dict[str, Any] | None, list[str]]:
        """The newest that can be read, None where there is none, and what was wrong with those after it."""
        wrong = []
        for path in reversed(self._paths()):
            try:
                return load(path), wrong
            except InputError as error:
                wrong.append(str(error))
        return None, wrong

    def _paths(self) -> list[Path]:
        return sorted(path for path in self.folder.glob(f"*{_SUFFIX}") if path.stem.isdecimal())


def _apart(value: Any, tensors: dict[str, torch.Tensor]) -> Any:
    """JSON with the tensors taken out. Dictionaries become lists of pairs, for their keys need not be texts."""
    if isinstance(value, dict):
        return {"dict": [[_apart(key, tensors), _apart(item, tensors)] for key, item in value.items()]}
    if isinstance(value, (list, tuple)):
        return {"list": [_apart(item, tensors) for item in value]}
    if isinstance(value, (torch.Tensor, np.ndarray)):
        name = f"{len(tensors):06d}"
        tensors[name] = torch.as_tensor(value).detach().cpu().contiguous().clone()
        return {"tensor" if isinstance(value, torch.Tensor) else "array": name}
    if isinstance(value, np.generic):
        return value.item()
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    raise InputError(f"checkpoint: {type(value).__name__} cannot be kept")


def _together(node: Any, file: Any) -> Any:
    if not isinstance(node, dict):
        return node
    ((kind, value),) = node.items()
    if kind == "dict":
        return {_together(key, file): _together(item, file) for key, item in value}
    if kind == "list":
        return [_together(item, file) for item in value]
    tensor = file.get_tensor(value)
    return tensor if kind == "tensor" else tensor.numpy()
