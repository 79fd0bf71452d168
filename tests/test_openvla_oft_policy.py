"""OpenVLA-OFT of random weights through the adapter: all of it written another way, conversion, precisions, training, the simulator."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import mujoco
import numpy as np
import pytest
import tiny_openvla
import torch
from safetensors.torch import load_file
from torch.nn import functional

from policy_node.openvla import pixels
from policy_node.openvla_oft import OpenVLAOFTPolicy, convert
from robot_bringup.offline import run_episode
from robot_bringup.sim.simulation import Simulation
from whetstone.config import load_yaml, root
from whetstone.contracts import ImitationPolicy, Observation, Policy
from whetstone.errors import AssetError, ConfigError
from whetstone.kinematics import ForwardKinematics
from whetstone.profile import load_profile
from whetstone.task import load_task

FRANKA = load_profile("franka")
CAMERAS = ("front", "wrist")


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[bool, Path]:
    """Converted, without and with FiLM."""
    made = {film: tiny_openvla.save_oft(tmp_path_factory.mktemp("oft") / "oft-tiny", film) for film in (False, True)}
    for folder in made.values():
        convert(folder)
    return made


def load(folder: Path, **given: Any) -> OpenVLAOFTPolicy:
    settings = {"model": str(folder), "horizon": tiny_openvla.ROWS, "cameras": CAMERAS, "dtype": "float32"}
    return OpenVLAOFTPolicy.load({**settings, **given}, FRANKA)


def observation(seed: int = 0) -> Observation:
    rng = np.random.default_rng(seed)
    images = {camera: rng.integers(0, 255, (128, 128, 3), dtype=np.uint8) for camera in CAMERAS}
    return Observation(0, images, rng.uniform(0, 1, 8).astype(np.float32))


def chunk(policy: OpenVLAOFTPolicy, frame: int = 0, words: str = "Put the cube away", seed: int = 0, mode: Any = "greedy") -> np.ndarray:
    policy.reset(words, seed, mode)
    return policy.act(observation(frame)).actions


def heads_together(tokens: torch.Tensor, triple: torch.Tensor, heads: int, turn: Any = lambda one: one) -> torch.Tensor:
    """Attention of all to all, written out. tokens (T, width), triple (T, 3 width)."""
    width = tokens.shape[1] // heads
    found = []
    for head in range(heads):
        query, key, value = (part[:, head * width : (head + 1) * width] for part in triple.chunk(3, dim=1))
        found.append(((turn(query) @ turn(key).T) / width**0.5).softmax(-1) @ value)
    return torch.cat(found, dim=1)


def eye(weights: dict[str, torch.Tensor], image: torch.Tensor, told: torch.Tensor | None) -> torch.Tensor:
    """A vision transformer of tiny_openvla, but for its last layer."""
    tokens = functional.conv2d(image[None], weights["patch_embed.proj.weight"], weights["patch_embed.proj.bias"], stride=tiny_openvla.PATCH)
    tokens, before = tokens[0].flatten(1).T + weights["pos_embed"][0], 0
    if "cls_token" in weights:
        tokens, before = torch.cat([weights["cls_token"][0], weights["reg_token"][0], tokens]), 5

    def norm(name: str, value: torch.Tensor) -> torch.Tensor:
        return functional.layer_norm(value, value.shape[-1:], weights[f"{name}.weight"], weights[f"{name}.bias"], 1e-6)

    def linear(name: str, value: torch.Tensor) -> torch.Tensor:
        return value @ weights[f"{name}.weight"].T + weights[f"{name}.bias"]

    for block in range(2):
        at = f"blocks.{block}"
        one, two = (weights.get(f"{at}.ls{index}.scale_factor", torch.ones(())) for index in (1, 2))
        mixed = heads_together(tokens, linear(f"{at}.attn.qkv", norm(f"{at}.norm1", tokens)), 16)
        tokens = tokens + one * linear(f"{at}.attn.proj", mixed)
        if told is not None:
            tokens = (1 + linear(f"{at}.scale", told)) * tokens + linear(f"{at}.shift", told)
        tokens = tokens + two * linear(f"{at}.mlp.fc2", functional.gelu(linear(f"{at}.mlp.fc1", norm(f"{at}.norm2", tokens))))
    return tokens[before:]


def llama(weights: dict[str, torch.Tensor], tokens: torch.Tensor) -> torch.Tensor:
    """Llama's layers and last norm, every token seeing every other."""

    def norm(name: str, value: torch.Tensor) -> torch.Tensor:
        return value / (value.square().mean(-1, keepdim=True) + 1e-6).sqrt() * weights[f"language_model.model.{name}.weight"]

    half = tiny_openvla.TEXT // 4
    angle = torch.arange(len(tokens))[:, None] / 10000 ** (torch.arange(half) / half)

    def turn(value: torch.Tensor) -> torch.Tensor:
        one, two = value.chunk(2, dim=1)
        return torch.cat([one * angle.cos() - two * angle.sin(), two * angle.cos() + one * angle.sin()], dim=1)

    for layer in range(2):
        part = {name.rsplit(".", 2)[1]: value for name, value in weights.items() if f"model.layers.{layer}." in name}
        seen = norm(f"layers.{layer}.input_layernorm", tokens)
        triple = torch.cat([seen @ part[name].T for name in ("q_proj", "k_proj", "v_proj")], dim=1)
        tokens = tokens + heads_together(tokens, triple, 2, turn) @ part["o_proj"].T
        seen = norm(f"layers.{layer}.post_attention_layernorm", tokens)
        tokens = tokens + (functional.silu(seen @ part["gate_proj"].T) * (seen @ part["up_proj"].T)) @ part["down_proj"].T
    return norm("norm", tokens)


