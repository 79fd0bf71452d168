"""The configuration of LRM: config/rewards/lrm.yaml, typed.

Role: names, defaults and bounds. Does not depend on torch or ROS.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from reward_node.settings import hold
from whetstone.completion import Completion
from whetstone.quantisation import Precision


@dataclass(frozen=True)
class Question:
    """text: of the user's turn, behind the images, holds {instruction}; start: how the model's answer begins; answers: what may follow,
    word for word, and the value of each."""

    text: str
    start: str
    answers: dict[str, float]

    def __post_init__(self) -> None:
        hold("text", self.text)
        if len(self.answers) < 2:
            raise ValueError("key 'answers' needs two answers or more")


QUESTIONS = ("process", "completion", "contrastive")


@dataclass(frozen=True)
class LRMSettings:
    """model: folder of a vision-language model that transformers loads; adapters: question (process, completion, contrastive) -> folder of
    its LoRA adapter, for all three or none; camera, image_size: what it looks at; every: control steps
    between two scores; initial: show the episode's first image before the newest in process and completion; interval: scored frames
    between the two that are compared; mode: logits: the probability of every allowed answer, one pass a question; generate: greedy text
    of at most `limit` tokens, read as JSON (as published).

    signal: what `total` is. held: the mean of the three, as published; a policy that loiters near the goal collects it. increments: the
    change of process. potential: discount * process - process before (Ng et al. 1999), which changes no optimal policy.
    """

    plugin: str
    model: str | None
    camera: str
    image_size: tuple[int, int]
    process: Question
    completion: Question
    contrastive: Question
    every: int = field(default=8, metadata={"ge": 1})
    interval: int = field(default=1, metadata={"ge": 1})
    initial: bool = True
    mode: Literal["logits", "generate"] = "logits"
    limit: int = field(default=128, metadata={"ge": 1})
    dtype: Precision = "bfloat16"
    adapters: dict[str, str] = field(default_factory=dict)
    signal: Literal["held", "increments", "potential"] = "held"
    discount: float = field(default=0.99, metadata={"gt": 0, "le": 1})
    success: Completion = field(default_factory=Completion)

    def __post_init__(self) -> None:
        if self.adapters and set(self.adapters) != set(QUESTIONS):
            raise ValueError(f"key 'adapters' must name all of {', '.join(QUESTIONS)}, or be empty")
