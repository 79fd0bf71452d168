"""The card beside a model's weights: what it is, how it was made, what it is worth, what it cannot do.

Role: one form for every trainer, with a place for figures that only the honesty suite fills. Does not depend on torch or ROS.
"""

from __future__ import annotations

from pathlib import Path

from whetstone.errors import InputError

_BEGIN, _END = "<!-- figures -->", "<!-- end of figures -->"


def write(path: Path, title: str, what: str, made: str, limits: str) -> None:
    """A card without figures: those of older weights do not hold for these."""
    figures = "**Held-out figures.** None yet: `whetstone evaluate-reward` fills them in, given `card:=` and the path of this file."
    path.parent.mkdir(parents=True, exist_ok=True)
    parts = (f"# {title}", f"**What it is.** {what}", f"**Made by** {made}", f"{_BEGIN}\n{figures}\n{_END}", f"**Limits.** {limits}")
    path.write_text("\n\n".join(parts) + "\n", encoding="utf-8")


def check(path: Path) -> None:
    """InputError where `fill` could not work."""
    _parts(path)


def fill(path: Path, figures: str) -> None:
    """Put the figures in their place. InputError where there is no card or it has no place for them."""
    before, after = _parts(path)
    path.write_text(f"{before}{_BEGIN}\n{figures}\n{_END}{after}", encoding="utf-8")


def _parts(path: Path) -> tuple[str, str]:
    if not path.is_file():
        raise InputError(f"card {path}: no such file; the trainer writes it beside the weights")
    before, begin, rest = path.read_text(encoding="utf-8").partition(_BEGIN)
    _, end, after = rest.partition(_END)
    if not (begin and end):
        raise InputError(f"card {path}: has no place for figures; put the lines '{_BEGIN}' and '{_END}' where they belong")
    return before, after
