"""Weights to send: how they look and how an update changes them.

Role: float32 tensors of at most 4 MB with N(0, 0.02^2) entries, as layers of a network have; an update adds N(0, (1e-5)^2) to what is
trained, the order of what a few steps of Adam with learning rate 1e-5 do. The same seed gives the same weights in every process.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable

import numpy as np

SPREAD, STEP = 0.02, 1e-5
_TENSOR = 1_000_000  # floats
LAYERS, WIDTH, RANK = 25, 1000, 16
"""Of the policy-like state: 25 square layers, 100 MB, each with a LoRA adapter of rank 16 (arXiv 2106.09685)."""
State = dict[str, np.ndarray]
Trained = Callable[[str], bool]


def dense(megabytes: float, seed: int = 0) -> State:
    """Weights of this many MB (10^6 bytes)."""
    generator = np.random.default_rng(seed)
    left, state = round(megabytes * 250_000), {}
    while left:
        count = min(left, _TENSOR)
        state[f"layer.{len(state):04d}.weight"] = _normal(generator, count, SPREAD)
        left -= count
    return state


def policy(seed: int = 0) -> State:
    """The policy-like state, adapters included."""
    generator = np.random.default_rng(seed)
    state = {}
    for layer in range(LAYERS):
        state[f"layer.{layer:02d}.weight"] = _normal(generator, WIDTH * WIDTH, SPREAD).reshape(WIDTH, WIDTH)
        state[f"layer.{layer:02d}.lora_a"] = _normal(generator, RANK * WIDTH, SPREAD).reshape(RANK, WIDTH)
        state[f"layer.{layer:02d}.lora_b"] = np.zeros((WIDTH, RANK), np.float32)
    return state


def is_adapter(name: str) -> bool:
    return ".lora_" in name


def adapters(state: State) -> State:
    """Of them the adapters alone."""
    return {name: array for name, array in state.items() if is_adapter(name)}


def update(state: State, seed: int, trained: Trained = lambda name: True) -> None:
    """Change in place what is trained."""
    generator = np.random.default_rng((seed, 1))
    for name, array in state.items():
        if trained(name):
            array += _normal(generator, array.size, STEP).reshape(array.shape)


def fingerprint(state: State) -> str:
    """sha256 (hex) of all arrays' bytes, by name."""
    digest = hashlib.sha256()
    for name in sorted(state):
        digest.update(np.ascontiguousarray(state[name]).data)
    return digest.hexdigest()


def _normal(generator: np.random.Generator, count: int, spread: float) -> np.ndarray:
    values = generator.standard_normal(count, np.float32)
    values *= np.float32(spread)
    return values
