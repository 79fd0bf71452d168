"""The flow policy: contract, determinism, normalisation, trainable state."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file
from small_flow_vla import observation, small

from policy_node.flow_network import FlowNetwork
from policy_node.flow_vla import FlowVLAPolicy
from policy_node.localiser import Localiser
from whetstone.contracts import Observation, Policy, Underway
from whetstone.errors import AssetError, ConfigError, InputError
from whetstone.profile import load_profile
from whetstone.vision import VisionEncoder


@pytest.fixture(scope="module")
def policy() -> FlowVLAPolicy:
    return small()


def test_it_fulfils_the_contract(policy):
    assert isinstance(policy, Policy)
    assert policy.spec.horizon >= policy.spec.execute


def test_same_seed_same_chunk_other_seed_other_chunk(policy):
    chunks = []
    for seed in (3, 3, 4):
        policy.reset("put the red cube in the tray", seed, "sampled")
        chunks.append(policy.act(observation()).actions)
    assert np.array_equal(chunks[0], chunks[1])
    assert not np.allclose(chunks[0], chunks[2])
    assert chunks[0].shape == (policy.spec.horizon, 8)
    assert ((chunks[0][:, -1] >= 0) & (chunks[0][:, -1] <= 1)).all()


def test_greedy_has_no_noise_and_does_not_depend_on_the_seed(policy):
    answers = []
    for seed in (1, 2):
        policy.reset("stack the red cube on the blue cube", seed, "greedy")
        answers.append(policy.act(observation()))
    assert np.array_equal(answers[0].actions, answers[1].actions)
    assert not np.any(answers[0].latent)


def test_exploring_keeps_its_noise_for_the_episode_and_sampling_does_not(policy):
    latents = {}
    for mode in ("exploring", "sampled"):
        policy.reset("touch the red cube", 3, mode)
        latents[mode] = [policy.act(observation(index)).latent for index in range(3)]
    assert np.array_equal(latents["exploring"][0], latents["exploring"][2])
    assert not np.allclose(latents["sampled"][0], latents["sampled"][2])
    policy.reset("touch the red cube", 4, "exploring")
    assert not np.allclose(policy.act(observation(0)).latent, latents["exploring"][0])


def test_exploration_is_a_share_of_the_way_from_greedy_to_sampled(policy, monkeypatch):
    def answer(mode, share):
        monkeypatch.setattr(policy, "config", dataclasses.replace(policy.config, exploration=share))
        policy.reset("touch the red cube", 5, mode)
        return policy.act(observation(1)).actions[:, :-1]  # without the opening, which is clipped

    greedy, far, half = answer("greedy", 1.0), answer("exploring", 1.0), answer("exploring", 0.5)
    assert np.allclose(far, answer("sampled", 1.0), atol=1e-5)  # the first chunk; later ones draw anew
    assert np.allclose(half, (greedy + far) / 2, atol=1e-5)
    assert np.allclose(answer("exploring", 0.0), greedy, atol=1e-6)


def test_the_instruction_matters(policy):
    actions = []
    for instruction in ("put the red cube in the tray", "touch the red cube"):
        policy.reset(instruction, 1, "greedy")
        actions.append(policy.act(observation()).actions)
    assert not np.allclose(actions[0], actions[1])


def test_the_latent_reproduces_the_chunk(policy):
    seen = observation(5)
    policy.reset("touch the red cube", 9, "sampled")
    answer = policy.act(seen)
    with torch.no_grad():
        state = torch.from_numpy(seen.proprioception)[None]
        images = {camera: image[None] for camera, image in seen.images.items()}
        inputs = policy.encode(images, seen.proprioception[None], answer.actions[None], "touch the red cube")
        chunk = policy.network.sample(inputs, torch.from_numpy(answer.latent)[None], policy.config.flow_steps, torch.ones(1))
        again = policy.network.denormalise(chunk, state)[0].numpy()
    assert np.allclose(again, answer.actions, atol=1e-6)


def test_replay_leaves_out_one_instruction_and_names_a_wrong_file(policy, tmp_path, monkeypatch):
    path = tmp_path / "demonstrations.safetensors"
    monkeypatch.setattr("policy_node.flow_vla.asset_path", lambda name: path)
    size, columns = policy.network.context[0].in_features, policy.config.horizon * policy.columns
    tensors = {"inputs": torch.arange(4.0)[:, None].expand(4, size).contiguous(), "chunks": torch.zeros(4, columns)}
    tensors["instruction"] = torch.tensor([0, 1, 1, 0], dtype=torch.uint8)
    save_file(tensors, str(path), {"instructions": json.dumps(["push it", "touch it"])})
    assert policy.replay(without="push it")[0][:, 0].tolist() == [1, 2]
    assert len(policy.replay(without="another")[0]) == 4
    save_file({**tensors, "inputs": torch.zeros(4, 3)}, str(path), {"instructions": json.dumps(["push it", "touch it"])})
    with pytest.raises(AssetError, match="another policy.*make assets"):
        policy.replay(without="push it")
    save_file({"inputs": torch.zeros(4, size)}, str(path))
    with pytest.raises(AssetError, match="make assets"):
        policy.replay(without="push it")


def test_weights_behind_another_vision_encoder_are_refused(policy, tmp_path, monkeypatch):
    path = tmp_path / "policy_franka.safetensors"
    policy.save(path)
    monkeypatch.setattr("policy_node.flow_vla.asset_path", lambda name: path)
    monkeypatch.setattr(VisionEncoder, "load", classmethod(lambda cls, robot: policy.vision))
    monkeypatch.setattr(Localiser, "load", classmethod(lambda cls, robot: policy.localiser))
    data = {"plugin": "flow_vla", "width": 32, "blocks": 1, "text_size": 16}
    again = FlowVLAPolicy.load(data, policy.profile)
    assert again.spec.config_hash == policy.spec.config_hash
    monkeypatch.setattr(policy.localiser, "identity", "another")
    with pytest.raises(AssetError, match="localiser.*make assets"):
        FlowVLAPolicy.load(data, policy.profile)


def test_trainable_state_round_trip_and_refusals(policy):
    state = policy.trainable_state()
    policy.load_trainable_state({name: value + 1 for name, value in state.items()})
    assert np.allclose(policy.trainable_state()["chunk_out.bias"], state["chunk_out.bias"] + 1)
    policy.load_trainable_state(state)
    assert not any(name.startswith("text.") for name in state)
    name = next(iter(state))
    with pytest.raises(ValueError, match="missing"):
        policy.load_trainable_state({key: value for key, value in state.items() if key != name})
    with pytest.raises(ValueError, match="shape"):
        policy.load_trainable_state({**state, name: np.zeros(3)})
    with pytest.raises(ValueError, match="unknown"):
        policy.load_trainable_state({**state, "surplus": np.zeros(3)})
    assert np.array_equal(policy.trainable_state()[name], state[name])


def test_a_missing_camera_and_a_wrong_size_are_named(policy):
    seen = observation()
    policy.reset("touch the red cube", 1, "greedy")
    with pytest.raises(InputError, match="wrist"):
        policy.act(Observation(0, {"front": seen.images["front"]}, seen.proprioception))
    with pytest.raises(InputError, match="front"):
        policy.act(Observation(0, {**seen.images, "front": np.zeros((64, 64, 3), np.uint8)}, seen.proprioception))


def test_a_wrong_key_is_named():
    with pytest.raises(ConfigError, match="horizn"):
        FlowVLAPolicy.load({"plugin": "flow_vla", "horizn": 4}, load_profile("franka"))


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**31 - 1))
def test_normalise_and_denormalise_are_inverse(seed):
    generator = torch.Generator().manual_seed(seed)
    network = FlowNetwork(features=6, columns=4, horizon=5, width=16, blocks=1, text_size=16)
    network.delta_scale.copy_(torch.rand(5, 3, generator=generator) + 0.1)
    actions = torch.randn(2, 5, 4, generator=generator)
    actions[..., -1] = torch.rand(2, 5, generator=generator)
    state = torch.randn(2, 4, generator=generator)
    assert torch.allclose(network.denormalise(network.normalise(actions, state), state), actions, atol=1e-5)


def test_flow_matching_learns_two_modes():
    """A Gaussian would answer with the mean of two like-wise good chunks; the flow must sample either."""
    torch.manual_seed(1)
    network = FlowNetwork(features=2, columns=2, horizon=1, width=64, blocks=2, text_size=16)
    optimiser = torch.optim.Adam(network.parameters(), 3e-3)
    inputs = torch.zeros(256, 2 + 2 * 2 + 16)
    for _ in range(300):
        side = torch.sign(torch.randn(256, 1))
        loss = network.loss(inputs, side.expand(-1, 2)).mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    with torch.no_grad():
        samples = network.sample(inputs, torch.randn(256, 2), 10, torch.ones(256))
    assert (samples[:, 0] > 0.5).float().mean() > 0.25
    assert (samples[:, 0] < -0.5).float().mean() > 0.25
    assert (samples[:, 0].abs() < 0.4).float().mean() < 0.2


def test_greedy_is_near_the_mean_of_the_chunks_and_sampling_spreads_as_they_do():
    torch.manual_seed(2)
    network = FlowNetwork(features=2, columns=2, horizon=16, width=64, blocks=2, text_size=16)
    optimiser = torch.optim.Adam(network.parameters(), 3e-3)
    inputs = torch.zeros(256, 2 + 2 * 2 + 16)
    centre = torch.linspace(-2, 2, 32)
    for _ in range(300):
        loss = network.loss(inputs, centre + 0.5 * torch.randn(256, 32)).mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    with torch.no_grad():
        greedy = network.sample(inputs[:1], torch.zeros(1, 32), 5, torch.zeros(1))
        spread = network.sample(inputs, torch.randn(256, 32), 5, torch.ones(256)).std(0)
    assert (greedy - centre).square().mean().sqrt() < 0.2
    assert 0.3 < spread.mean() < 0.7


@pytest.mark.parametrize("mode", ["greedy", "sampled", "exploring"])
def test_a_chunk_that_is_under_way_draws_the_next_one_to_it(mode) -> None:
    free, led = small(), small()
    for policy in (free, led):
        policy.reset("go", 1, mode)
    seen = observation()
    apart = free.act(seen).actions
    wanted = apart[:8] + np.append(np.full(7, 0.05, np.float32), 0.0)
    near = led.inpaint(seen, Underway(wanted, 4)).actions
    before, after = np.abs(apart[:4, :-1] - wanted[:4, :-1]).mean(), np.abs(near[:4, :-1] - wanted[:4, :-1]).mean()
    assert after < 0.5 * before
    assert np.isfinite(near).all() and near.shape == apart.shape
