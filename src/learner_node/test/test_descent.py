"""Steps that have no usable gradient are skipped and counted, and too many of them end the update."""

from __future__ import annotations

import math

import pytest
import torch

from learner_node.descent import LIMIT, Descent, DivergedError


def test_a_bad_step_changes_nothing_and_the_next_one_goes_on() -> None:
    weight = torch.ones(2, requires_grad=True)
    optimiser, descent = torch.optim.SGD([weight], lr=0.1), Descent(norm=100.0)
    assert math.isnan(descent.step(optimiser, weight.sum() * math.nan, [weight]))
    # The loss is finite, its gradient is not.
    assert math.isnan(descent.step(optimiser, (weight - 1).square().sum().sqrt(), [weight]))
    assert weight.tolist() == [1, 1] and descent.skipped == 2
    assert descent.step(optimiser, (2 * weight).sum(), [weight]) == 4.0
    assert weight.tolist() == pytest.approx([0.8, 0.8]) and descent.skipped == 2


def test_the_gradient_s_norm_is_bounded() -> None:
    weight = torch.zeros(1, requires_grad=True)
    Descent(norm=1.0).step(torch.optim.SGD([weight], lr=1.0), 50 * weight.sum(), [weight])
    assert weight.item() == pytest.approx(-1.0, abs=1e-4)


def test_too_many_end_the_update() -> None:
    weight = torch.ones(1, requires_grad=True)
    optimiser, descent = torch.optim.SGD([weight], lr=0.1), Descent()
    for _ in range(LIMIT):
        descent.step(optimiser, weight.sum() * math.inf, [weight])
    with pytest.raises(DivergedError, match=f"{LIMIT + 1} steps had no usable gradient"):
        descent.step(optimiser, weight.sum() * math.inf, [weight])


def test_an_update_of_which_no_step_was_taken_has_failed() -> None:
    weight = torch.ones(1, requires_grad=True)
    optimiser, descent = torch.optim.SGD([weight], lr=0.1), Descent()
    descent.finish()
    descent.step(optimiser, weight.sum() * math.inf, [weight])
    with pytest.raises(DivergedError, match="all 1 steps"):
        descent.finish()
    descent.step(optimiser, weight.sum(), [weight])
    descent.finish()
