"""OpenVLA of random weights through the adapter: the same written another way, bins, seeds, precisions, training, the simulator."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_openvla
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from learner_node.filtered_bc import FilteredBC
from policy_node.openvla import ActionTokens, OpenVLAPolicy, rpy_of_vector, vector_of_rpy
from policy_node.prismatic import vision_of
from robot_bringup.offline import run_episode
from robot_bringup.sim.simulation import Simulation
from whetstone.config import load_yaml, root
from whetstone.contracts import FlowPolicy, ImitationPolicy, Observation, Policy
from whetstone.errors import AssetError, ConfigError
from whetstone.kinematics import ForwardKinematics
from whetstone.profile import load_profile
from whetstone.task import load_task

FRANKA = load_profile("franka")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_openvla.save(tmp_path_factory.mktemp("openvla") / "openvla-tiny")


def load(folder: Path, **given: Any) -> OpenVLAPolicy:
    return OpenVLAPolicy.load({"model": str(folder), "statistics": "bridge_orig", "dtype": "float32", **given}, FRANKA)


def observation(seed: int = 0) -> Observation:
    rng = np.random.default_rng(seed)
    return Observation(0, {"front": rng.integers(0, 255, (128, 128, 3), dtype=np.uint8)}, np.zeros(8, np.float32))


def chunk(policy: OpenVLAPolicy, seed: int = 0, mode: Any = "greedy", frame: int = 0, words: str = "Put the cube away") -> Any:
    policy.reset(words, seed, mode)
    return policy.act(observation(frame))


def test_chunks_follow_from_what_is_seen_told_and_drawn(folder: Path) -> None:
    policy = load(folder)
    assert isinstance(policy, Policy) and isinstance(policy, ImitationPolicy) and not isinstance(policy, FlowPolicy)
    assert (policy.spec.action_space, policy.spec.horizon, policy.spec.columns, policy.spec.cameras) == (
        "end_effector_delta",
        1,
        7,
        ("front",),
    )
    first = chunk(policy)
    assert first.actions.shape == (1, 7) and first.log_probability < 0
    np.testing.assert_array_equal(chunk(policy, seed=1).actions, first.actions)
    assert not np.array_equal(chunk(policy, frame=1).actions, first.actions), "it sees"
    assert not np.array_equal(chunk(policy, words="touch it").actions, first.actions), "it reads"
    np.testing.assert_array_equal(chunk(policy, 3, "sampled").actions, chunk(policy, 3, "sampled").actions)
    assert not np.array_equal(chunk(policy, 3, "sampled").actions, chunk(policy, 4, "sampled").actions)
    assert np.abs(first.actions[0, :3]).max() <= 0.05 and 0 <= first.actions[0, 6] <= 1


def test_vision_is_that_of_transformers_own_siglip() -> None:
    """The same weights under the names of another implementation."""
    from transformers import SiglipVisionConfig, SiglipVisionModel

    prefix = "vision_backbone.fused_featurizer."
    ours = {name.removeprefix(prefix): value for name, value in tiny_openvla.weights().items() if name.startswith(prefix)}
    width = tiny_openvla.WIDTH
    config = SiglipVisionConfig(
        hidden_size=width, intermediate_size=48, num_hidden_layers=2, num_attention_heads=16, image_size=tiny_openvla.SIDE,
        patch_size=tiny_openvla.PATCH, hidden_act="gelu", vision_use_head=False,
    )  # fmt: skip
    model = SiglipVisionModel(config).eval()
    theirs = {
        "embeddings.patch_embedding.weight": ours["patch_embed.proj.weight"],
        "embeddings.patch_embedding.bias": ours["patch_embed.proj.bias"],
        "embeddings.position_embedding.weight": ours["pos_embed"][0],
    }
    for block in range(2):
        at, there = f"blocks.{block}", f"encoder.layers.{block}"
        for kind in ("weight", "bias"):
            for name, part in zip(("q_proj", "k_proj", "v_proj"), ours[f"{at}.attn.qkv.{kind}"].split(width)):
                theirs[f"{there}.self_attn.{name}.{kind}"] = part
            pairs = {
                "self_attn.out_proj": "attn.proj",
                "layer_norm1": "norm1",
                "layer_norm2": "norm2",
                "mlp.fc1": "mlp.fc1",
                "mlp.fc2": "mlp.fc2",
            }
            theirs |= {f"{there}.{name}.{kind}": ours[f"{at}.{own}.{kind}"] for name, own in pairs.items()}
    state = model.state_dict()
    lead = "vision_model." if any(name.startswith("vision_model.") for name in state) else ""
    left = set(state) - {lead + name for name in theirs}
    assert all("post_layernorm" in name or "position_ids" in name for name in left), left
    model.load_state_dict({lead + name: value for name, value in theirs.items()}, strict=False)
    pixels = torch.rand(2, 3, tiny_openvla.SIDE, tiny_openvla.SIDE)
    with torch.no_grad():
        wanted = model(pixels, output_hidden_states=True).hidden_states[-1]
        torch.testing.assert_close(vision_of(ours)(pixels), wanted, atol=1e-5, rtol=1e-5)


def test_a_chunk_is_what_whole_passes_without_a_cache_give(folder: Path) -> None:
    """Greedy decoding by hand: all from the start for each token, the arg max over the 256 words, statistics by the paper's formula."""
    policy = load(folder)
    found = chunk(policy).actions[0]
    tokens = policy._words.tokens("put the cube away")
    assert (
        tokens[0] == 1 and tokens[-1] == 3 and policy._words.tokenizer.decode(tokens.tolist()).endswith("take to put the cube away?\nOut:")
    )
    pixels, bins = policy._pixels(observation().images["front"][None]), []
    words = tiny_openvla.WORDS - 64
    with torch.no_grad():
        for _ in range(7):
            logits = policy.network.language_model(inputs_embeds=policy.network.prompt(pixels, tokens[None]), use_cache=False).logits[0, -1]
            word = int(logits[words - 256 : words].argmax()) + words - 256
            tokens = torch.cat([tokens, torch.tensor([word])])
            bins.append(min(words - word - 1, 254))
    normal = -1 + (2 * np.array(bins) + 1) / 255
    low, high = (np.array(tiny_openvla.STATISTICS[name]) for name in ("q01", "q99"))
    action = 0.5 * (normal + 1) * (high - low) + low
    action[6] = normal[6]
    np.testing.assert_allclose(found[:3], action[:3], atol=1e-6)
    np.testing.assert_allclose(rpy_of_vector(found[3:6]), action[3:6], atol=1e-6)
    assert found[6] == pytest.approx(np.clip(action[6], 0, 1))


