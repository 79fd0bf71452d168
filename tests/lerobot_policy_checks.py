"""LeRobot's policies, of random weights but with its own code, through the adapter: seeds, mismatches, training, the simulator."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_lerobot
import torch

from learner_node.filtered_bc import FilteredBC
from policy_node.execution import ChunkExecution
from policy_node.lerobot_policy import LeRobotPolicy
from robot_bringup.offline import run_episode
from robot_bringup.sim.simulation import Simulation
from whetstone.config import load_yaml, root
from whetstone.contracts import FlowPolicy, ImitationPolicy, InpaintingPolicy, Observation, Policy, Underway
from whetstone.errors import AssetError, ConfigError
from whetstone.profile import load_profile
from whetstone.task import load_task

KINDS = ("act", "diffusion", "smolvla", "pi0", "pi05")
PI = ("pi0", "pi05")
CAMERAS = {"front": "observation.images.top", "wrist": "observation.images.wrist"}
LORA = {"act": ["linear1", "linear2"], "diffusion": r".*cond_encoder\.1", "smolvla": ["q_proj", "v_proj"]} | dict.fromkeys(
    PI, r".*expert.*(q_proj|v_proj)"
)
HEADS = {
    "act": ["model.decoder.*", "model.action_head.*"],
    "diffusion": ["diffusion.unet.*"],
    "smolvla": ["model.*expert*", "model.action*"],
    "pi0": ["model.*gemma_expert*", "model.action*"],
    "pi05": ["model.*gemma_expert*", "model.action*"],
}
FRANKA = load_profile("franka")


def observation(seed: int = 0) -> Observation:
    rng = np.random.default_rng(seed)
    images = {camera: rng.integers(0, 255, (128, 128, 3), dtype=np.uint8) for camera in CAMERAS}
    return Observation(0, images, rng.normal(0, 0.3, 8).astype(np.float32))


Load = Callable[..., LeRobotPolicy]


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    base = tmp_path_factory.mktemp("lerobot")
    vlm = tiny_lerobot.small_smolvlm(base / "vlm")
    tiny_lerobot.small_pi()
    tiny_lerobot.small_resnet()
    tiny_lerobot.settings_read_once()
    return {kind: tiny_lerobot.save(kind, base / kind, vlm) for kind in KINDS} | {"vlm": vlm}


@pytest.fixture(scope="module")
def load(folders: dict[str, Path]) -> Load:
    def of(kind: str, **given: Any) -> LeRobotPolicy:
        words = {"vlm": str(folders["vlm"])} if kind in PI else {}
        return LeRobotPolicy.load({"path": str(folders[kind]), "cameras": CAMERAS, **words, **given}, FRANKA)

    return of


def seen(count: int) -> tuple[dict[str, np.ndarray], np.ndarray]:
    frames = [observation(index) for index in range(count)]
    return {name: np.stack([one.images[name] for one in frames]) for name in CAMERAS}, np.stack([one.proprioception for one in frames])


@pytest.mark.parametrize("kind", KINDS)
def test_chunks_are_the_policy_s_and_follow_from_the_seed(load: Load, kind: str) -> None:
    policy = load(kind)
    assert isinstance(policy, Policy) and isinstance(policy, ImitationPolicy) and not isinstance(policy, FlowPolicy)
    assert (policy.spec.cameras, policy.spec.execute, policy.spec.columns) == (("front", "wrist"), 4, 8)

    def chunk(seed: int, mode: Any = "sampled", frame: int = 0, instruction: str = "put the red cube in the tray") -> np.ndarray:
        policy.reset(instruction, seed, mode)
        state = torch.random.get_rng_state()
        actions = policy.act(observation(frame)).actions
        assert torch.equal(torch.random.get_rng_state(), state), "nobody else's draws change"
        return actions

    first = chunk(3)
    assert first.shape == (policy.spec.horizon, 8) and first.dtype == np.float32
    assert first[:, -1].min() >= 0 and first[:, -1].max() <= 1
    np.testing.assert_array_equal(chunk(3), first)
    assert np.abs(chunk(3, frame=1) - first).max() > 1e-4, "it sees"
    if kind != "act":  # draws nothing when it acts
        assert np.abs(chunk(4) - first).max() > 1e-4
    np.testing.assert_array_equal(chunk(3, "greedy"), chunk(4, "greedy"))
    policy.reset("go", 3, "exploring")
    kept = [policy.act(observation()).actions for _ in range(2)]
    np.testing.assert_array_equal(kept[0], kept[1])
    if kind in ("smolvla", *PI):
        assert np.abs(chunk(3, instruction="touch the blue cube") - first).max() > 1e-6, "it reads"


def test_a_chunk_is_what_lerobot_itself_gives(load: Load, folders: dict[str, Path]) -> None:
    """Its own policy class and processors, called as its own scripts call them."""
    policy = load("act", joints=[{"name": name} for name in ("gripper", *FRANKA.joint_names)], units="deg")
    policy.reset("go", 0, "greedy")
    frame = observation(5)
    found = policy.act(frame).actions
    act = tiny_lerobot.lerobot("policies.act.modeling_act").ACTPolicy.from_pretrained(folders["act"])
    before, behind = tiny_lerobot.lerobot("policies.factory").make_pre_post_processors(act.config, pretrained_path=str(folders["act"]))
    utilities = tiny_lerobot.lerobot("policies.utils")
    from policy_node.convention import resized

    state = np.concatenate([frame.proprioception[-1:], np.rad2deg(frame.proprioception[:-1])]).astype(np.float32)
    given = {"observation.state": state} | {CAMERAS[name]: resized(image, 64, 64) for name, image in frame.images.items()}
    batch = before(utilities.prepare_observation_for_inference(given, torch.device("cpu"), "go", ""))
    wanted = [behind(act.select_action(batch))[0].numpy() for _ in range(4)]
    np.testing.assert_allclose(found[:4, :7], np.deg2rad(np.stack(wanted)[:, 1:]), atol=1e-5)
    np.testing.assert_allclose(found[:4, 7], np.stack(wanted)[:, 0].clip(0, 1), atol=1e-5)


def test_shipped_configuration_asks_for_a_path() -> None:
    settings = load_yaml(root() / "config" / "policies" / "lerobot.yaml")
    with pytest.raises(ConfigError, match=r"lerobot.yaml: key 'path' is empty"):
        LeRobotPolicy.load(settings, FRANKA)


def test_a_policy_of_another_robot_is_refused_naming_both_sides(folders: dict[str, Path], load: Load, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"has 8 numbers in 'observation.state', robot 'so100' has 6"):
        LeRobotPolicy.load({"path": str(folders["act"]), "cameras": CAMERAS}, load_profile("so100"))
    with pytest.raises(ConfigError, match=r"wants 'observation.images.top'.*'franka' has front, wrist"):
        load("act", cameras={})
    with pytest.raises(ConfigError, match=r"(wants|has no) 'observation.images.*sees observation.images.top"):
        load("smolvla", cameras={**CAMERAS, "front": "observation.images.side"})
    with pytest.raises(ConfigError, match="chunks have 6 rows"):
        load("act", execute=7)
    with pytest.raises(ConfigError, match="settings.num_stepz"):
        load("smolvla", settings={"num_stepz": 1})
    with pytest.raises(ConfigError, match="'vlm' is for SmolVLA, pi0"):
        load("act", vlm=str(folders["vlm"]))


def test_a_damaged_folder_is_one_line(folders: dict[str, Path], tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    def message(change: Callable[[Path], object]) -> str:
        folder = tmp_path / str(len(list(tmp_path.iterdir())))
        shutil.copytree(folders["act"], folder)
        change(folder)
        with pytest.raises(AssetError) as error:
            LeRobotPolicy.load({"path": str(folder), "cameras": CAMERAS}, FRANKA)
        assert "\n" not in str(error.value) and str(folder) in str(error.value)
        return str(error.value)

    def pi0_without_a_tensor(folder: Path, pi0: Path) -> None:
        shutil.copytree(pi0, folder, dirs_exist_ok=True)
        tensors = load_file(folder / "model.safetensors")
        del tensors["model.action_in_proj.weight"]
        save_file(tensors, folder / "model.safetensors")

    def without_a_tensor(folder: Path) -> None:
        tensors = load_file(folder / "model.safetensors")
        del tensors["model.action_head.weight"]
        save_file(tensors, folder / "model.safetensors")

    assert "lacks tensor 'model.action_head.weight'" in message(without_a_tensor)
    assert "lacks tensor 'model.action_in_proj.weight'" in message(lambda folder: pi0_without_a_tensor(folder, folders["pi0"]))
    assert "no config.json" in message(lambda folder: (folder / "config.json").unlink())
    assert "of lerobot < 0.4" in message(lambda folder: (folder / "policy_preprocessor.json").unlink())
    message(lambda folder: (folder / "model.safetensors").write_bytes(b"nonsense"))
    message(lambda folder: (folder / "config.json").write_text("{"))
    with pytest.raises(AssetError, match="no such folder"):
        LeRobotPolicy.load({"path": str(tmp_path / "nowhere")}, FRANKA)


def test_a_diffusion_policy_sees_consecutive_steps_as_lerobot_shows_them(load: Load, folders: dict[str, Path]) -> None:
    """lerobot's own loop: each control step's observation to select_action."""
    policy = load("diffusion")
    assert not any(hasattr(load(kind), "observe") for kind in ("act", "smolvla"))
    frames = [replace(observation(index), stamp=index) for index in range(5)]
    policy.reset("go", 0, "greedy")
    for frame in frames:
        policy.observe(frame)
    found = policy.act(frames[-1]).actions
    policy.reset("go", 0, "greedy")
    alone = policy.act(frames[-1]).actions
    assert np.abs(found - alone).max() > 1e-4, "it minds what was before"
    lone = tiny_lerobot.lerobot("policies.diffusion.modeling_diffusion").DiffusionPolicy.from_pretrained(folders["diffusion"])
    before, behind = tiny_lerobot.lerobot("policies.factory").make_pre_post_processors(
        lone.config, pretrained_path=str(folders["diffusion"])
    )
    utilities, rows = tiny_lerobot.lerobot("policies.utils"), []
    from policy_node.convention import resized

    for frame in [*frames, *frames[-1:] * 3]:
        given = {"observation.state": frame.proprioception}
        given |= {CAMERAS[name]: resized(image, 64, 64) for name, image in frame.images.items()}
        torch.manual_seed(0)
        rows.append(lone.select_action(before(utilities.prepare_observation_for_inference(given, torch.device("cpu"), "go", ""))))
    # Its second chunk begins with the fifth frame.
    wanted = torch.cat([behind(row) for row in rows[4:8]]).numpy()
    np.testing.assert_allclose(found[:, :7], wanted[:, :7], atol=1e-4)


@pytest.mark.parametrize("kind", KINDS)
def test_a_flow_goes_on_from_the_chunk_in_use(load: Load, kind: str) -> None:
    policy = load(kind)
    if kind in ("act", "diffusion"):
        assert not isinstance(policy, InpaintingPolicy)
        return
    assert isinstance(policy, InpaintingPolicy)
    policy.reset("go", 0, "sampled")
    former = policy.act(observation()).actions
    underway = Underway(former[2:], 2)

    def drawn(go_on: bool) -> np.ndarray:
        policy.reset("go", 5, "sampled")
        return (policy.inpaint(observation(1), underway) if go_on else policy.act(observation(1))).actions

    held, free = drawn(True), drawn(False)
    arm = slice(0, 7)
    np.testing.assert_allclose(held[:2, arm], former[2:4, arm], atol=1e-3)  # what is done meanwhile
    assert np.abs(held[:4, arm] - former[2:, arm]).mean() < 0.7 * np.abs(free[:4, arm] - former[2:, arm]).mean()
    assert np.abs(held[4:, arm] - free[4:, arm]).max() < np.abs(free[4:, arm]).max(), "what nobody holds is the policy's"
    np.testing.assert_array_equal(drawn(True), held)


@pytest.mark.parametrize("kind", ["smolvla", "pi05"])
def test_seams_shrink_when_it_goes_on(load: Load, kind: str) -> None:
    """As the node executes it, each inference two control periods late."""
    policy, jumps = load(kind, settings={"chunk_size": 12}), {}
    for go_on in (False, True):
        policy.reset("go", 0, "sampled")
        execution, found = ChunkExecution(3, policy.spec.horizon, 20.0), []
        execution.start(0)
        for step in range(0, 30, 3):
            execution.begin(step)
            underway = execution.underway(step)
            seen = observation(step)
            chunk = policy.inpaint(seen, underway) if go_on and underway is not None else policy.act(seen)
            execution.finish(step, chunk.actions, step + 2)
            found.append(execution.jump)
        jumps[go_on] = float(np.nanmean(found))
    assert jumps[True] < 0.5 * jumps[False], jumps


def test_pi_s_decoder_is_transformers_gemma() -> None:
    """The same weights in the library's own, whose word embeddings are scaled; and a prefix seen before is as good as one seen now."""
    from transformers import GemmaConfig, GemmaModel

    from policy_node.pi_gemma import Decoder

    sizes: dict[str, Any] = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_key_value_heads": 1}
    config = GemmaConfig(vocab_size=20, head_dim=4, num_attention_heads=8, **sizes)
    config._attn_implementation = "eager"
    torch.manual_seed(0)
    theirs, ours = GemmaModel(config).eval(), Decoder(config).eval()
    with torch.no_grad():
        for value in theirs.parameters():
            value.normal_(std=0.5)
        ours.load_state_dict(theirs.state_dict())
        words = torch.randint(20, (2, 7))
        blocked = torch.full((1, 1, 7, 7), float("-inf")).triu(1)
        at = torch.arange(7)[None]
        wanted = theirs(words).last_hidden_state
        assert ours.embed_tokens is not None
        seen = 4 * ours.embed_tokens(words)
        torch.testing.assert_close(ours(seen, blocked, at).last_hidden_state, wanted)
        prefix = ours(seen[:, :4], blocked[..., :4, :4], at[:, :4], use_cache=True)
        for _ in range(2):  # read, never added to
            rest = ours(seen[:, 4:], blocked[..., 4:, :], at[:, 4:], past_key_values=prefix.past_key_values)
            torch.testing.assert_close(rest.last_hidden_state, wanted[:, 4:])


