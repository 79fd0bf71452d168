"""The launch plan: which nodes a run consists of.

Role: one function from the values of launch arguments (run_arguments.py) to nodes, parameters and environment. `whetstone run` starts the
plan as supervised processes, launch/*.launch.py turn it into launch_ros actions. Pure data: reads configuration, creates nothing, starts
nothing. Does not depend on ROS.
"""

from __future__ import annotations

import datetime
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from robot_bringup import records, resuming, schedule
from robot_bringup.bags.topics import extra_topics
from robot_bringup.resetting import ways
from robot_bringup.run_arguments import APART, LOCAL, Mode, arguments_of, resolve
from robot_bringup.schedule import Segment
from robot_bringup.simulators import EXTERNAL, SIMULATORS, robot_in, world
from robot_bringup.so100 import bringup
from whetstone import config
from whetstone.arguments import ros_domain
from whetstone.assets import asset_path
from whetstone.completion import Completion
from whetstone.errors import AssetError, ConfigError
from whetstone.profile import load_profile
from whetstone.signing import load_key
from whetstone.task import load_task

ENDLESS = 2**31 - 1
EXTERNAL_RESET = 120.0
"""Seconds that the scene of a simulator that is not ours may take to come back: its arm is parked slowly."""
_AGAIN = {"learner": ("restarted",), "bag_recorder": ("restarted",)}
"""Nodes that go on from the disk after they were killed. As several processes they do when torchrun is killed, which they die with, and not
when one of them is: torchrun's end does not tell that from an error of theirs. None of them moves the arm:
after the death of one that does, a human has a look first."""


@dataclass(frozen=True)
class NodeSpec:
    """One process: `executable` of ROS package `package`, its node name, namespace and parameters. again: parameters that are true where it
    is started again after it was killed in the middle of the run; without any, its death ends the run. processes: of a torchrun, if more
    than one. stopping: seconds that it may take to stop, where others get less."""

    package: str
    executable: str
    name: str
    namespace: str
    parameters: dict[str, Any]
    remappings: tuple[tuple[str, str], ...] = ()
    again: tuple[str, ...] = ()
    processes: int = 1
    stopping: float = 0.0


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


