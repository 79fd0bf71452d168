"""From the text that a model wrote to one percentage for every picture.

Role: lines that begin with a picture's number, in any order, whatever word stands before the number and whatever is said before the
percentage. All or nothing: a picture without an answer, or with two, makes the whole text unreadable. Pure.
"""

from __future__ import annotations

import re
from itertools import zip_longest

_LINE = re.compile(r"^[^\w\n]*(?:[^\W\d_]+[^\w\n]*)?(\d+)[^\w\n]*?[:.)]", re.MULTILINE)
"""`Picture 3:`, `**Frame 3:**`, `3.` or `- 3)` at the beginning of a line."""
_PERCENT = re.compile(r"(-?\d+(?:\.\d+)?)\s*%")


def read(text: str, count: int) -> list[float] | None:
    """(count,) shares in [0, 1] of pictures 1 to `count`; None where not every one of them has one answer from 0 % to 100 %.

    A picture's answer is the last percentage before the next picture's line.
    """
    lines = list(_LINE.finditer(text))
    found: dict[int, float] = {}
    for line, after in zip_longest(lines, lines[1:]):
        end = after.start() if after else len(text)
        percentages = _PERCENT.findall(text, line.end(), end)
        number, value = int(line[1]), float(percentages[-1]) / 100.0 if percentages else -1.0
        if number in found or not 0.0 <= value <= 1.0:
            return None
        found[number] = value
    return [found[number] for number in range(1, count + 1)] if set(found) == set(range(1, count + 1)) else None
