"""The figures of an evaluation by hand: curves, controls, agreement, AUC; errors, seams, jerk and the guard's word on chunks."""

from __future__ import annotations

import math
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from robot_bringup import records
from robot_bringup.charts import curves
from robot_bringup.evaluation import command, figures, open_loop
from robot_bringup.evaluation.lanes import Chunks, Scores
from robot_bringup.evaluation.models import Named, named
from robot_bringup.evaluation.recordings import Done, Source, StoredEpisode, find, outcomes
from robot_bringup.evaluation.settings import Settings
from robot_bringup.evaluation.spool import Reordered, Spool
from robot_bringup.evaluation.summary import pair_summary, summarise
from robot_bringup.evaluation.work import succeeded
from whetstone import config
from whetstone.completion import Completion
from whetstone.contracts import RewardSample, Rollout
from whetstone.errors import ConfigError, InputError
from whetstone.profile import load_profile
from whetstone.store import RolloutStore

PERIOD = 50_000_000
PROFILE = load_profile("so100")
COLUMNS = len(PROFILE.joints) + 1
SUCCESS = Completion(threshold=0.8, frames=2)


def scores(values: list[float], *, every: int = 4, completion: list[float] | None = None, invalid: tuple[int, ...] = ()) -> Scores:
    done = completion or values
    samples = [
        RewardSample(
            row * every * PERIOD,
            raw=value,
            progress=value,
            completion=done[row],
            valid=row not in invalid,
            reason="dark" * (row in invalid),
        )
        for row, value in enumerate(values)
    ]
    return Scores.of(samples, [0.01 * (row + 1) for row in range(len(values))])


def test_a_curve() -> None:
    said = scores([0.0, 0.2, 0.6, 0.3, 0.1, 0.9, 1.0])
    found = figures.curve_figures(said, SUCCESS, 0.05)
    # Ranks 0 2 4 3 1 5 6 against 0 to 6: 1 - 6 * (0 + 1 + 4 + 0 + 9 + 0 + 0) / (7 * 48)
    assert found["voc"] == pytest.approx(1 - 6 * 14 / 336)
    # The last half second: scores at 0.8, 1.0 and 1.2 s.
    assert found["end"] == pytest.approx((0.1 + 0.9 + 1.0) / 3) and found["gain"] == found["end"]
    assert found["largest_drop"] == pytest.approx(0.5) and found["success_at"] == pytest.approx(1.2)
    assert found["latency_p50"] == pytest.approx(0.045) and found["behind"] == pytest.approx(2 / 6)
    assert [(mark.what, mark.index) for mark in figures.landmarks(said, SUCCESS)] == [("start", 0), ("drop", 4), ("end", 6)]
    assert [(mark.what, mark.index) for mark in figures.landmarks(scores([0.0, 0.9, 0.85, 0.4]), SUCCESS)] == [
        ("start", 0),
        ("peak", 1),
        ("success", 2),
        ("end", 3),
    ]


def test_frames_that_were_not_scored_are_left_out_and_counted() -> None:
    found = figures.curve_figures(scores([0.0, 5.0, 0.5, 1.0], invalid=(1,)), SUCCESS, 1.0)
    assert (found["voc"], found["scored"], found["invalid"]) == (1.0, 3, 1)
    nothing = figures.curve_figures(scores([1.0], invalid=(0,)), SUCCESS, 1.0)
    assert nothing["voc"] is None and nothing["end"] is None and nothing["success_at"] is None
    assert figures.landmarks(scores([1.0], invalid=(0,)), SUCCESS) == []


def test_controls_are_measured_by_the_real_rise() -> None:
    real, still = scores([0.0, 0.5, 1.0, 1.0, 1.0, 1.0]), scores([0.0, 0.1, 0.25, 0.25, 0.25, 0.25])
    found = figures.control_figures(real, still)
    assert found["share"] == pytest.approx(0.25) and found["gain"] == pytest.approx(0.25)
    # What differs in the fifth decimal is rounding, not an order.
    assert figures.control_figures(real, scores([0.5, 0.500001, 0.500002, 0.500003]))["voc"] == 0.0


