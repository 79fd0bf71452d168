"""`whetstone evaluate RECORDING... reward:=... policy:=...`: models judged on what was recorded.

Role: reads the command line, says what is wrong with it in one line, and what came out. Does not depend on ROS.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from rich.console import Console

from robot_bringup.evaluation import recordings
from robot_bringup.evaluation.models import named
from robot_bringup.evaluation.recordings import Source
from robot_bringup.evaluation.settings import Settings
from whetstone import arguments, config
from whetstone.arguments import at_least, expanded, integer, one_of, parse_arguments, seconds, spelled
from whetstone.bags.mapping import load_mapping
from whetstone.errors import ConfigError, InputError
from whetstone.profile import load_profile
from whetstone.task import load_task

ARGUMENTS = {
    "reward": "", "policy": "", "robot": "", "task": "", "cameras": "", "mapping": "", "start": "", "end": "", "resize": "no",
    "outcomes": "", "controls": "4", "deployment": "greedy", "device": "cpu", "threads": "1", "jobs": "1", "seed": "0", "out": "evaluation",
}  # fmt: skip
HELP = """whetstone evaluate RECORDING... name:=value ...: reward models and policies judged on what was recorded

RECORDING: a bag (rosbag2 or ROS 1), a folder of bags, a run's folder, a folder of episodes or one of them.

  reward:=''           reward models, joined by commas: files of config/rewards, or paths that end in .yaml
  policy:=''           policies, joined by commas: files of config/policies or paths; NAME@SNAPSHOT.safetensors with other weights
  robot:=''            file of config/robots; empty: the one that the recordings say they are of
  task:=''             name of a file of config/tasks, or what is to be done in words; empty: what the recording says
  cameras:=''          CAMERA=TOPIC,...: which of a bag's image topics a camera is; empty: by name
  mapping:=''          which topic is what where names do not tell: a file of config/bags, or a path (docs/bags.md)
  start:='' end:=''    seconds from a recording's beginning
  resize:=no           what is done with images of another size: no, stretch, crop
  outcomes:=''         truth: the simulator's, of a run; or a YAML file, recording: success|failure; empty: what the recording says
  controls:=4          recordings, not known to have failed, that are played again as what they are not
  deployment:=greedy   how policies act: greedy, sampled
  device:=cpu  seed:=0
  jobs:=1  threads:=1  processes, each with models of its own, and the threads of each
  out:=evaluation      folder of report.html, evaluation.json, scores.parquet, chunks.parquet; what is there already is not made again
