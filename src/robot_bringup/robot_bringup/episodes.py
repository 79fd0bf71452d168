"""Looking at the episodes of a run.

Role: `whetstone episodes`: what lies in a rollout store, one episode of it, what is protected and what must go. Does not depend on ROS.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from whetstone.config import unknown
from whetstone.contracts import Rollout
from whetstone.errors import ConfigError, InputError
from whetstone.store import RolloutStore

HELP = """whetstone episodes COMMAND FOLDER ...: the episodes of a run; FOLDER: its directory, or that of its rollouts

  list FOLDER                 one line for each; what cannot be read is set aside in FOLDER/quarantine and named
  show FOLDER EPISODE         one episode: what was seen, done and earned at each decision
  protect FOLDER EPISODE...   keep them whatever the disk budget; unprotect takes it back
  prune FOLDER gb:=N          delete the oldest unprotected ones until all take at most N GB
"""


def main(words: Sequence[str], console: Console) -> int:
    """Returns the exit code. Raises ConfigError and InputError."""
    if not words or words[0] in ("-h", "--help", "help"):
        print(HELP, end="")
        return 0
    commands = {"list": _list, "show": _show, "protect": _protect, "unprotect": _unprotect, "prune": _prune}
    name, *rest = words
    if name not in commands:
        raise ConfigError(unknown("command of episodes", name, commands))
    if not rest:
        raise ConfigError(f"whetstone episodes {name} needs a folder: that of a run, or of its rollouts")
    commands[name](_store(rest[0]), rest[1:], console)
    return 0


def _store(text: str) -> RolloutStore:
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
        shown.add_column(heading, justify="left" if heading in ("episode", "outcome", "") else "right")
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
        "outcome": rollout.outcome + (f" ({rollout.reason})" if rollout.reason else ""),
        "reward model": rollout.reward_model_id or "none",
        "images": ", ".join(f"{name} {'x'.join(map(str, one.shape[2:0:-1]))}" for name, one in rollout.images.items()) or "none",
        "control steps": _steps(rollout),
        "scores": f"{len(rollout.scores.get('stamps', ()))}, {int((~rollout.scores['valid']).sum())} invalid" if rollout.scores else "none",
    }
    for name, value in facts.items():
        console.print(f"{name:<16}{value}", highlight=False, markup=False, soft_wrap=True)
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
    for episode_id in rest:
        store.protect(episode_id, on)
    console.print(f"{'protected' if on else 'no longer protected'}: {', '.join(rest)}", highlight=False, soft_wrap=True)


def _unprotect(store: RolloutStore, rest: Sequence[str], console: Console) -> None:
    _protect(store, rest, console, on=False)


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
