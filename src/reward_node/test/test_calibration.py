"""Calibration maps: fitting, what they keep, whom they serve, and the command on real (toy) episodes."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from reward_node.calibration.__main__ import main
from reward_node.calibration.fit import fit, isotonic
from reward_node.signals import total
from whetstone import calibration as maps
from whetstone.calibration import CalibratedReward
from whetstone.config import find, load_yaml
from whetstone.contracts import Provenance, RewardSample
from whetstone.errors import AssetError, ConfigError, InputError
from whetstone.metrics import expected_calibration_error
from whetstone.profile import load_profile
from whetstone.rewards import build, load_reward

MADE_FOR = Provenance("topreward", "pocket_franka", "0123456789ab", "int8", "aaaaaaaaaaaa", "bbbbbbbbbbbb")
MAP = maps.CalibrationMap(np.array([[-8.0, 0.0], [-2.0, 0.5], [-1.0, 1.0]]), 2.0, -0.5)
PROFILE = load_profile("franka")
CONSTANT = load_yaml(find("rewards", "constant"))


@settings(deadline=None)
@given(hnp.arrays(float, st.integers(1, 60), elements=st.floats(-5, 5)), st.integers(0, 5))
def test_isotonic_is_monotone_and_the_nearest(values: np.ndarray, seed: int) -> None:
    random = np.random.default_rng(seed)
    weights = random.uniform(0.1, 2.0, len(values))
    fitted = isotonic(values, weights)
    assert (np.diff(fitted) >= -1e-12).all()
    assert np.average(fitted, weights=weights) == pytest.approx(np.average(values, weights=weights))
    distance = (weights * (fitted - values) ** 2).sum()
    for _ in range(20):
        other = np.sort(fitted + random.normal(0, 0.3, len(values)))
        assert distance <= (weights * (other - values) ** 2).sum() + 1e-9


def scores(count: int, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """A model whose raw value is a bent progress and whose completion is overconfident."""
    random = np.random.default_rng(seed)
    progress = random.uniform(0, 1, count)
    logit = 6 * (progress - 0.7) + random.normal(0, 1, count)
    completed = random.uniform(size=count) < 1 / (1 + np.exp(-logit))
    return np.log(progress + 0.01) - 3.0, progress, 1 / (1 + np.exp(-(3 * logit + 2))), completed


def test_a_fit_undoes_what_bends_a_model() -> None:
    found = fit(*scores(4000, 0))
    raw, progress, stated, completed = scores(4000, 1)
    assert np.mean([abs(found.progress(one) - wanted) for one, wanted in zip(raw, progress, strict=True)]) < 0.02
    mapped = np.array([found.completion(one) for one in stated])
    assert expected_calibration_error(mapped, completed) < 0.03 < expected_calibration_error(stated, completed)
    assert found.slope == pytest.approx(1 / 3, abs=0.05)


@settings(deadline=None)
@given(st.lists(st.floats(-30, 10), min_size=2, max_size=20), st.lists(st.floats(0, 1), min_size=2, max_size=20))
def test_a_map_never_changes_an_order_and_stays_in_bounds(raws: list[float], stated: list[float]) -> None:
    for values, mapping in ((sorted(raws), MAP.progress), (sorted(stated), MAP.completion)):
        mapped = [mapping(value) for value in values]
        assert mapped == sorted(mapped) and 0 <= mapped[0] and mapped[-1] <= 1
    assert np.isnan(MAP.progress(float("nan"))) and np.isnan(MAP.completion(float("nan")))


def test_too_little_to_fit_is_said() -> None:
    raw, progress, stated, completed = scores(50, 0)
    with pytest.raises(ValueError, match="only 10 valid scores"):
        fit(raw[:10], progress[:10], stated[:10], completed[:10])
    with pytest.raises(ValueError, match="only one of done and not done"):
        fit(raw, progress, stated, np.zeros(50, bool))


def test_a_map_serves_whom_it_was_made_for_and_nobody_else(tmp_path: Path) -> None:
    path = tmp_path / "map.json"
    with pytest.raises(AssetError, match="is missing; make one for it with `whetstone calibrate`"):
        maps.load(path, MADE_FOR, "franka", ("front",))
    maps.save(path, MAP, MADE_FOR, "franka", ("front",), {"episodes": 3})
    found = maps.load(path, replace(MADE_FOR, config="other"), "franka", ("front",))
    assert (found.knots == MAP.knots).all() and (found.slope, found.intercept) == (MAP.slope, MAP.intercept)
    for name in maps.COMPARED:
        with pytest.raises(ConfigError, match=f"made for another {name} .*, here 'x'"):
            maps.load(path, replace(MADE_FOR, **{name: "x"}), "franka", ("front",))
    with pytest.raises(ConfigError, match="made for another robot"):
        maps.load(path, MADE_FOR, "so100", ("front",))
    with pytest.raises(ConfigError, match="made for another cameras"):
        maps.load(path, MADE_FOR, "franka", ("front", "wrist"))


@pytest.mark.parametrize(
    "change", [{"knots": []}, {"knots": [[0.0, 1.0], [1.0, 0.0]]}, {"slope": -1.0}, {"slope": "steep"}, {"intercept": None}]
)
def test_a_damaged_map_is_refused(tmp_path: Path, change: dict[str, Any]) -> None:
    path = tmp_path / "map.json"
    maps.save(path, MAP, MADE_FOR, "franka", ("front",), {})
    data = json.loads(path.read_text())
    path.write_text(json.dumps({**data, "map": {**data["map"], **change}}))
    with pytest.raises(AssetError, match="cannot be used"):
        maps.load(path, MADE_FOR, "franka", ("front",))
    path.write_text("{")
    with pytest.raises(AssetError, match="not JSON"):
        maps.load(path, MADE_FOR, "franka", ("front",))


def test_a_configuration_names_its_map(tmp_path: Path) -> None:
    """Through the loader: for any plug-in, which never sees the key."""
    path = tmp_path / "map_franka.json"
    data = {**CONSTANT, "progress": 0.25, "completion": 0.5, "calibration_map": str(tmp_path / "map_{robot}.json")}
    with pytest.raises(AssetError, match="map_franka.json' is missing"):
        build(data, PROFILE, "cpu", "the test")
    found = replace(MAP, knots=np.array([[0.0, 0.1], [1.0, 0.9]]))
    maps.save(path, found, Provenance("constant"), "franka", tuple(CONSTANT["cameras"]), {})
    reward = build(data, PROFILE, "cpu", "the test")
    assert (
        isinstance(reward, CalibratedReward) and reward.provenance.config != build(CONSTANT, PROFILE, "cpu", "the test").provenance.config
    )
    reward.reset("a", "touch", 0)
    images = {name: np.zeros((128, 128, 3), np.uint8) for name in ("front", "wrist")}
    sample = reward.observe(images, 7)
    assert sample is not None and sample.raw == 0.25 and sample.progress == sample.process == pytest.approx(0.3)
    assert sample.completion == pytest.approx(1 / (1 + np.exp(0.5)))
    assert sample.total == pytest.approx(total(sample.progress, sample.completion, 0.0))
    assert reward.score_episode([images], [7]) == [sample]
    with pytest.raises(ConfigError, match="must be the name of a file"):
        build({**data, "calibration_map": 3}, PROFILE, "cpu", "the test")
    with pytest.raises(ConfigError, match="goes with 'signal: held' only"):
        build({**data, "signal": "increments"}, PROFILE, "cpu", "the test")


def test_other_words_reach_a_model_behind_a_map() -> None:
    """The node asks for `tell`: a model that has it keeps what it saw, one that lacks it is reset."""

    class Listener:
        provenance, needs = MADE_FOR, None
        heard: ClassVar[list[str]] = []

        def tell(self, instruction: str) -> None:
            self.heard.append(instruction)

    listener: Any = Listener()
    CalibratedReward(listener, MAP, "map.json").tell("stack")
    assert listener.heard == ["stack"]
    assert not hasattr(CalibratedReward(build(CONSTANT, PROFILE, "cpu", "the test"), MAP, "map.json"), "tell")


def test_robots_that_share_a_model_share_its_map() -> None:
    class Shared:
        provenance, needs = MADE_FOR, None

        def beside(self) -> Shared:
            return Shared()

        def observe_together(self, models: Any, frames: Any, stamps: list[int]) -> list[RewardSample | None]:
            assert all(isinstance(model, Shared) for model in models)
            return [RewardSample(stamp, raw=-3.0, process=0.0, completion=0.5, total=0.0) for stamp in stamps[:-1]] + [None]

        def observe(self, images: Any, stamp: int) -> RewardSample:
            return RewardSample(stamp, raw=-3.0, process=0.0, completion=0.5, total=0.0)

    inner: Any = Shared()
    one: Any = CalibratedReward(inner, MAP, "map.json")
    other = one.beside()
    assert other is not one and other.provenance == one.provenance
    assert one.observe_together([one, other], [{}, {}], [4, 5]) == [other.observe({}, 4), None]
    alone = CalibratedReward(build(CONSTANT, PROFILE, "cpu", "the test"), MAP, "map.json")
    assert not hasattr(alone, "beside") and not hasattr(alone, "observe_together")


def test_the_command_says_what_is_wrong(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no demonstrations below"):
        main(["reward:=constant", f"data:={tmp_path}"])
    with pytest.raises(ConfigError, match="unknown reward 'topreword'; did you mean 'topreward'"):
        load_reward("topreword", PROFILE)