def test_agreement_of_models_that_score_at_different_steps() -> None:
    often, seldom = scores([0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6], every=2), scores([0.0, 1.0, 2.0, 3.0], every=4)
    assert figures.agreement(often, seldom) == pytest.approx(1.0) == figures.agreement(seldom, often)
    assert figures.agreement(often, scores([3.0, 2.0, 1.0, 0.0], every=4)) == pytest.approx(-1.0)
    assert figures.agreement(often, scores([1.0, 1.0, 1.0, 1.0], every=4)) is None


def test_auc_is_a_number_or_says_why_not() -> None:
    assert figures.success_auc([0.1, 0.4, 0.35, 0.8], [False, False, True, True]) == (0.75, "")
    assert figures.success_auc([0.1, None, 0.8], [False, True, True]) == (1.0, "")
    for won, why in (([True, True], "all 2 recordings"), ([None, None], "outcomes:=FILE"), ([True, None], "all 1 recordings")):
        value, said = figures.success_auc([0.1, 0.2], won)
        assert value is None and why in said


def chunks_of(actions: np.ndarray, every: int = 2) -> Chunks:
    count = len(actions)
    stamps = np.arange(count, dtype=np.int64) * every * PERIOD
    measured = np.zeros((count, COLUMNS), np.float32)
    return Chunks(stamps, actions.astype(np.float32), measured, np.full(count, 0.02), np.zeros(count, np.int64), ())


def test_errors_by_row_against_commands_and_where_those_lack_against_where_the_arm_went() -> None:
    steps = 6
    measured = np.arange(steps, dtype=np.float32)[:, None] * 0.1 + np.zeros(COLUMNS, np.float32)
    commanded = np.full((steps, COLUMNS), np.nan, np.float32)
    commanded[:3] = 1.0
    done = Done(np.arange(steps, dtype=np.int64) * PERIOD + 3, measured, commanded)
    found = open_loop.errors(chunks_of(np.zeros((3, 4, COLUMNS))), done, PERIOD)
    # Steps 0 to 2 by their command; 3 and 4 by the next measured position; 5 by nothing: it is the last.
    assert np.allclose(found.policy[..., 0], [[1, 1, 1, 0.4], [1, 0.4, 0.5, np.nan], [0.5, np.nan, np.nan, np.nan]], equal_nan=True)
    told = open_loop.error_figures(found, 2)
    assert told["joints"] == pytest.approx((1 + 1 + 1 + 0.4 + 0.5) / 5) and told["ratio"] == pytest.approx(1.0)
    assert np.allclose(open_loop.by_row(found.policy)[:, 1], [(1 + 1 + 0.5) / 3, 0.7, 0.75, 0.4])
    assert open_loop.error_figures(open_loop.errors(chunks_of(np.zeros((1, 4, COLUMNS))), None, PERIOD), 2)["joints"] is None


def test_seams_and_jerk() -> None:
    actions = np.zeros((3, 4, COLUMNS))
    actions[0, :, 1] = [0, 1, 8, 27]  # t^3: its third difference is 6
    actions[1, 0, 2] = 0.25
    found = open_loop.smoothness(chunks_of(actions), None, 2, 20.0)
    assert found["jerk"] == pytest.approx(20.0**3 * math.sqrt((36 + 0.25**2) / (3 * (COLUMNS - 1))))
    # Row 2 of a chunk against row 0 of the next: 8 - 0 in joint 1; then 0 - 0.
    assert found["seam_p50"] == pytest.approx(4.0)
    gap = chunks_of(actions)
    apart = Chunks(gap.stamps * np.array([1, 1, 5]), gap.actions, gap.measured, gap.seconds, gap.out_of_reach, ())
    assert open_loop.smoothness(apart, None, 2, 20.0)["seam_p50"] == pytest.approx(8.0)


