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
        # Every point at which a next token is chosen, and what may be chosen.
        self.stems = sorted({tokens[:length] for tokens in self._tokens for length in range(len(tokens))})
        self.next = sorted({token for tokens in self._tokens for token in tokens})

    def read(self, found: np.ndarray) -> Judgement:
        """From the log-probabilities (stems, next), nat. ValueError where they are not numbers."""
        row, column = {stem: at for at, stem in enumerate(self.stems)}, {token: at for at, token in enumerate(self.next)}
        scores = np.array(
            [sum(found[row[tokens[:length]], column[token]] for length, token in enumerate(tokens)) for tokens in self._tokens]
        )
        if not np.isfinite(scores).all():
            raise ValueError("the language model gave a value that is not a number")
        mass = float(np.logaddexp.reduce(scores))
        return Judgement(np.exp(scores - mass), mass)


def judge(prefix: Prefix, patches: Sequence[Segment], questions: Sequence[tuple[Answers, Segment]]) -> list[Judgement]:
    """Of each question, asked behind `patches` that are added to the prefix, all in one pass. ValueError where the model gives values
    that are not numbers."""
    behind = prefix.patches + len(patches)
    branches = [
        Branch(behind, (Segment(torch.cat([question.ids, torch.tensor(stem, dtype=torch.long)])),))
        for answers, question in questions
        for stem in answers.stems
    ]
    tokens = sorted({token for answers, _ in questions for token in answers.next})
    found, judgements, row = prefix.extend(patches, branches, tokens), [], 0
    for answers, _ in questions:
        columns = [tokens.index(token) for token in answers.next]
        judgements.append(answers.read(found[row : row + len(answers.stems), columns]))
        row += len(answers.stems)
    return judgements
