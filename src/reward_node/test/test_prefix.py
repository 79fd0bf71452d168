"""Answers from the cache against the same prefix computed from scratch, on both families of models."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from reward_node.vlm import random_models
from reward_node.vlm.layout import ImageSequence, Layout, QwenImages, Segment, TimedVideo
from reward_node.vlm.loading import _layouts, load
from reward_node.vlm.prefix import Branch, Prefix, Work, together
from whetstone.errors import ConfigError

EXACT = 1e-4  # nat


def qwen(folder: Any) -> tuple[Any, Layout]:
    from transformers import AutoModelForImageTextToText, AutoTokenizer
    from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

    model = AutoModelForImageTextToText.from_pretrained(random_models.tiny_qwen3_vl(folder), dtype=torch.float32).eval()
    return model, TimedVideo(model, AutoTokenizer.from_pretrained(folder), Qwen2VLImageProcessorPil.from_pretrained(folder))


def qwen_images(folder: Any) -> tuple[Any, Layout]:
    model, video = qwen(folder)
    assert isinstance(video, TimedVideo)
    return model, QwenImages(model, video.tokenizer, video.image_processor)


def qwen2_5(folder: Any) -> tuple[Any, Layout]:
    loaded = load(str(random_models.tiny_qwen2_5_vl(folder)), "float32", "cpu", "my.yaml", "franka")
    return loaded.model, loaded.video


def internvl(folder: Any) -> tuple[Any, Layout]:
    loaded = load(str(random_models.tiny_internvl(folder)), "float32", "cpu", "my.yaml", "franka")
    return loaded.model, loaded.video


def idefics(folder: Any) -> tuple[Any, Layout]:
    from transformers import AutoModelForImageTextToText, AutoProcessor

    model = AutoModelForImageTextToText.from_pretrained(random_models.idefics3(folder), dtype=torch.float32).eval()
    return model, ImageSequence(AutoProcessor.from_pretrained(folder))


FAMILIES = {"qwen3_vl": qwen, "qwen3_vl_images": qwen_images, "qwen2_5_vl": qwen2_5, "internvl": internvl, "idefics3": idefics}


@pytest.fixture(scope="module", params=list(FAMILIES.values()), ids=list(FAMILIES))
def family(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Layout]:
    make: Callable[[Any], tuple[Any, Layout]] = request.param
    return make(tmp_path_factory.mktemp("vlm"))


def clip(count: int, seed: int = 0) -> list[np.ndarray]:
    random = np.random.default_rng(seed)
    return list(random.integers(0, 256, (count, 32, 32, 3), dtype=np.uint8))


def patches(layout: Layout, frames: list[np.ndarray]) -> list[Segment]:
    """Half a second between two frames; the last patch may be filled up."""
    size = layout.patch
    return [
        layout.frames(frames[at : at + size], [0.5 * (at + k) for k in range(len(frames[at : at + size]))])
        for at in range(0, len(frames), size)
    ]


def from_scratch(model: Any, layout: Layout, segments: list[Segment], tokens: list[int]) -> np.ndarray:
    """No cache, no mask and no positions of ours: the model is given the whole prompt and does what it does."""
    ids = torch.cat([segment.ids for segment in segments])[None]
    arguments: dict[str, Any] = dict(layout.join(segments))
    if "video_grid_thw" in arguments:
        grid = arguments["video_grid_thw"]
        arguments["video_grid_thw"] = torch.tensor([[len(grid), *grid[0, 1:].tolist()]])
    if model.config.model_type in ("qwen3_vl", "qwen2_5_vl"):
        arguments["mm_token_type_ids"] = 2 * (ids == model.config.video_token_id).int() + (ids == model.config.image_token_id).int()
        model.model.rope_deltas = None
    with torch.inference_mode():
        logits = model(input_ids=ids, use_cache=False, **arguments).logits[0, -1]
    return logits.double().log_softmax(dim=-1)[tokens].numpy()


def test_streaming_equals_from_scratch(family: tuple[Any, Layout]) -> None:
    """Frame by frame, odd counts too: the half-filled patch is part of the branch."""
    model, layout = family
    frames, tokens = clip(7), [50, 60]
    prefix, question = Prefix(model, layout), layout.question("Is it done? The answer is:")
    for count in range(1, len(frames) + 1):
        whole = count // layout.patch
        made = patches(layout, frames[:count])
        answer = prefix.extend(made[prefix.patches : whole], [Branch(whole, (*made[whole:], question))], tokens)
        expected = from_scratch(model, layout, [layout.head(), *made, question], tokens)
        np.testing.assert_allclose(answer[0], expected, atol=EXACT, rtol=0)


def test_a_whole_episode_and_several_instructions_in_one_pass(family: tuple[Any, Layout]) -> None:
    model, layout = family
    frames, tokens = clip(9, 1), [50, 60]
    made = patches(layout, frames[: len(frames) // layout.patch * layout.patch])
    questions = [layout.question(text) for text in ("Red cube? The answer is:", "Is the longer blue one in the tray? The answer is:")]
    prefix = Prefix(model, layout)
    prefix.extend(made)
    branches = [Branch(count, (question,)) for count in range(1, len(made) + 1) for question in questions]
    answers = prefix.extend((), branches, tokens)
    expected = [from_scratch(model, layout, [layout.head(), *made[: b.patches], *b.segments], tokens) for b in branches]
    np.testing.assert_allclose(answers, expected, atol=EXACT, rtol=0)
    assert np.ptp(answers[:, 0]) > 100 * EXACT, "the model answers alike whatever it sees: nothing was tested"


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(count=st.integers(1, 6), limit=st.integers(1, 200), order=st.randoms(use_true_random=False))
def test_how_branches_are_grouped_and_ordered_changes_nothing(family: tuple[Any, Layout], count: int, limit: int, order: Any) -> None:
    model, layout = family
    made = patches(layout, clip(2 * layout.patch, 2))
    branches = [Branch(k % 3, (layout.question("word " * (k + 1)),)) for k in range(count)]
    one, other = Prefix(model, layout), Prefix(model, layout, tokens=limit)
    one.extend(made)
    for segment in made:
        other.extend([segment])
    shuffled = list(range(count))
    order.shuffle(shuffled)
    first, second = one.extend((), branches, [50]), other.extend((), [branches[k] for k in shuffled], [50])
    np.testing.assert_allclose(first[shuffled], second, atol=EXACT, rtol=0)


def test_videos_of_several_robots_share_a_pass_and_nothing_else(family: tuple[Any, Layout]) -> None:
    """Of different lengths, one of them empty, with different questions; and as often as one likes."""
    model, layout = family
    words = ("Red cube? The answer is:", "Is the longer blue one in the tray? The answer is:", "Done?")
    videos = [patches(layout, clip(count * layout.patch, seed)) for seed, count in enumerate((3, 1, 0))]
    prefixes = [Prefix(model, layout) for _ in videos]
    for turn in range(2):
        works = []
        for prefix, video, text in zip(prefixes, videos, words, strict=True):
            new = video[prefix.patches : len(video) - 1 + turn]
            works.append(Work(prefix, new, [Branch(prefix.patches + len(new), (layout.question(text),))]))
        answers = together(works, [50, 60])
        for answer, work, video, text in zip(answers, works, videos, words, strict=True):
            shown = video[: work.prefix.patches]
            expected = from_scratch(model, layout, [layout.head(), *shown, layout.question(text)], [50, 60])
            np.testing.assert_allclose(answer[0], expected, atol=EXACT, rtol=0)
    assert [prefix.patches for prefix in prefixes] == [3, 1, 0]


def test_a_pass_that_fails_leaves_all_videos_as_they_were(family: tuple[Any, Layout], monkeypatch: pytest.MonkeyPatch) -> None:
    model, layout = family
    made, question = patches(layout, clip(3 * layout.patch)), layout.question("Done?")
    prefixes = [Prefix(model, layout) for _ in range(2)]
    before = together([Work(prefix, made[:2], [Branch(2, (question,))]) for prefix in prefixes], [50])
    head = model.get_output_embeddings()
    monkeypatch.setattr(head, "forward", lambda *_: (_ for _ in ()).throw(MemoryError))
    with pytest.raises(MemoryError):
        together([Work(prefix, made[2:], [Branch(3, (question,))]) for prefix in prefixes], [50])
    monkeypatch.undo()
    assert [prefix.patches for prefix in prefixes] == [2, 2]
    after = together([Work(prefix, (), [Branch(2, (question,))]) for prefix in prefixes], [50])
    np.testing.assert_allclose(after, before, atol=EXACT, rtol=0)


def test_a_question_leaves_no_trace_and_clear_begins_anew(family: tuple[Any, Layout]) -> None:
    model, layout = family
    made, question = patches(layout, clip(2 * layout.patch, 3)), layout.question("Done?")
    prefix = Prefix(model, layout)
    prefix.extend(made)
    first = prefix.extend((), [Branch(2, (question,))], [50])
    prefix.extend((), [Branch(1, (layout.question("Something else, and longer"),))] * 3, [50])
    np.testing.assert_array_equal(prefix.extend((), [Branch(2, (question,))], [50]), first)
    prefix.clear()
    assert prefix.patches == 0
    prefix.extend(made)
    np.testing.assert_array_equal(prefix.extend((), [Branch(2, (question,))], [50]), first)


def test_segments_are_the_processor_s_own_tokens(tmp_path: Any) -> None:
    """Idefics3's processor is whole without torchvision, so the layout can be held to it."""
    from PIL import Image

    _, layout = idefics(tmp_path)
    assert isinstance(layout, ImageSequence)
    frames, text = clip(3), "Is it done? The answer is:"
    content = [*({"type": "image"} for _ in frames), {"type": "text", "text": text}]
    prompt = layout.processor.apply_chat_template([{"role": "user", "content": content}], tokenize=False)
    prompt = prompt[: prompt.rfind(text) + len(text)]
    whole = layout.processor(text=[prompt], images=[Image.fromarray(frame) for frame in frames], return_tensors="pt")
    segments = [layout.head(), *patches(layout, frames), layout.question(text)]
    assert torch.equal(torch.cat([segment.ids for segment in segments]), whole["input_ids"][0])
    for name, value in layout.join(segments).items():
        assert torch.equal(value, whole[name]), name


def test_an_internvl_prompt_is_as_its_processor_writes_it(tmp_path: Path) -> None:
    """Each image is its start, as many places as the model's features, its end; the turn's own text stands between them."""
    _, layout = internvl(tmp_path)
    segments = [layout.head(), *patches(layout, clip(2)), layout.question("Done?")]
    places = f"<img>{'<IMG_CONTEXT>' * 4}</img>\n"
    assert layout.tokenizer.decode(torch.cat([segment.ids for segment in segments])) == f"<|im_start|>user\n{places * 2}Done?"
    assert layout.join(segments)["pixel_values"].shape == (2, 3, 32, 32)


def test_positions_of_an_unknown_kind_are_refused(tmp_path: Path) -> None:
    """They would be taken for plain ones, and every score would be of another prompt than the model was trained on."""
    loaded = load(str(random_models.tiny_qwen2_5_vl(tmp_path)), "float32", "cpu", "my.yaml", "franka")
    with pytest.raises(ConfigError, match="is a glm4v, whose positions have several axes"):
        _layouts("glm4v", loaded.model, loaded.tokenizer, tmp_path)
