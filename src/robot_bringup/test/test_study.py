"""The study of learners: its cases, what it compares, that it goes on where it was cut off."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from robot_bringup import study
from robot_bringup.study import ARGUMENTS, BASE_SUBJECT, Case
from whetstone import jsonfile
from whetstone.config import root
from whetstone.errors import ConfigError


def values(**changes: str) -> dict[str, str]:
    return {**ARGUMENTS, **changes}


def test_every_learner_on_every_robot_task_and_seed_and_each_control() -> None:
    found = study.cases(values(learners="ra_bc,awr", controls="awr", seeds="0,1", tasks="push,reach"))
    assert len(found) == len(set(found)) == 2 * 2 * 2 * (1 + 2 + 1)
    assert all(not case.learner for case in found[:8]), "what the others are compared with comes first"
    assert {case.subject for case in found} == {BASE_SUBJECT, "ra_bc", "awr", "awr, shuffled rewards"}
    assert not any(case.control for case in study.cases(values(controls="none")))


def test_a_configuration_follows_what_figures_depend_on() -> None:
    base, learner = study.cases(values(learners="awr", controls="none", robots="so100", seeds="0", tasks="push"))
    more = study.cases(values(learners="awr", controls="none", robots="so100", seeds="0", tasks="push", iterations="7"))
    assert more[0].configuration() == base.configuration(), "the base policy knows no iterations"
    assert more[1].configuration() != learner.configuration()
    assert (
        study.cases(values(learners="ra_bc", controls="none", robots="so100", seeds="0", tasks="push"))[1].configuration()
        != learner.configuration()
    )


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"learners": "ra_bs"}, "unknown learner 'ra_bs'; did you mean 'ra_bc'"),
        ({"tasks": "push,"}, "tasks:=push, must be names joined by commas"),
        ({"seeds": "one"}, "seeds:=one must be integers"),
        ({"seeds": "50"}, "50"),
        ({"iterations": "0"}, "at least 1"),
        ({"controls": "maybe"}, "unknown learner 'maybe'"),
    ],
)
def test_wrong_words_are_named(changes: dict[str, str], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        study.cases(values(**changes))


def test_sample_efficiency_is_the_first_twenty_points_above_the_base_policy() -> None:
    def rows(*rates: float) -> list[dict[str, Any]]:
        return [{"metric": f"success_after_{10 * (count + 1)}", "value": rate} for count, rate in enumerate(rates)]

    def episodes(*rates: float) -> list[float]:
        found = study.gained(rows(*rates), 0.5, "case", "awr")
        assert found[0]["metric"] == "success_base" and found[0]["value"] == 0.5
        return [row["value"] for row in found[1:]]

    assert episodes(0.4, 0.7, 0.6) == [20]
    assert episodes(0.69, 0.6) == []


def test_a_study_is_run_goes_on_and_is_drawn(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Two episodes of the real thing on each side; the second call has nothing to do."""
    path = tmp_path / "study.json"
    words = [
        "robots:=so100",
        "tasks:=pick_and_place",
        "seeds:=3",
        "learners:=dsrl",
        "iterations:=1",
        "episodes:=2",
        "evaluation_episodes:=2",
        "controls:=none",
    ]
    words.append(f"results:={path}")
    study.main(words)
    data = jsonfile.read(path)
    assert data is not None and data["command"].startswith("make study ARGS='robots:=so100")
    place = "so100/pick_and_place/seed3"
    there = {(row["subject"], row["metric"]) for row in data["rows"] if row["case"] == place}
    assert {(BASE_SUBJECT, "success_base_greedy"), ("dsrl", "success_base"), ("dsrl", "success_refined")} <= there
    assert path.with_suffix(".png").stat().st_size > 5_000
    capsys.readouterr()
    study.main(words)
    assert capsys.readouterr().out.count("there already") == 2
    assert jsonfile.read(path)["rows"] == data["rows"]  # type: ignore[index]


def test_the_table_counts_all_seeds_together() -> None:
    def row(seed: int, subject: str, metric: str, value: float) -> dict[str, Any]:
        return {"case": f"so100/push/seed{seed}", "subject": subject, "metric": metric, "value": value, "n": 50}

    rows = [
        row(0, BASE_SUBJECT, "success_base", 0.5), row(1, BASE_SUBJECT, "success_base", 0.4),
        row(0, BASE_SUBJECT, "success_base_greedy", 0.1),
        row(0, "awr", "success_refined", 0.6), row(0, "awr", "success_base", 0.5), row(1, "awr", "success_refined", 0.8),
        row(1, "awr", "episodes_to_plus20", 96), row(0, "dsrl", "success_refined", 0.9), row(0, "dsrl", "episodes_to_plus20", 48),
        row(0, "dsrl, shuffled rewards", "success_control", 0.98), {**row(0, "dsrl", "success_refined", 0.2), "case": "franka/reach/seed0"},
    ]  # fmt: skip
    assert study.table(rows).splitlines() == [
        "| learner | franka/reach | so100/push |",
        "| --- | --- | --- |",
        "| base_policy | not run | 45 % (36 to 55) of 100 |",
        "| awr | not run | 70 % (60 to 78) of 100; +20 after 96, 1 of 2 seeds |",
        "| dsrl | 20 % (11 to 33) of 50 | 90 % (79 to 96) of 50; +20 after 48 |",
        "| dsrl, shuffled rewards | not run | 98 % (90 to 100) of 50 |",
    ]


@pytest.mark.parametrize("name", ["study", "study-others"])
def test_the_docs_show_the_table_of_the_study_that_was_run(name: str) -> None:
    data = jsonfile.read(root() / "results" / f"{name}.json")
    assert data is not None and study.table(data["rows"]) in (root() / "docs" / "learners.md").read_text(encoding="utf-8")


def test_a_case_is_named_for_the_results_file() -> None:
    case = Case("so100", "push", 1, "awr", True, "sarm2", "flow_vla", 5, 48, 50, 1)
    assert case.name == "so100/push/seed1 awr, shuffled rewards"
