"""LRM's questions on tiny random vision-language models, and the reading of what models write."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import AutoModelForImageTextToText, AutoTokenizer

from reward_node.lrm import LRMReward
from reward_node.lrm.reading import read
from reward_node.vlm import random_models
from reward_node.vlm.answers import Answers, judge
from reward_node.vlm.layout import Segment
from reward_node.vlm.loading import VisionLanguageModel, load
from reward_node.vlm.prefix import Prefix, from_scratch
from whetstone.config import find, load_yaml
from whetstone.errors import AssetError, ConfigError, InputError
from whetstone.profile import load_profile

SIZE = (32, 32)
PROFILE = load_profile("franka")
TENTHS = {f" {k / 10:.1f}": k / 10 for k in range(11)}


@pytest.fixture(scope="module", params=[random_models.tiny_qwen3_vl, random_models.idefics3], ids=["qwen3_vl", "idefics3"])
def model_folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return request.param(tmp_path_factory.mktemp("vlm"))


@pytest.fixture(scope="module")
def vlm(model_folder: Path) -> VisionLanguageModel:
    return load(str(model_folder), "float32", "cpu", "the test", "franka")


def configuration(model: Any, **changes: Any) -> dict[str, Any]:
    data = load_yaml(find("rewards", "lrm"))
    return {**data, "model": str(model) if model else None, "image_size": list(SIZE), "dtype": "float32", **changes}


def frames(count: int, seed: int = 0) -> list[dict[str, np.ndarray]]:
    random = np.random.default_rng(seed)
    return [{"front": random.integers(0, 256, (*SIZE, 3), dtype=np.uint8)} for _ in range(count)]


def test_probabilities_are_those_of_the_answers_written_out(vlm: VisionLanguageModel) -> None:
    """Every answer's tokens one after another, each prefix computed from scratch."""
    layout = vlm.images
    image, question = layout.frames([frames(1)[0]["front"]], [0.0]), layout.question("How much?", '{"progress":')
    prefix = Prefix(vlm.model, layout)
    judgement, other = judge(prefix, [image], [(Answers(vlm.tokenizer, words), question) for words in (list(TENTHS), [" true", " false"])])
    assert prefix.patches == 1 and len(other.probabilities) == 2
    expected = []
    for text in TENTHS:
        tokens, score = vlm.tokenizer.encode(text, add_special_tokens=False), 0.0
        for length, token in enumerate(tokens):
            written = Segment(torch.cat([question.ids, torch.tensor(tokens[:length], dtype=torch.long)]))
            score += from_scratch(vlm.model, layout, [layout.head(), image, written], [token])[0]
        expected.append(score)
    assert judgement.mass == pytest.approx(np.logaddexp.reduce(expected), abs=1e-4)
    np.testing.assert_allclose(judgement.probabilities, np.exp(expected - np.logaddexp.reduce(expected)), atol=1e-4)
    assert judgement.probabilities.sum() == pytest.approx(1.0)
    assert 0 < judgement.entropy < np.log(len(TENTHS))


def test_generated_text_is_the_model_s_own_greedy_text(vlm: VisionLanguageModel) -> None:
    layout = vlm.images
    image, question = layout.frames([frames(1, 3)[0]["front"]], [0.0]), layout.question("How much?", "")
    prefix = Prefix(vlm.model, layout)
    prefix.extend([image])
    written = prefix.generate(question, 12, [])
    ids = torch.cat([layout.head().ids, image.ids, question.ids])[None]
    arguments: dict[str, Any] = dict(image.visual)
    if vlm.model.config.model_type == "qwen3_vl":
        arguments["mm_token_type_ids"] = (ids == vlm.model.config.image_token_id).int()
        vlm.model.model.rope_deltas = None
    expected = vlm.model.generate(input_ids=ids, max_new_tokens=12, do_sample=False, eos_token_id=-1, **arguments)
    assert written == expected[0, ids.shape[1] :].tolist()
    assert prefix.generate(question, 12, [written[2]]) == written[: written.index(written[2])]
    assert prefix.generate(question, 3, []) == written[:3], "the first answer left its trace"


def test_an_answer_that_begins_another_is_refused(vlm: VisionLanguageModel) -> None:
    with pytest.raises(ConfigError, match=r"answer ' 1' is how ' 1.0' begins"):
        Answers(vlm.tokenizer, [" 1", " 1.0"])


@pytest.mark.parametrize("mode", ["logits", "generate"])
def test_an_episode_live_and_afterwards(model_folder: Path, mode: str) -> None:
    reward = LRMReward.load(configuration(model_folder, mode=mode, limit=6), PROFILE)
    clip = frames(4)
    reward.reset("a", "put the {red} cube in the tray", 0)
    live = [reward.observe(images, stamp) for stamp, images in enumerate(clip)]
    reward.reset("b", "put the {red} cube in the tray", 0)
    again = reward.score_episode(clip, list(range(4)))
    for one, other in zip(live, again, strict=True):
        assert one.valid and one.stamp == other.stamp
        for name in ("process", "completion", "contrastive", "total"):
            assert getattr(one, name) == pytest.approx(getattr(other, name), abs=1e-4), name
        assert 0 <= one.process <= 1 and 0 <= one.completion <= 1 and -1 <= one.contrastive <= 1
    assert live[0].contrastive == 0.0, "there is nothing to compare the first frame with"
    if mode == "logits":
        assert len({round(sample.process, 6) for sample in live}) > 1 and live[1].contrastive != 0.0
        assert reward.counters["unreadable"] == 0
    else:
        assert reward.counters["unreadable"] > 0, "a random model does not write JSON"


