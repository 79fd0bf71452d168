"""The honesty suite's table and plots.

Role: rows to Markdown, curves to pictures. matplotlib draws without a display. Does not depend on torch or ROS.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from reward_node.honesty.playing import Curve, Played

_STYLES = {
    "real": ("tab:blue", "as it was"),
    "static": ("black", "first frame repeated"),
    "reversed": ("tab:purple", "backwards"),
    "wrong_object": ("tab:red", "wrong object named"),
    "wrong_task": ("tab:orange", "another task named"),
}


def table(rows: Sequence[dict[str, Any]]) -> str:
    """Markdown: one line per metric, one column per case."""
    cases = list(dict.fromkeys(row["case"] for row in rows))
    cells = {(row["metric"], row["case"]): row for row in rows}
    lines = ["| metric | " + " | ".join(case.partition("/")[2] for case in cases) + " |", "|---" * (len(cases) + 1) + "|"]
    for metric in dict.fromkeys(row["metric"] for row in rows):
        found = [cells.get((metric, case)) for case in cases]
        unit = next(row["unit"] for row in found if row is not None)
        shown = ["-" if row is None or row["value"] is None else f"{row['value']:.3g}" for row in found]
        lines.append(f"| {metric}{'' if unit == '1' else f' ({unit})'} | " + " | ".join(shown) + " |")
    return "\n".join(lines)


def plot(played: Sequence[Played], title: str, path: Path) -> None:
    """A picture with a panel per task: mean curves of successes, of failures and of the controls, over the share of the clip; and how
    often a stated completion was true."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    tasks = sorted({one.clip.task for one in played})
    figure, axes = pyplot.subplots(1, len(tasks) + 1, figsize=(3.2 * (len(tasks) + 1), 3.2), constrained_layout=True, squeeze=False)
    for axis, task in zip(axes[0], tasks, strict=False):
        of_task = [one for one in played if one.clip.task == task]
        shown = {name: [one.controls[name] for one in of_task if name in one.controls] for name in _STYLES if name != "real"}
        curves = {"real": [one.curve for one in of_task if one.clip.success], **shown}
        for name, (color, label) in _STYLES.items():
            if curves[name]:
                axis.plot(*_average(curves[name]), color=color, label=label)
        failures = [one.curve for one in of_task if not one.clip.success]
        if failures:
            axis.plot(*_average(failures), color="tab:blue", linestyle="dotted", label="failures")
        axis.set(title=task, xlabel="share of the clip")
    axes[0, 0].set_ylabel("model's own value")
    axes[0, 0].legend(fontsize=6)
    completion = np.concatenate([one.curve.completion for one in played])
    completed = np.concatenate([one.clip.completed for one in played])
    place = np.minimum((np.nan_to_num(completion) * 10).astype(int), 9)
    bins = [index for index in range(10) if (place == index).any()]
    last = axes[0, -1]
    last.plot([0, 1], [0, 1], color="lightgrey")
    last.plot([completion[place == one].mean() for one in bins], [completed[place == one].mean() for one in bins], "o-", color="tab:green")
    last.set(title="calibration", xlabel="completion stated", ylabel="share done", xlim=(0, 1), ylim=(0, 1))
    figure.suptitle(title, fontsize=9)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)
    pyplot.close(figure)


def _average(curves: Sequence[Curve]) -> tuple[np.ndarray, np.ndarray]:
    """Mean of curves of different lengths, over the share of each."""
    grid = np.linspace(0, 1, 21)
    usable = [one.raw for one in curves if np.isfinite(one.raw).all()]
    rows = [np.interp(grid, np.linspace(0, 1, len(values)), values) for values in usable]
    return grid, np.mean(rows, axis=0) if rows else np.full(21, np.nan)
