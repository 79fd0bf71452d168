"""How a video becomes tokens: one layout per family of models.

Role: cuts the prompt of a video into segments that can be processed one after another: head, then one segment for every `patch`
frames, then the question. Segments in a row are token for token what the model's own processor makes of the whole; each knows its
positions from where the one before ended. Depends on torch and transformers' tokenizers; knows nothing of rewards.

Two families are known. `TimedVideo`: Qwen3-VL's video, two frames a patch, each patch behind its time in seconds. `ImageSequence`: any
model that takes several images in a prompt, one image a patch, positions counted in tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import torch

from whetstone.errors import ConfigError


@dataclass(frozen=True)
class Segment:
    """Consecutive tokens. ids: (n,) int64; visual: the model's keyword arguments for the visual tokens among them, empty for text."""

    ids: torch.Tensor
    visual: dict[str, torch.Tensor] = field(default_factory=dict)


class Layout(Protocol):
    """patch: frames that share one segment; answers come from a video of any length, of odd length too."""

    patch: int

    def head(self) -> Segment:
        """What stands before the first frame."""
        ...

    def frames(self, images: Sequence[np.ndarray], times: Sequence[float]) -> Segment:
        """At most `patch` frames, (height, width, 3) uint8 RGB, and their times in seconds; fewer are filled up with the last one."""
        ...

    def question(self, text: str) -> Segment:
        """What stands after the last frame: the user's turn goes on with `text` and is left open."""
        ...

    def positions(self, segment: Segment, start: int) -> torch.Tensor:
        """(axes, n) of the segment's tokens, whose first would be `start` as text. The next segment starts after their largest."""
        ...

    def join(self, segments: Sequence[Segment]) -> dict[str, torch.Tensor]:
        """The visual arguments of several segments in a row as those of one call."""
        ...


def split_prompt(tokenizer: Any, template: Any, part: str, mark: str, count: int) -> tuple[str, str, str]:
    """(before the first frame, between two, after the last) of an open user turn, from the model's own chat template.

    template: apply_chat_template of a processor or tokenizer. part: the kind of content ("image", "video"), mark: the text that the
    template puts in its place. Raises ConfigError where the template does something else.
    """
    question = "\u2402question\u2403"
    content = [*({"type": part} for _ in range(count)), {"type": "text", "text": question}]
    text = template([{"role": "user", "content": content}], tokenize=False, add_generation_prompt=False)
    pieces = text[: text.rfind(question)].split(mark)
    if question not in text or len(pieces) != count + 1 or len(set(pieces[1:-1])) > 1:
        raise ConfigError(f"the model's chat template does not put '{mark}' where a {part} stands; its prompt cannot be cut into segments")
    return pieces[0], pieces[1] if count > 1 else "", pieces[-1]


class ImageSequence:
    """One image a patch, each as `before` + image tokens + `after`; positions are counted in tokens.

    processor: of the model, for one image at a time; its image processor must give every image the same number of tokens.
    """

    patch = 1

    def __init__(self, processor: Any) -> None:
        self.processor = processor
        self.mark = processor.image_token if isinstance(getattr(processor, "image_token", None), str) else "<image>"
        self._before, self._between, self._after = split_prompt(processor.tokenizer, processor.apply_chat_template, "image", self.mark, 2)

    def head(self) -> Segment:
        return Segment(self._tokens(self._before))

    def frames(self, images: Sequence[np.ndarray], times: Sequence[float]) -> Segment:
        from PIL import Image

        inputs = dict(self.processor(text=[self._between + self.mark], images=[Image.fromarray(images[-1])], return_tensors="pt"))
        ids = inputs.pop("input_ids")[0]
        inputs.pop("attention_mask", None)
        inputs.pop("mm_token_type_ids", None)
        return Segment(ids, inputs)

    def question(self, text: str) -> Segment:
        return Segment(self._tokens(self._after + text))

    def positions(self, segment: Segment, start: int) -> torch.Tensor:
        return torch.arange(start, start + len(segment.ids))[None]

    def join(self, segments: Sequence[Segment]) -> dict[str, torch.Tensor]:
        # (1, images, ...) each.
        return _join(segments, axis=1)

    def _tokens(self, text: str) -> torch.Tensor:
        return torch.tensor(self.processor.tokenizer.encode(text, add_special_tokens=False), dtype=torch.long)


class TimedVideo:
    """Qwen3-VL's video: two frames a patch, before each patch the time between them ("<0.3 seconds>").

    model: Qwen3VLForConditionalGeneration; image_processor: its own, whose temporal patches are filled with two frames instead of one
    twice. The size of a frame so follows from the frame alone; the model's video processor makes it depend on how many there are,
    which would change every frame of a growing video. M-RoPE positions are the model's own.
    """

    patch = 2

    def __init__(self, model: Any, tokenizer: Any, image_processor: Any) -> None:
        self.model, self.tokenizer, self.image_processor = model, tokenizer, image_processor
        self.pad = tokenizer.convert_ids_to_tokens(model.config.video_token_id)
        self._start, self._end = (
            tokenizer.convert_ids_to_tokens(index) for index in (model.config.vision_start_token_id, model.config.vision_end_token_id)
        )
        self._before, _, self._after = split_prompt(tokenizer, tokenizer.apply_chat_template, "video", self.pad, 1)

    def head(self) -> Segment:
        return Segment(self._tokens(self._before))

    def frames(self, images: Sequence[np.ndarray], times: Sequence[float]) -> Segment:
        from PIL import Image

        pair = [images[0], images[-1]]
        inputs = self.image_processor([Image.fromarray(image) for image in pair], return_tensors="pt")
        grid = inputs["image_grid_thw"][:1]
        first, second = inputs["pixel_values"].chunk(2)
        channels, size = 3, self.model.config.vision_config.patch_size
        patches = first.view(-1, channels, 2, size, size).clone()
        patches[:, :, 1] = second.view(-1, channels, 2, size, size)[:, :, 1]
        count = int(grid.prod()) // self.model.config.vision_config.spatial_merge_size**2
        text = f"<{(times[0] + times[-1]) / 2:.1f} seconds>{self._start}{self.pad * count}{self._end}"
        return Segment(self._tokens(text), {"pixel_values_videos": patches.flatten(1), "video_grid_thw": grid})

    def question(self, text: str) -> Segment:
        return Segment(self._tokens(self._after + text))

    def positions(self, segment: Segment, start: int) -> torch.Tensor:
        kinds = 2 * (segment.ids == self.model.config.video_token_id).int()
        found, _ = self.model.model.get_rope_index(segment.ids[None], kinds[None], video_grid_thw=segment.visual.get("video_grid_thw"))
        return found[:, 0] + start

    def join(self, segments: Sequence[Segment]) -> dict[str, torch.Tensor]:
        return _join(segments, axis=0)

    def _tokens(self, text: str) -> torch.Tensor:
        return torch.tensor(self.tokenizer.encode(text, add_special_tokens=False), dtype=torch.long)


def _join(segments: Sequence[Segment], axis: int) -> dict[str, torch.Tensor]:
    visual = [segment.visual for segment in segments if segment.visual]
    return {name: torch.cat([one[name] for one in visual], dim=axis) for name in visual[0]} if visual else {}