@given(st.lists(st.floats(-1.2, 1.2), min_size=7, max_size=7))
def test_bins_there_and_back(normal: list[float]) -> None:
    settings = {"norm_stats": {"one": {"action": tiny_openvla.STATISTICS}}, "n_action_bins": 256, "text_config": {"vocab_size": 640}}
    actions = ActionTokens(settings, "", "my.yaml")
    low, high = (np.array(tiny_openvla.STATISTICS[name]) for name in ("q01", "q99"))
    action = np.where(tiny_openvla.STATISTICS["mask"], (np.array(normal) + 1) / 2 * (high - low) + low, normal)
    bins = actions.encode(action)
    assert bins.min() >= 0 and bins.max() <= 255
    back = actions.decode(bins)
    within = np.where(tiny_openvla.STATISTICS["mask"], (high - low) / 2, 1.0) / 255 + 1e-9
    assert (np.abs(back - action)[np.abs(normal) <= 1] <= within[np.abs(normal) <= 1]).all()
    np.testing.assert_array_equal(actions.tokens(bins).numpy(), 640 - 1 - bins)


@given(st.tuples(*[st.floats(-1.5, 1.5)] * 3))
def test_rotations_there_and_back(angles: tuple[float, float, float]) -> None:
    roll, pitch, yaw = angles

    def about(axis: int, angle: float) -> np.ndarray:
        made, (one, other) = np.eye(3), ((1, 2), (2, 0), (0, 1))[axis]
        made[one, one] = made[other, other] = np.cos(angle)
        made[other, one], made[one, other] = np.sin(angle), -np.sin(angle)
        return made

    vector = vector_of_rpy(np.array(angles))
    np.testing.assert_allclose(rpy_of_vector(vector), angles, atol=1e-6)
    x, y, z = vector
    cross = torch.tensor([[0, -z, y], [z, 0, -x], [-y, x, 0]], dtype=torch.float64)
    np.testing.assert_allclose(torch.linalg.matrix_exp(cross).numpy(), about(2, yaw) @ about(1, pitch) @ about(0, roll), atol=1e-9)


