"""A bag in rerun.

Role: `whetstone view`: cameras as pictures, joints, commands and scores as curves, phases as a log, on the bag's clock, with a layout to
begin with. Reads through whetstone.bags, in one pass. rerun is imported where it is used; it is not installed by `make setup`.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console

from whetstone.arguments import parse_arguments, seconds
from whetstone.bags.mapping import load_mapping
from whetstone.bags.messages import Message
from whetstone.bags.reader import Bag, open_bag
from whetstone.bags.roles import COMPRESSED, IMAGE, JOINT_STATE, OWN, pictures
from whetstone.contracts import REWARD_VALUES
from whetstone.errors import ConfigError, InputError
from whetstone.images import to_array

HELP = """whetstone view BAG name:=value ...: a bag in rerun, all cameras, joints, commands and scores on one time line

  save:=FILE.rrd        write a recording that `rerun FILE.rrd` opens, instead of opening the viewer here
  topics:=TOPIC,...     these alone; without it every camera, joint state, command, score and phase
  start:=S end:=S       part of the bag, s after its first message
  mapping:=NAME         its definitions: (docs/bags.md), where the bag lacks some
"""
_ARGUMENTS = {"save": "", "topics": "", "start": "", "end": "", "mapping": ""}
_JPEG = "jpeg"
_CURVES = ("std_msgs/msg/Float64MultiArray", "trajectory_msgs/msg/JointTrajectory", JOINT_STATE)


def main(words: Sequence[str], console: Console) -> int:
    """Returns the exit code. Raises ConfigError and InputError."""
    if not words or any(word in ("-h", "--help", "help") for word in words):
        print(HELP, end="")
        return 0
    path, *rest = words
    values = parse_arguments(rest, _ARGUMENTS)
    definitions = load_mapping(values["mapping"]).definitions if values["mapping"] else ""
    with open_bag(path, definitions or None) as bag:
        start, end = (_time(bag, values, name) for name in ("start", "end"))
        wanted = [bag.topic(name).name for name in values["topics"].split(",")] if values["topics"] else _shown(bag)
        if not wanted:
            raise InputError(f"{bag.path}: no camera, no joints, no scores to look at; it has {', '.join(bag.topics)}")
        rerun = _rerun()
        rerun.init("whetstone", recording_id=f"{Path(path).resolve().name}-{bag.start}")
        layout = _layout(bag, wanted)
        if values["save"]:
            rerun.save(values["save"], default_blueprint=layout)
        else:
            rerun.spawn(default_blueprint=layout)
        count = 0
        for message in bag.messages(wanted, start, end):
            rerun.set_time("bag", timestamp=np.datetime64(message.time_ns, "ns"))
            _log(rerun, message)
            count += 1
        for warning in bag.warnings:
            console.print(f"warning: {warning}", highlight=False, markup=False, soft_wrap=True)
        rerun.disconnect()
    told = values["save"] or "the viewer"
    console.print(f"{count} messages of {len(wanted)} topics: {told}", highlight=False, markup=False, soft_wrap=True)
    return 0


def _rerun() -> Any:
    try:
        import rerun
    except ImportError:
        raise ConfigError("whetstone view needs rerun: python -m pip install -r requirements-view.txt") from None
    return rerun


def _time(bag: Bag, values: dict[str, str], name: str) -> int | None:
    found = seconds(values, name)
    return None if found is None else bag.start + round(found * 1e9)


def _shown(bag: Bag) -> list[str]:
    cameras = set(pictures(bag).values())
    kinds = {*_CURVES, *OWN.values()}
    return [topic.name for topic in bag.topics.values() if topic.decodable and (topic.name in cameras or topic.type in kinds)]


def _log(rerun: Any, message: Message) -> None:
    name, kind = message.topic, message.type
    said = message.decode()
    if kind == COMPRESSED and _JPEG in str(said.format).lower():
        rerun.log(name, rerun.EncodedImage(contents=bytes(said.data), media_type="image/jpeg"))
    elif kind in (IMAGE, COMPRESSED):
        rerun.log(name, rerun.Image(to_array(said, name)).compress(jpeg_quality=90))
    elif kind == OWN["reward"]:
        _curves(rerun, name, {value: float(getattr(said, value)) for value in REWARD_VALUES})
    elif kind == OWN["episode"]:
        phase = next(one for one in vars(type(said)) if one.startswith("PHASE_") and getattr(said, one) == said.phase)
        rerun.log(name, rerun.TextLog(f"{phase.removeprefix('PHASE_').lower()} {said.episode_id} {said.instruction} {said.reason}".strip()))
    elif kind == OWN["action"]:
        _curves(rerun, name, {"seam_jump": float(said.seam_jump), "latency": float(said.latency)})
    elif kind == OWN["truth"]:
        _curves(rerun, name, {"stage": float(said.stage), "success": float(said.success)})
    elif hasattr(said, "points"):
        _curves(rerun, name, dict(zip(said.joint_names, map(float, said.points[-1].positions))) if said.points else {})
    elif hasattr(said, "data"):
        _curves(rerun, name, {str(place): float(value) for place, value in enumerate(said.data)})
    elif hasattr(said, "position"):
        _curves(rerun, name, dict(zip(said.name if hasattr(said, "name") else said.names, map(float, said.position))))


def _curves(rerun: Any, name: str, values: dict[str, float]) -> None:
    """One curve for each that has a value."""
    for key, value in values.items():
        if np.isfinite(value):
            rerun.log(f"{name}/{key}", rerun.Scalars(value))


def _layout(bag: Bag, topics: Sequence[str]) -> Any:
    """Cameras above, a plot for every other topic below, phases at the side."""
    from rerun import blueprint

    cameras, plots, logs = [], [], []
    for name in topics:
        kind = bag.topics[name].type
        if kind in (IMAGE, COMPRESSED):
            cameras.append(blueprint.Spatial2DView(origin=name, name=name))
        elif kind == OWN["episode"]:
            logs.append(blueprint.TextLogView(origin=name, name=name))
        else:
            plots.append(blueprint.TimeSeriesView(origin=name, name=name))
    rows = [one for one in (blueprint.Horizontal(*cameras) if cameras else None, blueprint.Grid(*plots) if plots else None) if one]
    return blueprint.Blueprint(blueprint.Horizontal(blueprint.Vertical(*rows), *logs) if logs else blueprint.Vertical(*rows))
