"""Looking at the episodes of a run.

Role: `whetstone episodes`: what lies in a rollout store, one episode of it, what is protected and what must go, and the way to and from
LeRobot's datasets. Does not depend on ROS.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from robot_bringup import records
from robot_bringup.bags.folder import FOLDER, RUNNING, BagFolder
from whetstone import jsonfile
from whetstone.arguments import boolean, integer, named, one_of, parse_arguments
from whetstone.config import unknown
from whetstone.contracts import Rollout
from whetstone.errors import ConfigError, InputError
from whetstone.labelling import label
from whetstone.lerobot_export import ExportOptions, export
from whetstone.lerobot_import import ImportOptions, import_dataset
from whetstone.profile import RobotProfile, load_profile
from whetstone.rewards import load_reward
from whetstone.store import RolloutStore

HELP = """whetstone episodes COMMAND FOLDER ...: the episodes of a run; FOLDER: its directory, or that of its rollouts

  list FOLDER                 one line for each; what cannot be read is set aside in FOLDER/quarantine and named
  show FOLDER EPISODE         one episode: what was seen, done and earned at each decision
  protect FOLDER EPISODE...   keep them and their bags whatever the disk budgets; unprotect takes it back
  prune FOLDER gb:=N          delete the oldest unprotected ones until all take at most N GB, with what is set aside
  clear FOLDER interrupted    delete what killed runs left; or quarantine: what cannot be read. Nothing else ever deletes them
  label FOLDER reward:=NAME   score them again with a reward model, in place of what they have; only:= and robot:= as below, device:=cpu
  export FOLDER to:=DATASET   write a LeRobotDataset v3.0 with a progress file for RA-BC; further arguments (docs/rollouts.md):
      only:=all|success|EPISODE,EPISODE  rows:=auto|decisions|steps  images:=video|png|none  reward:=total|success|...
      robot:=NAME (where FOLDER is not a run's)  repo_id:=USER/NAME  format:=lerobot
  import from:=DATASET robot:=NAME to:=FOLDER   a LeRobotDataset v3.0 as demonstrations; further arguments (docs/rollouts.md):
      cameras:=front=FEATURE,...  joints:=JOINT=COLUMN,...|by_position  units:=rad|deg  gripper:=CLOSED,OPEN  task:=NAME  prefix:=demo
      outcome:=auto|success|failure  execute:=8  horizon:=16  resample:=false  resize:=no|stretch|crop  frames:=decisions|all
      episodes:=all|0,2,5  sidecar:=true
"""
_PLAIN: dict[str, Any] = {"highlight": False, "markup": False, "soft_wrap": True}
_LABEL = {"reward": "", "only": "all", "robot": "", "device": "cpu"}
EXPORT_ARGUMENTS = {
    "to": "", "format": "lerobot", "only": "all", "rows": "auto", "images": "video", "reward": "total", "robot": "", "repo_id": "",
}  # fmt: skip
IMPORT_ARGUMENTS = {
    "from": "", "robot": "", "to": "", "cameras": "", "joints": "", "units": "rad", "gripper": "0,1", "task": "imported", "prefix": "demo",
    "outcome": "auto", "execute": "8", "horizon": "16", "resample": "false", "resize": "no", "frames": "decisions", "episodes": "all",
    "sidecar": "true",
}  # fmt: skip


def main(words: Sequence[str], console: Console) -> int:
    """Returns the exit code. Raises ConfigError and InputError."""
    if not words or words[0] in ("-h", "--help", "help"):
        print(HELP, end="")
        return 0
    commands = {
        "list": _list,
        "show": _show,
        "protect": _protect,
        "unprotect": _unprotect,
        "prune": _prune,
        "clear": _clear,
        "label": _label,
        "export": _export,
    }
    name, *rest = words
    if name == "import":
        return _import(rest, console)
    if name not in commands:
        raise ConfigError(unknown("command of episodes", name, [*commands, "import"]))
    if not rest:
        raise ConfigError(f"whetstone episodes {name} needs a folder: that of a run, or of its rollouts")
    commands[name](open_store(rest[0]), rest[1:], console)
    return 0


def open_store(text: str) -> RolloutStore:
    """The store in a folder, or in that of a run. Raises InputError."""
    folder = Path(text).expanduser()
    if (folder / "rollouts").is_dir():
        folder = folder / "rollouts"
    if not folder.is_dir():
        raise InputError(f"{text}: no such folder")
    return RolloutStore(folder)


def _list(store: RolloutStore, rest: Sequence[str], console: Console) -> None:
    if rest:
        raise ConfigError(f"whetstone episodes list takes one folder, not also '{rest[0]}'")
    shown = Table(title=str(store.root), title_justify="left")
    for heading in ("episode", "outcome", "decisions", "weights", "progress", "unlabelled", "MB", ""):
        left = heading in ("episode", "outcome", "")
        shown.add_column(heading, justify="left" if left else "right", no_wrap=heading == "episode")
    before = set(store.quarantined())
    count = successes = total = 0
    for rollout in store.read_all():
        size = store.size(rollout.episode_id)
        progress = rollout.rewards.get("progress", np.empty(0))
        known = progress[np.isfinite(progress)]
        shown.add_row(
            rollout.episode_id,
            rollout.outcome,
            str(len(rollout.stamps)),
            _versions(rollout),
            f"{known[-1]:.2f}" if len(known) else "none",
            str(int(np.isnan(progress).sum())),
            f"{size / 1e6:.1f}",
            "protected" if store.protected(rollout.episode_id) else "",
        )
        count, successes, total = count + 1, successes + (rollout.outcome == "success"), total + size
    if not count:
        console.print(f"{store.root}: no episodes", highlight=False, soft_wrap=True)
    else:
        console.print(shown)
        console.print(f"{count} episodes, {successes} judged successful, {total / 1e6:.1f} MB", highlight=False)
    for name, reason in store.quarantined().items():
        words = "quarantined now" if name not in before else "in quarantine"
        console.print(f"{words}: {name}: {reason}", highlight=False, soft_wrap=True)
    for name, reason in store.interrupted().items():
        console.print(f"interrupted: {name}: {reason} (see {store.root / 'interrupted'})", highlight=False, soft_wrap=True)
    _say_set_aside(store, console)
    bags = BagFolder(store.root.parent / FOLDER)
    if bags.root.is_dir():
        mega = sum(map(bags.size, bags.list())) / 1e6
        console.print(f"{len(bags.list())} bags in {bags.root}, {mega:.1f} MB", highlight=False, soft_wrap=True)
        for name, reason in bags.interrupted().items():
            console.print(f"interrupted: bag {name}: {reason}", highlight=False, soft_wrap=True)
        for name in bags.running():
            words = "it is being written, or its recorder was killed; it can be read as far as it goes"
            console.print(f"not ended: bag {name} in {bags.root / RUNNING}: {words}", highlight=False, soft_wrap=True)


def _say_set_aside(store: RolloutStore, console: Console) -> None:
    for where, (count, size) in store.set_aside().items():
        if count:
            freed = f"`whetstone episodes clear {store.root} {where}` deletes them"
            console.print(f"{where}: {count} folders, {size / 1e6:.1f} MB, which count in the disk budget; {freed}", **_PLAIN)


def _clear(store: RolloutStore, rest: Sequence[str], console: Console) -> None:
    if len(rest) != 1:
        raise ConfigError("whetstone episodes clear takes a folder and one of interrupted and quarantine")
    console.print(f"{store.root / rest[0]}: {store.clear(rest[0]) / 1e6:.1f} MB deleted", **_PLAIN)


def _versions(rollout: Rollout) -> str:
    versions = sorted(set(rollout.policy_versions.tolist()))
    return ",".join(map(str, versions)) or "none"


def _show(store: RolloutStore, rest: Sequence[str], console: Console) -> None:
    if len(rest) != 1:
        raise ConfigError("whetstone episodes show takes a folder and one episode")
    rollout = store.read(rest[0])
    facts: dict[str, Any] = {
        "task": f"{rollout.task}: {rollout.instruction}",
        "iteration, seed": f"{rollout.iteration}, {rollout.seed}",
        "source": rollout.source,
        "outcome": rollout.outcome + (f" ({rollout.reason})" if rollout.reason else ""),
        "reward model": rollout.reward_model_id or "none",
        "images": ", ".join(f"{name} {'x'.join(map(str, one.shape[2:0:-1]))}" for name, one in rollout.images.items()) or "none",
        "control steps": _steps(rollout),
        "scores": f"{len(rollout.scores.get('stamps', ()))}, {int((~rollout.scores['valid']).sum())} invalid" if rollout.scores else "none",
    }
    for name, value in facts.items():
        console.print(f"{name:<16}{value}", **_PLAIN)
    shown = Table()
    names = [name for name in ("progress", "completion", "total") if name in rollout.rewards]
    for heading in ("s", "weights", *names, "first command"):
        shown.add_column(heading, justify="right")
    stamps = [*rollout.stamps.tolist(), None]
    for index, stamp in enumerate(stamps):
        cells = [f"{rollout.rewards[name][index]:.3f}" for name in names]
        if stamp is None:
            shown.add_row("end", "", *cells, "")
            continue
        command = " ".join(f"{value:.2f}" for value in rollout.actions[index, 0])
        shown.add_row(f"{(stamp - stamps[0]) / 1e9:.2f}", str(rollout.policy_versions[index]), *cells, command)
    console.print(shown)


def _steps(rollout: Rollout) -> str:
    if not rollout.steps:
        return "not recorded"
    commanded = np.isfinite(rollout.steps["commanded"]).all(axis=1) if len(rollout.steps["stamps"]) else np.empty(0)
    return f"{len(rollout.steps['stamps'])}, {int(commanded.sum())} with a command"


def _protect(store: RolloutStore, rest: Sequence[str], console: Console, on: bool = True) -> None:
    if not rest:
        raise ConfigError("name the episodes, as `whetstone episodes list` does")
    bags = BagFolder(store.root.parent / FOLDER)
    for episode_id in rest:
        store.protect(episode_id, on)
    with_bag = [episode_id for episode_id in rest if bags.protect(episode_id, on)]
    console.print(f"{'protected' if on else 'no longer protected'}: {', '.join(rest)}", highlight=False, soft_wrap=True)
    if with_bag:
        console.print(f"and the bags in {bags.root}: {', '.join(with_bag)}", highlight=False, soft_wrap=True)


def _unprotect(store: RolloutStore, rest: Sequence[str], console: Console) -> None:
    _protect(store, rest, console, on=False)


def _export(store: RolloutStore, rest: Sequence[str], console: Console) -> None:
    given = parse_arguments(list(rest), EXPORT_ARGUMENTS)
    one_of(given, {"format": ("lerobot",), "rows": ("auto", "decisions", "steps"), "images": ("video", "png", "none")})
    if not given["to"]:
        raise ConfigError("whetstone episodes export needs to:=DATASET, a folder that is not there yet")
    profile = profile_of(store, given)
    picked = chosen(store, given)
    to = Path(given["to"]).expanduser()
    done = export(store, picked, profile, to, ExportOptions(given["rows"], given["images"], given["reward"]))  # type: ignore[arg-type]
    said = f"{to}: {done.episodes} episodes, {done.rows} rows ({done.rows_are}, {float(done.fps):g} per second)"
    unlabelled = f", next.reward of {done.unlabelled} unlabelled (NaN)" if done.unlabelled else ""
    console.print(said + unlabelled, highlight=False, soft_wrap=True)
    _left_out(done.left_out, console)
    name = given["repo_id"] or f"local/{to.name}"
    console.print(f'LeRobotDataset("{name}", root="{to.resolve()}")', **_PLAIN)


def _label(store: RolloutStore, rest: Sequence[str], console: Console) -> None:
    given = parse_arguments(list(rest), _LABEL)
    if not given["reward"]:
        raise ConfigError("whetstone episodes label needs reward:=NAME, a file of config/rewards")
    profile = profile_of(store, given)
    picked, left_out = chosen(store, given), {}
    model = load_reward(given["reward"], profile, given["device"])
    for episode_id in picked:
        try:
            store.rewrite(label(store.read(episode_id), store.frames(episode_id), model, profile))
        except InputError as error:
            left_out[episode_id] = str(error)
    console.print(f"{store.root}: {len(picked) - len(left_out)} episodes scored by {model.provenance.model_id}", **_PLAIN)
    _left_out(left_out, console)
    if left_out and len(left_out) == len(picked):
        raise InputError(f"no episode could be scored: {next(iter(left_out.values()))}")


def profile_of(store: RolloutStore, given: dict[str, str]) -> RobotProfile:
    """Of the robot that `robot` names, else of the run that the store belongs to. Raises ConfigError."""
    robot = given["robot"] or _robot(store)
    if not robot:
        raise ConfigError(f"{store.root} is no run's: say whose joints these are, robot:=NAME")
    return load_profile(robot)


def chosen(store: RolloutStore, given: dict[str, str]) -> list[str]:
    """The episodes that `only` names."""
    if given["only"] == "success":
        return [one for one in store.list() if store.outcome(one) == "success"]
    return store.list() if given["only"] == "all" else given["only"].split(",")


def _left_out(left_out: dict[str, str], console: Console) -> None:
    for episode_id, reason in left_out.items():
        console.print(f"left out: {episode_id}: {reason}", **_PLAIN)


def _import(rest: Sequence[str], console: Console) -> int:
    given = parse_arguments(list(rest), IMPORT_ARGUMENTS)
    for name in ("from", "robot", "to"):
        if not given[name]:
            raise ConfigError(f"whetstone episodes import needs {name}:=; see whetstone episodes --help")
    known = {"units": ("rad", "deg"), "outcome": ("auto", "success", "failure"), "resize": ("no", "stretch", "crop")}
    one_of(given, {**known, "frames": ("decisions", "all")})
    numbers = {name: integer(given, name) for name in ("execute", "horizon")}
    if not 1 <= numbers["execute"] <= numbers["horizon"]:
        raise ConfigError("execute:= must be at least 1 and at most horizon:=")
    by_position = given["joints"] == "by_position"
    options = ImportOptions(
        cameras=named(given, "cameras"),
        joints={} if by_position else named(given, "joints"),
        by_position=by_position,
        units=given["units"],  # type: ignore[arg-type]
        gripper=_gripper(given),
        outcome=given["outcome"],  # type: ignore[arg-type]
        task=given["task"],
        prefix=given["prefix"],
        resample=boolean(given, "resample"),
        resize=given["resize"],  # type: ignore[arg-type]
        frames=given["frames"],  # type: ignore[arg-type]
        sidecar=boolean(given, "sidecar"),
        episodes=None if given["episodes"] == "all" else _numbers(given, "episodes"),
        **numbers,
    )
    store = RolloutStore(Path(given["to"]).expanduser())
    written = import_dataset(Path(given["from"]).expanduser(), store, load_profile(given["robot"]), options)
    console.print(f"{store.root}: {len(written)} episodes: {', '.join(written)}", **_PLAIN)
    return 0


def _numbers(given: dict[str, str], name: str) -> tuple[int, ...]:
    if not all(item.isdigit() for item in given[name].split(",")):
        raise ConfigError(f"argument {name}:={given[name]} is not a list of numbers, as 0,2,5")
    return tuple(int(item) for item in given[name].split(","))


def _gripper(given: dict[str, str]) -> tuple[float, float]:
    try:
        closed, opened = (float(item) for item in given["gripper"].split(","))
        if closed == opened or not np.isfinite([closed, opened]).all():
            raise ValueError
    except ValueError:
        raise ConfigError(f"argument gripper:={given['gripper']} is not CLOSED,OPEN: two numbers that differ") from None
    return closed, opened


def _robot(store: RolloutStore) -> str:
    """The robot of the run that the episodes belong to."""
    settings = jsonfile.read(store.root.parent / records.SETTINGS)
    try:
        return str(settings["arguments"]["robot"]) if settings else ""
    except (KeyError, TypeError):
        return ""


def _prune(store: RolloutStore, rest: Sequence[str], console: Console) -> None:
    name, _, value = rest[0].partition(":=") if len(rest) == 1 else ("", "", "")
    try:
        budget = float(value)
    except ValueError:
        budget = -1.0
    if name != "gb" or not 0 <= budget < float("inf"):
        raise ConfigError("whetstone episodes prune takes a folder and gb:=N, the GB that may stay")
    gone = store.prune(round(budget * 1e9))
    console.print(f"deleted: {', '.join(gone) or 'nothing'}", highlight=False, soft_wrap=True)
    _say_set_aside(store, console)
