"""A policy that takes its time: what a larger one, or a slower machine, would do to the arm.

Role: the policy plug-in `delayed`, for benchmarks and for trying chunking and inference settings in simulation before a large policy is
there. Acts as the policy inside. Depends neither on torch nor on ROS.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import numpy as np

from whetstone.config import parse
from whetstone.contracts import Chunk, InpaintingPolicy, Observation, Policy, PolicyMode, Underway
from whetstone.errors import ConfigError
from whetstone.plugins import configured
from whetstone.profile import RobotProfile


@dataclass(frozen=True)
class DelayedConfig:
    """inner: the policy that acts, a file of config/policies; seconds: that an inference takes at least; execute: rows run before the next
    inference, 0: as the policy inside; deployment: how the refined policy is deployed."""

    plugin: str = "delayed"
    inner: str = "flow_vla"
    seconds: float = field(default=0.1, metadata={"ge": 0})
    execute: int = field(default=0, metadata={"ge": 0})
    deployment: Literal["sampled", "greedy"] = "greedy"


class DelayedPolicy:
    """See the module. It has `inpaint` and `observe` where the policy inside has them."""

    def __init__(self, config: DelayedConfig, inner: Policy):
        self._inner, self._seconds = inner, config.seconds
        self.spec = replace(inner.spec, execute=config.execute or inner.spec.execute)
        if self.spec.execute > self.spec.horizon:
            raise ConfigError(f"policy 'delayed': key 'execute' is {config.execute}, but the chunks have {self.spec.horizon} rows")
        if isinstance(inner, InpaintingPolicy):
            going_on = inner

            def inpaint(observation: Observation, underway: Underway) -> Chunk:
                return self._late(lambda: going_on.inpaint(observation, underway))

            self.inpaint = inpaint
        if hasattr(inner, "observe"):
            self.observe = inner.observe  # type: ignore[attr-defined]

    @classmethod
    def load(cls, config: dict[str, Any], profile: RobotProfile, device: str = "cpu") -> DelayedPolicy:
        """Raises as the policy inside."""
        parsed = parse(DelayedConfig, config, "config/policies/delayed.yaml")
        plugin, settings = configured("whetstone.policies", parsed.inner)
        return cls(parsed, plugin.load(settings, profile, device))

    def reset(self, instruction: str, seed: int, mode: PolicyMode) -> None:
        self._inner.reset(instruction, seed, mode)

    def act(self, observation: Observation) -> Chunk:
        return self._late(lambda: self._inner.act(observation))

    def _late(self, think: Callable[[], Chunk]) -> Chunk:
        began = time.monotonic()
        chunk = think()
        time.sleep(max(0.0, self._seconds - (time.monotonic() - began)))
        return chunk

    def trainable_state(self) -> dict[str, np.ndarray]:
        return self._inner.trainable_state()

    def load_trainable_state(self, state: dict[str, np.ndarray]) -> None:
        self._inner.load_trainable_state(state)