"""


def main(words: Sequence[str], console: Console) -> int:
    """Returns the exit code: 1 where a recording could not be evaluated. Raises WhetstoneError where none could."""
    if not words or any(word in ("-h", "--help", "help") for word in words):
        print(HELP, end="")
        return 0
    paths = [word for word in words if ":=" not in word]
    given = parse_arguments([word for word in words if ":=" in word], ARGUMENTS)
    if not paths:
        raise ConfigError("name what is to be evaluated: a bag, a run's folder, episodes (policies on a robot: whetstone run evaluate)")
    from robot_bringup.evaluation import running  # torch and pyarrow, which the other commands do not need

    sources = recordings.find(paths)
    if not any(source.kind == "bag" for source in sources):
        for key in ("cameras", "mapping"):
            if given[key]:
                raise ConfigError(f"argument {key}:={given[key]} is for bags, and there is none among these recordings")
    settings = _settings(given, sources)
    sources = _judged(sources, given["outcomes"])
    sources = _controlled(sources, at_least(given, "controls", 0))
    out, jobs = expanded(given["out"]), at_least(given, "jobs", 1)
    command = f"whetstone evaluate {' '.join(paths)} {spelled(given, ARGUMENTS)}".strip()
    ended = running.evaluate(settings, sources, out, jobs, command)
    for name, why in ended.failed.items():
        console.print(f"not evaluated: {name}: {why}", **_PLAIN)
    for line in ended.shortcomings:
        console.print(f"falls short: {line}", **_PLAIN)
    for line in ended.notes:
        console.print(line, **_PLAIN)
    again = f", {ended.reused} of them before" if ended.reused else ""
    console.print(f"{ended.recordings} recordings evaluated{again}: {out / 'report.html'}", **_PLAIN)
    return 1 if ended.failed else 0


_PLAIN: dict[str, Any] = {"highlight": False, "markup": False, "soft_wrap": True}


def _settings(given: dict[str, str], sources: Sequence[Source]) -> Settings:
    rewards, policies = named(given["reward"], "rewards"), named(given["policy"], "policies")
    if not rewards and not policies:
        raise ConfigError("say what is to be evaluated: reward:=NAME or policy:=NAME, or both")
    robot = given["robot"] or robot_of_all(sources)
    profile = load_profile(robot)
    one_of(given, {"resize": ("no", "stretch", "crop"), "deployment": ("greedy", "sampled")})
    task, instruction = _task(given["task"], profile.asset_name)
    start, end = (seconds(given, key) for key in ("start", "end"))
    if start is not None and end is not None and start >= end:
        raise ConfigError(f"start:={given['start']} is not before end:={given['end']}")
    if given["mapping"]:
        load_mapping(given["mapping"])
    return Settings(
        robot=robot,
        rewards=tuple(rewards),
        policies=tuple(policies),
        mode=given["deployment"],  # type: ignore[arg-type]
        device=given["device"],
        task=task,
        instruction=instruction,
        cameras=arguments.named(given, "cameras"),
        mapping=given["mapping"],
        start=start,
        end=end,
        resize=given["resize"],  # type: ignore[arg-type]
        seed=integer(given, "seed"),
        threads=at_least(given, "threads", 1),
    )


def robot_of_all(sources: Sequence[Source]) -> str:
    """The one that all of them say they are of that can be read. Raises ConfigError where they do not, InputError where none can be."""
    from robot_bringup.evaluation.bag_recordings import robot_in

    robots, unreadable = set[str](), list[InputError]()
    for source in sources:
        try:
            said = recordings.arguments_of(source).get("robot", "") if source.kind == "episode" else robot_in(source.path)
            robots.add(str(said))
        except InputError as error:  # of several it is said when its turn comes
            unreadable.append(error)
    if unreadable and not robots:
        raise unreadable[0]
    if len(robots) == 1 and robots != {""}:
        return robots.pop()
    several = f"are of {', '.join(sorted(robots - {''}))} and others; take them one robot at a time"
    which = several if len(robots) > 1 else "do not say whose they are"
    raise ConfigError(f"the recordings {which}: robot:=NAME, one of {', '.join(config.available('robots'))}")


def _task(text: str, robot: str) -> tuple[str, str]:
    """Name and instruction; of words alone, the words."""
    if not text:
        return "", ""
    if text in config.available("tasks") or text.endswith((".yaml", ".yml")):
        task = load_task(text, robot)
        return task.name, task.instruction
    if " " not in text:
        raise ConfigError(f"{config.unknown('task', text, config.available('tasks'))}, or say it in words")
    return "", text


def _judged(sources: Sequence[Source], word: str) -> list[Source]:
    """The sources with the outcomes that somebody else knows."""
    if not word:
        return list(sources)
    if word == "truth":
        known = {run: recordings.outcomes(run) for run in {one.run for one in sources}}
        found = [replace(one, outcome=known[one.run].get(one.id, ""), judge="the simulator's truth") for one in sources]
        if not any(one.outcome for one in found):
            raise InputError("outcomes:=truth: no truth.jsonl beside these recordings says how they ended; only simulated runs write one")
        return found
    contents, names = config.load_yaml(expanded(word)), [source.name for source in sources]
    for name, outcome in contents.items():
        if outcome not in ("success", "failure"):
            raise ConfigError(f"{word}: '{name}' is {outcome!r}; it must be success or failure")
        if name not in names:
            raise ConfigError(f"{word}: {config.unknown('recording', str(name), names)}")
    return [replace(one, outcome=str(contents[one.name]), judge=word) if one.name in contents else one for one in sources]


def _controlled(sources: Sequence[Source], count: int) -> list[Source]:
    """The first `count` that are not known to have failed are played as controls too."""
    found = []
    for source in sources:
        chosen = count > 0 and source.outcome != "failure"
        count -= chosen
        found.append(replace(source, controls=chosen))
    return found