@pytest.mark.parametrize("dtype", ["bfloat16", "int8", "nf4"])
def test_fewer_bits_are_near_float32(folder: Path, dtype: str) -> None:
    images, state = {"front": observation().images["front"][None]}, np.zeros((1, 8))
    action = np.array([[[0.01, 0.02, -0.01, 0.1, 0.05, 0.0, 1.0]]])
    with torch.no_grad():
        exact, found = (float(load(folder, dtype=one).losses(images, state, action, ["go"], 0)) for one in ("float32", dtype))
    assert found == pytest.approx(exact, rel=0.15)
    assert chunk(load(folder, dtype=dtype)).actions.shape == (1, 7)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16", "int8", "nf4"])
def test_weights_travel_whatever_they_are_kept_in(folder: Path, dtype: str) -> None:
    policy, other = (load(folder, dtype=dtype, trained={"tensors": ["projector.fc3.*"]}) for _ in range(2))
    state = policy.trainable_state()
    assert {value.dtype for value in state.values()} == {np.dtype(np.float32)} and len(state) == 2
    other.load_trainable_state({name: -value for name, value in state.items()})
    for name, value in other.trainable_state().items():
        np.testing.assert_array_equal(value, -state[name])
    assert not np.array_equal(chunk(other).actions, chunk(policy).actions)


@pytest.mark.parametrize("dtype", ["float32", "nf4"])
def test_adapters_are_trained_by_its_own_loss(folder: Path, dtype: str) -> None:
    trained = {"lora": {"targets": ["q_proj", "v_proj"], "rank": 4}}
    policy, other = (load(folder, dtype=dtype, trained=trained) for _ in range(2))
    state = policy.trainable_state()
    assert len(state) == 2 * 2 * 2 and all("lora_" in name for name in state)
    images = {"front": np.stack([observation(index).images["front"] for index in range(2)])}
    actions = np.array([[[0.04, 0, 0, 0, 0, 0.1, 1.0]], [[-0.04, 0.01, 0, 0, 0, 0.1, 0.0]]])

    def losses() -> torch.Tensor:
        return policy.losses(images, np.zeros((2, 8)), actions, ["go", "put it down"], 0)

    tiny_openvla.learns(policy, losses)
    other.load_trainable_state(policy.trainable_state())
    np.testing.assert_array_equal(chunk(other).actions, chunk(policy).actions)
    with pytest.raises(ValueError, match="is missing"):
        policy.load_trainable_state({})