@pytest.mark.parametrize("initial", [True, False])
def test_a_later_frame_changes_nothing_before_it_and_the_first_counts_if_shown(model_folder: Path, initial: bool) -> None:
    reward = LRMReward.load(configuration(model_folder, initial=initial), PROFILE)
    clip, other = frames(3), frames(3, 7)
    reward.reset("a", "move", 0)
    one = reward.score_episode(clip, [0, 1, 2])
    reward.reset("b", "move", 0)
    two = reward.score_episode([*clip[:2], other[2]], [0, 1, 2])
    assert [sample.process for sample in one[:2]] == pytest.approx([sample.process for sample in two[:2]], abs=1e-5)
    assert abs(one[2].process - two[2].process) > 1e-4
    reward.reset("c", "move", 0)
    three = reward.score_episode([other[0], *clip[1:]], [0, 1, 2])
    assert (abs(one[2].process - three[2].process) > 1e-4) == initial


def test_another_robot_beside_shares_the_weights_and_nothing_else(model_folder: Path) -> None:
    alone = LRMReward.load(configuration(model_folder), PROFILE)
    pairs = [(alone, "move", frames(3)), (alone.beside(), "open the drawer", frames(3, 7))]
    expected = []
    for _, instruction, clip in pairs:
        alone.reset("a", instruction, 0)
        expected.append(alone.score_episode(clip, [0, 1, 2]))
    for robot, instruction, _ in pairs:
        robot.reset("b", instruction, 0)
    found = [[robot.observe(clip[index], index) for robot, _, clip in pairs] for index in range(3)]
    for column, samples in enumerate(expected):
        for name in ("process", "completion", "contrastive"):
            wanted = [getattr(sample, name) for sample in samples]
            assert [getattr(row[column], name) for row in found] == pytest.approx(wanted, abs=1e-4), name


def test_questions_that_begin_alike_keep_their_own_answers(model_folder: Path) -> None:
    process = {"text": "How much of {instruction}?", "start": "", "answers": {" 0.0": 0.0, " 0.5": 0.5}}
    completion = {"text": "Is {instruction} done?", "start": "", "answers": {" yes": 1.0, " no": 0.0, " who knows": 0.5}}
    both = LRMReward.load(configuration(model_folder, process=process, completion=completion), PROFILE)
    alone = LRMReward.load(configuration(model_folder, completion=completion), PROFILE)
    for reward in (both, alone):
        reward.reset("a", "move", 0)
    one, other = both.observe(frames(1)[0], 0), alone.observe(frames(1)[0], 0)
    assert one.completion == pytest.approx(other.completion, abs=1e-5) and one.process <= 0.5


def test_signals(model_folder: Path) -> None:
    totals = {}
    for signal in ("held", "increments", "potential"):
        reward = LRMReward.load(configuration(model_folder, signal=signal, discount=0.9), PROFILE)
        reward.reset("a", "move", 0)
        totals[signal] = reward.score_episode(frames(3), [0, 1, 2])
    process = [sample.process for sample in totals["held"]]
    assert [sample.total for sample in totals["increments"]] == pytest.approx([0.0, process[1] - process[0], process[2] - process[1]])
    expected = [0.0, 0.9 * process[1] - process[0], 0.9 * process[2] - process[1]]
    assert [sample.total for sample in totals["potential"]] == pytest.approx(expected)


def test_values_that_are_no_numbers_make_an_invalid_sample(model_folder: Path) -> None:
    reward = LRMReward.load(configuration(model_folder), PROFILE)
    reward.reset("a", "move", 0)
    assert reward.observe(frames(1)[0], 0).valid
    with torch.no_grad():
        kept = reward._vlm.model.lm_head.weight.clone()
        reward._vlm.model.lm_head.weight.fill_(float("nan"))
        sample = reward.observe(frames(1)[0], 1)
        reward._vlm.model.lm_head.weight.copy_(kept)
    assert not sample.valid and "not a number" in sample.reason
    assert reward.observe(frames(1)[0], 2).valid


