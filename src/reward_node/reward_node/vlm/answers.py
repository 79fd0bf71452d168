"""How likely each of a few allowed answers is, from the logits alone: no text is generated, nothing can fail to parse.

Role: a question with a closed list of answers becomes branches of a prefix, one for every point at which the answers' tokens part; all of
them share one pass. The probabilities give an expectation and an entropy where greedy decoding gives one word. Depends on torch by way of
the prefix; knows nothing of rewards.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from reward_node.vlm.layout import Segment
from reward_node.vlm.prefix import Branch, Prefix
from whetstone.errors import ConfigError


@dataclass(frozen=True)
class Judgement:
    """probabilities: (answers,) of each answer given that it is one of them; mass: nat, log-probability that the model's answer is one of
    them at all: far below 0 the question was not understood."""

    probabilities: np.ndarray
    mass: float

    @property
    def entropy(self) -> float:
        """Of the probabilities, nat: 0 certain, log(answers) clueless."""
        positive = self.probabilities[self.probabilities > 0]
        return float(-(positive * np.log(positive)).sum())


class Answers:
    """A closed list of answers, as the token trees that the model would write them in."""

    def __init__(self, tokenizer: object, texts: Sequence[str]) -> None:
        encode = tokenizer.encode  # type: ignore[attr-defined]
        self.texts = tuple(texts)
        self._tokens = [tuple(encode(text, add_special_tokens=False)) for text in texts]
        for one, tokens in zip(texts, self._tokens, strict=True):
            for other, longer in zip(texts, self._tokens, strict=True):
                if one != other and longer[: len(tokens)] == tokens:
                    raise ConfigError(f"answer '{one}' is how '{other}' begins: the model could not be told to mean the shorter one")
        # Every point at which a next token is chosen.
        self._stems = sorted({tokens[:length] for tokens in self._tokens for length in range(len(tokens))})
        self._next = sorted({token for tokens in self._tokens for token in tokens})

    def judge(self, prefix: Prefix, patches: int, question: Segment) -> Judgement:
        """Of the question asked behind `patches` patches. ValueError where the model gives values that are not numbers."""
        stems = [Segment(torch.cat([question.ids, torch.tensor(stem, dtype=torch.long)])) for stem in self._stems]
        found = prefix.extend((), [Branch(patches, (stem,)) for stem in stems], self._next)
        row, column = {stem: at for at, stem in enumerate(self._stems)}, {token: at for at, token in enumerate(self._next)}
        scores = np.array(
            [sum(found[row[tokens[:length]], column[token]] for length, token in enumerate(tokens)) for tokens in self._tokens]
        )
        if not np.isfinite(scores).all():
            raise ValueError("the language model gave a value that is not a number")
        mass = float(np.logaddexp.reduce(scores))
        return Judgement(np.exp(scores - mass), mass)
