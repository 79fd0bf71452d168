"""TOPReward on a tiny random vision-language model that is built here, offline, and loaded like a real one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from reward_node.topreward import TOPReward
from whetstone.config import find, load_yaml
from whetstone.errors import AssetError, ConfigError, InputError

SIZE = (32, 32)
SPECIAL = ["<|im_start|>", "<end_of_utterance>", "<image>", "<fake_token_around_image>", "<global-img>", "<pad>"]
TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}:{% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}<image>{% else %}{{ part['text'] }}{% endif %}{% endfor %}<end_of_utterance>\n{% endfor %}"
    "{% if add_generation_prompt %}assistant:{% endif %}"
)


@pytest.fixture(scope="session")
def model_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random Idefics3 of some hundred thousand parameters (its processor is whole without torchvision)."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import Idefics3Config, Idefics3ForConditionalGeneration, Idefics3Processor, PreTrainedTokenizerFast
    from transformers.models.idefics3.image_processing_pil_idefics3 import Idefics3ImageProcessorPil

    folder = tmp_path_factory.mktemp("vlm")
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(vocab_size=400, special_tokens=SPECIAL, initial_alphabet=pre_tokenizers.ByteLevel.alphabet())
    tokenizer.train_from_iterator(["The answer is: True", "or is it False", "True False True False"] * 20, trainer)
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="<pad>", eos_token="<end_of_utterance>")
    images = Idefics3ImageProcessorPil(do_image_splitting=False, size={"longest_edge": 32}, max_image_size={"longest_edge": 32})
    Idefics3Processor(images, fast, image_seq_len=4, chat_template=TEMPLATE).save_pretrained(folder)
    config = Idefics3Config(
        image_token_id=fast.get_vocab()["<image>"],
        scale_factor=2,
        vision_config={
            "hidden_size": 32,
            "intermediate_size": 32,
            "num_hidden_layers": 1,
            "num_attention_heads": 2,
            "image_size": 32,
            "patch_size": 8,
        },
        text_config={
            "model_type": "llama",
            "hidden_size": 32,
            "intermediate_size": 32,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "num_key_value_heads": 2,
            "vocab_size": len(fast),
            "pad_token_id": tokenizer.token_to_id("<pad>"),
        },
    )
    torch.manual_seed(0)
    model = Idefics3ForConditionalGeneration(config)
    # Random weights of the usual size answer alike whatever they see.
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(5.0)
    model.save_pretrained(folder)
    return folder


def configuration(model: Any, **changes: Any) -> dict[str, Any]:
    data = load_yaml(find("rewards", "topreward"))
    return {**data, "model": str(model) if model else None, "image_size": list(SIZE), "dtype": "float32", **changes}


@pytest.fixture(scope="session")
def reward(model_folder: Path) -> TOPReward:
    return TOPReward.load(configuration(model_folder), None)


def frames(count: int, seed: int = 0) -> list[dict[str, np.ndarray]]:
    random = np.random.default_rng(seed)
    return [{"front": random.integers(0, 256, (*SIZE, 3), dtype=np.uint8)} for _ in range(count)]


def test_the_user_turn_is_left_open(reward: TOPReward) -> None:
    reward.reset("a", "put the red cube in the tray", 0)
    prompt = reward.prompt(8)
    assert prompt.endswith("The answer is:")
    assert "put the red cube in the tray" in prompt
    assert prompt.count("<image>") == 8
    assert "<end_of_utterance>" not in prompt and "assistant" not in prompt


def test_the_score_is_a_log_probability_over_the_whole_vocabulary(reward: TOPReward) -> None:
    """Against the model asked directly: softmax of the last row of its logits."""
    from PIL import Image

    reward.reset("a", "put the red cube in the tray", 0)
    window = [frame["front"] for frame in frames(8)]
    answer, contrary = reward.log_probabilities(window)
    inputs = reward.processor(text=[reward.prompt(8)], images=[Image.fromarray(image) for image in window], return_tensors="pt")
    with torch.no_grad():
        probability = reward.model(**inputs).logits[0, -1].double().softmax(dim=-1)
    vocabulary = reward.processor.tokenizer.get_vocab()
    assert answer == pytest.approx(float(probability[vocabulary["ĠTrue"]].log()), abs=1e-4)
    assert contrary == pytest.approx(float(probability[vocabulary["ĠFalse"]].log()), abs=1e-4)


def test_scores_are_causal_and_see_the_newest_frame(reward: TOPReward) -> None:
    clip = frames(5)
    reward.reset("a", "move", 0)
    one = reward.score_episode(clip, list(range(5)))
    reward.reset("b", "move", 0)
    two = reward.score_episode([*clip[:4], frames(1, 9)[0]], list(range(5)))
    assert one[:4] == two[:4]
    assert one[4].raw != two[4].raw


def test_a_still_gets_one_score_and_a_window_of_fixed_size(reward: TOPReward) -> None:
    reward.reset("a", "move", 0)
    samples = reward.score_episode(frames(1) * 6, list(range(6)))
    assert len({sample.raw for sample in samples}) == 1
    assert {sample.window for sample in samples} == {8}


def test_calibration_and_margin(model_folder: Path) -> None:
    reward = TOPReward.load(configuration(model_folder, calibration={"offset": 10.0, "scale": 40.0}), None)
    reward.reset("a", "move", 0)
    reward.log_probabilities = lambda window: (-2.0, -5.0)
    sample = reward.observe(frames(1)[0], 3)
    assert sample.progress == pytest.approx(0.2) and sample.raw == -2.0 and sample.margin == pytest.approx(3.0)
    assert sample.completion == pytest.approx(np.exp(-2) / (np.exp(-2) + np.exp(-5)))
    assert sample.total == pytest.approx((0.2 + sample.completion + 0.5) / 3)
    reward.log_probabilities = lambda window: (float("nan"), -5.0)
    assert not reward.observe(frames(1)[0], 4).valid


def test_missing_or_unfit_models_are_named(model_folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="key 'model' is empty; set it to the folder"):
        TOPReward.load(configuration(None), None)
    with pytest.raises(AssetError, match="is not a model folder"):
        TOPReward.load(configuration(tmp_path / "nothing"), None)
    (tmp_path / "config.json").write_text('{"model_type": "idefics3"}')
    with pytest.raises(AssetError, match="cannot be loaded"):
        TOPReward.load(configuration(tmp_path), None)
    with pytest.raises(ConfigError, match="tokens in this model's vocabulary"):
        TOPReward.load(configuration(model_folder, answer=" quite certainly"), None)
    with pytest.raises(ConfigError, match="images"):
        TOPReward.load(configuration(model_folder, images=4), None)
    with pytest.raises(ConfigError, match="must hold {instruction}"):
        TOPReward.load(configuration(model_folder, prompt="Is it done?"), None)


def test_wrong_images_are_named(reward: TOPReward) -> None:
    reward.reset("a", "move", 0)
    with pytest.raises(InputError, match="camera front: no image; got wrist"):
        reward.observe({"wrist": frames(1)[0]["front"]}, 0)
    with pytest.raises(InputError, match=r"camera front: image is \(8, 8, 3\)"):
        reward.observe({"front": np.zeros((8, 8, 3), np.uint8)}, 0)
