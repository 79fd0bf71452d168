"""Exact questions about every prefix of a video, at the price of the video once.

Role: keeps a language model's keys and values of a growing video and lets questions branch off from any point of it. A question sees
the head and the patches up to that point, and itself, at the positions it would have had right behind them: its answer is that of the
prefix scored from scratch. One mechanism serves streaming (append a patch, ask, forget the question), whole episodes (append all, ask
about every prefix in a few passes) and several instructions over one video. Depends on torch; knows nothing of rewards or ROS.

Why this is exact: the language model is causal and the vision tower looks at one patch at a time, so what a patch leaves in the cache
does not depend on what follows. (TOPReward, arXiv 2602.19313, caches a prefix whose last tokens belong to another question: up to
1.1 nat off.) Models whose layers slide a window or whose vision tower looks across patches do not fit and are refused.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from reward_node.vlm.cache import GrowingCache
from reward_node.vlm.layout import Layout, Segment
from whetstone.errors import ConfigError


@dataclass(frozen=True)
class Place:
    """A point between two segments: tokens before it, and the position of the token behind it."""

    tokens: int
    position: int


@dataclass(frozen=True)
class Branch:
    """Segments that are asked right behind patch number `patches` (0: behind the head) and then forgotten."""

    patches: int
    segments: tuple[Segment, ...]

    @property
    def tokens(self) -> int:
        return sum(len(segment.ids) for segment in self.segments)


class Prefix:
    """A video in a language model's cache.

    tokens: of branches that are asked in one pass; more take more memory, fewer more passes. counters: its "tokens" are those that went
    through the model so far.
    """

    def __init__(self, model: Any, layout: Layout, tokens: int = 1024, counters: dict[str, int] | None = None) -> None:
        text = model.config.get_text_config()
        kinds = set(getattr(text, "layer_types", None) or ["full_attention"])
        if kinds != {"full_attention"}:
            raise ConfigError(
                f"model '{text.model_type}' has layers of {', '.join(sorted(kinds))}: only full attention can be cached exactly"
            )
        self.model, self.layout = model, layout
        self._limit = tokens
        self.counters = {} if counters is None else counters
        self.counters.setdefault("tokens", 0)
        self._cache = GrowingCache(text.num_hidden_layers)
        self._places: list[Place] = []
        self.clear()

    @property
    def patches(self) -> int:
        return len(self._places) - 1

    def clear(self) -> None:
        """An empty video: the head alone."""
        self._cache.truncate(0)
        self._places = []
        self._pass([self.layout.head()], [], [])

    def truncate(self, patches: int) -> None:
        """Forget all patches from number `patches` on."""
        del self._places[patches + 1 :]
        self._cache.truncate(self._places[-1].tokens)

    def extend(self, patches: Sequence[Segment] = (), branches: Sequence[Branch] = (), tokens: Sequence[int] = ()) -> np.ndarray:
        """Patches behind those that are there, then questions, in as few passes as fit: a patch and its questions share one.

        Returns (branches, tokens) float64: log-probabilities, in nat over the whole vocabulary, of each of `tokens` behind each branch.
        """
        groups = list(_groups(branches, self._limit))
        together = sum(len(one.ids) for one in patches) + sum(one.tokens for one in groups[0]) if groups else 0
        if patches and (not groups or together > self._limit):
            # A pass without branches needs no mask over all pairs of tokens.
            self._pass(patches, [], tokens)
            patches = ()
        answers = [np.empty((0, len(tokens)))]
        for group in groups:
            answers.append(self._pass(patches, group, tokens))
            patches = ()
        return np.concatenate(answers)

    @torch.inference_mode()
    def _pass(self, patches: Sequence[Segment], branches: Sequence[Branch], tokens: Sequence[int]) -> np.ndarray:
        """One pass of the model. What was there before is whole even if it fails half-way, of memory for example."""
        before = self._places[-1].tokens if self._places else 0
        places, positions = list(self._places), []
        for segment in patches:
            found, place = self._place(segment, places[-1] if places else Place(0, 0))
            positions.append(found)
            places.append(place)
        for branch in branches:
            place = places[branch.patches]
            for segment in branch.segments:
                found, place = self._place(segment, place)
                positions.append(found)
        segments = [*patches, *(segment for branch in branches for segment in branch.segments)]
        kept = places[-1].tokens
        ends = np.cumsum([kept - before, *(branch.tokens for branch in branches)])[1:] - 1
        seen = _seen(before, kept, branches, places) if branches else None
        try:
            logits = self._forward(segments, torch.cat(positions, dim=1), seen, ends.tolist())
        except BaseException:
            self._cache.truncate(before)
            raise
        self._places = places
        self._cache.truncate(kept)
        return _log_probabilities(logits, tokens) if branches else np.empty((0, len(tokens)))

    @torch.inference_mode()
    def generate(self, question: Segment, limit: int, stop: Sequence[int]) -> list[int]:
        """Greedy answer to a question behind the last patch: at most `limit` tokens, without the one of `stop` that ended it."""
        kept, place, segment = self._places[-1].tokens, self._places[-1], question
        written: list[int] = []
        try:
            while len(written) < limit:
                positions, place = self._place(segment, place)
                token = int(self._forward([segment], positions, None, [])[-1].argmax())
                if token in stop:
                    break
                written.append(token)
                segment = Segment(torch.tensor([token]))
        finally:
            self._cache.truncate(kept)
        return written

    def _place(self, segment: Segment, place: Place) -> tuple[torch.Tensor, Place]:
        """Positions of a segment that stands at `place`, and the place behind it."""
        positions = self.layout.positions(segment, place.position)
        return positions, Place(place.tokens + len(segment.ids), int(positions.max()) + 1)

    def _forward(self, segments: Sequence[Segment], positions: torch.Tensor, seen: torch.Tensor | None, ends: list[int]) -> torch.Tensor:
        """Logits (ends, vocabulary) behind the tokens `ends`. seen: (new tokens, all tokens) bool, None: causal."""
        dtype, mask = self.model.dtype, None
        if seen is not None:
            hidden = torch.full(seen.shape, torch.finfo(dtype).min, dtype=dtype)
            mask = hidden.masked_fill(seen, 0.0)[None, None].to(self.model.device)
        self.counters["tokens"] += sum(len(segment.ids) for segment in segments)
        keep = torch.tensor(ends, device=self.model.device) if ends else 1
        arguments = _arguments(self.model, _whole(self.layout, segments), positions)
        return self.model(attention_mask=mask, past_key_values=self._cache, use_cache=True, logits_to_keep=keep, **arguments).logits[0]


@torch.inference_mode()
def from_scratch(model: Any, layout: Layout, segments: Sequence[Segment], tokens: Sequence[int]) -> np.ndarray:
    """(tokens,) log-probabilities behind a whole prompt, without cache or mask: the reference that Prefix equals, and the naive way."""
    whole = _whole(layout, segments)
    logits = model(use_cache=False, logits_to_keep=1, **_arguments(model, whole, layout.positions(whole, 0))).logits[0]
    return _log_probabilities(logits, tokens)[0]


def _seen(before: int, kept: int, branches: Sequence[Branch], places: Sequence[Place]) -> torch.Tensor:
    """(new tokens, all tokens) bool: new patches see all before them, a branch the prefix it stands behind, and all see what precedes
    them among their own. before: tokens in the cache, kept: with the new patches."""
    row = kept - before
    count = row + sum(branch.tokens for branch in branches)
    seen = torch.zeros(count, before + count, dtype=torch.bool)
    seen[:row] = True
    for branch in branches:
        end = row + branch.tokens
        seen[row:end, : places[branch.patches].tokens] = True
        seen[row:end, before + row : before + end] = True
        row = end
    return seen & torch.ones_like(seen).tril(before)


def _whole(layout: Layout, segments: Sequence[Segment]) -> Segment:
    return Segment(torch.cat([segment.ids for segment in segments]), layout.join(segments))


def _arguments(model: Any, segment: Segment, positions: torch.Tensor) -> dict[str, torch.Tensor]:
    """Of the model's forward; M-RoPE positions are (axes, batch, n), others (batch, n)."""
    visual = {name: value.to(model.dtype) if value.is_floating_point() else value for name, value in segment.visual.items()}
    arguments = {"input_ids": segment.ids[None], "position_ids": positions if len(positions) == 1 else positions[:, None], **visual}
    return {name: value.to(model.device) for name, value in arguments.items()}


def _log_probabilities(logits: torch.Tensor, tokens: Sequence[int]) -> np.ndarray:
    """(rows, vocabulary) -> (rows, tokens) float64, nat."""
    return logits.double().log_softmax(dim=-1)[:, list(tokens)].cpu().numpy()


def _groups(branches: Sequence[Branch], limit: int) -> Iterator[list[Branch]]:
    """Runs of branches of at most `limit` tokens together, or of one longer branch."""
    group: list[Branch] = []
    for branch in branches:
        if group and sum(one.tokens for one in group) + branch.tokens > limit:
            yield group
            group = []
        group.append(branch)
    if group:
        yield group
