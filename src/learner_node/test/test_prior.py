"""Episodes from before the run: which are taken, and how much of a batch they are; corrections in them and in the run's own."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import test_actor_critic
import torch
from hypothesis import given
from hypothesis import strategies as st
from test_imitation import LEARNERS, policy
from tiny_flow import TinyPolicy, rollout

from learner_node import checkpoint
from learner_node.prior import prior_count, read_prior
from learner_node.replay import Halves, Transitions, transitions
from learner_node.shaping import Shaping
from whetstone.contracts import PolicySpec, Rollout
from whetstone.errors import ConfigError
from whetstone.store import RolloutStore

SPEC = PolicySpec("tiny", ("front",), (4, 6), ("a",), horizon=1, execute=1, rate=20.0, config_hash="")
NONE = (float("nan"),) * 4


def seen(record: Rollout, name: str, **changes: Any) -> Rollout:
    """With pictures, as a store has it."""
    images = {"front": np.zeros((len(record.stamps), 4, 6, 3), np.uint8)}
    return replace(record, episode_id=name, **{"images": images, **changes})


def taken_over(record: Rollout, action: tuple[float, float]) -> Rollout:
    """A human did `action` at every control step; a decision is one of them."""
    count = len(record.stamps)
    done = np.tile(np.array(action, np.float32), (count, 1))
    return replace(record, steps={"stamps": record.stamps, "measured": done, "commanded": done, "intervention": np.ones(count, bool)})


def stored(folder: Path, *episodes: Rollout) -> str:
    for one in episodes:
        RolloutStore(folder).write(one)
    return str(folder)


def learner(name: str, prior: str, **changes: Any) -> Any:
    given = {
        "tensors": "all",
        "learning_rate": 1e-3,
        "steps": 150,
        "updates": 100.0,
        "batch": 64,
        "demonstration_share": 0.0,
        "prior": prior,
        **changes,
    }
    given |= {"value_steps": 40} if name in ("awr", "recap") else {}
    made: Any = policy(name)
    made.spec = SPEC
    return LEARNERS[name].load(given, made, 0)


BREAK: dict[str, tuple[Callable[[Rollout], Rollout], str]] = {
    "camera": (lambda one: replace(one, images={"top": one.images["front"]}), "episode b has no camera 'front'; it has top"),
    "size": (
        lambda one: replace(one, images={"front": np.zeros((3, 8, 8, 3), np.uint8)}),
        "episode b has images of 8x8 .* the policy sees 6x4",
    ),
    "joints": (lambda one: replace(one, proprioception=np.zeros((3, 4), np.float32)), "measures 3 joints and a gripper, .* robot has 1"),
    "commands": (
        lambda one: replace(one, actions=np.zeros((3, 1, 7), np.float32)),
        r"has actions of 7 numbers \(the end effector and gripper\), the policy's have 2 \(joint_position\)",
    ),
    "horizon": (lambda one: replace(one, actions=np.zeros((3, 2, 2), np.float32)), "chunks of 2 rows, the policy's have 1"),
}


@pytest.mark.parametrize("what", sorted(BREAK))
def test_another_robot_s_episode_is_named(what: str, tmp_path: Path) -> None:
    change, said = BREAK[what]
    good = seen(rollout("success", (0, 0)), "a")
    folder = stored(tmp_path, good, change(replace(good, episode_id="b")))
    with pytest.raises(ConfigError, match=f"my.yaml: key 'prior': {folder}: .*{said}"):
        list(read_prior(folder, SPEC, "my.yaml"))


def test_a_folder_that_is_not_there_or_holds_nothing_is_named(tmp_path: Path) -> None:
    for folder, said in ((tmp_path / "none", "no such folder"), (tmp_path, "holds no episode that came to its end")):
        with pytest.raises(ConfigError, match=f"config/learners/filtered_bc.yaml: key 'prior': {folder}: {said}"):
            learner("filtered_bc", str(folder))
    stored(tmp_path, seen(rollout("aborted", (0, 0)), "a"))
    with pytest.raises(ConfigError, match="holds no episode that came to its end"):
        learner("filtered_bc", str(tmp_path))


def test_a_damaged_episode_is_named_and_left_where_it_is(tmp_path: Path) -> None:
    folder = stored(tmp_path, seen(rollout("success", (0, 0)), "a"))
    (tmp_path / "a" / "arrays.npz").write_bytes(b"nothing")
    with pytest.raises(ConfigError, match="key 'prior': .*a/arrays.npz: damaged.*whetstone episodes list"):
        list(read_prior(folder, SPEC, "my.yaml"))
    assert RolloutStore(folder).list() == ["a"]


def test_a_run_s_folder_is_as_good_as_that_of_its_rollouts(tmp_path: Path) -> None:
    stored(tmp_path / "rollouts", seen(rollout("success", (0, 0)), "a"), seen(rollout("aborted", (0, 0)), "b"))
    for folder in (tmp_path, tmp_path / "rollouts"):
        assert [one.episode_id for one in read_prior(str(folder), SPEC, "my.yaml")] == ["a"]


@given(batch=st.integers(1, 500), share=st.floats(0, 1), prior=st.integers(1, 900), own=st.integers(0, 900))
def test_how_much_of_a_batch_is_the_prior_s(batch: int, share: float, prior: int, own: int) -> None:
    found = prior_count(batch, share, prior, own)
    assert 0 <= found <= batch
    if not own:
        assert found == batch, "where nothing else is there"
    elif prior >= batch:
        assert found == round(share * batch)
    else:
        assert found <= prior


@pytest.mark.parametrize("name", sorted(LEARNERS))
def test_demonstrations_without_a_reward_are_learned_from_beside_the_policy_s_own_failures(name: str, tmp_path: Path) -> None:
    folder = stored(tmp_path, *(seen(rollout("success", (1.0, -1.0), progress=NONE), f"demo-{i}") for i in range(6)))
    made = learner(name, folder, batch=32, steps=100, learning_rate=3e-3)
    own = [rollout("timeout", (-1.0, 1.0), progress=(0.3, 0.2, 0.1, 0.0), seed=i) for i in range(6)]
    report = made.update(own, 0, False)
    assert report.deploy and report.metrics["prior"] == 18 and report.metrics["prior_unlabelled_steps"] == 0
    toward = float(made.policy.mean() @ np.array([0.5, -0.5]))
    # Three imitate failures too, where nothing is better: half of each then.
    assert toward > (-0.3 if name in ("awr", "behaviour_cloning", "top_awr") else 0.3), toward


def test_half_of_what_is_imitated_comes_from_before_the_run(tmp_path: Path) -> None:
    """Thrice as many decisions of its own, and each side pulls as much as its share says."""
    folder = stored(tmp_path, *(seen(rollout("success", (1.0, -1.0)), f"a-{i}") for i in range(12)))
    found = {}
    for share in (0.0, 0.5, 1.0):
        made = learner("filtered_bc", folder, prior_share=share, steps=120, learning_rate=3e-3, batch=32)
        made.update([rollout("success", (-1.0, 1.0), seed=i) for i in range(36)], 0, False)
        found[share] = float(made.policy.mean() @ np.array([0.5, -0.5]))
    assert found[0.0] < -0.6 and abs(found[0.5]) < 0.35 and found[1.0] > 0.6, found


def test_what_cannot_be_imitated_is_counted_or_named(tmp_path: Path) -> None:
    scored = seen(rollout("success", (0, 0), progress=(0.0, float("nan"), 0.5, 1.0)), "a")
    folder = stored(tmp_path / "one", scored, seen(rollout("timeout", (0, 0), progress=NONE), "b"))
    made = learner("filtered_bc", folder)
    metrics = made.update([rollout("timeout", (0, 0))], 0, False).metrics
    assert metrics["prior_unlabelled_steps"] == 2 and metrics["prior"] == 1
    folder = stored(tmp_path / "two", seen(rollout("timeout", (0, 0), progress=NONE), "b"))
    with pytest.raises(
        ConfigError, match=f"key 'prior': {folder}: none of its 1 episodes can be imitated: they failed, and have no rewards"
    ):
        learner("filtered_bc", folder)
    assert learner("behaviour_cloning", folder)._prior, "which reads no reward"


def test_another_policy_s_failures_are_no_mirror_for_this_one(tmp_path: Path) -> None:
    episodes = [seen(rollout("timeout", (-1.0, 1.0)), "a"), seen(rollout("success", (1.0, 1.0)), "b")]
    made = learner("flow_refinement", stored(tmp_path, *episodes))
    prior, own = made._pools(0)
    assert (prior.weights > 0).all() and len(prior) == 3 and not len(own)
    made.recall(rollout("timeout", (-1.0, 1.0)), 0)
    assert (made._pools(0)[1].weights < 0).all()


# Interventions, in the run's own episodes and in those from before it.


@pytest.mark.parametrize("name", sorted(LEARNERS))
def test_a_correction_is_imitated_whatever_came_of_it(name: str) -> None:
    made = LEARNERS[name].load({"demonstration_share": 0.0}, policy(name), 0)
    plain = rollout("timeout", (-1.0, 1.0), progress=(0.3, 0.2, 0.1, 0.0))
    fixed = taken_over(rollout("failure", (-1.0, 1.0), progress=NONE, seed=1), (1.0, -1.0))
    good = [rollout("success", (0.5, 0.5), progress=(0.0, 0.4, 0.7, 1.0), seed=2 + i) for i in range(4)]
    metrics, material = made.see([plain, fixed, *good], 0)
    assert metrics["intervened"] == 3 and metrics["unlabelled_steps"] == 3
    kept = made._buffer[1]
    assert kept.chunks.tolist() == [[1.0, -1.0]] * 3, "what was commanded, not what the policy wanted"
    assert material is not None
    _, chunks, signs = material[1].draw(400, np.random.default_rng(0))
    corrections = (chunks == chunks.new_tensor([1.0, -1.0])).all(1)
    assert corrections.any() and (signs[corrections] > 0).all()


def test_a_correction_weighs_as_much_as_a_success_and_is_never_forgotten() -> None:
    made = LEARNERS["top_awr"].load({"memory": 1, "steps": 2, "tau": 0.7, "temperature": 1e9, "demonstration_share": 0.0}, TinyPolicy(0), 0)
    made.update([taken_over(rollout("timeout", (0, 0), seed=0), (1.0, -1.0)), rollout("success", (0, 0), seed=1)], 0, False)
    np.testing.assert_allclose(made._pools(0)[1].weights, 0.7)
    made.update([rollout("success", (0, 0), seed=2)], 1, False)
    assert made.memory() == [(0, "train-0"), (1, "train-2")], "the other episode of iteration 0 has gone"
    for iteration in (2, 3):
        made.update([rollout("timeout", (0, 0), seed=iteration)], iteration, False)
    assert made.memory()[0] == (0, "train-0") and len(made.memory()) == 2


def test_a_correction_in_a_demonstration_is_taken_as_it_was_commanded(tmp_path: Path) -> None:
    episode = taken_over(seen(rollout("timeout", (-1.0, 1.0), progress=NONE), "a"), (1.0, -1.0))
    made = learner("filtered_bc", stored(tmp_path, episode))
    prior = made._pools(0)[0]
    assert len(prior) == 3 and made._prior[0].chunks.tolist() == [[1.0, -1.0]] * 3


# Learners from a replay buffer.


def replaying(name: str, prior: str = "", **changes: Any) -> Any:
    made = test_actor_critic.POLICIES[name]()
    made.spec = SPEC
    given = {"batch": 64, "learning_rate": 3e-3, **test_actor_critic.OWN[name], "prior": prior, **changes}
    return test_actor_critic.LEARNERS[name].load(given, made, 0)


def steered(record: Rollout) -> Rollout:
    return replace(record, latents=np.array(record.actions[:, 0]))


@pytest.mark.parametrize("name", ["dsrl", "spiral"])
def test_a_replay_learner_learns_which_action_is_better_from_another_run(name: str, tmp_path: Path) -> None:
    """Its own episodes never did anything but nothing."""
    chosen = np.random.default_rng(0).normal(0, 0.7, (48, 2))
    another = (seen(test_actor_critic.played(one, index), f"a-{index}") for index, one in enumerate(chosen))
    unscored = steered(seen(rollout("success", (0, 0), progress=NONE[:3]), "unscored"))
    made = replaying(name, stored(tmp_path, unscored, *map(steered, another)), updates=4.0)
    for iteration in range(2):
        own = [steered(test_actor_critic.played(np.zeros(2), index)) for index in range(24)]
        metrics = made.update(own, iteration, False).metrics
    assert metrics["prior"] == 48 and metrics["prior_unlabelled_steps"] == 2
    assert made.policy.middle()[0] > 0.1


def test_what_a_replay_learner_cannot_learn_from_is_named(tmp_path: Path) -> None:
    demonstration = seen(rollout("success", (0, 0), progress=NONE), "demo-0")
    folder = stored(tmp_path / "demonstrations", demonstration)
    with pytest.raises(ConfigError, match=f"dsrl.yaml: key 'prior': {folder}: episode demo-0: its decisions hold no numbers of noise"):
        replaying("dsrl", folder)
    with pytest.raises(ConfigError, match=f"spiral.yaml: key 'prior': {folder}: none of its 1 episodes has rewards"):
        replaying("spiral", folder)
    with pytest.raises(ConfigError, match="no such folder"):
        replaying("spiral", str(tmp_path / "none"))


@given(count=st.integers(1, 300), share=st.floats(0, 1), seed=st.integers(0, 9))
def test_a_batch_has_its_share_of_either_half(count: int, share: float, seed: int) -> None:
    def of(mark: float, length: int) -> Transitions:
        one = rollout("success", (0, 0), progress=(0.0,) * (length + 1))
        return transitions(one, torch.full((length, 1), mark), torch.zeros(length, 2), Shaping())

    drawn = Halves(of(0.0, 5), of(1.0, 400), share).draw(count, np.random.default_rng(seed))
    assert len(drawn) == count and int(drawn.inputs.sum()) == round(share * count)
    assert not Halves(of(0.0, 5), None, share).draw(count, np.random.default_rng(seed)).inputs.any()


def test_what_a_human_did_is_in_both_halves_with_the_action_that_was_done() -> None:
    plain = steered(rollout("timeout", (-1.0, 1.0), seed=0))
    fixed = taken_over(steered(rollout("success", (-1.0, 1.0), seed=1)), (1.0, -1.0))
    made = replaying("spiral")
    metrics = made.update([plain, fixed], 0, False).metrics
    assert metrics["intervened"] == 3 and metrics["prior"] == 3
    assert [len(one) for one in made._replay] == [3, 3] and [len(one) for one in made._prior] == [3]
    assert made._replay[1].actions.tolist() == made._prior[0].actions.tolist() == [[1.0, -1.0]] * 3


def test_dsrl_leaves_out_what_no_noise_has_made_and_ppo_what_it_never_drew() -> None:
    plain = steered(rollout("timeout", (-1.0, 1.0), seed=0))
    fixed = taken_over(steered(rollout("success", (-1.0, 1.0), seed=1)), (1.0, -1.0))
    made = replaying("dsrl")
    assert made.update([plain, fixed], 0, False).metrics["intervened"] == 3
    assert [len(one) for one in made._replay] == [3, 0] and not made._prior
    ppo = test_actor_critic.make("ppo")
    assert len(ppo.see([plain, fixed], 0)[1].advantages) == 3


@pytest.mark.parametrize("name", ["spiral", "filtered_bc"])
def test_what_was_corrected_is_still_there_after_a_stop(name: str, tmp_path: Path) -> None:
    def made() -> Any:
        return replaying("spiral") if name == "spiral" else LEARNERS[name].load({"steps": 3, "memory": 1}, TinyPolicy(0), 0)

    episodes = {one.episode_id: one for one in (taken_over(rollout("success", (0, 0), seed=i), (1.0, float(i))) for i in range(4))}
    whole, again = made(), made()
    for iteration, one in enumerate(episodes.values()):
        whole.update([one], iteration, False)
    checkpoint.save(tmp_path / "state", whole.checkpoint())
    assert again.resume(checkpoint.load(tmp_path / "state"), episodes.get) == 0
    held = [(one._prior[0].actions if name == "spiral" else torch.cat([kept.chunks for kept in one._buffer])) for one in (whole, again)]
    assert len(held[0]) and torch.equal(*held) and again.memory() == whole.memory() and len(whole.memory()) == 4
