"""Bags, episode stores and LeRobot datasets, each from each.

Role: `whetstone convert`. What Whetstone recorded goes through the joining of the learner node (hearing.py), other stacks' bags are sampled
(whetstone.bags.sampling), stores are written as bags (whetstone.bags.writing); to and from LeRobot is `whetstone episodes`. What had no
counterpart is said. Does not depend on rclpy.
"""

from __future__ import annotations

import re
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
from rich.console import Console

from robot_bringup import episodes
from robot_bringup.bags.hearing import LOCKSTEP, SOURCE, hear
from whetstone.arguments import expanded, integer, named, one_of, seconds
from whetstone.bags.files import bag_name, bags_in, find_files
from whetstone.bags.mapping import Mapping, load_mapping
from whetstone.bags.reader import Bag, open_bag
from whetstone.bags.roles import ROBOT, find_roles, instruction_of, robot_of
from whetstone.bags.sampling import SamplingOptions, sample
from whetstone.bags.writing import write_bag
from whetstone.config import unknown
from whetstone.contracts import Rollout
from whetstone.errors import ConfigError, InputError
from whetstone.profile import RobotProfile, load_profile
from whetstone.store import RolloutStore

HELP = """whetstone convert FROM TO name:=value ...: bags, episodes and LeRobot datasets, each from each

  FROM   a bag (folder or file), a folder of bags, a run or its rollouts, or a LeRobotDataset v3.x
  TO     a folder: of episodes, of bags (one for each episode), or a new LeRobotDataset v3.0
  as:=episodes|lerobot|bags   what TO becomes; without it a bag or a dataset becomes episodes, episodes become a dataset

From bags (docs/bags.md):
  robot:=NAME                 whose joints these are; our own bags know it
  mapping:=NAME|FILE.yaml     which topic is what, where names do not tell (config/bags)
  cameras:=front=TOPIC,...    before all else; joint_states:=TOPIC, namespace:=NAME likewise
  start:=S end:=S             part of the bag, s after its first message
  frames:=all|decisions       images of every control step, or those at decisions alone
  definitions:=FOLDER         .msg files for types that the bag does not define
From other stacks' bags besides, each of which becomes one demonstration:
  instruction:=WORDS task:=imported outcome:=success|failure prefix:=bag execute:=8 horizon:=16 clock:=auto|header|log
  resize:=no|stretch|crop
To bags:
  robot:=NAME (a run knows it) only:=all|success|EPISODE,EPISODE
To and from LeRobot: the arguments of whetstone episodes export and import.
"""
Kind = Literal["bags", "episodes", "lerobot"]
_BAGS = {
    "robot": "", "mapping": "", "cameras": "", "joint_states": "", "namespace": "", "start": "", "end": "", "frames": "all",
    "definitions": "", "instruction": "", "task": "imported", "outcome": "success", "prefix": "bag", "execute": "8", "horizon": "16",
    "clock": "auto", "resize": "no",
}  # fmt: skip
_TO_BAGS = {"robot": "", "only": "all"}
_DEFAULT: dict[Kind, Kind] = {"bags": "episodes", "lerobot": "episodes", "episodes": "lerobot"}
_PLAIN: dict[str, Any] = {"highlight": False, "markup": False, "soft_wrap": True}


@dataclass
class Converted:
    """written: names of what there is now. left_out: name -> why. lost: what had no counterpart. warnings: of the bags."""

    written: list[str] = field(default_factory=list)
    left_out: dict[str, str] = field(default_factory=dict)
    lost: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)


def main(words: Sequence[str], console: Console) -> int:
    """Returns the exit code. Raises ConfigError and InputError."""
    if not words or any(word in ("-h", "--help", "help") for word in words):
        print(HELP, end="")
        return 0
    paths = [word for word in words if ":=" not in word]
    if len(paths) != 2:
        raise ConfigError("whetstone convert needs FROM and TO, and then name:=value; see whetstone convert --help")
    source, target = (expanded(path) for path in paths)
    given = dict(word.split(":=", 1) for word in words if ":=" in word)
    kind = kind_of(source)
    wanted: Any = given.pop("as", _DEFAULT[kind])
    one_of({"as": wanted}, {"as": ("episodes", "lerobot", "bags")})
    if wanted == kind:
        raise ConfigError(f"{source} are {kind} already; as:= says what {target} is to become")
    first, second = _stages(kind, wanted, given)
    if target.exists() and source.exists() and target.samefile(source):
        raise ConfigError(f"{target} is what is converted; name another folder to write to")
    if kind != "episodes" and wanted != "episodes":
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".convert-", dir=target.parent) as between:
            code = _convert(kind, "episodes", source, Path(between), first, console, say=False)
            return code or _convert("episodes", wanted, Path(between), target, second, console)
    return _convert(kind, wanted, source, target, first or second, console)


