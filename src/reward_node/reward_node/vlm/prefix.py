"""Exact questions about every prefix of a video, at the price of the video once.

Role: keeps a language model's keys and values of a growing video and lets questions branch off from any point of it. A question sees
the head and the patches up to that point, and itself, at the positions it would have had right behind them: its answer is that of the
prefix scored from scratch. One mechanism serves streaming (append a patch, ask, forget the question), whole episodes (append all, ask
about every prefix in a few passes), several instructions over one video, and the videos of several robots in one pass. Depends on
torch; knows nothing of rewards or ROS.

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

from reward_node.vlm.cache import GrowingCache, JoinedCache
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
        self.cache = GrowingCache(text.num_hidden_layers)
        self.places: list[Place] = []
        self.clear()

    @property
    def patches(self) -> int:
        return len(self.places) - 1

    def clear(self) -> None:
        """An empty video: the head alone."""
        self.cache.truncate(0)
        self.places = []
        self._pass([self.layout.head()], [], [])

    def truncate(self, patches: int) -> None:
        """Forget all patches from number `patches` on."""
        del self.places[patches + 1 :]
        self.cache.truncate(self.places[-1].tokens)

    def extend(self, patches: Sequence[Segment] = (), branches: Sequence[Branch] = (), tokens: Sequence[int] = ()) -> np.ndarray:
        """Patches behind those that are there, then questions, in as few passes as fit: a patch and its questions share one.

        Returns (branches, tokens) float64: log-probabilities, in nat over the whole vocabulary, of each of `tokens` behind each branch.
        """
        groups = list(_groups(branches, self._limit))
        needed = sum(len(one.ids) for one in patches) + sum(one.tokens for one in groups[0]) if groups else 0
        if patches and (not groups or needed > self._limit):
            self._pass(patches, [], tokens)
            patches = ()
        answers = [np.empty((0, len(tokens)))]
        for group in groups:
            answers.append(self._pass(patches, group, tokens))
            patches = ()
        return np.concatenate(answers)

    def _pass(self, patches: Sequence[Segment], branches: Sequence[Branch], tokens: Sequence[int]) -> np.ndarray:
        return together([Work(self, patches, branches)], tokens)[0]

    @torch.inference_mode()
    def generate(self, question: Segment, limit: int, stop: Sequence[int]) -> list[int]:
        """Greedy answer to a question behind the last patch: at most `limit` tokens, without the one of `stop` that ended it."""
        kept, place, segment = self.places[-1].tokens, self.places[-1], question
        written: list[int] = []
        try:
            while len(written) < limit:
                positions, place = self.place(segment, place)
                self.counters["tokens"] += len(segment.ids)
                token = int(_forward(self.model, self.layout, self.cache, [segment], positions, None, [])[-1].argmax())
                if token in stop:
                    break
                written.append(token)
                segment = Segment(torch.tensor([token]))
        finally:
            self.cache.truncate(kept)
        return written

    def place(self, segment: Segment, place: Place) -> tuple[torch.Tensor, Place]:
        """Positions of a segment that stands at `place`, and the place behind it."""
        positions = self.layout.positions(segment, place.position)
        return positions, Place(place.tokens + len(segment.ids), int(positions.max()) + 1)


@dataclass(frozen=True)
class Work:
    """What a pass does for one video: patches behind those that are there, then questions."""

    prefix: Prefix
    patches: Sequence[Segment] = ()
    branches: Sequence[Branch] = ()


@torch.inference_mode()
def together(works: Sequence[Work], tokens: Sequence[int]) -> list[np.ndarray]:
    """One pass over the videos of several prefixes of one model and layout, which do not see each other.

    Returns for each (branches, tokens), as Prefix.extend. What was there before is whole even if the pass fails half-way, of memory for
    example.
    """
    laid = [_lay(work) for work in works]
    first, caches = works[0].prefix, [work.prefix.cache for work in works]
    offsets = np.cumsum([0, *(one.count for one in laid)])
    ends = [int(offset) + end for offset, one in zip(offsets, laid, strict=False) for end in one.ends]
    # A single video without questions is plainly causal: it needs no mask over all pairs of tokens.
    masked = len(works) > 1 or works[0].branches
    seen = torch.block_diag(*(_seen(one, work.branches) for one, work in zip(laid, works, strict=True))) if masked else None
    cache = JoinedCache(caches, [one.count for one in laid]) if len(works) > 1 else caches[0]
    segments = [segment for one in laid for segment in one.segments]
    positions = torch.cat([found for one in laid for found in one.positions], dim=1)
    try:
        logits = _forward(first.model, first.layout, cache, segments, positions, seen, ends)
    except BaseException:
        for one, held in zip(laid, caches, strict=True):
            held.truncate(one.before)
        raise
    for one, work in zip(laid, works, strict=True):
        work.prefix.places = one.places
        work.prefix.cache.truncate(one.places[-1].tokens)
        work.prefix.counters["tokens"] += one.count
    answers = _log_probabilities(logits, tokens) if ends else np.empty((0, len(tokens)))
    return np.split(answers, np.cumsum([len(one.ends) for one in laid])[:-1])


@dataclass(frozen=True)
class _Laid:
    """The tokens of one Work. before: in the cache; count: new ones; ends: of those, each branch's last; places: behind the patches that
    there will be; segments and positions: of the new tokens."""

    before: int
    count: int
    ends: list[int]
    places: list[Place]
    segments: list[Segment]
    positions: list[torch.Tensor]


def _lay(work: Work) -> _Laid:
    places, positions, prefix = list(work.prefix.places), [], work.prefix
    before = places[-1].tokens if places else 0
    for segment in work.patches:
        found, place = prefix.place(segment, places[-1] if places else Place(0, 0))
        positions.append(found)
        places.append(place)
    for branch in work.branches:
        place = places[branch.patches]
        for segment in branch.segments:
            found, place = prefix.place(segment, place)
            positions.append(found)
    segments = [*work.patches, *(segment for branch in work.branches for segment in branch.segments)]
    sums = np.cumsum([places[-1].tokens - before, *(branch.tokens for branch in work.branches)])
    return _Laid(before, int(sums[-1]), (sums[1:] - 1).tolist(), places, segments, positions)


def _forward(
    model: Any, layout: Layout, cache: Any, segments: Sequence[Segment], positions: torch.Tensor, seen: torch.Tensor | None, ends: list[int]
) -> torch.Tensor:
    """Logits (ends, vocabulary) behind the tokens `ends`. seen: (new tokens, all tokens) bool, None: causal."""
    mask = None
    if seen is not None:
        hidden = torch.full(seen.shape, torch.finfo(model.dtype).min, dtype=model.dtype)
        mask = hidden.masked_fill(seen, 0.0)[None, None].to(model.device)
    keep = torch.tensor(ends, device=model.device) if ends else 1
    arguments = _arguments(model, _whole(layout, segments), positions)
    return model(attention_mask=mask, past_key_values=cache, use_cache=True, logits_to_keep=keep, **arguments).logits[0]


@torch.inference_mode()
def from_scratch(model: Any, layout: Layout, segments: Sequence[Segment], tokens: Sequence[int]) -> np.ndarray:
    """(tokens,) log-probabilities behind a whole prompt, without cache or mask: the reference that Prefix equals, and the naive way."""
    whole = _whole(layout, segments)
    logits = model(use_cache=False, logits_to_keep=1, **_arguments(model, whole, layout.positions(whole, 0))).logits[0]
    return _log_probabilities(logits, tokens)[0]


def _seen(laid: _Laid, branches: Sequence[Branch]) -> torch.Tensor:
    """(new tokens, all tokens of the video) bool: new patches see all before them, a branch the prefix it stands behind, and all see what
    precedes them among their own."""
    row = laid.places[-1].tokens - laid.before
    seen = torch.zeros(laid.count, laid.before + laid.count, dtype=torch.bool)
    seen[:row] = True
    for branch in branches:
        end = row + branch.tokens
        seen[row:end, : laid.places[branch.patches].tokens] = True
        seen[row:end, laid.before + row : laid.before + end] = True
        row = end
    return seen & torch.ones_like(seen).tril(laid.before)


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
