"""SARM2: causality, stills, augmentation, losses, weights files, and that it learns a toy task."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from reward_toy import BlockEncoder, dot_image, random_frames, small_model, small_reward, small_settings

from reward_node.metrics import roc_auc, value_order_correlation
from reward_node.sarm2.configuration import LossSettings, NetworkSettings, group_of_primitives
from reward_node.sarm2.dataset import Windows, split
from reward_node.sarm2.evaluate import figures, score, table
from reward_node.sarm2.losses import UNKNOWN, Labels, loss, mixture_terms
from reward_node.sarm2.network import Scores
from reward_node.sarm2.reward import load_weights, metadata
from reward_node.sarm2.train import fit, save
from reward_node.sarm2.windows import forward_window, pause, rewind
from whetstone.demonstrations import Demonstration
from whetstone.errors import AssetError, InputError

REWARD = small_reward()


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 1000), changed=st.integers(1, 4))
def test_network_is_causal(seed: int, changed: int) -> None:
    """Another frame `changed` leaves every row before it exactly as it was, and reaches the rows from it on."""
    network = REWARD.model.network
    generator = torch.Generator().manual_seed(seed)
    features = torch.rand(2, 5, BlockEncoder.feature_size, generator=generator)
    other = features.clone()
    other[:, changed] = torch.rand(2, BlockEncoder.feature_size, generator=generator)
    text = torch.rand(2, 8, generator=generator)
    with torch.no_grad():
        one, two = network(features, text), network(other, text)
    for name in ("progress", "completion", "primitives"):
        before, after = getattr(one, name), getattr(two, name)
        assert torch.equal(before[:, : changed - 1], after[:, : changed - 1]), name
        assert not torch.equal(before[:, changed - 1 :], after[:, changed - 1 :]), name


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 1000), changed=st.integers(0, 11))
def test_scores_before_a_changed_frame_stay_the_same(seed: int, changed: int) -> None:
    frames = random_frames(12, seed)
    stamps = list(range(12))
    REWARD.reset("a", "move the red dot right", 0)
    one = REWARD.score_episode(frames, stamps)
    frames = [*frames[:changed], random_frames(1, seed + 1)[0], *frames[changed + 1 :]]
    REWARD.reset("b", "move the red dot right", 0)
    two = REWARD.score_episode(frames, stamps)
    assert one[:changed] == two[:changed]
    assert one[changed].progress != two[changed].progress


def test_online_equals_offline() -> None:
    """observe() one by one, the whole episode, and the network on windows made from all frames say the same."""
    frames = random_frames(10)
    REWARD.reset("a", "move the red dot right", 0)
    offline = REWARD.score_episode(frames, list(range(10)))
    REWARD.reset("b", "move the red dot right", 1)
    assert [REWARD.observe(images, stamp) for stamp, images in enumerate(frames)] == offline
    features = torch.stack([REWARD.encode(images) for images in frames])
    with torch.no_grad():
        text = REWARD.model.text(["move the red dot right"])
        for newest, sample in enumerate(offline):
            window = [0, *np.maximum(np.arange(newest - 3, newest + 1), 0)]
            assert float(REWARD.model.network(features[window][None], text).progress[0, -1]) == pytest.approx(sample.progress, abs=1e-6)


def test_a_still_gets_one_constant_score() -> None:
    frames = random_frames(1) * 20
    REWARD.reset("a", "move the red dot right", 0)
    samples = REWARD.score_episode(frames, list(range(20)))
    assert len({sample.progress for sample in samples}) == 1
    assert len({sample.completion for sample in samples}) == 1
    assert {sample.contrastive for sample in samples} == {0.0}


def test_reset_forgets_the_last_episode() -> None:
    frames = random_frames(6, 3)
    fresh = small_reward()
    fresh.reset("b", "move the red dot right", 0)
    REWARD.reset("a", "move the red dot right", 0)
    REWARD.score_episode(random_frames(9, 4), list(range(9)))
    REWARD.reset("b", "move the red dot right", 0)
    assert REWARD.score_episode(frames, list(range(6))) == fresh.score_episode(frames, list(range(6)))


def test_wrong_images_are_named() -> None:
    REWARD.reset("a", "", 0)
    frame = random_frames(1)[0]
    with pytest.raises(InputError, match="camera wrist: no image; got front"):
        REWARD.observe({"front": frame["front"]}, 0)
    with pytest.raises(InputError, match=r"camera front: image is \(8, 8, 3\) uint8"):
        REWARD.observe({**frame, "front": np.zeros((8, 8, 3), np.uint8)}, 0)


def test_a_value_that_is_not_a_number_is_invalid() -> None:
    reward = small_reward()
    reward.encode = lambda images: torch.full((BlockEncoder.feature_size,), float("nan"))
    reward.reset("a", "x", 0)
    sample = reward.observe(random_frames(1)[0], 5)
    assert not sample.valid and "not a number" in sample.reason and sample.stamp == 5


# Windows.

batches = st.lists(st.tuples(st.integers(0, 60), st.integers(1, 3), st.integers(0, 4), st.integers(0, 4)), min_size=1, max_size=8)


@given(batches)
def test_rewound_windows_turn_at_the_newest_frame_and_lose_progress(rows: list[tuple[int, int, int, int]]) -> None:
    newest, stride, back, _ = (np.array(column) for column in zip(*rows, strict=True))
    window = rewind(newest, stride, 6, back)
    labels = window / 100.0
    for index in range(len(rows)):
        turn = 5 - back[index]
        assert window[index, turn] == newest[index] == window[index].max()
        assert np.all(np.diff(labels[index, : turn + 1]) >= 0) and np.all(np.diff(labels[index, turn:]) <= 0)
        if back[index] and newest[index] >= stride[index]:
            assert labels[index, -1] < labels[index, turn]
    assert np.array_equal(rewind(newest, stride, 6, np.zeros_like(back)), forward_window(newest, stride, 6))


@given(batches)
def test_paused_windows_end_in_copies_of_their_last_frame(rows: list[tuple[int, int, int, int]]) -> None:
    newest, stride, _, held = (np.array(column) for column in zip(*rows, strict=True))
    window = forward_window(newest, stride, 6)
    paused = pause(window, held)
    assert np.array_equal(paused[:, -1], window[:, -1])
    for index in range(len(rows)):
        assert np.all(paused[index, 5 - held[index] :] == window[index, -1])
        assert np.array_equal(paused[index, : 6 - held[index]], window[index, held[index] :])


# Losses.


def even_scores(rows: int, experts: int) -> Scores:
    gates = torch.full((1, rows, experts), 1.0 / experts)
    shares = torch.zeros(1, rows, experts)
    for row in range(rows):
        shares[0, row, [(2 * row) % experts, (2 * row + 1) % experts]] = 0.5
    return Scores(torch.zeros(1, rows), torch.zeros(1, rows), torch.zeros(1, rows, 3), gates, shares)


def test_mixture_terms_reward_even_use() -> None:
    load, importance, entropy = mixture_terms(even_scores(4, 8))
    assert float(load) == pytest.approx(0.0) and float(importance) == pytest.approx(0.0)
    assert float(entropy) == pytest.approx(np.log(8), rel=1e-5)
    lonely = even_scores(4, 8)
    lonely.shares = torch.zeros(1, 4, 8)
    lonely.shares[..., 0] = 1.0
    # loads 8, 0, 0 ...: variance (8-1)^2/8 + 7/8
    assert float(mixture_terms(lonely)[0]) == pytest.approx(7.0)


def test_loss_counts_known_labels_only() -> None:
    scores = even_scores(4, 8)
    scores.progress = torch.tensor([[0.5, 0.9, 0.9, 0.9]])
    labels = Labels(torch.tensor([[0.0, np.nan, np.nan, np.nan]]), torch.zeros(1, 4), torch.tensor([[0, UNKNOWN, UNKNOWN, UNKNOWN]]))
    value, parts = loss(scores, labels, LossSettings(mixture=0.0))
    assert parts["progress"] == pytest.approx(0.25)
    assert parts["primitive"] == pytest.approx(np.log(3), rel=1e-5)
    assert parts["completion"] == pytest.approx(np.log(2), rel=1e-5)
    assert float(value) == pytest.approx(0.25 + 0.25 * np.log(3) + 0.5 * np.log(2), rel=1e-5)
    nothing = Labels(torch.full((1, 4), np.nan), torch.zeros(1, 4), torch.full((1, 4), UNKNOWN))
    assert torch.isfinite(loss(scores, nothing, LossSettings())[0])


def test_top_experts_share_the_whole() -> None:
    network = small_model(small_settings()).network
    with torch.no_grad():
        scores = network(torch.rand(3, 5, BlockEncoder.feature_size), torch.rand(3, 8))
    assert torch.allclose(scores.shares.sum(dim=-1), torch.ones(3, 4))
    assert torch.all((scores.shares > 0).sum(dim=-1) == network.settings.top)


# Configuration and weights.


def test_groups_must_cover_the_primitives_once() -> None:
    assert group_of_primitives({"a": ("x", "y"), "b": ("z",)}, ("x", "z", "y")) == [0, 1, 0]
    with pytest.raises(ValueError, match="unknown primitive 'w'; known: x"):
        group_of_primitives({"a": ("w",)}, ("x",))
    with pytest.raises(ValueError, match="'x' is already in another group"):
        group_of_primitives({"a": ("x",), "b": ("x",)}, ("x",))
    with pytest.raises(ValueError, match="primitive 'y' is in no group"):
        group_of_primitives({"a": ("x",)}, ("x", "y"))
    with pytest.raises(ValueError, match="not a multiple"):
        NetworkSettings(width=30, heads=4)


def test_weights_file_round_trip_and_its_errors(tmp_path: Path) -> None:
    config = small_settings()
    model, path = small_model(config, 1), tmp_path / "reward.safetensors"
    information = metadata(config, BlockEncoder.feature_size, "abc", ("reach",))
    save(model, np.zeros((2, 3)), path, information)
    other = small_model(config, 2)
    load_weights(other, path, information)
    for name, tensor in model.state_dict().items():
        assert torch.equal(other.state_dict()[name], tensor.half().float()), name
    with pytest.raises(AssetError, match="made with another encoder .*make assets"):
        load_weights(other, path, {**information, "encoder": "xyz"})
    path.write_bytes(b"junk")
    with pytest.raises(AssetError, match="not a readable weights file .*make assets"):
        load_weights(other, path, information)


# Learning.


def test_it_learns_a_toy_task_from_frames(dots: list[Demonstration]) -> None:
    """Trained for seconds on a dot that moves: order, failures, other words and stills come out right on held-out episodes."""
    config = small_settings(held_out=0.34)
    training, held_out = split(dots, config.training.held_out, 0)
    assert not {episode.path for episode in training} & {episode.path for episode in held_out}
    model = small_model(config)
    windows = Windows(config, BlockEncoder(), training, null=2, seed=0)
    fit(config, windows, model, 0)
    reward = small_reward(config, model)
    scored = [score(reward, episode) for episode in held_out]
    wins = [episode for episode in scored if episode.success]
    assert np.mean([value_order_correlation(episode.values[:, 0]) for episode in wins]) > 0.9
    said = np.array([episode.values[-3:, 1].mean() for episode in scored])
    assert roc_auc(said, np.array([episode.success for episode in scored])) > 0.95
    rows = figures(reward, "toy", held_out, scored, 0)
    got = {row["metric"]: row["value"] for row in rows if row["case"] == "toy/all"}
    assert got["static_rise_max"] == 0.0 and got["static_voc"] == 0.0
    assert got["voc_reversed"] < -0.8
    assert got["wrong_instruction_false_success_rate"] == 0.0
    assert "| voc_success |" in table(rows)


def test_training_repeats_under_a_seed(dots: list[Demonstration]) -> None:
    states = []
    for _ in range(2):
        config = small_settings(steps=3)
        model = small_model(config)
        fit(config, Windows(config, BlockEncoder(), dots[:8], null=2, seed=5), model, 5)
        states.append(model.state_dict())
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])


def test_wrong_words_make_completed_frames_not_completed(dots: list[Demonstration]) -> None:
    config = small_settings(wrong_instruction=1.0, late=1.0)
    batch = Windows(config, BlockEncoder(), dots, null=2, seed=0).batch(256)
    assert float(batch.labels.completed.sum()) == 0.0
    progress, primitive = batch.labels.progress, batch.labels.primitives
    assert torch.equal(progress.isnan(), primitive == UNKNOWN)
    assert float(progress.nan_to_num().abs().sum()) == 0.0 and int((primitive == 2).sum()) > 0


def test_a_moving_dot_is_visible_to_the_stand_in() -> None:
    """The toy encoder tells places apart, else the tests above would test nothing."""
    encoder = BlockEncoder()
    one, two = (encoder.features({c: dot_image(place, 0)[None] for c in ("front", "wrist")}) for place in (0.0, 1.0))
    assert not torch.equal(one, two)
