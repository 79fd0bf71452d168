"""Random vision-language models of some hundred thousand parameters, built offline and saved like real ones."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

IMAGE_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}:{% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}<image>{% else %}{{ part['text'] }}{% endif %}{% endfor %}<end_of_utterance>\n{% endfor %}"
    "{% if add_generation_prompt %}assistant:{% endif %}"
)
VIDEO_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{% for part in message['content'] %}"
    "{% if part['type'] == 'video' %}<|vision_start|><|video_pad|><|vision_end|>{% else %}{{ part['text'] }}{% endif %}"
    "{% endfor %}<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
IMAGE_MARKS = ["<|im_start|>", "<end_of_utterance>", "<image>", "<fake_token_around_image>", "<global-img>", "<pad>"]
VIDEO_MARKS = ["<|im_start|>", "<|im_end|>", "<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>", "<pad>"]


def tokenizer(marks: list[str], end: str, template: str) -> Any:
    """Byte-level BPE in whose vocabulary " True" and " False" are one token each."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    made = Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(vocab_size=400, special_tokens=marks, initial_alphabet=pre_tokenizers.ByteLevel.alphabet())
    made.train_from_iterator(["The answer is: True", "or is it False", "True False True False"] * 20, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=made, pad_token="<pad>", eos_token=end, chat_template=template)


def idefics3(folder: Path) -> Path:
    """Idefics3, the architecture of SmolVLM: images of 32x32 pixels, 4 tokens each."""
    from transformers import Idefics3Config, Idefics3ForConditionalGeneration, Idefics3Processor
    from transformers.models.idefics3.image_processing_pil_idefics3 import Idefics3ImageProcessorPil

    fast = tokenizer(IMAGE_MARKS, "<end_of_utterance>", IMAGE_TEMPLATE)
    images = Idefics3ImageProcessorPil(do_image_splitting=False, size={"longest_edge": 32}, max_image_size={"longest_edge": 32})
    Idefics3Processor(images, fast, image_seq_len=4, chat_template=IMAGE_TEMPLATE).save_pretrained(folder)
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
            "pad_token_id": fast.pad_token_id,
        },
    )
    return _save(Idefics3ForConditionalGeneration, config, folder)


def qwen3_vl(folder: Path) -> Path:
    """Qwen3-VL with M-RoPE and deep-stacked visual features; frames of 32x32 pixels, 4 tokens a patch of two."""
    from transformers import Qwen3VLConfig, Qwen3VLForConditionalGeneration
    from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

    fast = tokenizer(VIDEO_MARKS, "<|im_end|>", VIDEO_TEMPLATE)
    fast.save_pretrained(folder)
    pixels = {"shortest_edge": 32 * 32, "longest_edge": 32 * 32}
    half = [0.5, 0.5, 0.5]
    Qwen2VLImageProcessorPil(
        patch_size=8, temporal_patch_size=2, merge_size=2, size=pixels, image_mean=half, image_std=half
    ).save_pretrained(folder)
    ids = fast.get_vocab()
    config = Qwen3VLConfig(
        image_token_id=ids["<|image_pad|>"],
        video_token_id=ids["<|video_pad|>"],
        vision_start_token_id=ids["<|vision_start|>"],
        vision_end_token_id=ids["<|vision_end|>"],
        vision_config={
            "depth": 3,
            "hidden_size": 32,
            "intermediate_size": 32,
            "num_heads": 2,
            "patch_size": 8,
            "spatial_merge_size": 2,
            "temporal_patch_size": 2,
            "out_hidden_size": 32,
            "num_position_embeddings": 16,
            "deepstack_visual_indexes": [0, 1],
        },
        text_config={
            "hidden_size": 32,
            "intermediate_size": 32,
            "num_hidden_layers": 3,
            "num_attention_heads": 2,
            "num_key_value_heads": 1,
            "head_dim": 16,
            "vocab_size": len(fast),
            "rope_parameters": {"rope_type": "default", "rope_theta": 10_000.0, "mrope_section": [4, 2, 2], "mrope_interleaved": True},
        },
    )
    return _save(Qwen3VLForConditionalGeneration, config, folder)


def _save(kind: Any, config: Any, folder: Path) -> Path:
    torch.manual_seed(0)
    model = kind(config)
    # Random weights of the usual size answer alike whatever they see.
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(5.0)
    model.save_pretrained(folder)
    return folder
