"""The launch arguments: ONE table of what a run takes, how each is read and explained.

Role: pure data and its reading. `whetstone run`, launch/*.launch.py, the demo and the benchmarks show the same rows. What a run is made of
from their values is plan.py's matter. Does not depend on ROS.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from robot_bringup import schedule
from whetstone import config
from whetstone.arguments import expanded
from whetstone.errors import ConfigError

Mode = Literal["refine", "evaluate", "sim", "reward", "learner"]
MODES: tuple[Mode, ...] = ("refine", "evaluate", "sim", "reward", "learner")
DESCRIPTIONS = {
    "refine": "evaluate the base policy, refine it on rewards, evaluate the refined policy",
    "evaluate": "evaluate a policy (base, or the snapshot `weights`) on held-out seeds",
    "sim": "a simulated robot behind its driver's topics, in real time, nothing else",
    "reward": "one reward node for several robots of a kind, whose own runs have without:=reward",
    "learner": "one learner for several robots of a kind, whose own runs have without:=learner",
}


@dataclass(frozen=True)
class Argument:
    """One launch argument `name:=value`.

    kind: how the text is read. choices: allowed words, or a folder of config/ ("config/robots") whose files are the choices.
    low, high: bounds of a number. modes: which plans take it. optional: may be empty.
    """

    name: str
    default: str
    description: str
    kind: Literal["word", "integer", "number", "boolean", "path"] = "word"
    choices: tuple[str, ...] | str = ()
    low: float | None = None
    high: float | None = None
    modes: tuple[str, ...] = MODES
    optional: bool = False

    def options(self) -> tuple[str, ...]:
        """The words that the value may be; empty where it is free."""
        if isinstance(self.choices, str):
            return tuple(config.available(self.choices.removeprefix("config/")))
        return self.choices

    def read(self, text: str) -> Any:
        """The typed value. Raises ConfigError naming the argument, the nearest and the available words."""
        text = text.strip()
        if not text.isprintable():
            raise ConfigError(f"argument {self.name}:={text!r} holds characters that cannot be printed")
        if not text:
            if self.optional:
                return ""
            raise ConfigError(f"argument {self.name} is empty; it is {self._expected()}")
        if self.kind == "boolean":
            if text.lower() not in ("true", "false"):
                raise ConfigError(f"argument {self.name}:={text} must be true or false")
            return text.lower() == "true"
        if self.kind in ("integer", "number"):
            return self._number(text)
        if self.kind == "path":
            return str(self._path(text).absolute())
        is_file = isinstance(self.choices, str) and text.endswith((".yaml", ".yml"))
        if self.choices and not is_file and text not in self.options():
            raise ConfigError(config.unknown(self.name, text, self.options()))
        if is_file and not self._path(text).is_file():
            raise ConfigError(f"argument {self.name}: {text}: no such file")
        return text

    def _path(self, text: str) -> Path:
        """With ~ and ~user replaced."""
        try:
            return expanded(text)
        except ConfigError as error:
            raise ConfigError(f"argument {self.name}:={error}") from None

    def _number(self, text: str) -> int | float:
        try:
            value = int(text) if self.kind == "integer" else float(text)
        except ValueError:
            raise ConfigError(f"argument {self.name}:={text} must be {self._expected()}") from None
        if not (math.isfinite(value) and (self.low is None or value >= self.low) and (self.high is None or value <= self.high)):
            raise ConfigError(f"argument {self.name}:={text} must be {self._expected()}")
        return value

    def _expected(self) -> str:
        if self.kind in ("integer", "number"):
            words = "an integer" if self.kind == "integer" else "a number"
            if self.low is not None and self.high is not None:
                return f"{words} from {self.low:g} to {self.high:g}"
            return f"{words} of at least {self.low:g}" if self.low is not None else words
        options = self.options()
        return f"one of {', '.join(options)}" if options else {"boolean": "true or false", "path": "a path"}.get(self.kind, "a word")


LOCAL = (
    "run_dir", "domain_id", "namespace", "min_free_gb", "rollout_budget_gb", "record_frames", "weights_key", "without", "keep", "wandb",
    "resume", "learner_processes", "learner_sharded", "port", "watchdog_patience",
    "record", "record_topics", "record_split_mb", "bag_budget_gb",
)  # fmt: skip
"""Arguments that no result depends on."""

_REFINE, _POLICY, _ROBOT = ("refine",), ("refine", "evaluate"), ("refine", "evaluate", "sim")
_SCORED = ("refine", "reward")
_LEARNING, _WEIGHTS = ("refine", "learner"), ("refine", "evaluate", "learner")
_SEEDED = ("refine", "evaluate", "sim", "learner")
APART = ("reward", "learner")
"""Nodes that may serve several robots from a run of their own."""

ARGUMENTS: tuple[Argument, ...] = (
    Argument("robot", "franka", "robot: a file of config/robots", choices="config/robots"),
    Argument(
        "sim",
        "mujoco",
        "simulator; gazebo, isaac: one that runs already; none: the robot's own driver and cameras. All but mujoco in real time",
        choices=("mujoco", "none", "gazebo", "isaac"),
        modes=_ROBOT,
    ),
    Argument(
        "driver",
        "",
        "with sim:=none: driver of ours to start with the run, a file of config/drivers; empty: the robot's own runs already",
        choices="config/drivers",
        modes=_POLICY,
        optional=True,
    ),
    Argument("port", "", "with driver:=: the arm's serial adapter, for example /dev/ttyACM0", "path", modes=_POLICY, optional=True),
    Argument("calibration", "", "with driver:=: what `whetstone calibrate-arm` made of this arm", "path", modes=_POLICY, optional=True),
    Argument(
        "watchdog_patience",
        "2",
        "in real time: control periods of the policy's silence by which the watchdog is stopping the arm",
        "number",
        low=1.5,
        high=100,
        modes=_POLICY,
    ),
    Argument("reset", "park,prompt", "with sim:=none: how the scene is brought back, in this order: park, replay, prompt", modes=_POLICY),
    Argument(
        "start",
        "reset",
        "with sim:=none: an episode begins when the scene is back, or at a call of episode_manager/start",
        choices=("reset", "service"),
        modes=_POLICY,
    ),
    Argument("reset_episode", "", "with reset:=replay: folder of the episode to go along", "path", modes=_POLICY, optional=True),
    Argument("reset_patience", "3600", "with sim:=none: seconds that the scene may take to come back", "number", low=1, modes=_POLICY),
    Argument("task", "pick_and_place", "task: a file of config/tasks", choices="config/tasks", modes=_ROBOT),
    Argument("policy", "flow_vla", "policy: a file of config/policies", choices="config/policies", modes=_WEIGHTS),
    Argument("reward", "sarm2", "reward model: a file of config/rewards", choices="config/rewards", modes=_SCORED),
    Argument("robots", "", "namespaces of the robots to serve, joined by commas", modes=APART, optional=True),
    Argument("without", "", "nodes that run elsewhere, joined by commas: reward, learner", modes=_REFINE, optional=True),
    Argument("learner", "flow_refinement", "learner: a file of config/learners", choices="config/learners", modes=_LEARNING),
    Argument("weights", "", "snapshot (.safetensors) to start from; empty: the base policy", "path", modes=_WEIGHTS, optional=True),
    Argument(
        "weights_key",
        "",
        "file of the key that announcements of weights are signed with, and must be; empty: unsigned",
        "path",
        modes=_LEARNING,
        optional=True,
    ),
    Argument(
        "weights_dtype",
        "as_is",
        "what weights are sent as; bf16: float32 in 16 bits, rounded",
        choices=("as_is", "bf16"),
        modes=_LEARNING,
    ),
    Argument("weights_compression", "zstd", "of weights on their way", choices=("zstd", "none"), modes=_LEARNING),
    Argument("weights_differences", "true", "send weights as differences to robots that have the ones before", "boolean", modes=_LEARNING),
    Argument(
        "weights_file_mb", "64", "MB from which on weights go over this machine as a file; 0: never", "number", low=0, modes=_LEARNING
    ),
    Argument("iterations", "5", "training iterations; 0: evaluate only", "integer", low=0, high=1000, modes=_LEARNING),
    Argument("episodes", "48", "training episodes per iteration", "integer", low=1, high=1000, modes=_REFINE),
    Argument("evaluation_episodes", "50", "held-out test episodes per evaluation; 0: none", "integer", low=0, high=1000, modes=_POLICY),
    Argument("base_evaluation", "true", "evaluate the base policy before training", "boolean", modes=_REFINE),
    Argument(
        "deployment",
        "config",
        "how an evaluated policy acts; config: as its YAML says",
        choices=("config", "greedy", "sampled", "both"),
        modes=_POLICY,
    ),
    Argument(
        "seed",
        "0",
        "seed of the run: its episodes, noise and learner",
        "integer",
        low=0,
        high=schedule.MAX_RUN_SEED,
        modes=_SEEDED,
    ),
    Argument(
        "realtime",
        "false",
        "pace the simulator by the wall clock (sim always does); reward: score as robots do in real time",
        "boolean",
        modes=(*_POLICY, "reward", "learner"),
    ),
    Argument(
        "inference",
        "asynchronous",
        "in real time, while the policy thinks: go on along the last chunk, or rest",
        choices=("asynchronous", "synchronous"),
        modes=_POLICY,
    ),
    Argument(
        "chunking",
        "switch",
        "two chunks that speak of one step: the newer one commands, was made to go on from the other (real-time chunking), or their mean",
        choices=("switch", "rtc", "ensemble"),
        modes=_POLICY,
    ),
    Argument("pretty", "false", "visual meshes and shadows: for looking at, much slower", "boolean", modes=_ROBOT),
    Argument("device", "cpu", "where networks run: cpu, cuda or cuda:N", modes=(*_POLICY, "reward", "learner")),
    Argument("rollout_budget_gb", "0", "GB of episodes to keep, the oldest unprotected go first; 0: all", "number", low=0, modes=_LEARNING),
    Argument(
        "record_frames",
        "decisions",
        "images to keep in rollouts: at the policy's decisions, or of all control steps (JPEG besides)",
        choices=("decisions", "all"),
        modes=_LEARNING,
    ),
    Argument(
        "bag",
        "",
        "rosbags to score in place of robots, joined by commas: each is an episode (docs/bags.md)",
        modes=("reward",),
        optional=True,
    ),
    Argument("bag_rate", "0", "with bag:=: times the bag's own speed; 0: as fast as it is scored", "number", low=0, modes=("reward",)),
    Argument(
        "bag_mapping", "", "with bag:=: which topic is what, a file of config/bags", choices="config/bags", modes=("reward",), optional=True
    ),
    Argument("bag_instruction", "", "with bag:=: what the robot was told; empty: as the bag says", modes=("reward",), optional=True),
    Argument("record", "false", "write a rosbag2 bag (MCAP) of every episode to the run's folder `bags`", "boolean", modes=_ROBOT),
    Argument(
        "record_topics",
        "",
        "with record:=true: further topics, joined by commas; NAME, or NAME=package/msg/Type",
        modes=_ROBOT,
        optional=True,
    ),
    Argument("record_split_mb", "1024", "MB after which a bag goes on in another file; 0: never", "number", low=0, modes=_ROBOT),
    Argument("bag_budget_gb", "0", "GB of bags to keep, the oldest unprotected go first; 0: all", "number", low=0, modes=_ROBOT),
    Argument("learner_processes", "1", "processes that make each update together (torchrun)", "integer", low=1, high=256, modes=_LEARNING),
    Argument("learner_sharded", "false", "each of these processes holds only its share of the policy (FSDP)", "boolean", modes=_LEARNING),
    Argument("keep", "10", "newest snapshots of weights to keep beside the best one; 0: all", "integer", low=0, modes=_LEARNING),
    Argument("wandb", "", "project of Weights & Biases that gets the curves; empty: TensorBoard alone", modes=_LEARNING, optional=True),
    Argument("resume", "false", "go on with the run in run_dir, which was cut off", "boolean", modes=_WEIGHTS),
    Argument("run_dir", "", "folder of the run; empty: runs/<date>-<mode>-<robot>-<task>", "path", optional=True),
    Argument("domain_id", "", "ROS domain; empty: $ROS_DOMAIN_ID, else 0", "integer", low=0, high=232, optional=True),
    Argument("namespace", "", "namespace of the run's nodes and topics; empty: the robot's name, for reward `rewards`", optional=True),
    Argument("deadline", "20.0", "seconds that a node waits for a peer before it fails and names it", "number", low=0.5, high=3600),
    Argument("min_free_gb", "1.0", "refuse to start with less free disk space than this (GB)", "number", low=0),
)


def arguments_of(mode: str) -> tuple[Argument, ...]:
    """The table's rows that the mode takes. Raises ConfigError where there is no such mode."""
    if mode not in MODES:
        raise ConfigError(config.unknown("mode", mode, MODES))
    return tuple(argument for argument in ARGUMENTS if mode in argument.modes)


def resolve(mode: str, given: Mapping[str, str]) -> dict[str, Any]:
    """Typed values of all the mode's arguments. Raises ConfigError naming the first that is unknown or wrong."""
    table = {argument.name: argument for argument in arguments_of(mode)}
    for name in given:
        if name not in table:
            raise ConfigError(config.unknown("argument", name, table))
    return {name: argument.read(given.get(name, argument.default)) for name, argument in table.items()}


def help_text(mode: str) -> str:
    """The table of arguments as `whetstone run <mode> --help` shows it; `ros2 launch --show-args` has the same rows."""
    lines = [f"{mode}: {DESCRIPTIONS[mode]}", "", "Arguments (name:=value):"]
    for argument in arguments_of(mode):
        options = argument.options()
        words = f" ({', '.join(options)})" if options else ""
        default = argument.default or "''"
        lines += [f"  {argument.name}:={default}", f"      {argument.description}{words}"]
    return "\n".join(lines)