def test_what_it_cannot_load_is_one_line(folder: Path, tmp_path: Path) -> None:
    shipped = load_yaml(root() / "config" / "policies" / "openvla.yaml")
    with pytest.raises(ConfigError, match=r"openvla.yaml: key 'model' is empty"):
        OpenVLAPolicy.load(shipped, FRANKA)
    assert OpenVLAPolicy.load({**shipped, "model": str(folder), "statistics": "other"}, FRANKA).config.dtype == "bfloat16"
    with pytest.raises(ConfigError, match=r"'statistics' is ''; the model knows bridge_orig, other"):
        load(folder, statistics="")
    with pytest.raises(ConfigError, match="no 'top'; it has front, wrist"):
        load(folder, camera="top")
    with pytest.raises(ConfigError, match="moves the end effector"):
        load(folder, action_space="joint_position")
    with pytest.raises(ConfigError, match="5 Hz"):
        load(folder, rate=5.0)

    def broken(name: str) -> Path:
        shutil.copytree(folder, tmp_path / name)
        return tmp_path / name

    lacking = broken("lacking")
    tensors = load_file(lacking / "model-00001-of-00002.safetensors")
    del tensors["language_model.model.norm.weight"]
    save_file(tensors, lacking / "model-00001-of-00002.safetensors")
    with pytest.raises(AssetError, match=r"lacking.*language_model.model.norm.weight"):
        load(lacking)
    other = broken("other")
    (other / "config.json").write_text(json.dumps({"model_type": "llama"}))
    with pytest.raises(AssetError, match="is a llama, not an openvla"):
        load(other)
    garbled = broken("garbled")
    (garbled / "model-00002-of-00002.safetensors").write_bytes(b"nonsense")
    with pytest.raises(AssetError, match="garbled.*model-00002"):
        load(garbled)


def test_the_contract_carries_its_motions(folder: Path) -> None:
    """Rotation vectors, units of 5 cm and half a radian, -1 opens."""
    policy = load(folder, rotation="vector", scale=[0.05, 0.5], action_gripper={"closed": 1.0, "open": -1.0})
    plain = load(folder, rotation="vector")
    one, other = chunk(policy).actions[0], chunk(plain).actions[0]
    np.testing.assert_allclose(one[:6], other[:6] * np.repeat([0.05, 0.5], 3), rtol=1e-5, atol=1e-9)
    assert replace(policy.spec, config_hash="") == replace(plain.spec, config_hash="")


def test_it_drives_the_simulator_and_is_refined_from_what_it_and_a_human_did(folder: Path) -> None:
    """A human's commands are joint targets; they are learned as motions of the hand."""
    sim, forward = Simulation(FRANKA), ForwardKinematics(FRANKA)
    policy = load(folder, trained={"lora": {"targets": ["q_proj", "v_proj"], "rank": 2}})
    played = run_episode(sim, policy, replace(load_task("reach", "franka"), max_steps=5), 1, "greedy").rollout
    sim.close()
    assert played.actions.shape == (5, 1, 7)
    way = forward.pose(played.proprioception[-1, :7])[0] - forward.pose(played.proprioception[0, :7])[0]
    assert np.linalg.norm(way) > 1e-3, "the hand moves"
    commanded = played.proprioception.copy()
    commanded[2, :7] += 0.02
    steps = {"stamps": played.stamps, "measured": played.proprioception, "commanded": commanded, "intervention": np.arange(5) == 2}
    played = replace(played, steps=steps, outcome="success")
    played.rewards["progress"] = np.linspace(0, 1, 6).astype(np.float32)
    learner = FilteredBC.load({"steps": 2, "batch": 2, "updates": 1.0, "gate": {"episodes": 1}}, policy, 0)
    report = learner.update([played], 0, False)
    assert report.metrics["intervened"] == 1 and np.isfinite(report.metrics["loss"])
    learned = learner._buffer[0].rollout.actions
    np.testing.assert_array_equal(np.delete(learned, 2, 0), np.delete(played.actions, 2, 0))
    moved = forward.pose(commanded[2, :7])[0] - forward.pose(played.proprioception[2, :7])[0]
    np.testing.assert_allclose(learned[2, 0, :3], moved, atol=1e-5)
    np.testing.assert_allclose(learned[2, 0, 6], commanded[2, 7])
