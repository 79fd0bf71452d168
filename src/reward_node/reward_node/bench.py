"""What a video costs TOPReward: every prefix computed again, streamed, or the whole episode at once; in fewer bits; for several robots.

Role: `python -m reward_node.bench` (`make bench-reward`): random-weight Qwen3-VL models of given sizes score a clip behind every patch of
two frames; time, peak memory and the largest difference of a score go to results/bench-reward.json. Every measurement runs in a process
of its own. Does not depend on ROS.

`recompute` is the naive way: the whole prompt through the model for every score. `lerobot_style` is the same as LeRobot's TOPReward does
it: prompt and pixels are made anew for every score too, the answer stands in the prompt and two rows of logits are kept. The others are
given their tokens and pixels ready made, so what differs is the model's work. Fewer bits are streamed, and compared with the full ones.
Several robots are streamed too, each in a pass of its own (`alone`) or all in one (`together`), frame by frame.
What takes seconds is measured up to five times, and the median told.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any, get_args

import numpy as np
import torch

from reward_node.vlm import loading, random_models
from reward_node.vlm.layout import Segment, TimedVideo
from reward_node.vlm.prefix import Branch, Prefix, Work, from_scratch, together
from reward_node.weight_bytes import weight_bytes
from whetstone import results
from whetstone.arguments import integer, parse_arguments, run, spelled
from whetstone.config import find, load_yaml, unknown
from whetstone.errors import ConfigError
from whetstone.quantisation import Precision

ARGUMENTS = {
    "models": "small",
    "frames": "16,64,256",
    "pixels": "224",
    "precisions": "int8",
    "robots": "4",
    "device": "cpu",
    "threads": "2",
    "results": "results/bench-reward.json",
}
HELP = """make bench-reward ARGS='name:=value ...': what a video costs TOPReward, on random weights

  models:=small          small | 2B | 8B (the shapes of Qwen3-VL), joined by commas
  frames:=16,64,256      lengths of the clip
  pixels:=224            height and width of a frame; 49 visual tokens a patch of two frames
  precisions:=int8       also streamed in these: int8, and on CUDA nf4, joined by commas
  robots:=4               that share a model, also measured; 1: not
  device:=cpu  threads:=2
  results:=results/bench-reward.json
