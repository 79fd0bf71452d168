"""The README's figures are those in results/: a table that nobody made again is a failing test."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
ROBOTS = ("franka", "so100")
REWARDS = [(reward, robot) for reward in ("sarm2", "topreward", "topreward_int8") for robot in ROBOTS]
REWARD_METRICS = {
    "rank correlation of its value with time (VOC), successes": "voc_success",
    "success/failure ROC-AUC, completion": "success_auc_completion",
    "success/failure ROC-AUC, its value": "success_auc",
    "right above wrong object, finished clips": "right_above_wrong_object",
    "right above another task, finished clips": "right_above_wrong_task",
    "rise over a repeated first frame, at most": "static_gain_max",
    "failures declared a success": "false_success_rate",
    "successes not declared": "missed_success_rate",
    "scores/s on 2 threads": "scores_per_second",
}
DEMO_METRICS = ("success_base", "success_refined", "success_control")


def rows(name: str) -> list[dict]:
    return json.loads((ROOT / "results" / name).read_text())["rows"]


def tables() -> list[list[list[str]]]:
    """Cells of every table in the README, without its rule line."""
    found = re.findall(r"(?:^\|.*\|\n)+", README, re.MULTILINE)
    return [[[cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines()] for table in found]


def table(heading: list[str]) -> list[list[str]]:
    return next(table[2:] for table in tables() if table[0] == heading)


def test_reward_models():
    shown = {line[0]: line[1:] for line in table(["metric", *(f"{reward}, {robot}" for reward, robot in REWARDS)])}
    assert set(shown) == set(REWARD_METRICS)
    for column, (reward, robot) in enumerate(REWARDS):
        name = f"honesty-{reward}-{robot}.json"
        values = {row["metric"]: row["value"] for row in rows(name) if row["case"] == f"{robot}/all"}
        for words, metric in REWARD_METRICS.items():
            error = 0.05 if metric == "scores_per_second" else 0.0005
            assert float(shown[words][column]) == pytest.approx(values[metric], abs=error), f"{name}: {words}"


@pytest.mark.parametrize(
    ("name", "columns"),
    [
        ("demo.json", ["base, best mode", "refined", "shuffled rewards"]),
        ("demo-topreward.json", ["base, best mode", "refined by `topreward`"]),
    ],
)
def test_demo(name, columns):
    """Success in per cent with its interval, one line for each robot and seed."""
    values = {(row["case"], row["metric"]): row for row in rows(name)}
    expected = []
    for case in sorted({case for case, _ in values}):
        cells = []
        for metric in DEMO_METRICS[: len(columns)]:
            row = values.get((case, metric))
            cells.append(f"{100 * row['value']:.0f} % ({100 * row['low']:.0f} to {100 * row['high']:.0f})" if row else "not run")
        robot, _, seed = case.split("/")
        expected.append([robot, seed.removeprefix("seed"), *cells])
    assert table(["robot", "seed", *columns]) == expected


def test_base_policy_over_all_seeds():
    values = rows("demo.json")
    said = []
    for robot in ROBOTS:
        rates = []
        for mode in ("greedy", "sampled"):
            found = [row for row in values if row["case"].startswith(f"{robot}/") and row["metric"] == f"success_base_{mode}"]
            rates.append(round(100 * sum(row["value"] * row["n"] for row in found) / sum(row["n"] for row in found)))
        said.append(f"{robot} {rates[0]} and {rates[1]} %")
    assert ", ".join(said) in README


def test_bench():
    shown = {line[0]: line[1:] for line in table(["whole loop", *ROBOTS])}
    for column, robot in enumerate(ROBOTS):
        values = {row["metric"]: row["value"] for row in rows("bench-loop.json") if row["case"] == f"{robot}/pick_and_place"}
        assert shown["control steps/s"][column] == f"{values['steps_per_second']:.0f}"
        assert shown["times real time at 20 Hz"][column] == f"{values['real_time_factor']:.1f}"


@pytest.mark.parametrize("frames", [64, 256])
def test_bench_reward(frames):
    metrics = {
        "time per score, ms": "time_per_score",
        "times as fast": "speedup",
        "time of the last frames over the first": "last_to_first_frame_time",
        "largest difference, nat": "max_abs_difference",
        "memory above the model, MB": "peak_memory",
    }
    subjects = ["recompute", "lerobot_style", "streaming", "whole_episode", "streaming_int8"]
    shown = {line[0]: line[1:] for line in table([f"{frames} frames of 224 px", *subjects])}
    case = f"small {frames} frames, 224 px, cpu"
    values = {(row["subject"], row["metric"]): row["value"] for row in rows("bench-reward.json") if row["case"] == case}
    for words, metric in metrics.items():
        there = [name for name in subjects if (name, metric) in values]
        assert [float(cell) for cell in shown.pop(words) if cell] == [pytest.approx(values[name, metric], rel=0.06) for name in there]
    assert not shown


def test_bench_reward_of_several_robots():
    lengths = (16, 64, 256)
    shown = {line[0]: line[1:] for line in table(["4 robots", *(f"{count} frames" for count in lengths)])}
    for words, metric in {"times as fast": "speedup", "largest difference, nat": "max_abs_difference"}.items():
        cases = [f"small {count} frames, 224 px, cpu, 4 robots" for count in lengths]
        found = {row["case"]: row["value"] for row in rows("bench-reward.json") if (row["subject"], row["metric"]) == ("together", metric)}
        assert [float(cell) for cell in shown[words]] == [pytest.approx(found[case], rel=0.06) for case in cases]


WAYS = ("whetstone", "whetstone_file", "one_message", "grpc_chunks", "zeromq_lz4")
LOSSY_WAYS = ("whetstone", "whetstone_default_dds", "one_message", "grpc_chunks", "zeromq_lz4")


def cell(found: dict, case: str, way: str, metric: str = "push_to_applied") -> str:
    """As the README shows a figure of bench-weights.json: two digits, or that it did not arrive."""
    if found.get((case, way, "failed")):
        return "not in time"
    return f"{found[case, way, metric]:.2g}" if found[case, way, metric] < 100 else f"{found[case, way, metric]:.0f}"


@pytest.mark.parametrize(
    ("heading", "cases", "ways", "metric"),
    [
        ("push to applied, s", ("1MB", "10MB", "100MB", "1GB"), WAYS, "push_to_applied"),
        ("CPU of both sides, s", ("1MB", "10MB", "100MB", "1GB"), WAYS, "cpu_time"),
        ("peak memory of both sides, MB", ("1MB", "10MB", "100MB", "1GB"), WAYS, "peak_memory"),
        ("10 MB, s", ("10MB, 1 % loss", "10MB, 5 % loss", "10MB, 20 % loss"), LOSSY_WAYS, "push_to_applied"),
    ],
)
def test_bench_weights(heading, cases, ways, metric):
    found = {(row["case"], row["subject"], row["metric"]): row["value"] for row in rows("bench-weights.json")}
    assert table([heading, *cases]) == [[f"`{way}`", *(cell(found, case, way, metric) for case in cases)] for way in ways]
    assert not any(value for (_, _, metric), value in found.items() if metric == "corrupt_applied")


def test_bench_weights_of_a_policy():
    found = {(row["case"], row["subject"], row["metric"]): row["value"] for row in rows("bench-weights.json")}
    shown = {(line[0], line[1].strip("`")): line[2:] for line in table(["policy of 100 MB", "", "sent, MB", "push to applied, s"])}
    expected = {(case.removeprefix("policy 100MB, "), way) for case, way, _ in found if case.startswith("policy")}
    assert set(shown) == expected
    for (trained, way), cells in shown.items():
        case = f"policy 100MB, {trained}"
        assert cells == [cell(found, case, way, "sent"), cell(found, case, way)]


def test_bench_control():
    """docs/control.md shows a part of the metrics, as the benchmark itself prints them."""
    from robot_bringup.bench_control import __main__ as bench

    shown = ("jitter_p50", "jitter_p99", "jitter_max", "latency_p50", "latency_p95", "seam_jump_p50", "seam_jump_p95", "cpu")
    text = (ROOT / "docs" / "control.md").read_text(encoding="utf-8")
    assert bench.table([row for row in rows("bench-control.json") if row["metric"] in shown]) in text
