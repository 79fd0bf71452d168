"""Real-time chunking: weights as the paper has them, and a flow that is led to what the arm does anyway."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from policy_node.real_time_chunking import inpaint, prefix_weights


def test_the_weights_are_equation_5() -> None:
    weights = prefix_weights(10, 2, 6)
    assert weights[:2].tolist() == [1, 1]
    for row in range(2, 6):
        share = (6 - row) / (6 - 2 + 1)
        assert weights[row] == pytest.approx(share * (math.exp(share) - 1) / (math.e - 1))
    assert weights[6:].tolist() == [0, 0, 0, 0]


@given(st.data())
def test_weights_never_rise_and_stay_in_bounds(data: st.DataObject) -> None:
    horizon = data.draw(st.integers(1, 30))
    overlap = data.draw(st.integers(0, horizon))
    weights = prefix_weights(horizon, data.draw(st.integers(0, overlap)), overlap)
    assert ((weights >= 0) & (weights <= 1)).all()
    assert (np.diff(weights) <= 1e-12).all()


@pytest.mark.parametrize(("delay", "overlap"), [(3, 2), (-1, 2), (1, 9)])
def test_impossible_prefixes_are_refused(delay: int, overlap: int) -> None:
    with pytest.raises(ValueError, match="delay"):
        prefix_weights(8, delay, overlap)


def _to(mean: torch.Tensor, deviation: float):
    """The exact flow from unit noise to a Gaussian: E[chunk - noise | point]."""

    def flow(points: torch.Tensor, time: torch.Tensor) -> torch.Tensor:
        t = time[:, None]
        variance = (1 - t) ** 2 + t**2 * deviation**2
        return mean + (t * deviation**2 - (1 - t)) / variance * (points - t * mean)

    return flow


def test_without_weights_it_is_the_flow_itself() -> None:
    mean, noise = torch.tensor([2.0, -1.0]), torch.randn(5, 2, generator=torch.Generator().manual_seed(1))
    flow = _to(mean, 0.3)
    plain = noise
    for step in range(20):
        plain = plain + flow(plain, torch.full((5,), step / 20)) / 20
    assert torch.allclose(inpaint(flow, noise, torch.full((5, 2), 9.0), torch.zeros(2), 20), plain)


def test_what_is_wanted_is_reached_where_it_weighs_and_free_elsewhere() -> None:
    mean, noise = torch.zeros(2), torch.randn(200, 2, generator=torch.Generator().manual_seed(2))
    wanted = torch.tensor([0.8, 5.0]).expand(200, -1)
    led = inpaint(_to(mean, 1.0), noise, wanted, torch.tensor([1.0, 0.0]), 20)
    assert (led[:, 0] - 0.8).abs().max() < 0.35  # every one of them, from wherever it came
    assert led[:, 1].mean().abs() < 0.2 and led[:, 1].std() == pytest.approx(1.0, abs=0.2)


def test_rows_that_belong_together_are_led_together() -> None:
    """Inpainting's point: what is not held goes on from what is."""
    mean = torch.zeros(2)

    def tied(points: torch.Tensor, time: torch.Tensor) -> torch.Tensor:
        """To chunks whose two numbers are nearly the same."""
        t = time[:, None]
        along, across = points.mean(-1, keepdim=True), points - points.mean(-1, keepdim=True)
        spread = (1 - t) ** 2
        return (t - (1 - t)) / (spread + t**2) * along + (t * 1e-4 - (1 - t)) / (spread + t**2 * 1e-4) * across + mean

    noise = torch.randn(200, 2, generator=torch.Generator().manual_seed(3))
    led = inpaint(tied, noise, torch.tensor([1.5, 0.0]).expand(200, -1), torch.tensor([1.0, 0.0]), 50)
    assert led[:, 1].mean() == pytest.approx(1.5, abs=0.3)


def test_a_flow_with_steep_gradients_is_not_thrown_away() -> None:
    def steep(points: torch.Tensor, time: torch.Tensor) -> torch.Tensor:
        return -points + 0.2 * torch.sin(200 * points)

    noise = torch.zeros(4, 3)
    led = inpaint(steep, noise, torch.ones(4, 3), torch.ones(3), 5)
    assert led.abs().max() < 4  # gradients of 40: without a bound it ends hundreds away
