"""A policy that takes its time is the policy inside, later."""

from __future__ import annotations

import time

import numpy as np
import pytest
from small_flow_vla import observation, small

from policy_node.delayed import DelayedConfig, DelayedPolicy
from whetstone.contracts import InpaintingPolicy
from whetstone.errors import ConfigError


class Plain:
    """A policy that cannot go on from another chunk."""

    def __init__(self, inner) -> None:
        self.spec, self.act, self.reset = inner.spec, inner.act, inner.reset


def test_it_acts_as_the_policy_inside_and_no_sooner_than_it_says() -> None:
    late, plain = DelayedPolicy(DelayedConfig(seconds=0.05, execute=4), small()), small()
    assert late.spec.execute == 4 and late.spec.horizon == plain.spec.horizon
    for policy in (late, plain):
        policy.reset("go", 1, "sampled")
    began = time.monotonic()
    chunk = late.act(observation())
    assert time.monotonic() - began >= 0.05
    np.testing.assert_array_equal(chunk.actions, plain.act(observation()).actions)


def test_it_goes_on_from_a_chunk_where_the_policy_inside_does() -> None:
    inner = small()
    assert isinstance(DelayedPolicy(DelayedConfig(), inner), InpaintingPolicy)
    assert not isinstance(DelayedPolicy(DelayedConfig(), Plain(inner)), InpaintingPolicy)  # type: ignore[arg-type]


def test_more_rows_than_a_chunk_has_are_refused() -> None:
    with pytest.raises(ConfigError, match="'execute' is 99, but the chunks have"):
        DelayedPolicy(DelayedConfig(execute=99), small())
