"""Intervals, rows, records, report and console: everything that reads a run directory."""

from __future__ import annotations

import io
import math
import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from robot_bringup import charts, figures, records
from robot_bringup.console import RunConsole
from robot_bringup.report import write_report
from robot_bringup.schedule import episodes, refine_segments
from robot_bringup.statistics import wilson
from whetstone import jsonfile
from whetstone.errors import InputError

SEGMENTS = refine_segments(seed=1, iterations=2, episodes=2, evaluation_episodes=4, deployment_greedy=False, base_evaluation=True)
SUCCESSES = {"base_greedy": 3, "base_sampled": 1, "refined": 4}


def make_run(folder, *, result="finished", pictures=True):
    """A run directory as nodes and supervisor leave it: the base policy is better greedy."""
    folder.mkdir()
    arguments = {"robot": "so100", "task": "pick_and_place", "seed": 1, "policy": "still", "reward": "constant", "learner": "x"}
    settings = {"arguments": arguments, "commit": "abc", "machine": "2 cores", "versions": {"python": "3"}}
    settings |= {"configuration": {"task": "a: <b>\n"}, "configuration_hash": "0123"}
    jsonfile.write(folder / records.SETTINGS, settings)
    for episode in episodes(SEGMENTS):
        success = episode.index < SUCCESSES.get(episode.label, 1)
        common = {"episode_id": episode.episode_id, "iteration": episode.iteration, "index": episode.index, "seed": episode.seed}
        reward = {"samples": 3, "invalid": 0, "max_progress": 0.5, "max_completion": 0.2, "mean_total": math.nan}
        more = {"mode": episode.mode, "label": episode.label, "reason": "r", "steps": 9, "reward": reward}
        records.append(folder / records.EPISODES, {**common, **more, "outcome": "success" if success else "timeout"})
        truth = {**common, "success": success, "steps": 9, "ever": success, "stage": 1, "stages": 1}
        if episode.mode == "evaluate":
            records.append(folder / records.EVALUATION, {"label": episode.label, **truth})
        else:
            records.append(folder / records.TRUTH, truth)
    for iteration in range(2):
        update = {"iteration": iteration, "version": iteration, "deployed": bool(iteration)}
        update |= {"reason": "kept <best>", "metrics": {"kl": 0.01}}
        records.append(folder / records.UPDATES, update)
    if result:
        jsonfile.write(folder / records.OUTCOME, {"result": result, "reason": "why"})
    if pictures:
        (folder / "pictures").mkdir()
        frames = np.random.default_rng(0).integers(0, 255, (6, 16, 16, 3), np.uint8)
        for name in ("base_greedy-0003", "refined-0003"):
            np.savez_compressed(folder / "pictures" / f"{name}.npz", frames=frames)
    return folder


def test_wilson_against_published_figures():
    assert wilson(0, 10) == pytest.approx((0.0, 0.2775), abs=1e-4)
    assert wilson(45, 50) == pytest.approx((0.7864, 0.9565), abs=1e-4)
    assert wilson(0, 0) == (0.0, 1.0)
    with pytest.raises(ValueError):
        wilson(3, 2)


@given(n=st.integers(1, 1000), part=st.floats(0, 1))
def test_wilson_holds_the_rate_and_mirrors(n, part):
    k = round(part * n)
    low, high = wilson(k, n)
    assert 0 <= low <= k / n <= high <= 1
    assert wilson(n - k, n) == pytest.approx((1 - high, 1 - low))


def test_rows_take_the_base_s_better_mode(tmp_path):
    rows = {row["metric"]: row for row in figures.rows(make_run(tmp_path / "run"))}
    assert {name: row["value"] for name, row in rows.items()} == {
        "success_base": 0.75, "success_base_greedy": 0.75, "success_base_sampled": 0.25, "success_refined": 1.0,
    }  # fmt: skip
    row = rows["success_refined"]
    assert (row["case"], row["subject"], row["unit"], row["n"]) == ("so100/pick_and_place/seed1", "whetstone", "fraction", 4)
    assert (row["low"], row["high"]) == pytest.approx(wilson(4, 4), abs=1e-4)


def test_a_control_gives_one_row(tmp_path):
    rows = figures.rows(make_run(tmp_path / "run"), control=True)
    assert [(row["metric"], row["value"]) for row in rows] == [("success_control", 1.0)]


@pytest.mark.parametrize("result", ["failed", "stopped", None])
def test_an_unfinished_run_has_no_rows(tmp_path, result):
    with pytest.raises(InputError, match="did not finish"):
        figures.rows(make_run(tmp_path / "run", result=result))


