"""The benchmark of control: its figures are of what they say, and the naive loop takes the place of policy and watchdog."""

from __future__ import annotations

import numpy as np
import pytest

from robot_bringup.bench_control import __main__ as bench
from whetstone import config
from whetstone.errors import ConfigError, InputError


def noted(**changes) -> dict:
    found = {
        "intervals": [0.05] * 99 + [0.15],
        "latencies": [0.1, 0.2],
        "inferences": [0.08, 0.08],
        "seam_jumps": [0.01, 0.03],
        "bends": [],
        "cpu": [(10.0, 1.0), (12.0, 2.0)],
    }
    return {**found, **changes}


def test_rows_say_what_was_noted() -> None:
    rows = {row["metric"]: row for row in bench.rows_of("20Hz", "rtc", noted(), 20.0)}
    assert rows["jitter_p50"]["value"] == pytest.approx(0, abs=1e-6) and rows["jitter_max"]["value"] == pytest.approx(100)
    assert rows["latency_p50"]["value"] == pytest.approx(150) and rows["latency_p50"]["unit"] == "ms"
    assert rows["seam_jump_p50"]["value"] == pytest.approx(0.02) and rows["seam_jump_p50"]["n"] == 2
    assert rows["cpu"]["value"] == pytest.approx(0.5)
    assert "bend_p50" not in rows and {row["subject"] for row in rows.values()} == {"rtc"}


def test_an_arm_that_heard_nothing_is_no_figure() -> None:
    with pytest.raises(InputError, match="20Hz, plain: no command reached"):
        bench.rows_of("20Hz", "plain", noted(intervals=[]), 20.0)


def test_the_plain_loop_stands_in_the_place_of_policy_and_watchdog(tmp_path) -> None:
    values = {**bench.ARGUMENTS, "episodes": "1"}
    robot, policy = config.find("robots", "so100"), config.find("policies", "flow_vla")
    plain, beside = bench.planned("plain", robot, policy, values, tmp_path / "plain")
    assert {node.name for node in plain.nodes} == {"simulator", "evaluator", "episode_manager"}
    (manager,) = [node for node in plain.nodes if node.name == "episode_manager"]
    assert manager.parameters["managed"] == ["simulator", "policy", "evaluator"]
    assert [command.name for command in beside] == ["listener", "policy"]
    ours, beside = bench.planned("rtc", robot, policy, values, tmp_path / "rtc")
    assert {node.name: node for node in ours.nodes}["policy"].parameters["chunking"] == "rtc"
    assert [command.name for command in beside] == ["listener"]


@pytest.mark.parametrize(("word", "said"), [("subjects:=fast", "fast"), ("rates:=twenty", "rates"), ("episodes:=0", "episodes")])
def test_wrong_words_are_named(word, said) -> None:
    with pytest.raises(ConfigError, match=said):
        bench.main([word])


def test_the_table_has_a_line_for_each() -> None:
    rows = bench.rows_of("20Hz", "rtc", noted(), 20.0) + bench.rows_of("20Hz", "plain", noted(bends=list(np.ones(5))), 20.0)
    lines = bench.table(rows).splitlines()
    assert len(lines) == 4 and lines[2].startswith("| 20Hz, rtc |") and "| - |" in lines[2]
