"""Fewer bits: int8 on the CPU, nf4 by bitsandbytes on the CPU, and precisions that this machine does not have."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from reward_node.topreward import TOPReward
from reward_node.vlm import random_models
from reward_node.vlm.loading import load
from whetstone import quantisation
from whetstone.config import find, load_yaml
from whetstone.errors import AssetError, ConfigError
from whetstone.profile import load_profile

PROFILE = load_profile("franka")


@pytest.fixture(scope="module", params=[random_models.tiny_qwen3_vl, random_models.idefics3], ids=["qwen3_vl", "idefics3"])
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return request.param(tmp_path_factory.mktemp("vlm"))


@settings(deadline=None, max_examples=40)
@given(rows=st.integers(1, 40), inputs=st.integers(1, 70), outputs=st.integers(1, 50), bias=st.booleans(), seed=st.integers(0, 99))
def test_an_int8_layer_is_near_its_own(rows: int, inputs: int, outputs: int, bias: bool, seed: int) -> None:
    torch.manual_seed(seed)
    linear = nn.Linear(inputs, outputs, bias=bias)
    given = torch.randn(2, rows, inputs)
    with torch.inference_mode():
        found, wanted = quantisation.Int8Linear(linear)(given), linear(given)
    assert found.shape == wanted.shape and found.dtype == wanted.dtype
    # Half a step of each factor, against the largest of the other.
    step = given.abs().amax(-1, keepdim=True) / 127 * linear.weight.abs().sum(1) / 2
    step = step + given.abs().sum(-1, keepdim=True) * linear.weight.abs().amax(1) / 127 / 2
    assert ((found - wanted).abs() <= 1.02 * step + 1e-5).all()


def test_int8_leaves_vision_and_head_alone(folder: Path) -> None:
    whole = load(str(folder), "float32", "cpu", "the test", "franka")
    small = load(str(folder), "int8", "cpu", "the test", "franka")
    names = [name for name, part in small.model.named_modules() if isinstance(part, quantisation.Int8Linear)]
    assert len(names) > 10 and not any("vis" in name or "connector" in name or "lm_head" in name for name in names)
    linear = [
        name
        for name, part in whole.model.named_modules()
        if isinstance(part, nn.Linear) and ("language_model" in name or "text_model" in name)
    ]
    assert sorted(names) == sorted(linear)
    assert small.memory < whole.memory and small.revision == whole.revision


@pytest.mark.parametrize("precision", ["int8", "nf4"])
def test_topreward_runs_in_fewer_bits_and_says_so(folder: Path, precision: str) -> None:
    """Streaming and whole episodes are still one score; the provenance tells the precisions apart, so a calibration map does too."""

    def scores(dtype: str) -> tuple[list[float], list[float], str]:
        data = load_yaml(find("rewards", "topreward_qwen3_vl"))
        reward = TOPReward.load({**data, "model": str(folder), "image_size": [32, 32], "dtype": dtype}, PROFILE)
        random = np.random.default_rng(0)
        clip: list[Any] = [{"front": random.integers(0, 256, (32, 32, 3), dtype=np.uint8)} for _ in range(5)]
        reward.reset("a", "move", 0)
        live = [reward.observe(images, index).raw for index, images in enumerate(clip)]
        reward.reset("a", "move", 0)
        return live, [sample.raw for sample in reward.score_episode(clip, list(range(5)))], reward.provenance.model_id

    live, whole, identity = scores(precision)
    plain, _, other = scores("float32")
    # Each row is rounded by itself, so the passes may be cut as they like.
    assert live == pytest.approx(whole, abs=1e-3)
    assert live != plain and identity.endswith(precision) and other.endswith("float32")


def test_layers_that_are_no_whole_blocks_run_in_nf4_on_cpus_that_pack_them(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bitsandbytes.nn.modules.has_avx512bf16", lambda: True)
    model = load(str(folder), "nf4", "cpu", "the test", "franka").model
    layers = [layer for layer in model.modules() if hasattr(layer, "support_avx512bf16_for_cpu")]
    assert layers and not any(layer.support_avx512bf16_for_cpu for layer in layers if layer.in_features % 64 or layer.out_features % 32)


def test_what_this_machine_cannot_do_is_said(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if not torch.cuda.is_available():
        with pytest.raises(ConfigError, match="no CUDA GPU that torch sees; use device:=cpu"):
            load(str(folder), "nf4", "cuda", "the test", "franka")
    with pytest.raises(ConfigError, match="nf4 is for models of billions of weights"):
        load("pocket", "nf4", "cpu", "the test", "franka")
    monkeypatch.setattr(torch, "_int_mm", lambda *_: torch.ones(5, 48, dtype=torch.int32))
    with pytest.raises(AssetError, match="wrong products on this CPU; use dtype: float32"):
        load(str(folder), "int8", "cpu", "the test", "franka")
