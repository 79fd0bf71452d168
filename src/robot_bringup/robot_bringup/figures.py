"""From a finished run to rows of results/<name>.json.

Role: the figures of a run: success of the base policy in its best mode, of the refined policy, of the control, with their 95 % Wilson
intervals. Reads run directories, never a running graph.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from robot_bringup import records
from robot_bringup.statistics import wilson
from whetstone import jsonfile
from whetstone.errors import InputError

SUBJECT = "whetstone"
BASE, REFINED, CONTROL = "success_base", "success_refined", "success_control"


def evaluations(run_dir: Path) -> dict[str, list[dict[str, Any]]]:
    """label -> lines of evaluation.jsonl in order of their seeds."""
    found: dict[str, list[dict[str, Any]]] = {}
    for record in records.read_all(run_dir / records.EVALUATION):
        found.setdefault(record["label"], []).append(record)
    return {label: sorted(lines, key=lambda line: line["seed"]) for label, lines in found.items()}


def best_mode(found: dict[str, list[dict[str, Any]]]) -> str | None:
    """The base policy's better mode on the test seeds: "greedy" or "sampled"; sampled in a draw; None where not evaluated.

    Choosing on the very episodes that are reported favours the base policy, never the refined one.
    """
    rates = {}
    for mode in ("sampled", "greedy"):
        lines = found.get(f"base_{mode}")
        if lines:
            rates[mode] = sum(line["success"] for line in lines) / len(lines)
    return max(rates, key=lambda mode: rates[mode]) if rates else None


def rows(run_dir: Path, *, control: bool = False) -> list[dict[str, Any]]:
    """The run's rows. control: the refined policy was trained on shuffled rewards. Raises InputError where the run is not finished."""
    settings, outcome = jsonfile.read(run_dir / records.SETTINGS), jsonfile.read(run_dir / records.OUTCOME)
    if settings is None:
        raise InputError(f"{run_dir}: no run directory (no {records.SETTINGS})")
    if outcome is None or outcome["result"] != "finished":
        raise InputError(f"{run_dir}: the run did not finish; there are no figures to report")
    case, found = case_of(settings["arguments"]), evaluations(run_dir)
    result = []
    if not control:
        best = best_mode(found)
        for mode in ("greedy", "sampled"):
            lines = found.get(f"base_{mode}")
            if lines:
                result.append(_row(case, f"{BASE}_{mode}", lines))
                if mode == best:
                    result.insert(0, _row(case, BASE, lines))
    if "refined" in found:
        result.append(_row(case, CONTROL if control else REFINED, found["refined"]))
    return result


def case_of(arguments: dict[str, Any]) -> str:
    """ "franka/pick_and_place/seed1"."""
    return f"{Path(arguments['robot']).stem}/{Path(arguments['task']).stem}/seed{arguments['seed']}"


def _row(case: str, metric: str, lines: Sequence[dict[str, Any]]) -> dict[str, Any]:
    n, successes = len(lines), sum(line["success"] for line in lines)
    low, high = wilson(successes, n)
    return {
        "case": case,
        "subject": SUBJECT,
        "metric": metric,
        "value": successes / n,
        "unit": "fraction",
        "n": n,
        "low": round(low, 4),
        "high": round(high, 4),
    }
