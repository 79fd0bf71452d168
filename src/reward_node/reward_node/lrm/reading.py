"""From the text that a model wrote to one of the allowed answers.

Role: JSON first, then the first allowed answer that stands in the text as a word of its own; None where there is neither. Pure.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping


def read(text: str, answers: Mapping[str, float]) -> float | None:
    """The value of the answer that `text` gives: the only value of a JSON object, else the first word or number that is an answer."""
    for start in (match.start() for match in re.finditer(r"\{", text)):
        try:
            values = list(json.JSONDecoder().raw_decode(text[start:])[0].values())
        except ValueError:
            continue
        if len(values) == 1 and (value := _match(values[0], answers)) is not None:
            return value
    for word in re.findall(r"[A-Za-z_]+|-?\d+(?:\.\d+)?", text):
        if (value := _match(word, answers)) is not None:
            return value
    return None


def _match(value: object, answers: Mapping[str, float]) -> float | None:
    """true and "True" are one answer, and so are 1, "1" and "1.0"."""
    text = str(value).strip().lower()
    for answer, meaning in answers.items():
        if text == answer.strip().lower() or (_number(text) is not None and _number(text) == _number(answer)):
            return meaning
    return None


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None
