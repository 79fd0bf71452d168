"""How a video becomes tokens: one layout per family of models.

Role: cuts the prompt of a video into segments that can be processed one after another: head, then one segment for every `patch`
frames, then the question. Segments in a row are token for token what the model's own processor makes of the whole; each knows its
positions from where the one before ended. Depends on torch and transformers' tokenizers; knows nothing of rewards.

Three layouts are known. `TimedVideo`: Qwen3-VL's video, two frames a patch, each patch behind its time in seconds. `QwenImages`: its
single images. `ImageSequence`: images for any model that takes several in a prompt and counts positions in tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import torch

from whetstone.errors import ConfigError, InputError


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

    def question(self, text: str, answer: str | None = None) -> Segment:
        """What stands after the last frame: the user's turn goes on with `text`.

        It is left open, or, with an `answer`, closed, and the model's own turn begins with that. InputError where `text` holds a control
        token of the model, which would end the turn or stand for an image.
        """
        ...

    def positions(self, segment: Segment, start: int) -> torch.Tensor:
        """(axes, n) of the segment's tokens, whose first would be `start` as text. The next segment starts after their largest."""
        ...

    def join(self, segments: Sequence[Segment]) -> dict[str, torch.Tensor]:
        """The visual arguments of several segments in a row as those of one call."""
        ...


@dataclass(frozen=True)
class Turn:
    """The texts of a user turn: before the images, at the beginning and the end of each, after them, and behind the question (end of the
    turn and beginning of the model's)."""

    before: str
    opening: str
    closing: str
    after: str
    reply: str

    @classmethod
    def of(cls, template: Any, part: str, mark: str, count: int) -> Turn:
        """From the model's own chat template (apply_chat_template of a processor or tokenizer).

        part: the kind of content ("image", "video"), `count` of them; mark: the text that the template puts in its place. Raises
        ConfigError where the template cannot be cut so.
        """
        question = "\u2402question\u2403"
        content = [*({"type": part} for _ in range(count)), {"type": "text", "text": question}]
        text = template([{"role": "user", "content": content}], tokenize=False, add_generation_prompt=True)
        start, found, reply = text.rpartition(question)
        before, *between, after = start.split(mark)
        # What stands between two images is the end of one and the beginning of the next.
        opening = _common_end(before, between[0]) if between else ""
        closing = between[0].removesuffix(opening) if between else ""
        if not found or len(between) != count - 1 or len(set(between)) > 1 or not after.startswith(closing):
            raise ConfigError(
                f"the model's chat template does not put '{mark}' where a {part} stands; its prompt cannot be cut into segments"
            )
        return cls(before.removesuffix(opening), opening, closing, after.removeprefix(closing), reply)


def _common_end(one: str, other: str) -> str:
    """The longest text that both end with."""
    length = 0
    while length < min(len(one), len(other)) and one[-1 - length] == other[-1 - length]:
        length += 1
    return one[len(one) - length :]


class TurnLayout:
    """Head and question, from the texts of a turn; positions counted in tokens. axis: of the visual tensors, along which images lie."""

    axis = 0

    def __init__(self, tokenizer: Any, turn: Turn) -> None:
        self.tokenizer, self._turn = tokenizer, turn
        self._marks = tuple(tokenizer.get_added_vocab())  # a dictionary made anew at each call

    def head(self) -> Segment:
        return Segment(self._tokens(self._turn.before))

    def question(self, text: str, answer: str | None = None) -> Segment:
        mark = next((one for one in self._marks if one in text), None)
        if mark is not None:
            raise InputError(f"'{mark}' is a control token of this model, not words; take it out of the instruction")
        closed = "" if answer is None else self._turn.reply + answer
        return Segment(self._tokens(self._turn.after + text + closed))

    def positions(self, segment: Segment, start: int) -> torch.Tensor:
        return torch.arange(start, start + len(segment.ids))[None]

    def join(self, segments: Sequence[Segment]) -> dict[str, torch.Tensor]:
        visual = [segment.visual for segment in segments if segment.visual]
        return {name: torch.cat([one[name] for one in visual], dim=self.axis) for name in visual[0]} if visual else {}

    def _tokens(self, text: str) -> torch.Tensor:
        return torch.tensor(self.tokenizer.encode(text, add_special_tokens=False), dtype=torch.long)


class ImageSequence(TurnLayout):
    """One image a patch.

    processor: of the model, for one image at a time; its image processor must give every image the same number of tokens.
    """

    patch, axis = 1, 1  # (1, images, ...) each

    def __init__(self, processor: Any) -> None:
        self.processor = processor
        self.mark = processor.image_token if isinstance(getattr(processor, "image_token", None), str) else "<image>"
        super().__init__(processor.tokenizer, Turn.of(processor.apply_chat_template, "image", self.mark, 2))

    def frames(self, images: Sequence[np.ndarray], times: Sequence[float]) -> Segment:
        from PIL import Image

        text = self._turn.opening + self.mark + self._turn.closing
        inputs = dict(self.processor(text=[text], images=[Image.fromarray(images[-1])], return_tensors="pt"))
        ids = inputs.pop("input_ids")[0]
        inputs.pop("attention_mask", None)
        inputs.pop("mm_token_type_ids", None)
        return Segment(ids, inputs)


