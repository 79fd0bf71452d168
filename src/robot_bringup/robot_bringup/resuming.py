"""Going on with a run that was cut off: by a power cut, a kill, a Ctrl-C or a failure.

Role: what `resume:=true` means before the first process starts: the run's own arguments again, its records without what was half done, its
logs out of the way. Which episodes are still to come follows from the records. Does not depend on ROS.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from robot_bringup import records
from robot_bringup.schedule import PlannedEpisode
from whetstone import files, jsonfile
from whetstone.errors import ConfigError, InputError

RESUMED = "resumed"
"""Key of run.json: how often the run was gone on with."""


def arguments(given: Mapping[str, str], mode: str, read: Callable[[str, str], Any], free: Collection[str]) -> dict[str, str]:
    """The arguments that the run was begun with, and over them those given now.

    read: (name, text) -> typed value. free: arguments that may be others than before. Raises ConfigError where there is no such run, where
    it is over, or where an argument that shapes the result differs.
    """
    if not given.get("run_dir"):
        raise ConfigError("resume:=true needs run_dir:=, the folder of the run that is to go on")
    run_dir = Path(read("run_dir", given["run_dir"]))
    settings = jsonfile.read(run_dir / records.SETTINGS)
    if settings is None:
        raise ConfigError(f"run_dir:={run_dir} holds no run to go on with ({records.SETTINGS} is missing)")
    if settings["mode"] != mode:
        raise ConfigError(f"run_dir:={run_dir} holds a run of mode {settings['mode']}; use whetstone run {settings['mode']}")
    outcome = jsonfile.read(run_dir / records.OUTCOME)
    if outcome is not None and outcome["result"] == "finished":
        raise ConfigError(f"run_dir:={run_dir}: this run is over: {outcome['reason']}")
    before = settings["arguments"]
    for name, text in given.items():
        if name in before and name not in free and read(name, text) != before[name]:
            raise ConfigError(f"argument {name}:={text}: the run was begun with {name}:={_text(before[name])}; a resumed run keeps it")
    return {**{name: _text(value) for name, value in before.items()}, **given}


def check(run_dir: Path, configuration_hash: str, files: Mapping[str, Path]) -> dict[str, Any]:
    """The run's settings. Raises ConfigError where its YAML files or assets are others than when it began."""
    settings = jsonfile.read(run_dir / records.SETTINGS)
    if settings["configuration_hash"] == configuration_hash:
        return settings
    texts = {name: path.read_text(encoding="utf-8") for name, path in files.items()}
    changed = [str(files[name]) for name in texts if settings["configuration"].get(name) != texts[name]] or ["the files in assets/"]
    raise ConfigError(f"run_dir:={run_dir}: changed since the run began: {', '.join(changed)}; put it back, or begin a new run")


def tidy(run_dir: Path) -> None:
    """The records keep whole episodes alone, so that what was half done is done again and counted once; logs and outcome of the time before
    are set aside."""
    episodes = {record["episode_id"]: record for record in records.read_all(run_dir / records.EPISODES)}
    judged = {record["episode_id"] for record in records.read_all(run_dir / records.EVALUATION)}
    done = {name for name, record in episodes.items() if record["outcome"] != "aborted" and (record["mode"] == "train" or name in judged)}
    for file in (records.EPISODES, records.EVALUATION, records.TRUTH):
        kept = {record["episode_id"]: record for record in records.read_all(run_dir / file) if record["episode_id"] in done}
        _rewrite(run_dir / file, kept.values())
    updates = {(record["iteration"], record["version"]): record for record in records.read_all(run_dir / records.UPDATES)}
    _rewrite(run_dir / records.UPDATES, updates.values())
    (run_dir / records.OUTCOME).unlink(missing_ok=True)
    logs = run_dir / "logs"
    if logs.exists():
        logs.rename(next(path for path in (run_dir / f"logs-{count}" for count in range(1, 10_000)) if not path.exists()))


def remaining(run_dir: Path, planned: Iterable[PlannedEpisode]) -> tuple[Iterator[PlannedEpisode], PlannedEpisode | None]:
    """What is still to come, and the last episode of the newest iteration whose episodes are all there (its update may be there or not)."""
    done = {record["episode_id"] for record in records.read_all(run_dir / records.EPISODES)}
    episodes = list(planned)
    collected = [one for one in episodes if one.mode == "train" and one.last and one.episode_id in done]
    return (one for one in episodes if one.episode_id not in done), collected[-1] if collected else None


def _text(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _rewrite(path: Path, lines: Iterable[dict[str, Any]]) -> None:
    if not path.exists():
        return
    try:
        with files.replacing(path) as partial:
            partial.touch()
            for line in lines:
                records.append(partial, line)
    except OSError as error:
        raise InputError(f"{path}: cannot be written: {error.strerror}") from None