def kind_of(path: Path) -> Kind:
    """What lies there. Raises InputError where it is none of them."""
    if (path / "meta" / "info.json").is_file():
        return "lerobot"
    if (path / "rollouts").is_dir() or (path.is_dir() and any(path.glob("*/meta.json"))):
        return "episodes"
    if path.is_dir() and bags_in(path):
        return "bags"
    find_files(path)  # says what is wrong
    return "bags"


def _stages(kind: Kind, wanted: Kind, given: dict[str, str]) -> tuple[dict[str, str], dict[str, str]]:
    """The arguments of the step to episodes and of the step from them; `robot` is both's. Raises ConfigError for one that is nobody's."""
    first = {"bags": set(_BAGS), "lerobot": set(episodes.IMPORT_ARGUMENTS) - {"from", "to"}, "episodes": set()}[kind]
    second = {"bags": set(_TO_BAGS), "lerobot": set(episodes.EXPORT_ARGUMENTS) - {"to"}, "episodes": set()}[wanted]
    for name in given:
        if name not in first | second:
            raise ConfigError(unknown("argument", name, sorted({"as", *first, *second})))
    return {name: text for name, text in given.items() if name in first}, {name: text for name, text in given.items() if name in second}


def _convert(kind: Kind, wanted: Kind, source: Path, target: Path, given: dict[str, str], console: Console, say: bool = True) -> int:
    words = [f"{name}:={text}" for name, text in given.items()]
    if wanted == "lerobot":
        code = episodes.main(["export", str(source), f"to:={target}", *words], console)
        console.print(f"no counterpart: chunks, latents, scores, the last frame: they are in {target}/whetstone", **_PLAIN)
        return code
    if kind == "lerobot":
        return episodes.main(["import", f"from:={source}", f"to:={target}", *words], console)
    done = bags_to_episodes(source, target, given) if kind == "bags" else episodes_to_bags(source, target, given)
    for line in done.warnings:
        console.print(f"warning: {line}", **_PLAIN)
    for name, reason in done.left_out.items():
        console.print(f"left out: {name}: {reason}", **_PLAIN)
    for line in done.lost:
        console.print(f"no counterpart: {line}", **_PLAIN)
    if not done.written:
        raise InputError(f"{source}: nothing could be converted: {next(iter(done.left_out.values()), 'there is no episode in it')}")
    if say:
        console.print(f"{target}: {len(done.written)} {wanted}: {', '.join(done.written)}", **_PLAIN)
    return 0


def bags_to_episodes(source: Path, target: Path, given: dict[str, str]) -> Converted:
    """Every bag below `source` (or itself), each read once. Raises InputError where a single bag cannot be converted."""
    values = {**_BAGS, **given}
    one_of(values, {"frames": ("all", "decisions"), "outcome": ("success", "failure"), "clock": ("auto", "header", "log")})
    one_of(values, {"resize": ("no", "stretch", "crop")})
    store, done = RolloutStore(target), Converted()
    bags = (bags_in(source) if source.is_dir() else []) or [source]
    for path in bags:
        try:
            _one_bag(path, store, values, done)
        except InputError as error:
            if len(bags) == 1:
                raise
            done.left_out[path.name] = str(error)
    done.lost = list(dict.fromkeys(done.lost))
    return done