"""
SUBJECTS = ("recompute", "lerobot_style", "streaming", "whole_episode")
SHARED = ("alone", "together")
INTERVAL = 0.5  # s between two frames
RUNS, SPENT = 5, 10.0
"""Times that a way is measured at most, and seconds after which it is not measured again."""
EDGE = 4
"""Scores at either end of a stream whose mean time is compared."""


@dataclass(frozen=True)
class Case:
    """One measurement. model: a name of random_models.QWEN3_VL; pixels: height and width of a frame; precision: None, all bits."""

    model: str
    frames: int
    pixels: int
    subject: str
    precision: Precision | None
    device: str
    threads: int
    robots: int = 1


@dataclass(frozen=True)
class Measured:
    """seconds: of the whole episode; scores: (patches * robots,) log p, nat; each: seconds of each score, where they come one by one;
    memory: bytes at the peak above the loaded model; weights: bytes."""

    seconds: float
    scores: np.ndarray
    each: np.ndarray
    memory: int
    weights: int


def measure(case: Case) -> Measured:
    """In a process of its own: a model with random weights scores a random clip behind every patch."""
    torch.set_num_threads(case.threads)
    settings = load_yaml(find("rewards", "topreward_qwen3_vl"))
    text = settings["prompt"].replace("{instruction}", "put the red cube into the tray")
    model, layout, tokenizer = _model(case, text)
    random = np.random.default_rng(0)
    clips = [random.integers(0, 256, (case.frames, case.pixels, case.pixels, 3), dtype=np.uint8) for _ in range(case.robots)]
    question, answer = layout.question(text), tokenizer.encode(settings["answer"], add_special_tokens=False)

    def patch(at: int, robot: int = 0) -> Segment:
        return layout.frames(list(clips[robot][at : at + 2]), [INTERVAL * at, INTERVAL * (at + 1)])

    videos = [[patch(at, robot) for at in range(0, case.frames, 2)] for robot in range(case.robots)]
    patches = videos[0]

    def recompute() -> tuple[list[float], list[float]]:
        return one_by_one(lambda count: from_scratch(model, layout, [layout.head(), *patches[:count], question], answer)[0])

    def lerobot_style() -> tuple[list[float], list[float]]:
        def score(count: int) -> float:
            made = [layout.head(), *(patch(at) for at in range(0, 2 * count, 2)), layout.question(text)]
            return whole_prompt(model, layout, made, answer[0])

        return one_by_one(score)

    def streaming() -> tuple[list[float], list[float]]:
        prefix = Prefix(model, layout)

        def score(count: int) -> float:
            return prefix.extend(patches[count - 1 : count], [Branch(count, (question,))], answer)[0, 0]

        return one_by_one(score)

    def whole_episode() -> tuple[list[float], list[float]]:
        prefix = Prefix(model, layout)
        branches = [Branch(count, (question,)) for count in range(1, len(patches) + 1)]
        return list(prefix.extend(patches, branches, answer)[:, 0]), []

    def robots() -> tuple[list[float], list[float]]:
        prefixes, scores, each = [Prefix(model, layout) for _ in videos], [], []
        for count in range(1, len(patches) + 1):
            works = [Work(one, video[count - 1 : count], [Branch(count, (question,))]) for one, video in zip(prefixes, videos, strict=True)]
            begin = time.perf_counter()
            groups = [works] if case.subject == "together" else [[work] for work in works]
            scores += [float(found[0, 0]) for group in groups for found in together(group, answer)]
            each.append(time.perf_counter() - begin)
        return scores, each

    def one_by_one(score: Callable[[int], float]) -> tuple[list[float], list[float]]:
        scores, each = [], []
        for count in range(1, len(patches) + 1):
            begin = time.perf_counter()
            scores.append(float(score(count)))
            each.append(time.perf_counter() - begin)
        return scores, each

    # The first pass of a process pays for kernels and buffers of its own.
    from_scratch(model, layout, [layout.head(), patches[0], question], answer)
    _forget_peak(case.device)
    before = _memory(case.device, "VmRSS")
    ways = {"recompute": recompute, "lerobot_style": lerobot_style, "streaming": streaming, "whole_episode": whole_episode}
    ways |= dict.fromkeys(SHARED, robots)
    runs: list[tuple[float, list[float], list[float]]] = []
    while len(runs) < RUNS and sum(seconds for seconds, *_ in runs) < SPENT:
        begin = time.perf_counter()
        scores, each = ways[case.subject]()
        runs.append((time.perf_counter() - begin, scores, each))
    seconds, scores, each = sorted(runs, key=lambda one: one[0])[len(runs) // 2]
    return Measured(seconds, np.array(scores), np.array(each), _memory(case.device, "VmHWM") - before, weight_bytes(model))


def _model(case: Case, text: str) -> tuple[Any, TimedVideo, Any]:
    """(model, layout, tokenizer) with random weights. In fewer bits it goes by way of a folder and the very code that loads a user's."""
    dtype = "float32" if case.device == "cpu" else "bfloat16"
    size = random_models.QWEN3_VL[case.model]
    made = random_models.qwen3_vl(size, case.pixels, case.device, dtype, [text])
    if case.precision is None:
        model, tokenizer, images = made
        return model, TimedVideo(model, tokenizer, images), tokenizer
    with tempfile.TemporaryDirectory() as folder:
        for part in made:
            part.save_pretrained(folder)
        del part, made
        loaded = loading.load(folder, case.precision, case.device, "make bench-reward", "")
    assert isinstance(loaded.video, TimedVideo)
    return loaded.model, loaded.video, loaded.tokenizer


def whole_prompt(model: Any, layout: TimedVideo, segments: list[Segment], answer: int) -> float:
    """log p of the answer, nat, as LeRobot's TOPReward asks for it."""
    whole = Segment(torch.cat([*(segment.ids for segment in segments), torch.tensor([answer])]), layout.join(segments))
    inputs = {name: value.to(model.device) for name, value in {"input_ids": whole.ids[None], **whole.visual}.items()}
    positions = layout.positions(whole, 0)[:, None].to(model.device)
    with torch.inference_mode():
        logits = model(position_ids=positions, logits_to_keep=2, **inputs).logits
        target = torch.tensor([answer], device=logits.device)
        return -float(torch.nn.functional.cross_entropy(logits[:, -2].float(), target))


