"""How Robometer is asked: the task, then picture after picture, behind each the token at which the heads are read.

Role: one layout more for vlm/prefix.py. Depends on torch and transformers' tokenizers; knows nothing of rewards.

Read in the published code: one user's turn; the prompt stands before the pictures, which are single images (not a video), numbered by
the chat template ("Picture 2: "), each followed by `<|prog_token|>`. Images are brought to a multiple of 32 pixels each way, from 4 to
16384 visual tokens (Qwen's own helper), where the image processor's own settings would enlarge small ones.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch

from reward_node.robometer.network import ADDED, RobometerNetwork
from reward_node.vlm.layout import QwenImages, Segment
from whetstone.errors import AssetError, ConfigError

_TOKENS = (4, 16384)
"""Visual tokens of one image, at least and at most."""


class RobometerPrompt(QwenImages):
    """begin() first: what stands before and between the pictures depends on the instruction."""

    @classmethod
    def load(cls, network: RobometerNetwork, folder: Path) -> RobometerPrompt:
        """folder: of tokenizer, chat template and image processor. AssetError where they are not those of the network."""
        from transformers import AutoTokenizer
        from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

        tokenizer: Any = AutoTokenizer.from_pretrained(folder, local_files_only=True)
        known = tokenizer.get_vocab()
        tokenizer.add_tokens([token for token in ADDED if token not in known], special_tokens=True)
        rows, last = network.config.text_config.vocab_size, tokenizer.convert_tokens_to_ids(ADDED[-1])
        if last >= rows:
            raise AssetError(
                f"tokenizer '{folder}': {ADDED[-1]} is token {last}, the model has {rows}; set 'processor' to its base model's folder"
            )
        vision = network.config.vision_config
        area = (vision.patch_size * vision.spatial_merge_size) ** 2
        size = {"shortest_edge": _TOKENS[0] * area, "longest_edge": _TOKENS[1] * area}
        return cls(network, tokenizer, Qwen2VLImageProcessorPil.from_pretrained(folder, local_files_only=True, size=size))

    def begin(self, text: str, count: int) -> None:
        """text: the prompt with its instruction; count: pictures at most."""
        pictures = [part for _ in range(count) for part in ({"type": "image"}, {"type": "text", "text": ADDED[-1]})]
        turn = [{"role": "user", "content": [{"type": "text", "text": text}, *pictures]}]
        whole = self.tokenizer.apply_chat_template(turn, tokenize=False, add_generation_prompt=False, add_vision_id=True)
        self._before = whole.split(self._turn.opening + self.pad + self._turn.closing)[:-1]
        if len(self._before) != count:
            raise ConfigError(f"the model's chat template, or the instruction, does not put one '{self.pad}' where an image stands")

    def head(self) -> Segment:
        return Segment(self._tokens(self._before[0]))

    def picture(self, image: np.ndarray, number: int) -> Segment:
        """Number `number` (from 0) of the pictures, with the token that the one before it was answered at. image: (height, width, 3) uint8
        RGB."""
        shown = self.frames([image], [0.0])
        if number == 0:  # what stands before it is in the head
            return shown
        return Segment(torch.cat([self._tokens(self._before[number]), shown.ids]), shown.visual)

    def answer(self) -> Segment:
        """Right behind a picture: where the heads speak of it."""
        return Segment(self._tokens(ADDED[-1]))