class InternVLImages(TurnLayout):
    """InternVL's images, one a patch and one tile each, as its video frames are.

    Its whole processor needs torchvision for videos; the part for single images does not.
    """

    patch = 1

    def __init__(self, model: Any, tokenizer: Any, image_processor: Any) -> None:
        self.image_processor = image_processor
        mark = tokenizer.convert_ids_to_tokens(model.config.image_token_id)
        super().__init__(tokenizer, Turn.of(tokenizer.apply_chat_template, "image", mark, 2))
        start, end = (getattr(tokenizer, f"{name}_image_token", default) for name, default in (("start", "<img>"), ("end", "</img>")))
        self._image = self._turn.opening + start + mark * model.config.image_seq_length + end + self._turn.closing

    def frames(self, images: Sequence[np.ndarray], times: Sequence[float]) -> Segment:
        from PIL import Image

        inputs = self.image_processor([Image.fromarray(images[-1])], crop_to_patches=False, return_tensors="pt")
        return Segment(self._tokens(self._image), {"pixel_values": inputs["pixel_values"]})


class _QwenVL(TurnLayout):
    """What the videos and images of the Qwen-VL family have in common: the image processor and M-RoPE positions, both the model's own.

    model: for conditional generation, of Qwen3-VL, Qwen2.5-VL or Qwen2-VL; image_processor: its own.
    """

    def __init__(self, model: Any, tokenizer: Any, image_processor: Any, part: str, count: int) -> None:
        self.model, self.image_processor = model, image_processor
        self.pad = tokenizer.convert_ids_to_tokens(getattr(model.config, f"{part}_token_id"))
        super().__init__(tokenizer, Turn.of(tokenizer.apply_chat_template, part, self.pad, count))

    def positions(self, segment: Segment, start: int) -> torch.Tensor:
        config = self.model.config
        kinds = (segment.ids == config.image_token_id).int() + 2 * (segment.ids == config.video_token_id).int()
        grids = {name: value for name, value in segment.visual.items() if name.endswith("_grid_thw")}
        found, _ = self.model.model.get_rope_index(segment.ids[None], kinds[None], **grids)
        return found[:, 0] + start

    def _pixels(self, images: Sequence[np.ndarray]) -> tuple[torch.Tensor, torch.Tensor, int]:
        """(patches of all images, grid (1, 3) of one image, visual tokens of one image)."""
        from PIL import Image

        inputs = self.image_processor([Image.fromarray(image) for image in images], return_tensors="pt")
        grid = inputs["image_grid_thw"][:1]
        return inputs["pixel_values"], grid, int(grid.prod()) // self.model.config.vision_config.spatial_merge_size**2


class QwenImages(_QwenVL):
    """Images, one a patch; of Qwen2-VL and Qwen2.5-VL too, whose videos are one block that cannot grow."""

    patch = 1

    def __init__(self, model: Any, tokenizer: Any, image_processor: Any) -> None:
        super().__init__(model, tokenizer, image_processor, "image", 2)

    def frames(self, images: Sequence[np.ndarray], times: Sequence[float]) -> Segment:
        pixels, grid, count = self._pixels(images[-1:])
        text = self._turn.opening + self.pad * count + self._turn.closing
        return Segment(self._tokens(text), {"pixel_values": pixels, "image_grid_thw": grid})


class TimedVideo(_QwenVL):
    """Qwen3-VL's video: two frames a patch, before each patch the time between them ("<0.3 seconds>").

    The temporal patches of the image processor are filled with two frames instead of one twice. The size of a frame so follows from the
    frame alone; the model's video processor makes it depend on how many there are, which would change every frame of a growing video.
    Frames that it leaves at the same size give the same pixels (compared once: to 6e-8).
    """

    patch = 2

    def __init__(self, model: Any, tokenizer: Any, image_processor: Any) -> None:
        super().__init__(model, tokenizer, image_processor, "video", 1)
        self._start, self._end = (
            tokenizer.convert_ids_to_tokens(index) for index in (model.config.vision_start_token_id, model.config.vision_end_token_id)
        )

    def frames(self, images: Sequence[np.ndarray], times: Sequence[float]) -> Segment:
        pixels, grid, count = self._pixels([images[0], images[-1]])
        size = self.model.config.vision_config.patch_size
        first, second = (one.view(-1, 3, 2, size, size) for one in pixels.chunk(2))
        pair = torch.stack([first[:, :, 0], second[:, :, 1]], dim=2).flatten(1)
        text = f"<{(times[0] + times[-1]) / 2:.1f} seconds>{self._start}{self.pad * count}{self._end}"
        return Segment(self._tokens(text), {"pixel_values_videos": pair, "video_grid_thw": grid})
