"""Sequences of episodes and the separation of their seeds."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from robot_bringup import schedule
from robot_bringup.schedule import Segment
from whetstone.errors import ConfigError


def refine(**changes):
    settings = {
        "seed": 0,
        "iterations": 2,
        "episodes": 3,
        "evaluation_episodes": 4,
        "deployment_greedy": False,
        "base_evaluation": True,
    }
    return schedule.refine_segments(**{**settings, **changes})


def test_order_numbering_and_seeds_of_a_refine_run():
    segments = refine(seed=3)
    labels = [segment.label or segment.mode for segment in segments]
    assert labels == ["base_greedy", "base_sampled", "train", "refined"]
    found = list(schedule.episodes(segments))
    assert len(found) == 4 + 4 + 6 + 4
    training = [episode for episode in found if episode.mode == "train"]
    assert [(e.iteration, e.index, e.seed, e.last) for e in training] == [
        (0, 0, 30_000, False), (0, 1, 30_001, False), (0, 2, 30_002, True),
        (1, 0, 30_003, False), (1, 1, 30_004, False), (1, 2, 30_005, True),
    ]  # fmt: skip
    assert training[4].episode_id == "train-001-0001"
    assert len({episode.episode_id for episode in found}) == len(found)


def test_base_and_refined_policy_meet_the_same_test_seeds_in_the_same_order():
    seeds: dict[str, list[int]] = {}
    for episode in schedule.episodes(refine(seed=7)):
        seeds.setdefault(episode.label, []).append(episode.seed)
    assert seeds["refined"] == seeds["base_greedy"] == seeds["base_sampled"] == [2_007_000, 2_007_001, 2_007_002, 2_007_003]


@given(
    a=st.integers(0, schedule.MAX_RUN_SEED),
    b=st.integers(0, schedule.MAX_RUN_SEED),
    iterations=st.integers(1, 40),
    episodes=st.integers(1, 250),
    evaluations=st.integers(1, 1000),
)
def test_purposes_and_runs_never_share_a_seed(a, b, iterations, episodes, evaluations):
    used: dict[tuple[int, str], set[int]] = {}
    for seed in (a, b):
        used[seed, "development"] = {schedule.development_seeds(seed), schedule.development_seeds(seed) + schedule.EVALUATION_BLOCK - 1}
        for segment in refine(seed=seed, iterations=iterations, episodes=episodes, evaluation_episodes=evaluations):
            purpose = "train" if segment.mode == "train" else "test"
            last = segment.seed_base + segment.iterations * segment.episodes
            used.setdefault((seed, purpose), set()).update((segment.seed_base, last - 1))
    spans = sorted((min(seeds), max(seeds), key) for key, seeds in used.items())
    for (_, end, first), (start, _, second) in zip(spans, spans[1:]):
        assert end < start, f"{first} and {second} overlap"
    assert all(end < schedule.DEMONSTRATIONS for _, end, key in spans if key[1] == "train")
    assert all(start >= schedule.DEVELOPMENT for start, _, key in spans if key[1] != "train")


def test_no_base_evaluation_and_no_iterations():
    assert [segment.label for segment in refine(base_evaluation=False)] == ["", "refined"]
    assert all(segment.mode == "evaluate" for segment in refine(iterations=0))
    assert "refined" not in [segment.label for segment in refine(iterations=0)]


@pytest.mark.parametrize(
    ("changes", "word"),
    [
        ({"seed": 50}, "seed 50"),
        ({"iterations": 101, "episodes": 100}, "10100"),
        ({"evaluation_episodes": 1001}, "evaluation_episodes"),
    ],
)
def test_what_does_not_fit_is_refused_by_name(changes, word):
    with pytest.raises(ConfigError, match=word):
        refine(**changes)


def test_json_round_trip_and_errors_name_the_key():
    segments = refine()
    assert schedule.from_json(schedule.to_json(segments)) == segments
    with pytest.raises(ConfigError, match=r"schedule\[0\].*'sed_base'.*seed_base"):
        schedule.from_json(schedule.to_json(segments).replace("seed_base", "sed_base", 1))
    with pytest.raises(ConfigError, match="not JSON"):
        schedule.from_json("[")
    with pytest.raises(ConfigError, match="at least one segment"):
        schedule.from_json("[]")


@pytest.mark.parametrize("changes", [{"iterations": 0}, {"label": ""}, {"mode": "train"}, {"iterations": 2}])
def test_segments_that_make_no_sense(changes):
    good = {"mode": "evaluate", "label": "refined", "iterations": 1, "episodes": 1, "seed_base": 0, "greedy": False}
    with pytest.raises(ValueError):
        Segment(**{**good, **changes})