def test_the_guard_says_what_it_would_change() -> None:
    still = np.zeros((2, 4, COLUMNS))
    still[..., :-1] = PROFILE.home
    chunks = chunks_of(still)
    rest = Chunks(chunks.stamps, chunks.actions, chunks.actions[:, 0], chunks.seconds, chunks.out_of_reach, ())
    assert open_loop.guarded(rest, None, 2, PROFILE) == ({"rows": 4.0, "changed": 0.0, "held": 0.0}, {})
    leap = rest.actions.copy()
    leap[0, 0, 0] += 1.0
    leap[1, 1, 1] = np.nan
    found, reasons = open_loop.guarded(Chunks(rest.stamps, leap, rest.measured, rest.seconds, rest.out_of_reach, ()), None, 2, PROFILE)
    assert found["held"] == 0.25 and (found["changed"] or 0) >= 0.25
    assert any(reason.startswith(("step", "velocity", "acceleration")) for reason in reasons)
    assert "not finite: " + PROFILE.joint_names[1] in reasons


def result(name: str, won: bool | None, end: float, said: bool) -> dict[str, Any]:
    figures_of = {"voc": 0.9, "end": end, "completion_end": end, "success_at": 1.0 if said else None, "invalid": 0.0, "behind": 0.0}
    reward = {"figures": figures_of, "controls": {}, "success": {"threshold": 0.8}, "reasons": {}}
    return {"name": name, "succeeded": won, "rewards": {"a": reward, "b": reward}, "policies": {}, "agreement": {"a|b": 1.0}}


def test_all_recordings_together() -> None:
    results = [result("1", True, 0.9, True), result("2", True, 0.2, False), result("3", False, 0.3, True), result("4", None, 0.1, False)]
    summary = summarise(results)
    found = {(row["case"], row["subject"], row["metric"]): row for row in summary.rows}
    assert found["all", "a", "success_auc"]["value"] == 0.5 and found["all", "a", "success_auc"]["n"] == 3
    assert found["all", "a", "false_success_rate"]["value"] == 1.0 and found["all", "a", "missed_success_rate"]["value"] == 0.5
    assert any("success AUC 0.50" in line for line in summary.shortcomings)
    assert any("100% of the failures are called a success (of 1)" in line for line in summary.shortcomings)
    pair = pair_summary(results, "a", "b")
    assert pair["same_verdict"] == (1.0, 4) and pair["ends_rank_correlation"][0] == pytest.approx(1.0)


@given(st.lists(st.integers(1, 9), min_size=1, max_size=8), st.randoms(use_true_random=False))
def test_a_spool_gives_back_what_was_put_in_any_order(tmp_path_factory: pytest.TempPathFactory, sizes: list[int], random: Any) -> None:
    spool = Spool(tmp_path_factory.getbasetemp(), 10_000)
    frames = [{"a": np.full((size, 2, 3), size, np.uint8), "b": np.arange(size, dtype=np.float32)} for size in sizes]
    for frame in frames:
        spool.put(frame)
    order = list(range(len(sizes)))
    random.shuffle(order)
    for place, frame in zip(order, Reordered(spool, order)):
        assert all(np.array_equal(frame[name], frames[place][name]) for name in ("a", "b"))
    spool.put({"a": np.zeros(10_001, np.uint8)})
    assert spool.full and len(spool) == len(sizes)
    spool.close()


def test_what_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="nothing: no such file or folder"):
        find([str(tmp_path / "nothing")])
    (tmp_path / "run" / "rollouts").mkdir(parents=True)
    with pytest.raises(InputError, match="rollouts: no episodes"):
        find([str(tmp_path / "run")])
    for name in ("a.mcap", "b.bag"):
        (tmp_path / name).touch()
    assert [(source.kind, source.name) for source in find([str(tmp_path / "a.mcap"), str(tmp_path / "b.bag")])] == [
        ("bag", "a.mcap"),
        ("bag", "b.bag"),
    ]
    for again in (tmp_path / "a.mcap", tmp_path / "run" / ".." / "a.mcap"):
        with pytest.raises(InputError, match="a.mcap is named twice"):
            find([str(tmp_path / "a.mcap"), str(again)])