def test_bad_input_is_named(model_folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"lrm.yaml: key 'model' is empty"):
        LRMReward.load(configuration(None), PROFILE)
    with pytest.raises(AssetError, match="is not a model folder"):
        LRMReward.load(configuration(tmp_path), PROFILE)
    question = {"text": "Is it done?", "start": "", "answers": {"yes": 1.0, "no": 0.0}}
    with pytest.raises(ConfigError, match="must hold {instruction}"):
        LRMReward.load(configuration(model_folder, completion=question), PROFILE)
    reward = LRMReward.load(configuration(model_folder), PROFILE)
    with pytest.raises(InputError, match="has 10000 characters, at most 2000"):
        reward.reset("a", "x" * 10_000, 0)
    with pytest.raises(InputError, match="not valid UTF-8"):
        reward.tell("caf\udce9")
    reward.reset("a", "move", 0)
    with pytest.raises(InputError, match="camera front: no image; got wrist"):
        reward.observe({"wrist": frames(1)[0]["front"]}, 0)
    with pytest.raises(InputError, match=r"camera front: image is \(8, 8, 3\)"):
        reward.observe({"front": np.zeros((8, 8, 3), np.uint8)}, 0)


@given(value=st.sampled_from(list(TENTHS.values())), around=st.sampled_from(["", "```json\n", "Sure: "]), name=st.text(max_size=9))
def test_json_is_read_whatever_stands_around_it(value: float, around: str, name: str) -> None:
    assert read(around + json.dumps({name: value}) + around, TENTHS) == value


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ('{"progress": "0.30"}', 0.3), ("I would say 0.3.", 0.3), ("about .3", None), ('{"progress": 0.35}', None), ("", None),
        ('{"progress": 1}', 1.0), ("{progress: 0.7}", 0.7), ('{"a": 0.1, "b": 0.2}', 0.1), ("{", None), ("[0.4]", 0.4),
    ],
)  # fmt: skip
def test_what_is_written_otherwise(text: str, value: float | None) -> None:
    assert read(text, TENTHS) == value


def test_words_are_read_as_words() -> None:
    answers = {" true": 1.0, " false": 0.0}
    assert read('{"done": true}', answers) == 1.0
    assert read("False, it is not.", answers) == 0.0
    assert read("untrue", answers) is None


def test_the_prompts_that_are_shipped_have_answers_of_few_tokens(model_folder: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(model_folder)
    data = load_yaml(find("rewards", "lrm"))
    for name in ("process", "completion", "contrastive"):
        Answers(tokenizer, list(data[name]["answers"]))


@pytest.fixture(scope="module")
def adapters(tmp_path_factory: pytest.TempPathFactory, qwen: Path) -> dict[str, str]:
    """Three LoRA adapters of the tiny Qwen3-VL that change what it answers."""
    folders = {}
    for number, name in enumerate(("process", "completion", "contrastive")):
        torch.manual_seed(number)
        model = AutoModelForImageTextToText.from_pretrained(qwen, dtype=torch.float32)
        settings = LoraConfig(r=2, target_modules=r".*language_model.*(q_proj|v_proj)", init_lora_weights=False)
        folders[name] = str(tmp_path_factory.mktemp(name))
        get_peft_model(model, settings).save_pretrained(folders[name])
    return folders


@pytest.fixture(scope="module")
def qwen(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return random_models.tiny_qwen3_vl(tmp_path_factory.mktemp("qwen"))


def test_each_question_has_its_adapter(qwen: Path, adapters: dict[str, str], tmp_path: Path) -> None:
    """As three models would answer, into each of which one adapter was merged."""
    together = LRMReward.load(configuration(qwen, adapters=adapters), PROFILE)
    clip = frames(4)
    together.reset("a", "move", 0)
    found = [together.observe(images, index) for index, images in enumerate(clip)]
    assert together.provenance.revision != LRMReward.load(configuration(qwen), PROFILE).provenance.revision
    for name, folder in adapters.items():
        merged = tmp_path / name
        shutil.copytree(qwen, merged)
        base = AutoModelForImageTextToText.from_pretrained(qwen, dtype=torch.float32)
        PeftModel.from_pretrained(base, folder).merge_and_unload().save_pretrained(merged)
        alone = LRMReward.load(configuration(merged), PROFILE)
        alone.reset("a", "move", 0)
        expected = [getattr(alone.observe(images, index), name) for index, images in enumerate(clip)]
        assert [getattr(sample, name) for sample in found] == pytest.approx(expected, abs=1e-4), name


def test_adapters_that_are_missing_or_change_nothing_are_named(qwen: Path, adapters: dict[str, str], tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="'adapters' must name all of process, completion, contrastive"):
        LRMReward.load(configuration(qwen, adapters={"process": adapters["process"]}), PROFILE)
    with pytest.raises(AssetError, match="adapters.completion .* is not an adapter"):
        LRMReward.load(configuration(qwen, adapters={**adapters, "completion": str(tmp_path)}), PROFILE)
    silent = tmp_path / "silent"
    shutil.copytree(adapters["contrastive"], silent)
    state = {key: part * ("lora_B" not in key) for key, part in load_file(silent / "adapter_model.safetensors").items()}
    save_file(state, silent / "adapter_model.safetensors")
    with pytest.raises(AssetError, match="adapters.contrastive .* changes nothing"):
        LRMReward.load(configuration(qwen, adapters={**adapters, "contrastive": str(silent)}), PROFILE)
