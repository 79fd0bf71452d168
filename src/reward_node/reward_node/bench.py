"""What a video costs TOPReward: every prefix computed again, streamed, or the whole episode at once.

Role: `python -m reward_node.bench` (`make bench-reward`): random-weight Qwen3-VL models of given sizes score a clip behind every patch of
two frames; time, peak memory and the largest difference of a score go to results/bench-reward.json. `recompute` is the naive way, and
that of the tools that exist: the whole prompt through the model for every score. All three are given their tokens and pixels ready
made, so what differs is the model's work. Every measurement runs in a process of its own. Does not depend on ROS.
"""

from __future__ import annotations

import resource
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np

from whetstone import results
from whetstone.arguments import parse_arguments, run
from whetstone.config import find, load_yaml, unknown
from whetstone.errors import ConfigError

ARGUMENTS = {"models": "small", "frames": "16,64,256", "device": "cpu", "threads": "2", "results": "results/bench-reward.json"}
SUBJECTS = ("recompute", "streaming", "whole_episode")
PIXELS = 128
"""Height and width of a frame: 16 visual tokens a patch."""
INTERVAL = 0.5  # s between two frames
EDGE = 4
"""Scores at either end of a stream whose mean time is compared."""


@dataclass(frozen=True)
class Case:
    """One measurement. model: a name of random_models.QWEN3_VL."""

    model: str
    frames: int
    subject: str
    device: str
    threads: int


@dataclass(frozen=True)
class Measured:
    """seconds: of the whole episode; scores: (patches,) log p, nat; each: seconds of each score, where they come one by one;
    memory: bytes at the peak above the loaded model; tokens: that went through the model."""

    seconds: float
    scores: np.ndarray
    each: np.ndarray
    memory: int


def measure(case: Case) -> Measured:
    """In a process of its own: a model with random weights scores a random clip behind every patch."""
    import torch

    from reward_node.vlm import random_models
    from reward_node.vlm.layout import TimedVideo
    from reward_node.vlm.prefix import Branch, Prefix, from_scratch

    torch.set_num_threads(case.threads)
    settings = load_yaml(find("rewards", "topreward_qwen3_vl"))
    text = settings["prompt"].replace("{instruction}", "put the red cube into the tray")
    dtype = "float32" if case.device == "cpu" else "bfloat16"
    model, tokenizer, images = random_models.qwen3_vl(random_models.QWEN3_VL[case.model], PIXELS, case.device, dtype, [text])
    layout = TimedVideo(model, tokenizer, images)
    random = np.random.default_rng(0)
    clip = random.integers(0, 256, (case.frames, PIXELS, PIXELS, 3), dtype=np.uint8)
    question, answer = layout.question(text), tokenizer.encode(settings["answer"], add_special_tokens=False)
    patches = [layout.frames(list(clip[at : at + 2]), [INTERVAL * at, INTERVAL * (at + 1)]) for at in range(0, case.frames, 2)]

    def recompute() -> tuple[list[float], list[float]]:
        return one_by_one(lambda count: from_scratch(model, layout, [layout.head(), *patches[:count], question], answer)[0])

    def streaming() -> tuple[list[float], list[float]]:
        prefix = Prefix(model, layout)

        def score(count: int) -> float:
            return prefix.extend(patches[count - 1 : count], [Branch(count, (question,))], answer)[0, 0]

        return one_by_one(score)

    def whole_episode() -> tuple[list[float], list[float]]:
        prefix = Prefix(model, layout)
        branches = [Branch(count, (question,)) for count in range(1, len(patches) + 1)]
        return list(prefix.extend(patches, branches, answer)[:, 0]), []

    def one_by_one(score: Callable[[int], float]) -> tuple[list[float], list[float]]:
        scores, each = [], []
        for count in range(1, len(patches) + 1):
            begin = time.perf_counter()
            scores.append(float(score(count)))
            each.append(time.perf_counter() - begin)
        return scores, each

    # The first pass of a process pays for kernels and buffers of its own.
    from_scratch(model, layout, [layout.head(), patches[0], question], answer)
    before = _peak(case.device)
    begin = time.perf_counter()
    scores, each = {"recompute": recompute, "streaming": streaming, "whole_episode": whole_episode}[case.subject]()
    return Measured(time.perf_counter() - begin, np.array(scores), np.array(each), _peak(case.device) - before)


def _peak(device: str) -> int:
    """Bytes: of the process on the CPU, of torch's allocations on a GPU."""
    if device == "cpu":
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    import torch

    return torch.cuda.max_memory_allocated()


def rows(model: str, frames: int, device: str, found: dict[str, Measured]) -> list[dict[str, Any]]:
    """Rows of one model and length; `found` has a measurement of every subject."""
    case, reference = f"{model} {frames} frames, {device}", found["recompute"]
    made = []
    for subject, one in found.items():
        figures = {
            "episode_time": (one.seconds, "s"),
            "time_per_score": (1e3 * one.seconds / len(one.scores), "ms"),
            "speedup": (reference.seconds / one.seconds, "x"),
            "max_abs_difference": (float(np.abs(one.scores - reference.scores).max()), "nat"),
            "peak_memory": (one.memory / 1e6, "MB"),
        }
        if len(one.each) > 2 * EDGE:
            figures["last_to_first_frame_time"] = (float(np.median(one.each[-EDGE:]) / np.median(one.each[1 : 1 + EDGE])), "x")
        made += [
            {"case": case, "subject": subject, "metric": name, "value": float(f"{value:.4g}"), "unit": unit, "n": len(one.scores)}
            for name, (value, unit) in figures.items()
        ]
    return made


def main(arguments: list[str]) -> None:
    from reward_node.vlm.random_models import QWEN3_VL

    values = parse_arguments(arguments, ARGUMENTS)
    models = values["models"].split(",")
    for name in models:
        if name not in QWEN3_VL:
            raise ConfigError(unknown("model", name, QWEN3_VL))
    try:
        lengths, threads = [int(word) for word in values["frames"].split(",")], int(values["threads"])
    except ValueError:
        raise ConfigError("frames:= must be even numbers joined by commas, and threads:= a number") from None
    if min(lengths) < 2 or any(length % 2 for length in lengths) or threads < 1:
        raise ConfigError("frames:= must be even numbers of at least 2, and threads:= at least 1")
    for model in models:
        for frames in lengths:
            found = {}
            for subject in SUBJECTS:
                with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as alone:
                    found[subject] = alone.submit(measure, Case(model, frames, subject, values["device"], threads)).result()
            made = rows(model, frames, values["device"], found)
            results.merge(Path(values["results"]), made, command="make bench-reward", configurations={})
            for row in made:
                print(f"{row['case']:<28} {row['subject']:<14} {row['metric']:<26} {row['value']:>10} {row['unit']}", flush=True)


if __name__ == "__main__":
    run(main)