def test_what_is_called_alike_in_several_runs_is_told_apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for run in ("a", "b"):
        for episode in ("train-000-0000", f"train-000-000{run}"):
            folder = tmp_path / run / "rollouts" / episode
            folder.mkdir(parents=True)
            (folder / "arrays.npz").touch()
            (folder / "meta.json").write_text('{"outcome": "timeout"}')
        (tmp_path / run / "bags" / "train-000-0001").mkdir(parents=True)
        (tmp_path / run / "bags" / "train-000-0001" / "metadata.yaml").touch()
        records.append(tmp_path / run / records.TRUTH, {"episode_id": "train-000-0000", "success": True})
    found = find([str(tmp_path / run) for run in "ab"])
    assert [one.name for one in found] == [
        "a/rollouts/train-000-0000", "train-000-000a", "b/rollouts/train-000-0000", "train-000-000b"
    ]  # fmt: skip
    assert all(one.outcome == "failure" for one in found)
    assert [one.name for one in find([str(tmp_path / run / "bags") for run in "ab"])] == [f"{run}/bags/train-000-0001" for run in "ab"]
    one = find([str(tmp_path / "a" / "bags" / "train-000-0001")])[0]
    assert (one.recording("train-000-0001"), one.recording("train-000-0007")) == ("train-000-0001", "train-000-0001/train-000-0007")
    # Its run is found from whatever folder it is named.
    for folder, word in (
        ("a", "rollouts"),
        ("a/rollouts", "."),
        ("a/rollouts/train-000-0000", "."),
        ("a/bags", "train-000-0001"),
        ("", "a"),
    ):
        monkeypatch.chdir(tmp_path / folder)
        assert outcomes(find([word])[0].run) == {"train-000-0000": "success"}, (folder, word)


def test_what_lies_in_a_folder(tmp_path: Path) -> None:
    run = tmp_path / "run"
    for name in ("refined-0001", "refined-0000"):
        (run / "bags" / name).mkdir(parents=True)
        (run / "bags" / name / "metadata.yaml").touch()
    bags = ["refined-0000", "refined-0001"]
    # A run that learned nothing has bags alone; truth of evaluations is among what it says of them.
    records.append(run / records.EVALUATION, {"episode_id": "refined-0001", "success": False})
    assert [source.name for source in find([str(run)])] == [source.name for source in find([str(run / "bags")])] == bags
    assert outcomes(find([str(run)])[0].run) == {"refined-0001": "failure"}
    (one,) = find([str(run / "bags" / "refined-0000" / "metadata.yaml")])
    assert (one.name, one.run) == ("refined-0000", run)
    # A file among folders is a bag like these.
    (run / "bags" / "loose.mcap").touch()
    assert [source.name for source in find([str(run / "bags")])] == ["loose.mcap", *bags]
    with pytest.raises(ConfigError, match="argument cameras:=front=/x is for bags, and there is none"):
        stored = tmp_path / "stored" / "one"
        stored.mkdir(parents=True)
        for name in ("meta.json", "arrays.npz"):
            (stored / name).touch()
        command.main([str(stored), "reward:=constant", "cameras:=front=/x"], Console())


def test_weights_in_ones_home_are_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "w.safetensors").touch()
    (found,) = named("flow_vla@~/w.safetensors", "policies")
    assert (found.name, found.weights) == ("flow_vla@w", str(tmp_path / "w.safetensors"))
    with pytest.raises(ConfigError, match="~nobody-here/w: there is no user 'nobody-here'"):
        named("flow_vla@~nobody-here/w", "policies")