def plan(mode: Mode, given: Mapping[str, str] | None = None) -> Plan:
    """The run that the arguments describe. Everything that can be wrong before a node starts is a ConfigError here."""
    given = dict(given or {})
    table = {argument.name: argument for argument in arguments_of(mode)}
    if "resume" in table and table["resume"].read(given.get("resume", "false")):
        given = resuming.arguments(given, mode, lambda name, text: table[name].read(text) if name in table else text, LOCAL)
    values = resolve(mode, given)
    sim = values.get("sim", "mujoco")
    real, external = sim == "none", sim in EXTERNAL
    if real:
        _check_real(mode, values)
    if values.get("start") == "service" and not real:
        raise ConfigError("argument start:=service needs sim:=none beside it: a simulated scene is always ready")
    for name, needed in (("driver", "sim"), ("port", "driver"), ("calibration", "driver")):
        if values.get(name) and values.get(needed) in (*SIMULATORS, ""):
            raise ConfigError(f"argument {name}:={values[name]} needs {needed}:={'none' if needed == 'sim' else 'so100'} beside it")
    if values.get("record_topics"):
        extra_topics(values["record_topics"])
        if not values["record"]:
            raise ConfigError(f"record_topics:={values['record_topics']} needs record:=true")
    if external and given.get("reset", "park,prompt") != "park,prompt":
        raise ConfigError(
            f"reset:={given['reset']} is for sim:=none; with sim:={sim} the arm is parked and the simulator places the objects"
        )
    values["domain_id"] = ros_domain(str(values["domain_id"]))
    default = f"{mode}s" if mode in APART and not values.get("bag") else Path(values["robot"]).stem
    namespace = values["namespace"] = _namespace("namespace", values["namespace"] or default)
    values["robot"] = robot_in(values["robot"], sim)
    profile = load_profile(values["robot"])
    kinds = {"robot": "robots", "task": "tasks", "policy": "policies", "reward": "rewards", "learner": "learners", "driver": "drivers"}
    files = {name: config.find(kind, values[name]) for name, kind in kinds.items() if values.get(name)}
    contents = {name: config.load_yaml(path) for name, path in files.items()}
    files |= {f"robot extends {path.stem}": path for path in config.bases("robots", values["robot"])}
    if values.get("weights") and not Path(values["weights"]).is_file():
        raise ConfigError(f"weights:={values['weights']}: no such file")
    for name in ("policy", "reward"):
        if name in contents:
            _check_assets(contents[name], profile.asset_name, kinds[name])
    if "learner" in contents:
        _check_fit(contents["learner"], contents["policy"], values)
    if "reward" in contents:
        _check_model(contents["reward"], config.show(files["reward"]))
    if values.get("weights_key"):
        load_key(values["weights_key"])
    without = _without(values)
    run_dir = _run_dir(values, mode)
    if values.get("bag"):
        nodes = _replayed(values, run_dir)
        return Plan(mode, values, nodes, (), run_dir, _environment(values, run_dir), values["domain_id"], namespace, files, nodes[-1].name)
    if mode in APART:
        node = _shared(mode, values, run_dir)
        return Plan(mode, values, (node,), (), run_dir, _environment(values, run_dir), values["domain_id"], namespace, files, node.name)
    task = load_task(values["task"], profile.asset_name)
    segments = _segments(mode, values, contents)
    realtime = mode == "sim" or sim != "mujoco" or values["realtime"]
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
    specific: dict[str, tuple[str, str, dict[str, Any]]] = {}
    if values["record"]:
        # First: it is active before anybody else says anything.
        recording = {"split_mb": values["record_split_mb"], "budget_gb": values["bag_budget_gb"], "topics": values["record_topics"]}
        specific["bag_recorder"] = ("robot_bringup", "bag_recorder", {"wall_time": real, **recording})
    stopping: dict[str, float] = {}
    if real and values["driver"]:
        # First: the others need joint states, and it parks the arm last.
        told = bringup.parameters(values["robot"], values["driver"], values["port"], values["calibration"])
        specific[bringup.EXECUTABLE] = ("robot_bringup", bringup.EXECUTABLE, told)
        stopping[bringup.EXECUTABLE] = bringup.stopping(told)
    if real:
        specific["scene"] = ("robot_bringup", "scene", {name: values[name] for name in ("reset", "reset_episode")})
    elif external:
        # In mode sim there is no policy node to move the arm: the objects alone are brought back.
        parts = {
            "reset": "place" if mode == "sim" else "park,place",
            "objects": "gazebo" if sim == "gazebo" else "topics",
            "world": world(namespace),
        }
        specific["scene"] = ("robot_bringup", "scene", parts)
    else:
        stepping = {"pretty": values["pretty"], "wait_for_reward": mode == "refine" and not realtime, "reward_every": every}
        specific["simulator"] = ("robot_bringup", "simulator", stepping)
    if mode == "refine" and "reward" not in without:
        specific["reward"] = ("reward_node", "reward_node", {})
    if mode != "sim":
        if realtime:
            specific["watchdog"] = ("policy_node", "watchdog", {"hardware": real, "patience": values["watchdog_patience"]})
        specific["policy"] = (
            "policy_node",
            "policy_node",
            {"gated": realtime, "inference": values["inference"], "chunking": values["chunking"]},
        )
    if mode == "refine" and "learner" not in without:
        specific["learner"] = ("learner_node", "learner_node", _learner_parameters(values))
    if mode != "sim" and not real:
        specific["evaluator"] = ("robot_bringup", "evaluator", {})
    manager: dict[str, Any] = {
        "schedule": schedule.to_json(segments),
        "managed": list(specific),
        "max_steps": ENDLESS if mode == "sim" else task.max_steps,
        "reward_every": every,
        "resume": values.get("resume", False),
        "await_learner": mode == "refine" and any(segment.mode == "train" for segment in segments),
    }
    if real:
        manager |= {"reset_deadline": values["reset_patience"], "simulated": False, "await_start": values["start"] == "service"}
    if external:
        manager["reset_deadline"] = EXTERNAL_RESET
    if mode == "refine" and "success" in contents["reward"]:
        completion = config.parse(Completion, contents["reward"]["success"], f"{config.show(files['reward'])}: success")
        manager |= {"success_threshold": completion.threshold, "success_frames": completion.frames, "success_progress": completion.progress}
    specific["episode_manager"] = ("robot_bringup", "episode_manager", manager)
    processes = {"learner": values.get("learner_processes", 1)}
    nodes = tuple(
        NodeSpec(
            package,
            executable,
            name,
            f"/{namespace}",
            {**common, **parameters},
            again=_AGAIN.get(name, ()),
            processes=processes.get(name, 1),
            stopping=stopping.get(name, 0.0),
        )
        for name, (package, executable, parameters) in specific.items()
    )
    return Plan(mode, values, nodes, tuple(segments), run_dir, _environment(values, run_dir), values["domain_id"], namespace, files)


def _check_real(mode: str, values: Mapping[str, Any]) -> None:
    """Raises ConfigError where the arguments for a robot's scene cannot be what is meant."""
    if mode == "sim":
        raise ConfigError("sim:=none: without a simulator there is nothing to start; start the robot's driver")
    ways(values["reset"], values["reset_episode"])


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


def _replayed(values: Mapping[str, Any], run_dir: Path) -> tuple[NodeSpec, NodeSpec]:
    """The reward node, and what says the bags to it; the run is over when they are."""
    if values["robots"]:
        raise ConfigError(f"argument robots:={values['robots']} is of robots that run; with bag:= give none")
    bags = [str(Path(word.strip()).expanduser().absolute()) for word in values["bag"].split(",") if word.strip()]
    for bag in bags:
        if not Path(bag).exists():
            raise ConfigError(f"argument bag:={bag}: no such file or folder")
    chosen = {name: values[name] for name in ("robot", "reward", "deadline", "device")}
    scoring = NodeSpec("reward_node", "reward_node", "reward", f"/{values['namespace']}", {**chosen, "autostart": True})
    told = {"robot": values["robot"], "bags": bags, "rate": values["bag_rate"], "mapping": values["bag_mapping"]}
    told |= {"instruction": values["bag_instruction"], "rewards": str(run_dir / records.REWARDS), "deadline": values["deadline"]}
    return scoring, NodeSpec("robot_bringup", "replay", "replay", f"/{values['namespace']}", told)


def _without(values: Mapping[str, Any]) -> list[str]:
    """Nodes that run elsewhere. Raises ConfigError."""
    names = [name.strip() for name in values.get("without", "").split(",") if name.strip()]
    for name in names:
        if name not in APART:
            raise ConfigError(config.unknown("without", name, APART))
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