@pytest.mark.parametrize("film", [False, True])
def test_a_chunk_is_what_the_same_written_out_gives(folders: dict[bool, Path], film: bool) -> None:
    """From the files' tensors alone: eyes, words, state, attention, head and statistics by the formulas of the two papers."""
    policy = load(folders[film], rotation="vector")
    frame, words = observation(), policy._words.tokens("put the cube away")
    weights, parts = tiny_openvla.weights(), tiny_openvla.parts(film)
    embeddings = weights["language_model.model.embed_tokens.weight"]
    told = embeddings[[*words.tolist(), 2]].mean(0) if film else None
    for name, value in parts.get("vision_backbone", {}).items():
        if "lora_" in name:
            continue
        if "base_layer.weight" in name:
            up, down = (parts["vision_backbone"][name.replace("base_layer", f"lora_{side}.default")] for side in "BA")
            value = value + 16 / 32 * up @ down
        weights[name.replace(".base_layer", "").replace(".block.", ".")] = value
    seen = []
    for camera in CAMERAS:
        image, both = pixels(frame.images[camera][None], tiny_openvla.SIDE, 1.0)[0], []
        for name, mean, spread in (
            ("featurizer", (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
            ("fused_featurizer", (0.5,) * 3, (0.5,) * 3),
        ):
            own = {key.removeprefix(f"vision_backbone.{name}."): value for key, value in weights.items() if f".{name}." in key}
            both.append(eye(own, (image - torch.tensor(mean)[:, None, None]) / torch.tensor(spread)[:, None, None], told))
        hidden = torch.cat(both, dim=1)
        for last, name in ((False, "fc1"), (False, "fc2"), (True, "fc3")):
            hidden = hidden @ weights[f"projector.{name}.weight"].T + weights[f"projector.{name}.bias"]
            hidden = hidden if last else functional.gelu(hidden)
        seen.append(hidden)
    state = (2 * (torch.from_numpy(frame.proprioception) + 1) / 2.5 - 1).clamp(-1, 1)
    one = parts["proprio_projector"]
    seen.append((functional.gelu(state @ one["fc1.weight"].T + one["fc1.bias"]) @ one["fc2.weight"].T + one["fc2.bias"])[None])
    empty = torch.zeros(tiny_openvla.ROWS * 7, tiny_openvla.TEXT)
    sequence = torch.cat([embeddings[words[:1]], *seen, embeddings[words[1:]], empty, embeddings[2:3]])
    outputs = llama(weights, sequence)[-len(empty) - 2 : -2]
    head = {name.removeprefix("module.model."): value for name, value in parts["action_head"].items()}

    def norm(name: str, value: torch.Tensor) -> torch.Tensor:
        return functional.layer_norm(value, value.shape[-1:], head[f"{name}.weight"], head[f"{name}.bias"])

    rows = norm("layer_norm1", outputs.reshape(tiny_openvla.ROWS, -1))
    rows = (rows @ head["fc1.weight"].T + head["fc1.bias"]).relu()
    for block in ("mlp_resnet_blocks.0.ffn", "mlp_resnet_blocks.1.ffn"):
        rows = rows + (norm(f"{block}.0", rows) @ head[f"{block}.1.weight"].T + head[f"{block}.1.bias"]).relu()
    normal = (norm("layer_norm2", rows) @ head["fc2.weight"].T + head["fc2.bias"]).numpy()
    low, high = (np.array(tiny_openvla.STATISTICS[name]) for name in ("q01", "q99"))
    wanted = np.where(tiny_openvla.STATISTICS["mask"], (normal + 1) / 2 * (high - low) + low, normal)
    wanted[:, 6] = wanted[:, 6].clip(0, 1)
    np.testing.assert_allclose(chunk(policy), wanted, atol=2e-5)


def test_chunks_follow_from_what_is_seen_told_and_felt(folders: dict[bool, Path]) -> None:
    policy = load(folders[True])
    assert isinstance(policy, Policy) and isinstance(policy, ImitationPolicy)
    assert (policy.spec.action_space, policy.spec.horizon, policy.spec.execute, policy.spec.columns) == ("end_effector_delta", 4, 4, 7)
    first = chunk(policy)
    np.testing.assert_array_equal(chunk(policy, seed=1, mode="sampled"), first)
    assert np.abs(chunk(policy, words="touch it") - first).max() > 1e-5, "it reads"
    frame = observation()
    for changed in ({**frame.images, "wrist": observation(1).images["wrist"]}, {**frame.images, "front": observation(1).images["front"]}):
        assert np.abs(policy.act(replace(frame, images=changed)).actions - first).max() > 1e-5, "it sees with both eyes"
    assert np.abs(policy.act(replace(frame, proprioception=1 - frame.proprioception)).actions - first).max() > 1e-5, "it feels"


def test_it_is_told_where_the_hand_is(folders: dict[bool, Path]) -> None:
    fingers = [{"closed": 0.0, "open": 0.04}, {"closed": 0.0, "open": -0.04}]
    policy = load(folders[False], state="end_effector", fingers=fingers)
    told = policy._told(np.append(FRANKA.home, 0.5))
    position, quaternion = ForwardKinematics(FRANKA).pose(np.asarray(FRANKA.home, np.float64))
    matrix = np.empty(9)
    mujoco.mju_quat2Mat(matrix, quaternion)
    np.testing.assert_allclose(told[:3], position, atol=1e-9)
    x, y, z = told[3:6]
    turned = torch.linalg.matrix_exp(torch.tensor([[0, -z, y], [z, 0, -x], [-y, x, 0]], dtype=torch.float64)).numpy()
    np.testing.assert_allclose(turned, matrix.reshape(3, 3), atol=1e-6)
    np.testing.assert_allclose(told[6:], [0.02, -0.02])
    assert np.isfinite(chunk(policy)).all()
    with pytest.raises(ConfigError, match=r"is told 8 numbers.*state: end_effector of robot 'franka' gives 6"):
        load(folders[False], state="end_effector")


@pytest.mark.parametrize("dtype", ["bfloat16", "int8", "nf4"])
def test_fewer_bits_are_near_float32(folders: dict[bool, Path], dtype: str) -> None:
    images, state = {name: image[None] for name, image in observation().images.items()}, observation().proprioception[None]
    actions = np.full((1, tiny_openvla.ROWS, 7), 0.02)
    with torch.no_grad():
        exact, found = (float(load(folders[True], dtype=one).losses(images, state, actions, ["go"], 0)) for one in ("float32", dtype))
    assert found == pytest.approx(exact, rel=0.2)
    assert chunk(load(folders[True], dtype=dtype)).shape == (4, 7)


@pytest.mark.parametrize("dtype", ["float32", "nf4"])
def test_adapters_and_head_are_trained_by_its_own_loss(folders: dict[bool, Path], dtype: str) -> None:
    trained = {"lora": {"targets": ["q_proj", "v_proj"], "rank": 4}, "tensors": ["action_head.model.fc2.*"]}
    policy, other = (load(folders[False], dtype=dtype, trained=trained) for _ in range(2))
    assert len(policy.trainable_state()) == 2 * 2 * 2 + 2
    frames = [observation(index) for index in range(2)]
    images = {name: np.stack([one.images[name] for one in frames]) for name in CAMERAS}
    state, actions = np.stack([one.proprioception for one in frames]), np.random.default_rng(0).uniform(-0.04, 0.04, (2, 4, 7))

    def losses() -> torch.Tensor:
        return policy.losses(images, state, actions, ["go", "put it down"], 0)

    tiny_openvla.learns(policy, losses)
    other.load_trainable_state(policy.trainable_state())
    np.testing.assert_array_equal(chunk(other), chunk(policy))


def test_a_loss_is_the_mean_distance_of_normalised_numbers(folders: dict[bool, Path]) -> None:
    policy = load(folders[False], rotation="vector")
    frame = observation()
    actions = chunk(policy, words="go")[None].astype(np.float64)
    images = {name: image[None] for name, image in frame.images.items()}
    actions[0, :, 0] += 0.025  # half of the way from the middle to the bound
    actions[0, :, 6] = 0
    with torch.no_grad():
        found = float(policy.losses(images, frame.proprioception[None], actions, ["go"], 0))
        normal = policy._normal(images, frame.proprioception[None], 0, policy._words.tokens("go")).numpy()
    wanted = np.abs(normal - np.concatenate([normal[:, :1] + 0.5, normal[:, 1:6], 0 * normal[:, 6:]], 1).clip(-1, 1)).mean()
    assert found == pytest.approx(wanted, abs=1e-4)


def test_pickles_are_converted_once_and_never_read_by_the_policy(folders: dict[bool, Path], tmp_path: Path) -> None:
    folder = tiny_openvla.save_oft(tmp_path / "fresh")
    with pytest.raises(AssetError, match=r"action_head--50_checkpoint.pt is a pickle.*python -m policy_node.openvla_oft"):
        load(folder)
    assert [path.name for path in convert(folder)] == ["action_head.safetensors", "proprio_projector.safetensors"]
    head = load_file(folder / "action_head.safetensors")
    assert head.keys() == {name.removeprefix("module.") for name in tiny_openvla.parts(False)["action_head"]}
    for path in folder.glob("*.pt"):
        path.unlink()
    np.testing.assert_array_equal(chunk(load(folder)), chunk(load(folders[False])))
    torch.save({"model": Bad()}, folder / "action_head--60_checkpoint.pt")
    with pytest.raises(AssetError, match="action_head--60"):
        convert(folder)
    assert not Bad.called
    with pytest.raises(AssetError, match="has no action_head"):
        convert(tmp_path)


class Bad:
    """What a pickle could do."""

    called = False

    def __reduce__(self) -> Any:
        return (setattr, (Bad, "called", True))


def test_what_it_cannot_load_is_one_line(folders: dict[bool, Path], tmp_path: Path) -> None:
    shipped = load_yaml(root() / "config" / "policies" / "openvla_oft.yaml")
    with pytest.raises(ConfigError, match=r"openvla_oft.yaml: key 'model' is empty"):
        OpenVLAOFTPolicy.load(shipped, FRANKA)
    with pytest.raises(ConfigError, match="key 'horizon' is empty"):
        load(folders[False], horizon=None)
    with pytest.raises(ConfigError, match="no 'top'"):
        load(folders[False], cameras=["top"])
    with pytest.raises(ConfigError, match=r"have 7 numbers.*wants 8 \(action_space joint_position\)"):
        load(folders[False], action_space="joint_position")
    with pytest.raises(ConfigError, match="'statistics' is 'other'; the model knows libero_spatial"):
        load(folders[False], statistics="other")
    folder = shutil.copytree(folders[False], tmp_path / "headless")
    (folder / "action_head.safetensors").unlink()
    (folder / "action_head--50_checkpoint.pt").unlink()
    with pytest.raises(AssetError, match="no action_head.safetensors"):
        load(folder)


def test_it_drives_the_simulator(folders: dict[bool, Path]) -> None:
    sim = Simulation(FRANKA)
    played = run_episode(sim, load(folders[True]), replace(load_task("reach", "franka"), max_steps=8), 1, "greedy").rollout
    sim.close()
    assert played.actions.shape == (2, 4, 7)
    assert np.abs(played.proprioception[-1, :7] - played.proprioception[0, :7]).max() > 1e-3, "the arm moves"
