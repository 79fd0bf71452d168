"""Small charts as inline SVG.

Role: the drawings of the report: rates with intervals as bars, series over iterations as lines. Pure text, no plotting
library, colours from the page's style sheet (classes series0, series1 ...), readable without colour by label and dash.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from html import escape

_DASHES = ("", "6 4", "2 3", "9 3 2 3")


def bars(items: Sequence[tuple[str, float, float, float]], *, alt: str, width: int = 640) -> str:
    """Horizontal bars of fractions. items: (label, value, low, high), all in [0, 1]."""
    left, right, row = 190, 74, 38
    span, height = width - left - right, row * len(items) + 30
    parts = [_open(width, height, alt)]
    for percent in (0, 25, 50, 75, 100):
        x = left + span * percent / 100
        parts.append(f'<line class="grid" x1="{x:.1f}" y1="4" x2="{x:.1f}" y2="{height - 24}"/>')
        parts.append(f'<text class="tick" x="{x:.1f}" y="{height - 8}" text-anchor="middle">{percent} %</text>')
    for i, (label, value, low, high) in enumerate(items):
        y, x_low, x_high = 8 + i * row, left + span * low, left + span * high
        middle = y + 12
        parts.append(f'<text class="label" x="{left - 12}" y="{middle + 5}" text-anchor="end">{escape(label)}</text>')
        parts.append(f'<rect class="bar bar{i}" x="{left}" y="{y}" width="{max(span * value, 1):.1f}" height="24" rx="3"/>')
        parts.append(
            f'<path class="interval" d="M{x_low:.1f} {middle}H{x_high:.1f}M{x_low:.1f} {middle - 5}v10M{x_high:.1f} {middle - 5}v10"/>'
        )
        parts.append(f'<text class="value" x="{width - right + 10}" y="{middle + 5}">{100 * value:.0f} %</text>')
    return "".join(parts) + "</svg>"


def lines(
    series: Mapping[str, Sequence[float]],
    *,
    alt: str,
    x_label: str,
    low: float = 0.0,
    high: float = 1.0,
    percent: bool = True,
    width: int = 640,
) -> str:
    """Lines over 0, 1, 2 ...; NaN leaves a gap. All series share one vertical axis from low to high."""
    left, right, top, bottom, height = 52, 16, 12, 62, 300
    count = max((len(values) for values in series.values()), default=0)
    span_x, span_y = width - left - right, height - top - bottom

    def place(i: int, value: float) -> tuple[float, float]:
        x = left + span_x * (i / (count - 1) if count > 1 else 0.5)
        return x, top + span_y * (1 - (min(max(value, low), high) - low) / ((high - low) or 1))

    parts = [_open(width, height, alt)]
    for step in range(5):
        value = low + (high - low) * step / 4
        _, y = place(0, value)
        text = f"{100 * value:.0f} %" if percent else f"{value:.3g}"
        parts.append(f'<line class="grid" x1="{left}" y1="{y:.1f}" x2="{width - right}" y2="{y:.1f}"/>')
        parts.append(f'<text class="tick" x="{left - 8}" y="{y + 4:.1f}" text-anchor="end">{text}</text>')
    every = max(1, math.ceil(count / 12))
    for i in range(0, count, every):
        parts.append(f'<text class="tick" x="{place(i, low)[0]:.1f}" y="{height - bottom + 18}" text-anchor="middle">{i}</text>')
    parts.append(f'<text class="tick" x="{left + span_x / 2}" y="{height - bottom + 36}" text-anchor="middle">{escape(x_label)}</text>')
    for number, (name, values) in enumerate(series.items()):
        dash = f' stroke-dasharray="{_DASHES[number % len(_DASHES)]}"' if number % len(_DASHES) else ""
        path, pen = "", "M"
        for i, value in enumerate(values):
            if math.isnan(value):
                pen = "M"
                continue
            x, y = place(i, value)
            path += f"{pen}{x:.1f} {y:.1f}"
            pen = "L"
            parts.append(f'<circle class="dot series{number}" cx="{x:.1f}" cy="{y:.1f}" r="3"/>')
        parts.append(f'<path class="line series{number}" d="{path or "M0 0"}"{dash}/>')
        x = left + number * span_x / max(len(series), 1)
        parts.append(f'<path class="line series{number}" d="M{x:.1f} {height - 10}h22"{dash}/>')
        parts.append(f'<text class="label" x="{x + 28:.1f}" y="{height - 5}">{escape(name)}</text>')
    return "".join(parts) + "</svg>"


Points = tuple[Sequence[float], Sequence[float]]


def curves(
    series: Mapping[str, Points],
    *,
    alt: str,
    x_label: str,
    marks: Sequence[tuple[float, float, str]] = (),
    faint: Sequence[str] = (),
    width: int = 640,
    height: int = 260,
) -> str:
    """Lines through (x, y) of any spacing; a y that is not finite leaves a gap. marks: (x, y, letter) that are pointed out; faint: names of
    series that stand back. The axes hold all that is finite; without anything finite they are empty."""
    left, right, top, bottom = 52, 16, 12, 62
    xs = [x for values, _ in series.values() for x in values if math.isfinite(x)]
    ys = [y for _, values in series.values() for y in values if math.isfinite(y)]
    x_low, x_high, low, high = min(xs, default=0.0), max(xs, default=1.0), min(ys, default=0.0), max(ys, default=1.0)
    low, high = (low, high) if high > low else (low - 0.5, high + 0.5)
    span_x, span_y = width - left - right, height - top - bottom

    def place(x: float, y: float) -> tuple[float, float]:
        return left + span_x * (x - x_low) / ((x_high - x_low) or 1), top + span_y * (1 - (y - low) / (high - low))

    parts = [_open(width, height, alt)]
    for step in range(5):
        value = low + (high - low) * step / 4
        _, y = place(x_low, value)
        parts.append(f'<line class="grid" x1="{left}" y1="{y:.1f}" x2="{width - right}" y2="{y:.1f}"/>')
        parts.append(f'<text class="tick" x="{left - 8}" y="{y + 4:.1f}" text-anchor="end">{value:.3g}</text>')
        x, _ = place(x_low + (x_high - x_low) * step / 4, low)
        shown = f"{x_low + (x_high - x_low) * step / 4:.3g}"
        parts.append(f'<text class="tick" x="{x:.1f}" y="{height - bottom + 18}" text-anchor="middle">{shown}</text>')
    parts.append(f'<text class="tick" x="{left + span_x / 2}" y="{height - bottom + 36}" text-anchor="middle">{escape(x_label)}</text>')
    column = span_x / max(len(series), 1)
    for number, (name, (along, values)) in enumerate(series.items()):
        dash = f' stroke-dasharray="{_DASHES[number % len(_DASHES)]}"' if number % len(_DASHES) else ""
        style = f"line series{number % 6}{' faint' if name in faint else ''}"
        path, pen = "", "M"
        for x, y in zip(along, values):
            if not (math.isfinite(x) and math.isfinite(y)):
                pen = "M"
                continue
            at = place(x, y)
            path += f"{pen}{at[0]:.1f} {at[1]:.1f}"
            pen = "L"
        parts.append(f'<path class="{style}" fill="none" d="{path or "M0 0"}"{dash}/>')
        x = left + number * column
        parts.append(f'<path class="{style}" fill="none" d="M{x:.1f} {height - 10}h18"{dash}/>')
        parts.append(f'<text class="label" x="{x + 22:.1f}" y="{height - 5}">{escape(name)}</text>')
    for x, y, letter in marks:
        at = place(x, y)
        parts.append(f'<circle class="mark" fill="none" cx="{at[0]:.1f}" cy="{at[1]:.1f}" r="4"/>')
        parts.append(f'<text class="label" x="{at[0]:.1f}" y="{max(at[1] - 8, 11):.1f}" text-anchor="middle">{escape(letter)}</text>')
    return "".join(parts) + "</svg>"


def _open(width: int, height: int, alt: str) -> str:
    return f'<svg viewBox="0 0 {width} {height}" role="img" aria-label="{escape(alt, quote=True)}" xmlns="http://www.w3.org/2000/svg">'