def test_an_adaptive_norm_scales_shifts_and_gates() -> None:
    from policy_node.pi_gemma import AdaptiveNorm, gated_residual

    norm = AdaptiveNorm(3, 1e-6, 2)
    with torch.no_grad():
        norm.dense.weight.normal_()
        hidden, cond = torch.randn(2, 4, 3), torch.randn(2, 2)
        out, gate = norm(hidden, cond)
        assert gate is not None
        for row in range(2):
            numbers = norm.dense.weight @ cond[row] + norm.dense.bias
            for token in range(4):
                one = hidden[row, token]
                by_hand = one / (one.square().mean() + 1e-6).sqrt() * (1 + numbers[:3]) + numbers[3:6]
                torch.testing.assert_close(out[row, token], by_hand)
                torch.testing.assert_close(gated_residual(hidden, out, gate)[row, token], one + by_hand * numbers[6:])


@pytest.mark.parametrize("kind", PI)
def test_a_flow_step_is_what_its_own_training_sees(load: Load, kind: str) -> None:
    """lerobot trains in one pass over all and acts from a cache. From noise N to a chunk x in one step the velocity is N - x, and the loss
    at flow time 1 for wanted actions A is the square of N - A less that."""
    policy = load(kind, settings={"num_inference_steps": 1})
    images, state = seen(2)
    batch = policy._before(policy._batch(images, state, ["put it down", "go"]))
    pictures, masks = policy.network._preprocess_images(batch)
    words = batch["observation.language.tokens"], batch["observation.language.attention_mask"]
    rest = (policy.network.prepare_state(batch),) if kind == "pi0" else ()
    noise, actions = torch.randn(2, 6, 12), torch.randn(2, 6, 12)
    with torch.no_grad():
        chunk = policy.network.model.sample_actions(pictures, masks, *words, *rest, noise=noise)
        loss = policy.network.model(pictures, masks, *words, *rest, actions, noise=noise, time=torch.ones(2))
    torch.testing.assert_close(loss, (actions - chunk).square(), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("kind", KINDS)
def test_adapters_alone_travel_and_change_what_the_policy_does(load: Load, kind: str) -> None:
    plain = load(kind)
    one, other = (load(kind, trained={"lora": {"targets": LORA[kind], "rank": 2}}) for _ in range(2))
    assert plain.trainable_state() == {}

    def chunk(policy: LeRobotPolicy) -> np.ndarray:
        policy.reset("go", 1, "greedy")
        return policy.act(observation()).actions

    np.testing.assert_allclose(chunk(one), chunk(plain), atol=1e-6)  # they begin as no change at all
    state = one.trainable_state()
    assert state and all("lora_" in name and value.dtype == np.float32 for name, value in state.items())
    for name, value in other.trainable_state().items():
        np.testing.assert_array_equal(value, state[name], err_msg="the learner's copy begins as the robot's")
    changed = {name: value + 0.3 for name, value in state.items()}
    other.load_trainable_state(changed)
    for name, value in other.trainable_state().items():
        np.testing.assert_array_equal(value, changed[name])
    assert np.abs(chunk(other) - chunk(one)).max() > 1e-5
    first = next(iter(state))
    with pytest.raises(ValueError, match=first.replace(".", r"\.")):
        one.load_trainable_state({name: value for name, value in state.items() if name != first})
    with pytest.raises(ValueError, match="shape"):
        one.load_trainable_state({**state, first: np.zeros((1, 1))})
    with pytest.raises(ValueError, match="'extra' is unknown"):
        one.load_trainable_state({**state, "extra": np.zeros(1)})
    assert one.spec.config_hash == other.spec.config_hash != plain.spec.config_hash


def test_heads_by_pattern(load: Load) -> None:
    policy = load("act", trained={"tensors": ["model.action_head.*"]})
    assert sorted(policy.trainable_state()) == ["model.action_head.bias", "model.action_head.weight"]
    both = load("act", trained={"tensors": ["model.action_head.*"], "lora": {"targets": "model.encoder.*linear1", "rank": 1}})
    assert len(both.trainable_state()) == 2 + 2
    with pytest.raises(ConfigError, match=r"'\*\.nothing' is no parameter"):
        load("act", trained={"tensors": ["*.nothing"]})
    with pytest.raises(ConfigError, match="names no layer"):
        load("act", trained={"lora": {"targets": ["nothing"]}})


@pytest.mark.parametrize("kind", KINDS)
def test_losses_are_each_decision_s_own_and_descent_lowers_them(load: Load, kind: str) -> None:
    policy = load(kind, trained={"tensors": HEADS[kind]}, settings={"use_vae": False, "dropout": 0.0} if kind == "act" else {})
    images, state = seen(3)
    actions = np.random.default_rng(0).uniform(-0.5, 0.5, (3, policy.spec.horizon, 8)).astype(np.float32)

    def losses(rows: slice = slice(None), seed: int = 0) -> torch.Tensor:
        shown = {name: one[rows] for name, one in images.items()}
        return policy.losses(shown, state[rows], actions[rows], ["go"] * len(state[rows]), seed)

    found = losses()
    assert found.shape == (3,) and (found > 0).all()
    torch.testing.assert_close(losses(), found)
    if kind == "act":  # draws nothing: each decision's loss is the same whoever stands beside it
        torch.testing.assert_close(losses(slice(1, 2)), found[1:2])
    optimiser = torch.optim.Adam(policy.trained.own.values(), lr=1e-2)
    for _ in range(8):
        optimiser.zero_grad()
        losses().mean().backward()
        optimiser.step()
    assert losses().mean() < 0.8 * found.mean()
    assert not policy.network.training


@pytest.mark.parametrize("kind, given", [("smolvla", {}), ("pi05", {}), ("pi0", {}), ("pi05", {"settings": {"dtype": "bfloat16"}})])
def test_bfloat16_is_near_float32(load: Load, kind: str, given: dict[str, Any]) -> None:
    """Mixed with float32; and as pi's own setting, by which weights are of fewer bits."""
    chunks = []
    for extra in ({}, {"dtype": "bfloat16"} if not given else given):
        policy = load(kind, **extra)
        policy.reset("go", 0, "greedy")
        chunks.append(policy.act(observation()).actions)
    assert 0 < np.abs(chunks[0] - chunks[1]).max() < 0.2


@pytest.fixture(scope="module")
def sim() -> Any:
    simulation = Simulation(FRANKA)
    yield simulation
    simulation.close()


@pytest.mark.parametrize("kind", KINDS)
def test_it_drives_the_simulator_and_is_refined_from_what_it_did(load: Load, sim: Simulation, kind: str) -> None:
    policy = load(kind, trained={"lora": {"targets": LORA[kind], "rank": 2}})
    task = replace(load_task("reach", "franka"), max_steps=12)
    episodes = [run_episode(sim, policy, task, seed, "exploring").rollout for seed in (1, 2)]
    assert [one.actions.shape for one in episodes] == [(3, policy.spec.horizon, 8)] * 2
    for one in episodes:
        one.outcome = "success"
        one.rewards["progress"] = np.linspace(0, 1, 4).astype(np.float32)
    settings = {"steps": 3, "batch": 2, "updates": 1.0, "learning_rate": 0.01, "gate": {"episodes": 1}}
    learner = FilteredBC.load(settings, policy, 0)
    before = policy.trainable_state()
    report = learner.update(episodes, 0, False)
    assert report.deploy and np.isfinite(report.metrics["loss"]) and report.metrics["imitated"] == 6
    after = learner.trainable_state()
    assert after.keys() == before.keys() and any(not np.array_equal(after[name], before[name]) for name in before)
    again = FilteredBC.load(settings, load(kind, trained={"lora": {"targets": LORA[kind], "rank": 2}}), 0)
    again.update(episodes, 0, False)
    for name, value in again.trainable_state().items():
        np.testing.assert_array_equal(value, after[name])


def test_a_learner_says_what_it_cannot_train(load: Load) -> None:
    from learner_node.recap import RECAP
    from learner_node.refinement import FlowRefinement

    with pytest.raises(ConfigError, match="trains nothing; set the key 'trained'"):
        FilteredBC.load({}, load("act"), 0)
    for learner in (FlowRefinement, RECAP):
        with pytest.raises(ConfigError, match="needs a"):
            learner.load({}, load("act", trained={"tensors": ["*"]}), 0)
