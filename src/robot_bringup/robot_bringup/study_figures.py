"""What a study found, to look at: a table and a plot.

Role: from the rows of results/study.json to Markdown and PNG. Knows nothing of how they came about. Does not depend on ROS.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from robot_bringup.figures import BASE, CONTROL, REFINED
from robot_bringup.statistics import wilson

BASE_SUBJECT = "base_policy"
PLUS_20 = "episodes_to_plus20"


def table(rows: Iterable[dict[str, Any]]) -> str:
    """Markdown: a line for each learner, best mean first, a column for each robot and task. A cell has the success of all seeds' held-out
    episodes together with its 95 % interval (Wilson), and the training episodes until 20 points above the base policy: the mean of the
    seeds that got there, and of how many those were if not of all."""
    cells: dict[str, dict[str, list[dict[str, Any]]]] = {}
    plus: dict[tuple[str, str], list[float]] = {}
    for row in rows:
        panel, subject = row["case"].rpartition("/")[0], row["subject"]
        if row["metric"] == (BASE if subject == BASE_SUBJECT else CONTROL if "," in subject else REFINED):
            cells.setdefault(subject, {}).setdefault(panel, []).append(row)
        elif row["metric"] == PLUS_20:
            plus.setdefault((subject, panel), []).append(row["value"])
    panels = sorted({panel for found in cells.values() for panel in found})

    def mean(subject: str) -> float:
        found = [row["value"] for part in cells[subject].values() for row in part]
        return sum(found) / len(found)

    def cell(subject: str, panel: str) -> str:
        found = cells[subject].get(panel)
        if not found:
            return "not run"
        count = sum(row["n"] for row in found)
        successes = round(sum(row["value"] * row["n"] for row in found))
        low, high = wilson(successes, count)
        shown = f"{100 * successes / count:.0f} % ({100 * low:.0f} to {100 * high:.0f}) of {count}"
        reached = plus.get((subject, panel), [])
        if not reached:
            return shown
        seeds = "" if len(reached) == len(found) else f", {len(reached)} of {len(found)} seeds"
        return f"{shown}; +20 after {sum(reached) / len(reached):.0f}{seeds}"

    learners = sorted(set(cells) - {BASE_SUBJECT}, key=lambda subject: ("," in subject, -mean(subject), subject))
    lines = [["learner", *panels], ["---"] * (1 + len(panels))]
    lines += [[subject, *(cell(subject, panel) for panel in panels)] for subject in [*(set(cells) & {BASE_SUBJECT}), *learners]]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def draw(rows: Iterable[dict[str, Any]], path: Path) -> None:
    """Success over training episodes, one panel for each robot and task, one line for each learner: the mean of the seeds, and thin the
    seeds themselves; shuffled rewards dotted."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    curves: dict[str, dict[str, dict[int, list[float]]]] = {}
    for row in rows:
        panel = row["case"].rpartition("/")[0]
        lines = curves.setdefault(panel, {})
        if row["metric"].startswith("success_after_"):
            count = int(row["metric"].rpartition("_")[2])
            lines.setdefault(row["subject"], {}).setdefault(count, []).append(row["value"])
        elif row["metric"] == BASE and row["subject"] == BASE_SUBJECT:
            lines.setdefault(BASE_SUBJECT, {}).setdefault(0, []).append(row["value"])
    figure, panels = pyplot.subplots(1, len(curves), figsize=(5.5 * len(curves) + 2.5, 4.2), squeeze=False, sharey=True)
    names = sorted({subject.partition(",")[0] for lines in curves.values() for subject in lines} - {BASE_SUBJECT})
    colours = {name: f"C{index}" for index, name in enumerate(names)}
    for axes, (panel, lines) in zip(panels[0], sorted(curves.items()), strict=True):
        start = lines.pop(BASE_SUBJECT, {}).get(0, [])
        for subject, points in sorted(lines.items()):
            learner, _, control = subject.partition(",")
            xs = [0] * bool(start) + sorted(points)
            means = [sum(start) / len(start)] * bool(start) + [sum(points[x]) / len(points[x]) for x in sorted(points)]
            axes.plot(xs, means, ":" if control else "-", color=colours[learner], label=subject, linewidth=1.2 if control else 2)
        axes.set_title(panel)
        axes.set_xlabel("training episodes")
        axes.set_ylim(0, 1)
        axes.grid(alpha=0.3)
    panels[0][0].set_ylabel("success on held-out scenes, by truth")
    panels[0][-1].legend(fontsize=7, loc="center left", bbox_to_anchor=(1.02, 0.5))
    figure.tight_layout()
    figure.savefig(path, dpi=110)
    pyplot.close(figure)