def test_a_reader_never_sees_half_a_record(tmp_path):
    path = tmp_path / "x.jsonl"
    assert records.read(path) == ([], 0)
    records.append(path, {"a": math.nan, "b": np.float32(0.5), "ü": (1, 2)})
    with path.open("ab") as handle:
        handle.write(b'{"half": ')
    found, offset = records.read(path)
    assert found == [{"a": None, "b": 0.5, "ü": [1, 2]}]
    with path.open("ab") as handle:
        handle.write(b"1}\n")
    assert records.read(path, offset)[0] == [{"half": 1}]


@pytest.mark.parametrize(
    ("line", "said"), [(b"\0\0\0\n", "line 2 from byte 0 on is not JSON"), (b"[1]\n", "line 2 from byte 0 on is not a record, but list")]
)
def test_a_line_that_is_no_record_is_named(tmp_path, line, said):
    path = tmp_path / "x.jsonl"
    records.append(path, {"a": 1})
    with path.open("ab") as handle:
        handle.write(line)
    with pytest.raises(InputError, match=f"x.jsonl: {said}"):
        records.read(path)


def test_records_on_a_full_disk_are_one_clear_line():
    with pytest.raises(InputError, match="/dev/full: cannot be written: No space left on device"):
        records.append(__import__("pathlib").Path("/dev/full"), {"a": 1})


def test_report_is_one_file_that_needs_no_other(tmp_path):
    page = write_report(make_run(tmp_path / "run")).read_text()
    assert not re.search(r'(src|href)="(?!data:)', page)
    assert "http://www.w3.org/2000/svg" in page and page.count("http") == page.count("http://www.w3.org/2000/svg")
    assert "same episode before and after (seed 2001003)" in page
    assert "better mode is <b>greedy</b>" in page
    assert "kept &lt;best&gt;" in page and "a: &lt;b&gt;" in page
    assert page.count("data:image/webp;base64") == 2
    assert page.count("data:image/png;base64") == 2
    assert "did not finish" not in page
    assert list((tmp_path / "run").glob(".report*")) == []


def test_report_of_an_interrupted_run_says_so(tmp_path):
    page = write_report(make_run(tmp_path / "run", result="stopped", pictures=False)).read_text()
    assert "did not finish: why" in page


def test_report_of_nothing(tmp_path):
    with pytest.raises(InputError, match="no run directory"):
        write_report(tmp_path)


def test_lines_leave_gaps_where_nothing_is_known():
    drawn = charts.lines({"a": [0.0, math.nan, 1.0, 0.5]}, alt="x", x_label="iteration")
    path = re.search(r'class="line series0" d="(M[^"]*)"', drawn)
    assert path is not None and path[1].count("M") == 2 and path[1].count("L") == 1
    assert "nan" not in drawn


def test_plain_console_prints_a_line_per_segment_and_update(tmp_path):
    output = io.StringIO()
    run_dir = make_run(tmp_path / "run", pictures=False)
    for stopped, reasons in ((True, ["e-stop: pressed"]), (False, [])):
        told = {"stopped": stopped, "reasons": reasons, "episode_id": "", "release": "/so100/watchdog/release"}
        records.append(run_dir / records.STOPS, told)
    with RunConsole(run_dir, SEGMENTS, Console(file=output, width=200)) as view:
        view.update()
    lines = output.getvalue().splitlines()
    assert lines[0] == "base greedy: 4 episodes, 75 % success by truth"
    assert lines[1] == "base sampled: 4 episodes, 25 % success by truth"
    assert "training: 4 episodes, 50 % success by reward" in lines
    assert lines[-3] == "iteration 1: 1/2 successes by reward, kl 0.01, deployed version 1 (kept <best>)"
    assert lines[-2:] == [
        "THE WATCHDOG STOPPED THE ARM: e-stop: pressed. When it is safe: ros2 service call /so100/watchdog/release std_srvs/srv/Trigger",
        "the watchdog was released: the arm moves again",
    ]


def test_terminal_console_draws_bars_and_closes_them(tmp_path):
    output = io.StringIO()
    run_dir = make_run(tmp_path / "run", pictures=False)
    with RunConsole(run_dir, SEGMENTS, Console(file=output, width=120, force_terminal=True)) as view:
        view.update()
    assert "refined" in output.getvalue() and "4/4" in output.getvalue()
    assert output.getvalue().rstrip().endswith("\x1b[?25h")  # the cursor is back
