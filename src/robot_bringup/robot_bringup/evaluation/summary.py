"""What all recordings together say, and what falls short.

Role: from the results of recordings to rows of figures and to sentences; every limit that a sentence is about stands here. Pure.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import combinations
from typing import Any

import numpy as np

from robot_bringup.evaluation import figures

Result = Mapping[str, Any]
"""Of one recording, as work.py writes it."""

UNITS = {
    "success_at": "s", "latency_p50": "s", "latency_p95": "s", "scored": "frames", "invalid": "frames", "decisions": "1", "refused": "1",
    "joints": "rad", "joints_chunk": "rad", "hold_joints": "rad", "seam_p50": "rad", "seam_p95": "rad", "first_step": "rad",
    "jerk": "rad/s^3", "done_jerk": "rad/s^3", "guard_rows": "rows", "out_of_reach": "rows",
}  # fmt: skip
"""What is not listed is a number without a unit: a share, a correlation, a gripper's opening, a model's own value."""
ALL = "all"
"""Case of the figures of all recordings."""
RISING = 0.3
"""VOC, or share of the real gain, from which a control counts as rising."""
LOW_VOC, LOW_AUC = 0.5, 0.7
GUARDED = 0.01
"""Share of executed rows that the guard would change or hold."""
ROUGH = 2.0
"""Times the jerk of what was done."""


@dataclass(frozen=True)
class Summary:
    """rows: in the results format, case "all" or the recording; notes: model -> what could not be computed and why; shortcomings:
    sentences."""

    rows: list[dict[str, Any]]
    notes: list[str]
    shortcomings: list[str]

    @cached_property
    def of_all(self) -> dict[tuple[str, str], dict[str, Any]]:
        """(subject, metric) -> row of case "all"."""
        return {(row["subject"], row["metric"]): row for row in self.rows if row["case"] == ALL}


def summarise(results: Sequence[Result]) -> Summary:
    rows: list[dict[str, Any]] = []
    notes: list[str] = []
    for result in results:
        for kind in ("rewards", "policies"):
            for name, found in result[kind].items():
                rows += _rows(result["name"], name, found["figures"])
                for control, values in found.get("controls", {}).items():
                    rows += _rows(result["name"], name, {f"{control}_{metric}": value for metric, value in values.items()})
        rows += [row for pair, value in result["agreement"].items() for row in _rows(result["name"], pair, {"rank_correlation": value})]
    summaries: dict[str, dict[str, Any]] = {}
    for name in _names(results, "rewards"):
        summaries[name], why = reward_summary(results, name)
        rows += _rows(ALL, name, summaries[name])
        notes += [f"{name}: {text}" for text in why]
    for one, other in combinations(_names(results, "rewards"), 2):
        rows += _rows(ALL, f"{one}|{other}", pair_summary(results, one, other))
    for name in _names(results, "policies"):
        mine = [result["policies"][name]["figures"] for result in results if name in result["policies"]]
        rows += _rows(ALL, name, {metric: figures.means(mine, metric) for metric in mine[0]})
    return Summary(rows, notes, [*_reward_shortcomings(results, summaries), *_policy_shortcomings(results)])


def reward_summary(results: Sequence[Result], name: str) -> tuple[dict[str, Any], list[str]]:
    """Means over recordings, and over successes and failures; ROC-AUC of how a recording ended against what became of it; shares of true
    and false words of success. Each figure with the number of recordings behind it; None where there is none, with the reason in the
    second."""
    of = [(result, result["rewards"][name]) for result in results if name in result["rewards"]]
    mine = [one["figures"] for _, one in of]
    found: dict[str, Any] = {metric: figures.means(mine, metric) for metric in mine[0]} if mine else {}
    won = [result["succeeded"] for result, _ in of]
    for word, wanted in (("success", True), ("failure", False)):
        found[f"voc_{word}"] = figures.means([one for one, said in zip(mine, won, strict=True) if said is wanted], "voc")
    why = []
    for metric, column in (("success_auc", "end"), ("success_auc_completion", "completion_end")):
        ends = [one[column] for one in mine]
        value, reason = figures.success_auc(ends, won)
        usable = sum(end is not None and said is not None for end, said in zip(ends, won, strict=True))
        found[metric] = (value, usable)
        # Of completion nothing is said where the model gives none.
        if reason and (column == "end" or any(end is not None for end in ends)):
            why.append(f"{metric} cannot be computed: {reason}")
    if any(one["success"] for _, one in of):
        said = [one["figures"]["success_at"] is not None for _, one in of]
        for metric, outcome, word in (("false_success_rate", False, True), ("missed_success_rate", True, False)):
            known = [this is word for this, this_won in zip(said, won, strict=True) if this_won is outcome]
            found[metric] = (float(np.mean(known)) if known else None, len(known))
    for control in _controls([one for _, one in of]):
        played = [one["controls"][control] for _, one in of if control in one["controls"]]
        for metric in played[0]:
            found[f"{control}_{metric}"] = figures.means(played, metric)
        pairs = [(one["figures"]["end"], one["controls"][control]["end"]) for _, one in of if control in one["controls"]]
        above = [real > other for real, other in pairs if real is not None and other is not None]
        found[f"right_above_{control}"] = (float(np.mean(above)) if above else None, len(above))
    return found, why


def pair_summary(results: Sequence[Result], one: str, other: str) -> dict[str, Any]:
    """rank_correlation: mean over recordings of two models' values within each; ends: of how they rank the recordings by their ends;
    verdicts: share of recordings of which both or neither say that they succeeded."""
    both = [result for result in results if one in result["rewards"] and other in result["rewards"]]
    within = [value for result in both if (value := result["agreement"].get(f"{one}|{other}")) is not None]
    ends = [(result["rewards"][one]["figures"]["end"], result["rewards"][other]["figures"]["end"]) for result in both]
    known = [pair for pair in ends if None not in pair]
    first, second = (np.array([pair[place] for pair in known], float) for place in (0, 1))
    verdicts = [
        (result["rewards"][one]["figures"]["success_at"] is None) == (result["rewards"][other]["figures"]["success_at"] is None)
        for result in both
        if result["rewards"][one]["success"] and result["rewards"][other]["success"]
    ]
    return {
        "rank_correlation": (float(np.mean(within)) if within else None, len(within)),
        "ends_rank_correlation": (figures.rank_correlation(first, second), len(known)),
        "same_verdict": (float(np.mean(verdicts)) if verdicts else None, len(verdicts)),
    }


def _reward_shortcomings(results: Sequence[Result], summaries: Mapping[str, dict[str, Any]]) -> Iterator[str]:
    """summaries: model -> figures of reward_summary."""
    for name, found in summaries.items():

        def value(metric: str, found: dict[str, Any] = found) -> float | None:
            return found.get(metric, (None, 0))[0]

        for control, words in (
            ("static", "the first frame repeated"), ("noisy_static", "the first frame under noise"),
            ("shuffled", "the frames in no order"), ("reversed", "the frames backwards"),
        ):  # fmt: skip
            voc, share = value(f"{control}_voc"), value(f"{control}_share")
            rises = (voc or 0) > RISING if control in ("shuffled", "reversed") else (share or 0) > RISING
            if rises:
                told = f"VOC {voc:.2f}" if control in ("shuffled", "reversed") else f"{share:.0%} of the rise over the real recording"
                yield f"{name}: rises over {words} ({told}): it does not look at what was done alone"
        for control, words in (("wrong_object", "with the wrong object named"), ("wrong_task", "with another task named")):
            above = value(f"right_above_{control}")
            if above is not None and above < 1:
                yield f"{name}: {1 - above:.0%} of the recordings end no lower {words}"
        voc = value("voc_success") if value("voc_success") is not None else value("voc")
        if voc is not None and voc < LOW_VOC:
            yield f"{name}: VOC {voc:.2f}: its value hardly follows time"
        auc = value("success_auc")
        if auc is not None and auc < LOW_AUC:
            yield f"{name}: success AUC {auc:.2f}: how a recording ends says little about what became of it"
        words_of = {"false_success_rate": "failures are called a success", "missed_success_rate": "successes are not called so"}
        for metric, words in words_of.items():
            rate = value(metric)
            if rate:
                yield f"{name}: {rate:.0%} of the {words} (of {found[metric][1]})"
        invalid = sum(result["rewards"][name]["figures"]["invalid"] for result in results if name in result["rewards"])
        if invalid:
            reasons = _most([result["rewards"][name]["reasons"] for result in results if name in result["rewards"]])
            yield f"{name}: {invalid:.0f} frames could not be scored, mostly: {reasons}"
        if behind := value("behind"):
            yield f"{name}: {behind:.0%} of its scores took longer than a live node has between two"


def _policy_shortcomings(results: Sequence[Result]) -> Iterator[str]:
    for name in _names(results, "policies"):
        of = [result["policies"][name] for result in results if name in result["policies"]]
        mine = [one["figures"] for one in of]
        ratio, _ = figures.means(mine, "ratio")
        if ratio is None:
            yield f"{name}: nobody recorded what the arm did, so there are no errors"
        elif ratio >= 1:
            yield f"{name}: its chunks are no nearer to what was done than staying where the arm was ({ratio:.2f} times that error)"
        changed, held = (figures.means(mine, metric)[0] or 0.0 for metric in ("guard_changed", "guard_held"))
        if changed + held > GUARDED:
            why = _most([one["guard"] for one in of])
            yield f"{name}: the guard would change {changed:.1%} of its rows and hold {held:.1%}, mostly for {why}"
        jerk, done = figures.means(mine, "jerk")[0], figures.means(mine, "done_jerk")[0]
        if jerk is not None and done and jerk > ROUGH * done:
            yield f"{name}: its chunks are rougher than what was done: jerk {jerk:.3g} against {done:.3g} rad/s^3"
        refused = sum(one["refused"] for one in mine)
        if refused:
            yield f"{name}: {refused:.0f} decisions could not be made, mostly: {_most([one['reasons'] for one in of])}"


def _names(results: Sequence[Result], kind: str) -> list[str]:
    return list(dict.fromkeys(name for result in results for name in result[kind]))


def _controls(found: Sequence[Result]) -> list[str]:
    return list(dict.fromkeys(name for one in found for name in one["controls"]))


def _most(counts: Sequence[Mapping[str, int]]) -> str:
    """What was counted most often."""
    total: dict[str, int] = {}
    for one in counts:
        for name, count in one.items():
            total[name] = total.get(name, 0) + count
    return max(total, key=lambda name: total[name]) if total else "nothing"


def _rows(case: str, subject: str, found: Mapping[str, Any]) -> list[dict[str, Any]]:
    """found: metric -> value, or (value, number of what it is computed from)."""
    rows = []
    for metric, value in found.items():
        number, n = value if isinstance(value, tuple) else (value, None)
        unit = UNITS.get(metric.removeprefix("mean_"), "1")
        rows.append({"case": case, "subject": subject, "metric": metric, "value": number, "unit": unit} | ({} if n is None else {"n": n}))
    return rows
