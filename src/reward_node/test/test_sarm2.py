"""SARM2: causality, stills, augmentation, losses, joint states, configuration, weights files, and that it learns a toy task."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from reward_toy import CAMERAS, PRIMITIVES, BlockEncoder, dot_image, random_frames, small_model, small_reward, small_settings

from reward_node.honesty.judging import evaluate, rows_of
from reward_node.honesty.report import table
from reward_node.sarm2.configuration import LossSettings, NetworkSettings, SARM2Settings, group_of_primitives
from reward_node.sarm2.dataset import Windows, joint_states, primitive_labels, split
from reward_node.sarm2.losses import UNKNOWN, Labels, loss, mixture_terms
from reward_node.sarm2.network import Scores
from reward_node.sarm2.reward import load_weights, metadata
from reward_node.sarm2.train import fit, main, save
from reward_node.sarm2.windows import forward_window, pause, rewind
from whetstone.config import parse
from whetstone.contracts import PROPRIOCEPTION
from whetstone.demonstrations import Demonstration
from whetstone.errors import AssetError, ConfigError, InputError
from whetstone.task import PRIMITIVES as TASK_PRIMITIVES


def with_state(config: SARM2Settings, width: int) -> SARM2Settings:
    return replace(config, network=replace(config.network, state_width=width))


REWARD = small_reward()
STATE_MODEL = small_model(with_state(small_settings(), 2))


# Causality: exactly equal, not nearly.


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 1000),
    changed=st.sets(st.integers(1, 4), min_size=1),
    what=st.sampled_from([("features",), ("state",), ("features", "state")]),
    scale=st.sampled_from([1e-3, 1.0, 1e6]),
)
def test_network_is_causal(seed: int, changed: set[int], what: tuple[str, ...], scale: float) -> None:
    """Other frames `changed` (images, joint states or both) leave every row before the first of them as it was, and reach it itself."""
    generator = torch.Generator().manual_seed(seed)
    window = {
        "features": torch.rand(2, 5, BlockEncoder.feature_size, generator=generator),
        "state": torch.rand(2, 5, 2, generator=generator),
    }
    other = {name: value.clone() for name, value in window.items()}
    for name in what:
        for frame in changed:
            other[name][:, frame] += scale * (1 + torch.rand(window[name][:, 0].shape, generator=generator))
    text = torch.rand(2, 8, generator=generator)
    network = STATE_MODEL.network
    with torch.no_grad():
        one, two = network(**window, text=text), network(**other, text=text)
    first = min(changed) - 1
    for name in ("progress", "completion", "primitives", "gates", "shares"):
        before, after = getattr(one, name), getattr(two, name)
        assert torch.equal(before[:, :first], after[:, :first]), name
    assert not torch.equal(one.primitives[:, first], two.primitives[:, first])


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 1000), changed=st.sets(st.integers(0, 11), min_size=1), length=st.integers(1, 12))
def test_no_score_knows_the_future(seed: int, changed: set[int], length: int) -> None:
    """Other frames leave the scores before the first of them as they were; an episode that is cut short keeps the scores it had."""

    def scores(frames: list[dict[str, np.ndarray]]) -> list[Any]:
        REWARD.reset("a", "move the red dot right", 0)
        return REWARD.score_episode(frames, list(range(len(frames))))

    frames, others = random_frames(12, seed), random_frames(12, seed + 2000)
    whole = scores(frames)
    mixed = scores([others[index] if index in changed else frames[index] for index in range(12)])
    first = min(changed)
    assert whole[:first] == mixed[:first]
    assert whole[first].progress != mixed[first].progress
    assert scores(frames[:length]) == whole[:length]


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


# Joint states.


def test_windows_carry_the_joint_states_of_their_frames(dots: list[Demonstration]) -> None:
    """The first joint of the toy is where its dot is, which is its progress."""
    config = with_state(small_settings(wrong_instruction=0.0), 2)
    windows = Windows(config, BlockEncoder(), dots[:8], seed=0)
    batch = windows.batch(64)
    assert batch.state.shape == (64, 5, 2)
    assert torch.equal(batch.state[:, 1:, 0], batch.labels.progress)
    assert torch.equal(batch.state[:, 0, 0], torch.zeros(64))
    mean, scale = windows.statistics()
    assert mean.shape == scale.shape == (BlockEncoder.feature_size + 2,)
    assert float(mean[-2]) == pytest.approx(np.concatenate([episode.progress for episode in dots[:8]]).mean(), rel=1e-5)


def test_joint_states_of_the_last_frame_and_of_another_width(dots: list[Demonstration]) -> None:
    short = replace(dots[0], proprioception=dots[0].proprioception[: dots[0].frame_steps[-1]])
    assert np.array_equal(joint_states(short, 2)[-1], short.proprioception[-1])
    assert joint_states(short, 0).shape == (len(short.frame_steps), 0)
    with pytest.raises(ConfigError, match=r"network.state_width is 3, but .*npz is 2 wide; set it to 2, or to 0"):
        joint_states(dots[0], 3)


def test_it_learns_from_joint_states(dots: list[Demonstration], tmp_path: Path) -> None:
    """The images say nothing, so that what is learnt of progress is from the joints."""
    blind = BlockEncoder()
    blind.features = lambda images: torch.zeros(len(images["front"]), BlockEncoder.feature_size)  # type: ignore[method-assign]
    errors = []
    for width in (0, 2):
        config = with_state(small_settings(wrong_instruction=0.0, feature_noise=0.1), width)
        windows, model = Windows(config, blind, dots, seed=0), small_model(config)
        fit(config, windows, model, 0, tmp_path / str(width))
        batch = windows.batch(256)
        with torch.no_grad():
            text = model.text(windows.instructions)[batch.sentence]
            found = model.network(batch.features, text, batch.state).progress
        errors.append(float((found - batch.labels.progress).square().mean()))
    assert errors[1] < 0.2 * errors[0]


def test_a_live_score_sees_the_joints_as_training_did() -> None:
    """observe() with joint states, and the network on windows made from all frames, say the same; without them it says what it lacks."""
    reward = small_reward(with_state(small_settings(), 2), STATE_MODEL)
    assert reward.needs.proprioception == 2
    states = np.random.default_rng(0).random((7, 2), np.float32)
    frames = [{**images, PROPRIOCEPTION: state} for images, state in zip(random_frames(7), states, strict=True)]
    reward.reset("a", "move the red dot right", 0)
    live = reward.score_episode(frames, list(range(7)))
    features = torch.stack([reward.encode(images) for images in frames])
    with torch.no_grad():
        text = reward.model.text(["move the red dot right"])
        for newest, sample in enumerate(live):
            window = [0, *np.maximum(np.arange(newest - 3, newest + 1), 0)]
            found = reward.model.network(features[window][None], text, torch.from_numpy(states[window])[None])
            assert float(found.progress[0, -1]) == pytest.approx(sample.progress, abs=1e-6)
    reward.reset("a", "move the red dot right", 0)
    still = reward.score_episode([{**frame, PROPRIOCEPTION: states[0]} for frame in frames], list(range(7)))
    assert [sample.progress for sample in still[1:]] != [sample.progress for sample in live[1:]]
    for held, said in (({}, "got none"), ({PROPRIOCEPTION: states[0][:1]}, r"got \(1,\)")):
        with pytest.raises(InputError, match=rf"proprioception: the reward model needs \(2,\), {said}"):
            reward.observe({**random_frames(1)[0], **held}, 0)


# Configuration and weights.


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("cameras", [], "cameras must be one name or more, each once"),
        ("cameras", ["front", "front"], r"cameras must be one name or more, each once, not \[front, front\]"),
        ("primitives", ["reach", "push"], 'primitives lacks "null"'),
        ("primitives", ["reach", "null"], "groups.push: unknown primitive 'push'; known: reach, null"),
        ("encoder", "keypoint", "encoder 'keypoint' is unknown; set keypoints, or {folder: "),
        ("encoder", {"foldr": "/x"}, "encoder: key 'foldr' is unknown; did you mean 'folder'"),
        ("encoder", {"folder": "/x", "precision": "int4"}, "encoder: key 'precision' must be one of float32, bfloat16, float16"),
        ("network", {"state_width": -1}, "key 'network.state_width' must be at least 0"),
    ],
)
def test_wrong_settings_name_the_file_and_the_key(key: str, value: Any, message: str) -> None:
    good = {
        "plugin": "sarm2",
        "weights": "x",
        "cameras": ["front"],
        "image_size": [16, 16],
        "every": 4,
        "groups": {"pick": ["reach"], "push": ["push"], "rest": ["null"]},
        "primitives": ["reach", "push", "null"],
    }
    assert parse(SARM2Settings, good, "my.yaml").encoder == "keypoints"
    with pytest.raises(ConfigError, match=f"^my.yaml: .*{message}"):
        parse(SARM2Settings, {**good, key: value}, "my.yaml")


def test_primitives_without_a_name_are_uncertain(dots: list[Demonstration]) -> None:
    episode = replace(dots[0], primitive=np.arange(len(TASK_PRIMITIVES)))
    assert np.array_equal(primitive_labels(episode, TASK_PRIMITIVES), episode.primitive)
    some = ("press", "null", "screw", "reach")
    assert [some[index] for index in primitive_labels(episode, some)] == ["reach", *["null"] * 4, "press", "null"]


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
    information = metadata(config, BlockEncoder.feature_size, "abc")
    save(model, np.zeros((2, 3)), path, information)
    other = small_model(config, 2)
    load_weights(other, path, information)
    for name, tensor in model.state_dict().items():
        assert torch.equal(other.state_dict()[name], tensor.half().float()), name
    with pytest.raises(AssetError, match="made with another encoder .*make assets"):
        load_weights(other, path, {**information, "encoder": "xyz"})
    for changed, key in (
        (replace(config, cameras=("wrist", "front")), "cameras"),
        (replace(config, primitives=("reach", "null", "push")), "primitives"),
        (with_state(config, 2), "network"),
    ):
        with pytest.raises(AssetError, match=f"made with another {key} "):
            load_weights(other, path, metadata(changed, BlockEncoder.feature_size, "abc"))
    # Files from before there was a choice say nothing of it.
    assert "state_width" not in information["network"] and "state_width" in metadata(with_state(config, 2), 9, "abc")["network"]
    path.write_bytes(b"junk")
    with pytest.raises(AssetError, match="not a readable weights file .*make assets"):
        load_weights(other, path, information)


# Learning.


def test_it_learns_a_toy_task_from_frames(dots: list[Demonstration], tmp_path: Path) -> None:
    """Trained for seconds on a dot that moves: order, failures, other words and stills come out right on held-out episodes."""
    config = small_settings(held_out=0.34)
    training, held_out = split(dots, config.training.held_out, 0)
    assert not {episode.path for episode in training} & {episode.path for episode in held_out}
    model = small_model(config)
    windows = Windows(config, BlockEncoder(), training, seed=0)
    fit(config, windows, model, 0, tmp_path)
    reward = small_reward(config, model)
    rows = rows_of(evaluate(reward, held_out, 20.0, 3, 0), config.success, "sarm2", "toy")
    got = {row["metric"]: row["value"] for row in rows if row["case"] == "toy/all"}
    assert got["voc_success"] > 0.9 and got["success_auc_completion"] > 0.95
    assert got["static_gain_max"] == 0.0 and got["static_voc"] == 0.0
    assert got["voc_reversed"] < -0.8
    assert got["wrong_task_completion"] < config.success.threshold and got["right_above_wrong_task"] == 1.0
    assert "| voc_success |" in table(rows)


def trained(config: SARM2Settings, dots: list[Demonstration], folder: Path, resume: bool = False, stop: int = 0) -> dict[str, torch.Tensor]:
    """The weights after training; stop: the step at which it is interrupted, 0: never."""
    model, windows = small_model(config), Windows(config, BlockEncoder(), dots[:8], seed=5)
    draw, count = windows.batch, 0

    def batch(size: int) -> Any:
        nonlocal count
        count += 1
        if count == stop:
            raise KeyboardInterrupt
        return draw(size)

    windows.batch = batch  # type: ignore[method-assign]
    try:
        fit(config, windows, model, 5, folder, resume)
    except KeyboardInterrupt:
        assert stop
    return model.state_dict()


def with_dropout(config: SARM2Settings) -> SARM2Settings:
    return replace(config, network=replace(config.network, dropout=0.3))


def test_training_repeats_under_a_seed(dots: list[Demonstration], tmp_path: Path) -> None:
    config = with_dropout(small_settings(steps=3))
    one, two = (trained(config, dots, tmp_path / name) for name in "ab")
    assert all(torch.equal(one[name], two[name]) for name in one)


def test_interrupted_and_resumed_training_ends_as_in_one_go(
    dots: list[Demonstration], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = with_dropout(small_settings(steps=7))
    ticks = iter(range(0, 100_000, 100))
    # A checkpoint at every step, whatever the clock says.
    monkeypatch.setattr("reward_node.training.time", SimpleNamespace(monotonic=lambda: next(ticks)))
    whole = trained(config, dots, tmp_path / "whole")
    broken = trained(config, dots, tmp_path / "parts", stop=4)
    assert not torch.equal(whole["network.stage_head.weight"], broken["network.stage_head.weight"])
    resumed = trained(config, dots, tmp_path / "parts", resume=True)
    for name, tensor in whole.items():
        assert torch.equal(tensor, resumed[name]), name
    with pytest.raises(InputError, match=r"checkpoint.pt: .* other settings, other data .*resume:=false"):
        trained(replace(config, losses=LossSettings(primitive=0.5)), dots, tmp_path / "parts", resume=True)
    with pytest.raises(InputError, match=r"other data"):
        trained(config, dots[4:], tmp_path / "parts", resume=True)


def test_the_trainer_wants_true_or_false() -> None:
    with pytest.raises(ConfigError, match="argument resume:=yes is neither true nor false"):
        main(["resume:=yes"])


def test_wrong_words_make_completed_frames_not_completed(dots: list[Demonstration]) -> None:
    config = small_settings(wrong_instruction=1.0, late=1.0)
    batch = Windows(config, BlockEncoder(), dots, seed=0).batch(256)
    assert float(batch.labels.completed.sum()) == 0.0
    progress, primitive = batch.labels.progress, batch.labels.primitives
    assert torch.equal(progress.isnan(), primitive == UNKNOWN)
    assert float(progress.nan_to_num().abs().sum()) == 0.0 and int((primitive == PRIMITIVES.index("null")).sum()) > 0


def test_a_moving_dot_is_visible_to_the_stand_in() -> None:
    """The toy encoder tells places apart, else the tests above would test nothing."""
    encoder = BlockEncoder()
    one, two = (encoder.features({c: dot_image(place, 0)[None] for c in CAMERAS}) for place in (0.0, 1.0))
    assert not torch.equal(one, two)