def test_a_result_holds_until_what_it_depends_on_changes(root: Path, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "weights").write_text("1")
    (root / "config" / "rewards" / "mine.yaml").write_text(f"plugin: constant\nmodel: {folder}\n")
    bag = tmp_path / "a.mcap"
    bag.touch()
    (source,) = find([str(bag)])

    def key(**more: Any) -> str:
        return Settings("so100", (Named("mine", "mine"),), **more).key(source)

    first = key()
    assert key(threads=2, device="cuda", spool=1) == first != key(resize="crop")
    assert Settings("so100", (Named("mine", "mine"),)).key(replace(source, before="b/")) == first
    assert Settings("so100", (Named("mine", "mine"),)).key(replace(source, judge="truth")) != first
    # A model's folder is what its files are, also where one was written over in place.
    times = os.stat(folder)
    (folder / "weights").write_text("12")
    os.utime(folder, ns=(times.st_atime_ns, times.st_mtime_ns))
    second = key()
    assert second != first
    bag.write_text("more")
    assert key() != second


def test_configurations_are_read_once_for_all_sources(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in "ab":
        (tmp_path / f"{name}.mcap").touch()
    settings, sources, read = (
        Settings("so100", (Named("constant", "constant"),)),
        find([str(tmp_path / f"{name}.mcap") for name in "ab"]),
        [],
    )
    load = config.load_yaml
    monkeypatch.setattr(config, "load_yaml", lambda path: read.append(path) or load(path))
    assert len({settings.key(source) for source in sources}) == 2
    assert sum("constant" in str(path) for path in read) == 1


def test_where_truth_was_asked_for_a_reward_is_not_taken_for_it() -> None:
    source = Source("episode", "/run/rollouts", "one", outcome="success")
    assert succeeded(source, "success") is True and succeeded(replace(source, outcome=""), "timeout") is False
    assert succeeded(replace(source, outcome="", judge="the simulator's truth"), "success") is None
    assert succeeded(replace(source, outcome="failure", judge="the simulator's truth"), "success") is False


def test_a_page_keeps_recordings_apart_and_finds_its_figures() -> None:
    results = [result(name, True, 0.9, True) for name in ("a/b", "a-b")]
    summary = summarise(results)
    assert summary.of_all["a", "end"]["n"] == 2 and summary.of_all["a|b", "same_verdict"]["value"] == 1.0
    assert ("a/b", "end") not in summary.of_all


def test_a_part_of_a_stored_episode(tmp_path: Path) -> None:
    images, columns = np.zeros((5, 2, 2, 3), np.uint8), len(PROFILE.joints) + 1
    stamps = np.arange(5, dtype=np.int64) * 8 * PERIOD + 10**9
    rollout = Rollout(
        "one", 0, "t", "do it", 0, "success", "", stamps, {"front": images}, np.zeros((5, columns), np.float32),
        np.zeros((5, 16, columns), np.float32), None, np.zeros(5, np.float32), np.zeros(5, np.uint64), {},
    )  # fmt: skip
    store = RolloutStore(tmp_path)
    store.write(rollout)

    def seen(start: float, end: float | None) -> list[int]:
        return [stamp for name, stamp, _ in StoredEpisode(store, rollout, PROFILE, start, end).parts(["front"], False)]

    assert seen(0.0, None) == stamps.tolist()
    assert seen(0.4, 1.2) == stamps[1:4].tolist()


def test_a_chart_leaves_gaps_and_survives_nothing() -> None:
    text = curves({"a<b": ([0.0, 1.0, 2.0], [0.0, math.nan, 1.0])}, alt="x", x_label="s", marks=[(2.0, 1.0, "E")])
    assert "a&lt;b" in text and text.count("M") >= 3 and "nan" not in text
    assert "nan" not in curves({"none": ([], [])}, alt="x", x_label="s")
