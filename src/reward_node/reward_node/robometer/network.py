"""Robometer's network: Qwen3-VL without its vocabulary, a head for progress and a head for success.

Role: builds it from the folder of a checkpoint, and answers like a language model, so that vlm/prefix.py can cache its video. Depends on
torch and transformers; knows nothing of frames, prompts or rewards.

Read in the published code (robometer/robometer, LeRobot's port of it), not tried on the published weights:
- Both heads are Linear(d, d/2), LayerNorm, GELU, dropout, Linear, on the last layer's normalised hidden state. Weights are named
  `progress_head.{0,1,4}` and `success_head.{0,1,4}`; `preference_head` and `frame_pool_attn` beside them serve training and other modes.
- The body is named `model.*` there, `model.model.*` (with a vocabulary head) in LeRobot's port; whatever stands before
  `language_model.embed_tokens.weight` is taken for its name.
- Progress has 10 outputs, log-odds of values evenly spaced from 0 to 1, in Robometer-4B; 1 output is the logit of progress itself.
- Five tokens were added to the base model's vocabulary, in the order of `ADDED`. The checkpoint must have been trained to answer behind
  the last of them (`use_per_frame_progress_token`): its weights do not tell.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from whetstone.errors import AssetError
from whetstone.quantisation import Precision, finish, loading_arguments

ADDED = ("<|split_token|>", "<|reward_token|>", "<|pref_token|>", "<|sim_token|>", "<|prog_token|>")
"""Tokens of Robometer's own; behind the last one the heads are read."""

_ANCHOR = "language_model.embed_tokens.weight"


@dataclass(frozen=True)
class Reading:
    """progress: expected value in [0, 1]; success: probability; odds: of it, log, nat; entropy: of progress, nat, NaN where progress is
    one number and not a distribution."""

    progress: float
    success: float
    odds: float
    entropy: float


@dataclass(frozen=True)
class _Output:
    logits: torch.Tensor


class RobometerNetwork(torch.nn.Module):
    """A language model whose vocabulary is what the heads say: logits (..., bins + 2) of the progress values, of success, and a zero.

    The zero keeps differences of log-probabilities readable as logits: read() has the heads' own values again.
    """

    def __init__(self, body: Any, progress: torch.nn.Module, success: torch.nn.Module, bins: int) -> None:
        super().__init__()
        self.model, self.progress_head, self.success_head, self.bins = body, progress, success, bins
        self.config = body.config

    @property
    def device(self) -> torch.device:
        return self.model.device

    @property
    def dtype(self) -> torch.dtype:
        return self.model.dtype

    def forward(self, logits_to_keep: torch.Tensor | int = 0, **arguments: Any) -> _Output:
        """As a language model of transformers: logits_to_keep: indices of tokens, or how many of the last, 0: all."""
        hidden = self.model(**arguments).last_hidden_state
        kept = hidden[:, slice(-logits_to_keep, None) if isinstance(logits_to_keep, int) else logits_to_keep]
        success = self.success_head(kept)
        return _Output(torch.cat([self.progress_head(kept), success, torch.zeros_like(success)], dim=-1))

    def read(self, found: Iterable[float]) -> Reading:
        """From the log-probabilities (bins + 2,), nat. ValueError where they are not numbers."""
        logits = torch.tensor(list(found), dtype=torch.float64)
        if not torch.isfinite(logits).all():
            raise ValueError("the reward model gave a value that is not a number")
        logits = logits - logits[-1]
        odds = logits[-2]
        if self.bins == 1:
            return Reading(float(logits[0].sigmoid()), float(odds.sigmoid()), float(odds), float("nan"))
        share = logits[: self.bins].softmax(dim=0)
        value = share @ torch.linspace(0, 1, self.bins, dtype=torch.float64)
        return Reading(float(value), float(odds.sigmoid()), float(odds), float(torch.special.entr(share).sum()))


def build(folder: Path, precision: Precision, device: str) -> RobometerNetwork:
    """From config.json and all *.safetensors of `folder`. AssetError where a weight is missing; what transformers raises where they do not
    fit."""
    from safetensors.torch import load_file
    from transformers import Qwen3VLConfig, Qwen3VLModel

    weights: dict[str, torch.Tensor] = {}
    for file in sorted(folder.glob("*.safetensors")):
        weights |= load_file(file)
    anchor = next((name for name in weights if name.endswith(_ANCHOR)), None)
    if anchor is None:
        raise AssetError(f"model '{folder}': no weight is named '*{_ANCHOR}'; is it a Robometer on Qwen3-VL?")
    name = anchor.removesuffix(_ANCHOR)
    data = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    config: Any = Qwen3VLConfig.from_dict(data.get("vlm_config") or data)  # LeRobot's keeps it in there
    # The vocabulary was cut to the tokenizer's; not every config.json says so.
    config.text_config.vocab_size = len(weights[anchor])
    parts = (f"{name}language_model.", f"{name}visual.")
    loading: Any = Qwen3VLModel.from_pretrained(
        None,
        config=config,
        state_dict={key.removeprefix(name): value for key, value in weights.items() if key.startswith(parts)},
        output_loading_info=True,
        **loading_arguments(precision, device),
    )
    body, loaded = loading
    if loaded["missing_keys"]:
        raise AssetError(f"model '{folder}': weight '{name}{sorted(loaded['missing_keys'])[0]}' is missing; download it again")
    progress, success = (_head(weights, head, folder).to(device, body.dtype) for head in ("progress_head", "success_head"))
    body = finish(body, precision, device)
    return RobometerNetwork(body, progress, success, len(weights["progress_head.4.weight"])).eval()


def _head(weights: dict[str, torch.Tensor], name: str, folder: Path) -> torch.nn.Sequential:
    found = {key.removeprefix(f"{name}."): value for key, value in weights.items() if key.startswith(f"{name}.")}
    missing = [key for key in ("0.weight", "0.bias", "1.weight", "1.bias", "4.weight", "4.bias") if key not in found]
    if missing:
        raise AssetError(f"model '{folder}': weight '{name}.{missing[0]}' is missing; only a Robometer checkpoint has it")
    half, size = found["0.weight"].shape
    head = torch.nn.Sequential(
        torch.nn.Linear(size, half),
        torch.nn.LayerNorm(half),
        torch.nn.GELU(),
        torch.nn.Dropout(),
        torch.nn.Linear(half, len(found["4.weight"])),
    )
    head.load_state_dict(found)
    return head
