"""The launch plan: which arguments a run takes and which nodes it consists of.

Role: ONE table of launch arguments and one function from their values to nodes, parameters and environment. `whetstone run`
starts the plan as supervised processes, launch/*.launch.py turn it into launch_ros actions; both show the same table. Pure
data: reads configuration, creates nothing, starts nothing. Does not depend on ROS.
"""

from __future__ import annotations

import datetime
import math
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from robot_bringup import resuming, schedule
from robot_bringup.completion import Completion
from robot_bringup.schedule import Segment
from whetstone import config
from whetstone.assets import asset_path
from whetstone.errors import AssetError, ConfigError
from whetstone.profile import load_profile
from whetstone.signing import load_key
from whetstone.task import load_task

Mode = Literal["refine", "evaluate", "sim", "reward", "learner"]
MODES: tuple[Mode, ...] = ("refine", "evaluate", "sim", "reward", "learner")
DESCRIPTIONS = {
    "refine": "evaluate the base policy, refine it on rewards, evaluate the refined policy",
    "evaluate": "evaluate a policy (base, or the snapshot `weights`) on held-out seeds",
    "sim": "a simulated robot behind its driver's topics, in real time, nothing else",
    "reward": "one reward node for several robots of a kind, whose own runs have without:=reward",
    "learner": "one learner for several robots of a kind, whose own runs have without:=learner",
}
ENDLESS = 2**31 - 1
_AGAIN = {"learner": ("restarted",)}
"""Nodes that go on from the disk after they were killed. As several processes they do when torchrun is killed, which they die with, and not
when one of them is: torchrun's end does not tell that from an error of theirs. None of them moves the arm:
after the death of one that does, a human has a look first."""


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
            return str(Path(text).expanduser().absolute())
        is_file = isinstance(self.choices, str) and text.endswith((".yaml", ".yml"))
        if self.choices and not is_file and text not in self.options():
            raise ConfigError(config.unknown(self.name, text, self.options()))
        if is_file and not Path(text).expanduser().is_file():
            raise ConfigError(f"argument {self.name}: {text}: no such file")
        return text

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
    "resume", "learner_processes", "learner_sharded",
)  # fmt: skip
"""Arguments that no result depends on."""

_REFINE, _POLICY, _ROBOT = ("refine",), ("refine", "evaluate"), ("refine", "evaluate", "sim")
_SCORED = ("refine", "reward")
_LEARNING, _WEIGHTS = ("refine", "learner"), ("refine", "evaluate", "learner")
_SEEDED = ("refine", "evaluate", "sim", "learner")
_APART = ("reward", "learner")
"""Nodes that may serve several robots from a run of their own."""

