"""Which episodes a run consists of, in which order, with which seeds.

Role: turns a list of segments (data, passed to the episode manager as JSON) into the sequence of its episodes, and keeps
the seeds of training, development and test apart. Decides nothing about success. Does not depend on ROS.

Seeds below DEMONSTRATIONS belong to training, those from there to DEVELOPMENT to the demonstrations that base policy and reward
model were trained on, the block at DEVELOPMENT serves to try settings (`rehearse`), the block at TEST is held out for the
figures that are reported. A run's own seed picks a block inside each, so that runs do not share episodes.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Literal

from whetstone.config import parse
from whetstone.errors import ConfigError

TRAINING_BLOCK = 10_000
EVALUATION_BLOCK = 1_000
DEVELOPMENT = 1_000_000
TEST = 2_000_000
DEMONSTRATIONS = 500_000
MAX_RUN_SEED = 49


@dataclass(frozen=True)
class Segment:
    """Consecutive episodes of one kind.

    mode: "train" (the learner updates after every iteration) or "evaluate".
    label: names an evaluation ("base_greedy"); empty in training.
    episodes: per iteration. seed_base: the first episode's seed; each further episode takes the next one.
    greedy: the policy acts without sampling.
    """

    mode: Literal["train", "evaluate"]
    label: str
    iterations: int
    episodes: int
    seed_base: int
    greedy: bool

    def __post_init__(self) -> None:
        if self.iterations < 1 or self.episodes < 1:
            raise ValueError("a segment needs at least one iteration of at least one episode")
        if self.mode == "evaluate" and (self.iterations != 1 or not self.label):
            raise ValueError("an evaluation has a label and exactly one iteration")
        if self.mode == "train" and self.label:
            raise ValueError("training has no label")


@dataclass(frozen=True)
class PlannedEpisode:
    """One episode before it runs. segment: position of its segment; last: the iteration (or evaluation) ends with it."""

    episode_id: str
    segment: int
    mode: Literal["train", "evaluate"]
    label: str
    iteration: int
    index: int
    count: int
    seed: int
    greedy: bool
    last: bool


def episodes(segments: Sequence[Segment]) -> Iterator[PlannedEpisode]:
    """All episodes of the run in order. Iterations are numbered through all training segments, from 0."""
    iteration = 0
    for position, segment in enumerate(segments):
        for repeat in range(segment.iterations):
            for index in range(segment.episodes):
                training = segment.mode == "train"
                name = f"train-{iteration:03d}-{index:04d}" if training else f"{segment.label}-{index:04d}"
                yield PlannedEpisode(
                    episode_id=name,
                    segment=position,
                    mode=segment.mode,
                    label=segment.label,
                    iteration=iteration,
                    index=index,
                    count=segment.episodes,
                    seed=segment.seed_base + repeat * segment.episodes + index,
                    greedy=segment.greedy,
                    last=index == segment.episodes - 1,
                )
            if segment.mode == "train":
                iteration += 1


def training_seeds(run_seed: int) -> int:
    """First training seed of a run. Raises ConfigError where run_seed has no block of its own."""
    return _checked(run_seed) * TRAINING_BLOCK


def development_seeds(run_seed: int) -> int:
    """First of the seeds on which settings are tried."""
    return DEVELOPMENT + _checked(run_seed) * EVALUATION_BLOCK


def test_seeds(run_seed: int) -> int:
    """First of the held-out seeds that every reported figure comes from."""
    return TEST + _checked(run_seed) * EVALUATION_BLOCK


test_seeds.__test__ = False  # type: ignore[attr-defined]  # not a pytest test


def _checked(run_seed: int) -> int:
    if not 0 <= run_seed <= MAX_RUN_SEED:
        raise ConfigError(f"seed {run_seed} is out of range; use 0 to {MAX_RUN_SEED}")
    return run_seed


def refine_segments(
    *,
    seed: int,
    iterations: int,
    episodes: int,
    evaluation_episodes: int,
    deployment_greedy: bool,
    base_evaluation: bool,
) -> list[Segment]:
    """Base policy in both modes, training, refined policy; evaluations all on the same test seeds.

    evaluation_episodes = 0 trains only.
    Raises ConfigError where the episodes do not fit into the run's block of seeds.
    """
    if iterations * episodes > TRAINING_BLOCK:
        raise ConfigError(f"iterations x episodes is {iterations * episodes}; at most {TRAINING_BLOCK} keep the seeds of runs apart")
    if evaluation_episodes > EVALUATION_BLOCK:
        raise ConfigError(f"evaluation_episodes is {evaluation_episodes}; at most {EVALUATION_BLOCK} keep the seeds of runs apart")
    test = test_seeds(seed)
    segments = []
    if base_evaluation and evaluation_episodes:
        segments.append(Segment("evaluate", "base_greedy", 1, evaluation_episodes, test, True))
        segments.append(Segment("evaluate", "base_sampled", 1, evaluation_episodes, test, False))
    if iterations:
        segments.append(Segment("train", "", iterations, episodes, training_seeds(seed), False))
    if evaluation_episodes and iterations:
        segments.append(Segment("evaluate", "refined", 1, evaluation_episodes, test, deployment_greedy))
    return segments


def to_json(segments: Sequence[Segment]) -> str:
    """Segments as the text of a node parameter."""
    return json.dumps([asdict(segment) for segment in segments])


def from_json(text: str) -> list[Segment]:
    """The inverse of to_json. Raises ConfigError naming the wrong key."""
    try:
        data = json.loads(text)
    except ValueError as error:
        raise ConfigError(f"parameter schedule: not JSON: {error}") from None
    if not isinstance(data, list) or not data:
        raise ConfigError("parameter schedule: must be a list of at least one segment")
    return [parse(Segment, item, f"parameter schedule[{position}]") for position, item in enumerate(data)]
