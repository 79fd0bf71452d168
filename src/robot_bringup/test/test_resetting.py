"""Ways back: they end where they should, and are slow."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from robot_bringup.resetting import SHARE, along, minimum_jerk, recorded_way, to_home, ways
from whetstone.contracts import Rollout
from whetstone.errors import ConfigError, InputError
from whetstone.profile import load_profile
from whetstone.store import RolloutStore

PROFILE = load_profile("franka")
SHARES = arrays(np.float64, len(PROFILE.joints), elements=st.floats(0, 1))


def within(shares: np.ndarray) -> np.ndarray:
    return PROFILE.lower + shares * (PROFILE.upper - PROFILE.lower)


@given(SHARES, SHARES)
def test_a_way_is_slow_begins_at_rest_and_ends_there(first: np.ndarray, second: np.ndarray) -> None:
    start, end = within(first), within(second)
    rows = minimum_jerk(start, end, PROFILE)
    np.testing.assert_allclose(rows[-1], end, atol=1e-9)
    whole = np.concatenate([[start, start], rows, [end, end]])
    velocity = np.diff(whole, axis=0) * PROFILE.rate
    assert (np.abs(velocity) <= SHARE * PROFILE.velocity + 1e-6).all()
    assert (np.abs(np.diff(velocity, axis=0)) * PROFILE.rate <= SHARE * PROFILE.acceleration + 1e-6).all()
    assert (rows >= np.minimum(start, end) - 1e-9).all() and (rows <= np.maximum(start, end) + 1e-9).all()


def test_home_is_gone_to_with_an_open_hand_and_a_recorded_way_from_its_beginning() -> None:
    measured = np.append(PROFILE.home + 0.3, 0.0)
    home = to_home(measured, PROFILE)
    assert (home[:, -1] == 1).all()
    np.testing.assert_allclose(home[-1, :-1], PROFILE.home)
    recorded = np.column_stack([np.linspace(PROFILE.home, PROFILE.home + 0.1, 5), [0, 0, 1, 1, 1]])
    rows = along(recorded, measured, PROFILE)
    np.testing.assert_array_equal(rows[-5:], recorded)
    np.testing.assert_allclose(rows[-6, :-1], PROFILE.home)
    assert np.abs(np.diff(np.concatenate([[measured], rows])[:, :-1], axis=0)).max() < 0.1


def _episode(episode_id: str, steps: dict[str, np.ndarray]) -> Rollout:
    columns = len(PROFILE.joints) + 1
    return Rollout(
        episode_id=episode_id,
        iteration=0,
        task="reach",
        instruction="touch the red cube",
        seed=1,
        outcome="success",
        reason="",
        stamps=np.array([0], np.int64),
        images={"front": np.zeros((1, 4, 4, 3), np.uint8)},
        proprioception=np.zeros((1, columns), np.float32),
        actions=np.zeros((1, 2, columns), np.float32),
        latents=None,
        log_probabilities=np.zeros(1, np.float32),
        policy_versions=np.zeros(1, np.uint64),
        rewards={},
        steps=steps,
    )


def test_an_episode_is_a_recorded_way_where_it_says_what_was_commanded(tmp_path) -> None:
    store = RolloutStore(tmp_path / "rollouts")
    commanded = np.tile(np.append(PROFILE.home, 1.0), (3, 1)).astype(np.float32)
    commanded[0] = np.nan  # nothing was sent at the first step
    steps = {"stamps": np.arange(3) * PROFILE.period_ns, "measured": np.zeros_like(commanded), "commanded": commanded}
    store.write(_episode("whole", steps))
    store.write(_episode("bare", {}))
    np.testing.assert_allclose(recorded_way(store.root / "whole", PROFILE), commanded[1:])
    with pytest.raises(InputError, match="robot 'so100' has 5"):
        recorded_way(store.root / "whole", load_profile("so100"))
    with pytest.raises(InputError, match="no such folder"):
        recorded_way(tmp_path / "nowhere", PROFILE)
    with pytest.raises(InputError, match="does not say what was commanded"):
        recorded_way(store.root / "bare", PROFILE)


def test_words() -> None:
    assert ways("park, prompt", "") == ("park", "prompt")
    with pytest.raises(ConfigError, match="'wave' is no way to bring a scene back; there are park, replay, prompt"):
        ways("park,wave", "")
    for text, episode in (("replay", ""), ("park", "runs/one/rollouts/train-000-0000")):
        with pytest.raises(ConfigError, match="belong together"):
            ways(text, episode)