def _one_bag(path: Path, store: RolloutStore, values: dict[str, str], done: Converted) -> None:
    mapping = load_mapping(values["mapping"]) if values["mapping"] else Mapping()
    with open_bag(path, values["definitions"] or mapping.definitions or None) as bag:
        profile = _profile_of(bag, values["robot"])
        start, end = (seconds(values, name) for name in ("start", "end"))
        roles = find_roles(
            bag, profile, mapping, _cameras_of(bag, profile, values), named(values, "cameras"), values["joint_states"], values["namespace"]
        )  # fmt: skip
        if roles.ours:
            ends = [None if one is None else bag.start + round(one * 1e9) for one in (start, end)]
            heard = hear(bag, roles, profile, store, values["frames"] == "all", *ends)
            done.written += heard.written
            done.left_out |= heard.left_out
            used = {*roles.cameras.values(), roles.joint_states, *(topic for role, topic in roles.own.items() if role != "truth")}
        else:
            name = f"{values['prefix']}-{re.sub(r'[^A-Za-z0-9._-]+', '-', bag_name(path))}"
            if name in store.list():
                raise InputError(f"episode '{name}' is in {store.root} already: name another folder, or another prefix:=")
            options = SamplingOptions(
                execute=integer(values, "execute"),
                horizon=integer(values, "horizon"),
                start=start,
                end=end,
                clock=values["clock"],  # type: ignore[arg-type]
                resize=values["resize"],  # type: ignore[arg-type]
                frames=values["frames"],  # type: ignore[arg-type]
                outcome=values["outcome"],
                task=values["task"],
                instruction=values["instruction"] or instruction_of(bag, mapping),
            )
            if not 1 <= options.execute <= options.horizon:
                raise ConfigError("execute:= must be at least 1 and at most horizon:=")
            sampled = sample(bag, roles, profile, store, name, options)
            done.written.append(name)
            done.lost += [f"{path.name}: {note}" for note in sampled.notes]
            if not options.instruction:
                done.lost.append(f"{path.name}: the bag does not say what the robot was told; give instruction:=WORDS")
            used = set(roles.used)
        done.lost += _unused(bag, used)
        done.warnings += bag.warnings


def _cameras_of(bag: Bag, profile: RobotProfile, values: dict[str, str]) -> list[str] | None:
    """Ours that were recorded, where the bag is ours: a run may have used fewer than the robot has."""
    if values["cameras"]:
        return list(named(values, "cameras"))
    recorded = [
        one.name for one in profile.cameras if any(topic.endswith(f"/{one.topic}") for topic in bag.topics if bag.topics[topic].count)
    ]
    return recorded or None


def _unused(bag: Bag, used: set[str]) -> Iterator[str]:
    for topic in bag.topics.values():
        if topic.name not in used and topic.count:
            yield f"{topic.name} ({topic.type})"


def _profile_of(bag: Bag, robot: str) -> RobotProfile:
    name = robot or robot_of(bag)
    if not name:
        raise ConfigError(f"{bag.path}: the bag does not say whose joints these are: robot:=NAME")
    return load_profile(name)


def episodes_to_bags(source: Path, target: Path, given: dict[str, str]) -> Converted:
    """One bag for each episode, TO/EPISODE."""
    values, store = {**_TO_BAGS, **given}, episodes.open_store(str(source))
    profile, done = episodes.profile_of(store, values), Converted()
    without_frames = 0
    for name in episodes.chosen(store, values):
        try:
            rollout, frames = store.read(name), store.frames(name)
            write_bag(rollout, frames, profile, target / name, _metadata(rollout, profile))
        except InputError as error:
            done.left_out[name] = str(error)
            continue
        done.written.append(name)
        without_frames += frames is None
    if without_frames:
        done.lost.append(f"images of control steps between decisions: {without_frames} episodes do not have them (record_frames:=all)")
    return done


def _metadata(rollout: Rollout, profile: RobotProfile) -> dict[str, str]:
    """Under the keys of the recorder's own bags."""
    steps = rollout.steps.get("stamps", rollout.stamps)
    return {
        ROBOT: profile.name,
        "whetstone.namespace": "/",
        "whetstone.task": rollout.task,
        "whetstone.episode_id": rollout.episode_id,
        "whetstone.instruction": rollout.instruction,
        LOCKSTEP: str(bool(np.isin(rollout.stamps, steps).all())).lower(),
        SOURCE: rollout.source,
    }