ARGUMENTS: tuple[Argument, ...] = (
    Argument("robot", "franka", "robot: a file of config/robots", choices="config/robots"),
    Argument("sim", "mujoco", "simulator; gazebo and isaac are not there yet", choices=("mujoco", "gazebo", "isaac"), modes=_ROBOT),
    Argument("task", "pick_and_place", "task: a file of config/tasks", choices="config/tasks", modes=_ROBOT),
    Argument("policy", "flow_vla", "policy: a file of config/policies", choices="config/policies", modes=_WEIGHTS),
    Argument("reward", "sarm2", "reward model: a file of config/rewards", choices="config/rewards", modes=_SCORED),
    Argument("robots", "", "namespaces of the robots to serve, joined by commas", modes=_APART, optional=True),
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
    Argument("record", "false", "record a bag of the run; not there yet", "boolean", modes=_ROBOT),
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


@dataclass(frozen=True)
class NodeSpec:
    """One process: `executable` of ROS package `package`, its node name, namespace and parameters. again: parameters that are true where it
    is started again after it was killed in the middle of the run; without any, its death ends the run. processes: of a torchrun, if more
    than one."""

    package: str
    executable: str
    name: str
    namespace: str
    parameters: dict[str, Any]
    remappings: tuple[tuple[str, str], ...] = ()
    again: tuple[str, ...] = ()
    processes: int = 1


@dataclass(frozen=True)
class Plan:
    """A run before it starts. essential: the node whose end is the end of the run."""

    mode: Mode
    arguments: dict[str, Any]
    nodes: tuple[NodeSpec, ...]
    segments: tuple[Segment, ...]
    run_dir: Path
    environment: dict[str, str]
    domain_id: int
    namespace: str
    config_files: dict[str, Path] = field(default_factory=dict)
    essential: str = "episode_manager"


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


def plan(mode: Mode, given: Mapping[str, str] | None = None) -> Plan:
    """The run that the arguments describe. Everything that can be wrong before a node starts is a ConfigError here."""
    given = dict(given or {})
    table = {argument.name: argument for argument in arguments_of(mode)}
    if "resume" in table and table["resume"].read(given.get("resume", "false")):
        given = resuming.arguments(given, mode, lambda name, text: table[name].read(text) if name in table else text, LOCAL)
    values = resolve(mode, given)
    if values.get("sim", "mujoco") != "mujoco":
        raise ConfigError(f"sim:={values['sim']} is not there yet; use sim:=mujoco")
    if values.get("record"):
        raise ConfigError("record:=true is not there yet; the run directory keeps rollouts and results")
    values["domain_id"] = _domain(values["domain_id"])
    default = f"{mode}s" if mode in _APART else Path(values["robot"]).stem
    namespace = values["namespace"] = _namespace("namespace", values["namespace"] or default)
    profile = load_profile(values["robot"])
    kinds = {"robot": "robots", "task": "tasks", "policy": "policies", "reward": "rewards", "learner": "learners"}
    files = {name: config.find(kind, values[name]) for name, kind in kinds.items() if name in values}
    contents = {name: config.load_yaml(path) for name, path in files.items()}
    if values.get("weights") and not Path(values["weights"]).is_file():
        raise ConfigError(f"weights:={values['weights']}: no such file")
    for name in ("policy", "reward"):
        if name in contents:
            _check_assets(contents[name], profile.name, kinds[name])
    if "learner" in contents:
        _check_fit(contents["learner"], contents["policy"], values)
    if "reward" in contents:
        _check_model(contents["reward"], config.show(files["reward"]))
    if values.get("weights_key"):
        load_key(values["weights_key"])
    without = _without(values)
    run_dir = _run_dir(values, mode)
    if mode in _APART:
        node = _shared(mode, values, run_dir)
        return Plan(mode, values, (node,), (), run_dir, _environment(values, run_dir), values["domain_id"], namespace, files, node.name)
    task = load_task(values["task"], profile.name)
    segments = _segments(mode, values, contents)
    realtime = mode == "sim" or values["realtime"]
    common = {
        "robot": values["robot"],
        "task": values["task"],
        "policy": values.get("policy", ""),
        "reward": values.get("reward", ""),
        "learner": values.get("learner", ""),
        "seed": values["seed"],
        "run_dir": str(run_dir),
        "realtime": realtime,
        "deadline": values["deadline"],
        "device": values.get("device", "cpu"),
        "weights": values.get("weights", ""),
        "weights_key": values.get("weights_key", ""),
    }
    every = _steps(contents["reward"], "every", config.show(files["reward"])) if mode == "refine" else 0
    deciding = _innermost(contents["policy"]) if mode == "refine" else {}
    execute = _steps(deciding, "execute", config.show(files["policy"]), every) if mode == "refine" else 0
    if execute and execute % every:
        # Rewards are joined to decisions by stamp: those that fall between two scores would stay unlabelled.
        raise ConfigError(
            f"{config.show(files['reward'])}: key 'every' is {every}, but the policy decides every {execute} control steps "
            f"('execute' in {config.show(files['policy'])}); 'every' must divide it"
        )
    specific: dict[str, tuple[str, str, dict[str, Any]]] = {
        "simulator": (
            "robot_bringup",
            "simulator",
            {"pretty": values["pretty"], "wait_for_reward": mode == "refine" and not realtime, "reward_every": every},
        )
    }
    if mode == "refine" and "reward" not in without:
        specific["reward"] = ("reward_node", "reward_node", {})
    if mode != "sim":
        specific["policy"] = ("policy_node", "policy_node", {})
    if mode == "refine" and "learner" not in without:
        specific["learner"] = ("learner_node", "learner_node", _learner_parameters(values))
    if mode != "sim":
        specific["evaluator"] = ("robot_bringup", "evaluator", {})
    manager: dict[str, Any] = {
        "schedule": schedule.to_json(segments),
        "managed": list(specific),
        "max_steps": ENDLESS if mode == "sim" else task.max_steps,
        "reward_every": every,
        "resume": values.get("resume", False),
        "await_learner": mode == "refine" and any(segment.mode == "train" for segment in segments),
    }
    if mode == "refine" and "success" in contents["reward"]:
        completion = config.parse(Completion, contents["reward"]["success"], f"{config.show(files['reward'])}: success")
        manager |= {"success_threshold": completion.threshold, "success_frames": completion.frames}
    specific["episode_manager"] = ("robot_bringup", "episode_manager", manager)
    processes = {"learner": values.get("learner_processes", 1)}
    nodes = tuple(
        NodeSpec(package, executable, name, f"/{namespace}", {**common, **parameters}, (), _AGAIN.get(name, ()), processes.get(name, 1))
        for name, (package, executable, parameters) in specific.items()
    )
    return Plan(mode, values, nodes, tuple(segments), run_dir, _environment(values, run_dir), values["domain_id"], namespace, files)


def _learner_parameters(values: Mapping[str, Any]) -> dict[str, Any]:
    """What the learner is told beyond what all nodes are."""
    kept = ("iterations", "rollout_budget_gb", "record_frames", "keep", "wandb", "resume")
    sent = ("weights_dtype", "weights_compression", "weights_differences", "weights_file_mb")
    if values["learner_sharded"] and values["learner_processes"] == 1:
        raise ConfigError("learner_sharded:=true splits the policy over processes; give learner_processes:=2 or more")
    return {"sharded": values["learner_sharded"], **{name: values[name] for name in (*kept, *sent)}}


def _shared(name: str, values: Mapping[str, Any], run_dir: Path) -> NodeSpec:
    """The reward node or the learner that serves several robots; no episode manager brings it up."""
    if not values["robots"]:
        raise ConfigError("argument robots is empty; name the robots' namespaces, for example robots:=left,right")
    robots = [_namespace("robots", name) for name in values["robots"].split(",")]
    if len(set(robots)) != len(robots):
        raise ConfigError(f"argument robots:={values['robots']} names one twice")
    common = {"run_dir": str(run_dir), "robots": robots, "autostart": True}
    if name == "reward":
        chosen = {name: values[name] for name in ("robot", "reward", "realtime", "deadline", "device")}
        return NodeSpec("reward_node", "reward_node", name, f"/{values['namespace']}", {**chosen, **common})
    chosen = {name: values[name] for name in ("robot", "policy", "learner", "seed", "realtime", "device", "weights", "weights_key")}
    parameters = {**chosen, **_learner_parameters(values), **common}
    return NodeSpec(
        "learner_node", "learner_node", name, f"/{values['namespace']}", parameters, (), _AGAIN[name], values["learner_processes"]
    )


def _without(values: Mapping[str, Any]) -> list[str]:
    """Nodes that run elsewhere. Raises ConfigError."""
    names = [name.strip() for name in values.get("without", "").split(",") if name.strip()]
    for name in names:
        if name not in _APART:
            raise ConfigError(config.unknown("without", name, _APART))
    return names


def _steps(contents: Mapping[str, Any], key: str, source: str, default: int | None = None) -> int:
    """A number of control steps in a YAML file that `source` names. Raises ConfigError."""
    value = contents.get(key, default)
    if value is None:
        raise ConfigError(f"{source}: key '{key}' is missing: control steps between two scores, for example 4")
    if type(value) is not int or value < 1:
        raise ConfigError(f"{source}: key '{key}' is {value!r}; it must be an integer of at least 1 (control steps)")
    return value


def _innermost(policy: Mapping[str, Any]) -> Mapping[str, Any]:
    """The policy that decides how many rows of a chunk are executed: of one that steers another, that one."""
    while isinstance(policy.get("inner"), str):
        policy = config.load_yaml(config.find("policies", policy["inner"]))
    return policy


def deployment(values: Mapping[str, Any], policy: Mapping[str, Any], source: str) -> str:
    """How an evaluated policy acts: the argument, else the policy's YAML, else sampled."""
    chosen = values["deployment"]
    if chosen == "config":
        chosen = policy.get("deployment", "sampled")
        if chosen not in ("greedy", "sampled"):
            raise ConfigError(f"{source}: key 'deployment' must be greedy or sampled, not {chosen!r}")
    return chosen


def help_text(mode: str) -> str:
    """The table of arguments as `whetstone run <mode> --help` shows it; `ros2 launch --show-args` has the same rows."""
    lines = [f"{mode}: {DESCRIPTIONS[mode]}", "", "Arguments (name:=value):"]
    for argument in arguments_of(mode):
        options = argument.options()
        words = f" ({', '.join(options)})" if options else ""
        default = argument.default or "''"
        lines += [f"  {argument.name}:={default}", f"      {argument.description}{words}"]
    return "\n".join(lines)


def _segments(mode: str, values: Mapping[str, Any], contents: Mapping[str, dict[str, Any]]) -> list[Segment]:
    seed = values["seed"]
    if mode == "sim":
        return [Segment("evaluate", "sim", 1, 1_000_000, schedule.training_seeds(seed), True)]
    chosen = deployment(values, contents["policy"], f"policy {values['policy']}")
    if mode == "evaluate":
        if not values["evaluation_episodes"]:
            raise ConfigError("argument evaluation_episodes:=0 leaves nothing to do; use at least 1")
        modes = ("greedy", "sampled") if chosen == "both" else (chosen,)
        test, count = schedule.test_seeds(seed), values["evaluation_episodes"]
        return [Segment("evaluate", word, 1, count, test, word == "greedy") for word in modes]
    if chosen == "both":
        raise ConfigError("argument deployment:=both belongs to evaluate; refine takes config, greedy or sampled")
    segments = schedule.refine_segments(
        seed=seed,
        iterations=values["iterations"],
        episodes=values["episodes"],
        evaluation_episodes=values["evaluation_episodes"],
        deployment_greedy=chosen == "greedy",
        base_evaluation=values["base_evaluation"],
    )
    if not segments:
        raise ConfigError("nothing to do: iterations:=0 and no evaluation")
    return segments


def _check_assets(content: Mapping[str, Any], robot: str, kind: str) -> None:
    """Raises AssetError where a file of weights that the YAML names is missing. `inner` names another file of its folder, config/<kind>."""
    for key in ("weights", "bank", "demonstrations"):
        if isinstance(content.get(key), str):
            asset_path(content[key].replace("{robot}", robot))
    if isinstance(content.get("inner"), str):
        _check_assets(config.load_yaml(config.find(kind, content["inner"])), robot, kind)


def _check_fit(learner: Mapping[str, Any], policy: Mapping[str, Any], values: Mapping[str, Any]) -> None:
    """Raises ConfigError where the learner's YAML names a policy of another plug-in than the chosen one."""
    if not isinstance(learner.get("policy"), str):
        return
    wanted = config.load_yaml(config.find("policies", learner["policy"])).get("plugin", learner["policy"])
    if policy.get("plugin", values["policy"]) != wanted:
        raise ConfigError(f"learner:={values['learner']} does not go with policy:={values['policy']}; use policy:={learner['policy']}")


def _check_model(content: Mapping[str, Any], source: str) -> None:
    """Raises AssetError where a reward model of the user's own is not named or not there: better now than when every node has started."""
    if "model" not in content or "url" in content:  # a server has its own names
        return
    if not content["model"]:
        raise AssetError(
            f"{source}: key 'model' is empty; this reward needs a model folder of your own: copy the file, set 'model' and pass "
            "reward:=/path/of/the/copy.yaml"
        )
    if content["model"] != "pocket" and not Path(str(content["model"])).expanduser().is_dir():
        raise AssetError(f"{source}: model '{content['model']}': no such folder; download the model and set 'model' to its folder")


def _domain(value: Any) -> int:
    if value != "":
        return int(value)
    text = os.environ.get("ROS_DOMAIN_ID", "").strip() or "0"
    if not text.isdigit() or int(text) > 232:
        raise ConfigError(f"environment variable ROS_DOMAIN_ID={text} must be an integer from 0 to 232")
    return int(text)


def _namespace(argument: str, text: str) -> str:
    text = text.strip().strip("/")
    if not re.fullmatch(r"[A-Za-z][A-Za-z0-9_]*(/[A-Za-z][A-Za-z0-9_]*)*", text):
        raise ConfigError(f"argument {argument}:={text} is no ROS name; use letters, digits and _ (parts joined by /)")
    return text


def _run_dir(values: Mapping[str, Any], mode: str) -> Path:
    if values["run_dir"]:
        return Path(values["run_dir"])
    moment = datetime.datetime.now().strftime("%Y%m%d-%H%M%S-%f")
    names = "-".join(Path(values[name]).stem for name in ("robot", "task") if name in values)
    return Path("runs").absolute() / f"{moment}-{mode}-{names}"


def _environment(values: Mapping[str, Any], run_dir: Path) -> dict[str, str]:
    """What nodes see beside the caller's environment. One thread each where several run in parallel."""
    threads = {} if "robots" in values else {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    return {
        **threads,
        "ROS_DOMAIN_ID": str(values["domain_id"]),
        "ROS_AUTOMATIC_DISCOVERY_RANGE": os.environ.get("ROS_AUTOMATIC_DISCOVERY_RANGE", "LOCALHOST"),
        "ROS_LOG_DIR": str(run_dir / "logs"),
        "LP_NUM_THREADS": "1",
        "PYTHONUNBUFFERED": "1",
        "RCUTILS_COLORIZED_OUTPUT": "0",
    }