def _memory(device: str, word: str) -> int:
    """Bytes of the process on the CPU, of torch's allocations on a GPU. word: "VmRSS", those now, or "VmHWM", those at the peak."""
    if device == "cpu":
        line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(word))
        return int(line.split()[1]) * 1024
    return torch.cuda.memory_allocated() if word == "VmRSS" else torch.cuda.max_memory_allocated()


def _forget_peak(device: str) -> None:
    """The peak is that from now on; loading a model may need more than running it."""
    if device == "cpu":
        Path("/proc/self/clear_refs").write_text("5")  # proc(5)
        return
    torch.cuda.reset_peak_memory_stats()


def rows(model: str, frames: int, where: str, found: dict[str, Measured]) -> list[dict[str, Any]]:
    """Rows of one model and length; where: pixels and device, and how many robots; the first of `found` is what the others are compared
    with."""
    case, reference = f"{model} {frames} frames, {where}", next(iter(found.values()))
    made = []
    for subject, one in found.items():
        figures = {
            "episode_time": (one.seconds, "s"),
            "time_per_score": (1e3 * one.seconds / len(one.scores), "ms"),
            "speedup": (reference.seconds / one.seconds, "x"),
            "max_abs_difference": (float(np.abs(one.scores - reference.scores).max()), "nat"),
            "mean_abs_difference": (float(np.abs(one.scores - reference.scores).mean()), "nat"),
            "peak_memory": (one.memory / 1e6, "MB"),
            "weights": (one.weights / 1e6, "MB"),
        }
        if len(one.each) > 2 * EDGE:
            figures["last_to_first_frame_time"] = (float(np.median(one.each[-EDGE:]) / np.median(one.each[1 : 1 + EDGE])), "x")
        made += [
            {"case": case, "subject": subject, "metric": name, "value": float(f"{value:.4g}"), "unit": unit, "n": len(one.scores)}
            for name, (value, unit) in figures.items()
        ]
    return made


def main(arguments: list[str]) -> None:
    values = parse_arguments(arguments, ARGUMENTS)
    models = values["models"].split(",")
    for name in models:
        if name not in random_models.QWEN3_VL:
            raise ConfigError(unknown("model", name, random_models.QWEN3_VL))
    asked = values["precisions"].split(",") if values["precisions"] else []
    for name in asked:
        if name not in get_args(Precision):
            raise ConfigError(unknown("precision", name, get_args(Precision)))
    precisions: list[Precision] = [name for name in get_args(Precision) if name in asked]
    try:
        lengths = [int(word) for word in values["frames"].split(",")]
    except ValueError:
        raise ConfigError("frames:= must be even numbers joined by commas") from None
    pixels, threads, robots, device = integer(values, "pixels"), integer(values, "threads"), integer(values, "robots"), values["device"]
    if min(lengths) < 2 or any(length % 2 for length in lengths) or min(threads, robots) < 1 or pixels < 32 or pixels % 32:
        raise ConfigError("frames:= must be even numbers of at least 2, pixels:= a multiple of 32, threads:= and robots:= at least 1")
    ways: list[tuple[str, str, Precision | None]] = [(subject, subject, None) for subject in SUBJECTS]
    for name in precisions:
        ways.append((f"streaming_{name}", "streaming", name))
    changed = spelled(values, ARGUMENTS)
    command = f"make bench-reward ARGS='{changed}'" if changed else "make bench-reward"
    for model in models:
        for frames in lengths:
            made = []
            for where, chosen, count in (
                (f"{pixels} px, {device}", ways, 1),
                (f"{pixels} px, {device}, {robots} robots", [(name, name, None) for name in SHARED if robots > 1], robots),
            ):
                found = {}
                for name, subject, precision in chosen:
                    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as alone:
                        case = Case(model, frames, pixels, subject, precision, device, threads, count)
                        found[name] = alone.submit(measure, case).result()
                made += rows(model, frames, where, found) if found else []
            results.merge(Path(values["results"]), made, command=command, configurations={})
            for row in made:
                print(f"{row['case']:<42} {row['subject']:<16} {row['metric']:<26} {row['value']:>10} {row['unit']}", flush=True)


if __name__ == "__main__":
    run(main, HELP)
