"""Vision-language models with random weights, of any size, made offline and saved like real ones.

Role: what tests and benchmarks run where no checkpoint is at hand. The code that loads and runs them is that of real models; a model's
speed and memory do not depend on its weights' values. What they answer means nothing. torch and transformers are imported on use.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_IMAGE_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}:{% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}<image>{% else %}{{ part['text'] }}{% endif %}{% endfor %}<end_of_utterance>\n{% endfor %}"
    "{% if add_generation_prompt %}assistant:{% endif %}"
)
_VIDEO_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{% for part in message['content'] %}"
    "{% if part['type'] == 'video' %}<|vision_start|><|video_pad|><|vision_end|>"
    "{% elif part['type'] == 'image' %}<|vision_start|><|image_pad|><|vision_end|>{% else %}{{ part['text'] }}{% endif %}"
    "{% endfor %}<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
_CONTEXT_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}<IMG_CONTEXT>\n{% else %}{{ part['text'] }}{% endif %}"
    "{% endfor %}<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
_IMAGE_MARKS = ["<|im_start|>", "<end_of_utterance>", "<image>", "<fake_token_around_image>", "<global-img>", "<pad>"]
_VIDEO_MARKS = ["<|im_start|>", "<|im_end|>", "<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>", "<pad>"]
_CONTEXT_MARKS = ["<|im_start|>", "<|im_end|>", "<img>", "</img>", "<IMG_CONTEXT>", "<pad>"]
_WIDTHS = {"hidden_size": 32, "intermediate_size": 32, "num_attention_heads": 2}
"""Of the tiny models, eyes and language alike."""
_TEXTS = ("The answer is: True", "or is it False", "True False True False")


@dataclass(frozen=True)
class Qwen3VLSize:
    """Numbers of Qwen3-VL's configuration. vocabulary: 0: as many as its tokenizer has; gain: of the random weights."""

    hidden: int
    layers: int
    heads: int
    key_value_heads: int
    head_size: int
    feed_forward: int
    vocabulary: int
    vision_hidden: int
    vision_layers: int
    vision_heads: int
    vision_feed_forward: int
    deepstack: tuple[int, ...]
    patch_pixels: int = 16
    gain: float = 1.0

    @property
    def sections(self) -> list[int]:
        """M-RoPE's split of half a head between time, height and width; the published models have 24, 20, 20 of 64."""
        half = self.head_size // 2
        return [half - 2 * (half * 5 // 16), half * 5 // 16, half * 5 // 16]


QWEN3_VL = {
    # Weights of the usual size would answer alike whatever they see.
    "tiny": Qwen3VLSize(32, 3, 2, 1, 16, 32, 0, 32, 3, 2, 32, (0, 1), 8, 5.0),
    "small": Qwen3VLSize(384, 8, 6, 3, 64, 1024, 8192, 192, 6, 3, 512, (1, 3, 5), 16, 1.5),
    "2B": Qwen3VLSize(2048, 28, 16, 8, 128, 6144, 151_936, 1024, 24, 16, 4096, (5, 11, 17)),
    "8B": Qwen3VLSize(4096, 36, 32, 8, 128, 12_288, 151_936, 1152, 27, 16, 4304, (8, 16, 24)),
}
"""Name -> size; 2B and 8B have the shapes of the published checkpoints."""


def tokenizer(marks: list[str], end: str, template: str, texts: Sequence[str] = _TEXTS) -> Any:
    """Byte-level BPE whose vocabulary has the words of `texts` as one token each, " True" and " False" among them."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    made = Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(vocab_size=2000, special_tokens=marks, initial_alphabet=pre_tokenizers.ByteLevel.alphabet())
    made.train_from_iterator([*_TEXTS, *texts] * 20, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=made, pad_token="<pad>", eos_token=end, chat_template=template)


def idefics3(folder: Path) -> Path:
    """A tiny Idefics3, the architecture of SmolVLM, saved into `folder`: images of 32x32 pixels, 4 tokens each."""
    from transformers import Idefics3Config, Idefics3ForConditionalGeneration, Idefics3Processor
    from transformers.models.idefics3.image_processing_pil_idefics3 import Idefics3ImageProcessorPil

    fast = tokenizer(_IMAGE_MARKS, "<end_of_utterance>", _IMAGE_TEMPLATE)
    images = Idefics3ImageProcessorPil(do_image_splitting=False, size={"longest_edge": 32}, max_image_size={"longest_edge": 32})
    Idefics3Processor(images, fast, image_seq_len=4, chat_template=_IMAGE_TEMPLATE).save_pretrained(folder)
    config = Idefics3Config(
        image_token_id=fast.get_vocab()["<image>"],
        scale_factor=2,
        vision_config={**_WIDTHS, "num_hidden_layers": 1, "image_size": 32, "patch_size": 8},
        text_config={
            **_WIDTHS,
            "model_type": "llama",
            "num_hidden_layers": 2,
            "num_key_value_heads": 2,
            "vocab_size": len(fast),
            "pad_token_id": fast.pad_token_id,
        },
    )
    _random(Idefics3ForConditionalGeneration, config, "cpu", "float32", 5.0).save_pretrained(folder)
    return folder


def qwen3_vl(size: Qwen3VLSize, pixels: int, device: str = "cpu", dtype: str = "float32", texts: Sequence[str] = _TEXTS) -> tuple[Any, ...]:
    """(model, tokenizer, image processor) of Qwen3-VL for square frames of `pixels`."""
    from transformers import Qwen3VLConfig, Qwen3VLForConditionalGeneration
    from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

    fast = tokenizer(_VIDEO_MARKS, "<|im_end|>", _VIDEO_TEMPLATE, texts)
    ids, half, edges = fast.get_vocab(), [0.5, 0.5, 0.5], {"shortest_edge": pixels**2, "longest_edge": pixels**2}
    images = Qwen2VLImageProcessorPil(
        patch_size=size.patch_pixels, temporal_patch_size=2, merge_size=2, size=edges, image_mean=half, image_std=half
    )
    config = Qwen3VLConfig(
        image_token_id=ids["<|image_pad|>"],
        video_token_id=ids["<|video_pad|>"],
        vision_start_token_id=ids["<|vision_start|>"],
        vision_end_token_id=ids["<|vision_end|>"],
        tie_word_embeddings=True,
        vision_config={
            "depth": size.vision_layers,
            "hidden_size": size.vision_hidden,
            "intermediate_size": size.vision_feed_forward,
            "num_heads": size.vision_heads,
            "patch_size": size.patch_pixels,
            "spatial_merge_size": 2,
            "temporal_patch_size": 2,
            "out_hidden_size": size.hidden,
            "num_position_embeddings": 16 if size.vision_hidden < 64 else 2304,
            "deepstack_visual_indexes": list(size.deepstack),
        },
        text_config={
            "hidden_size": size.hidden,
            "intermediate_size": size.feed_forward,
            "num_hidden_layers": size.layers,
            "num_attention_heads": size.heads,
            "num_key_value_heads": size.key_value_heads,
            "head_dim": size.head_size,
            "vocab_size": size.vocabulary or len(fast),
            "max_position_embeddings": 262_144,
            "tie_word_embeddings": True,
            "rope_parameters": {
                "rope_type": "default",
                "rope_theta": 5_000_000.0,
                "mrope_section": size.sections,
                "mrope_interleaved": True,
            },
        },
    )
    return _random(Qwen3VLForConditionalGeneration, config, device, dtype, size.gain), fast, images


def tiny_qwen3_vl(folder: Path) -> Path:
    """A tiny Qwen3-VL saved into `folder`: frames of 32x32 pixels, 4 visual tokens a patch of two."""
    for part in qwen3_vl(QWEN3_VL["tiny"], 32):
        part.save_pretrained(folder)
    return folder


def tiny_qwen2_5_vl(folder: Path) -> Path:
    """A tiny Qwen2.5-VL saved into `folder`: frames of 56x56 pixels, 4 visual tokens each."""
    from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration
    from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

    fast = tokenizer(_VIDEO_MARKS, "<|im_end|>", _VIDEO_TEMPLATE)
    ids, edges = fast.get_vocab(), {"shortest_edge": 56**2, "longest_edge": 56**2}
    config = Qwen2_5_VLConfig(
        image_token_id=ids["<|image_pad|>"],
        video_token_id=ids["<|video_pad|>"],
        vision_start_token_id=ids["<|vision_start|>"],
        vision_end_token_id=ids["<|vision_end|>"],
        vision_config={
            "depth": 2,
            "hidden_size": 32,
            "intermediate_size": 32,
            "num_heads": 2,
            "out_hidden_size": 32,
            "fullatt_block_indexes": [1],
        },
        text_config={
            **_WIDTHS,
            "num_hidden_layers": 2,
            "num_key_value_heads": 1,
            "vocab_size": len(fast),
            "rope_parameters": {"rope_type": "default", "rope_theta": 1e6, "mrope_section": [4, 2, 2]},
        },
    )
    Qwen2VLImageProcessorPil(size=edges).save_pretrained(folder)
    fast.save_pretrained(folder)
    _random(Qwen2_5_VLForConditionalGeneration, config, "cpu", "float32", 5.0).save_pretrained(folder)
    return folder


def tiny_internvl(folder: Path) -> Path:
    """A tiny InternVL saved into `folder`: images of 32x32 pixels, 4 visual tokens each."""
    from transformers import InternVLConfig, InternVLForConditionalGeneration
    from transformers.models.got_ocr2.image_processing_pil_got_ocr2 import GotOcr2ImageProcessorPil

    fast = tokenizer(_CONTEXT_MARKS, "<|im_end|>", _CONTEXT_TEMPLATE)
    config = InternVLConfig(
        image_token_id=fast.get_vocab()["<IMG_CONTEXT>"],
        image_seq_length=4,
        vision_config={**_WIDTHS, "num_hidden_layers": 2, "image_size": 32, "patch_size": 8},
        text_config={
            **_WIDTHS,
            "model_type": "qwen2",
            "num_hidden_layers": 2,
            "num_key_value_heads": 1,
            "vocab_size": len(fast),
        },
    )
    GotOcr2ImageProcessorPil(size={"height": 32, "width": 32}).save_pretrained(folder)
    fast.save_pretrained(folder)
    _random(InternVLForConditionalGeneration, config, "cpu", "float32", 5.0).save_pretrained(folder)
    return folder


def _random(kind: Any, config: Any, device: str, dtype: str, gain: float) -> Any:
    import torch

    torch.manual_seed(0)
    with torch.device(device):
        model = kind._from_config(config, dtype=getattr(torch, dtype))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(gain)
    return model.eval()
