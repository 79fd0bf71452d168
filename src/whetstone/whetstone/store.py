"""Rollouts on disk.

Role: one folder per episode, `meta.json` + `arrays.npz` (and `frames.log`, where every frame was recorded), written under a temporary name
and renamed when complete, so that a folder that is there is whole. An episode that still runs is a folder in `running/` that is only
appended to; what a killed process left there goes to `interrupted/`. What cannot be read is set aside in `quarantine/` with the reason.
Neither is deleted but by a human's word (`clear`), though both count when the disk budget is spent; what is protected stays then. No
pickle. Depends on numpy only.
"""

from __future__ import annotations

import errno
import json
import os
import re
import shutil
import uuid
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np

from whetstone.budget import PARTIAL, PROTECTED, prune
from whetstone.contracts import Rollout
from whetstone.errors import InputError
from whetstone.files import replacing, sweep, sync, sync_folder
from whetstone.frames import Frames, append
from whetstone.record_log import Entry, RecordLog, entries

_FORMAT = 3
_READABLE = (1, 2, 3)
"""Format 1 knew no `scores` and `steps`, format 2 no `end`, `source` and `steps/intervention`."""
DAMAGED = (OSError, ValueError, KeyError, TypeError, EOFError, RuntimeError, zlib.error, zipfile.BadZipFile, InputError)
"""What reading damaged arrays or texts of a rollout may raise."""
_QUARANTINE, _RUNNING, _INTERRUPTED = "quarantine", "running", "interrupted"
_EVENTS, _FRAMES = "events.log", "frames.log"
_REPLACED = ".replaced-"
_RESERVE = 64 * 1024 * 1024  # bytes that stay free beside an episode
_META = {
    "episode_id": str,
    "iteration": int,
    "task": str,
    "instruction": str,
    "seed": int,
    "outcome": str,
    "reason": str,
    "reward_model_id": str,
}
_LATER: dict[str, tuple[Callable[[Any], Any], Any]] = {
    "end": (lambda value: None if value is None else int(value), None),
    "source": (str, "policy"),
}
"""What older formats lack: how to read it, and what it is there."""
_ARRAYS = ("stamps", "proprioception", "actions", "log_probabilities", "policy_versions")
_OPTIONAL = ("latents", "last_proprioception")
_GROUPS = ("images", "rewards", "last_images", "scores", "steps")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")


class RunningEpisode:
    """What has been heard of an episode that is not over: `event` and `frame` append to its files at once. InputError: the disk is full."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        try:
            folder.mkdir(parents=True)
            self._events = RecordLog(folder / _EVENTS)
        except OSError as error:
            raise _cannot_write(folder, error) from None
        self._frames: RecordLog | None = None
        self.event({"record": uuid.uuid4().hex})

    def event(self, header: dict[str, Any], payload: bytes = b"") -> Entry:
        """Whatever the recorder was told."""
        try:
            return self._events.append(header, payload)
        except OSError as error:
            raise _cannot_write(self.folder, error) from None

    def frame(self, camera: str, stamp: int, data: bytes) -> None:
        """One encoded frame (whetstone.frames.encode); it stays with the episode."""
        try:
            if self._frames is None:
                self._frames = RecordLog(self.folder / _FRAMES)
            append(self._frames, camera, stamp, data)
        except OSError as error:
            raise _cannot_write(self.folder, error) from None

    @property
    def events(self) -> Path:
        return self.folder / _EVENTS

    def close(self) -> None:
        """Nothing more comes."""
        self._events.close()
        if self._frames is not None:
            self._frames.close()

    def discard(self) -> None:
        """It is not worth keeping (aborted)."""
        self.close()
        shutil.rmtree(self.folder, ignore_errors=True)


class RolloutStore:
    """Episodes under `root`. Safe to read while another process writes."""

    def __init__(self, root: str | os.PathLike[str]) -> None:
        self.root = Path(root)

    def begin(self, episode_id: str) -> RunningEpisode:
        """The files of an episode that begins; `write` makes it final. What an episode of that name had left there is set aside. Raises
        InputError where they cannot be made."""
        folder = self.root / _RUNNING / _folder_name(episode_id)
        self._check_space(0)
        if folder.exists():
            self.interrupt(episode_id, None, "it began again")
        return RunningEpisode(folder)

    def write(self, rollout: Rollout, frames: Iterable[tuple[str, int, bytes]] | None = None) -> Path:
        """Write one episode; what `begin` made for it ends here. One of the same id is replaced; if it is another recording (a later run of
        the same robot), it goes to `interrupted/`. Returns its folder.

        frames: camera, stamp (ns) and encoded picture of every frame, where there are more than those at decisions and `begin` did not
        take them. Raises InputError where that is not possible.
        """
        _check(rollout)
        name = _folder_name(rollout.episode_id)
        running = self.root / _RUNNING / name
        size = sum(array.nbytes for array in to_arrays(rollout).values())
        partial = self.root / f"{PARTIAL}{os.getpid()}-{name}"
        final = self.root / name
        try:
            self._check_space(size)
            shutil.rmtree(partial, ignore_errors=True)
            partial.mkdir()
            with (partial / "arrays.npz").open("wb") as file:
                write_arrays(file, to_arrays(rollout))
                sync(file)
            if frames is not None:
                with RecordLog(partial / _FRAMES) as log:
                    for camera, stamp, data in frames:
                        append(log, camera, stamp, data)
                    log.sync()
            elif (running / _FRAMES).exists():
                # A second name, so that nothing is lost whenever this process dies.
                _link(running / _FRAMES, partial / _FRAMES)
                with (partial / _FRAMES).open("ab") as file:
                    sync(file)
            with (partial / "meta.json").open("w", encoding="utf-8") as file:
                json.dump({**_meta(rollout), "record": _record(running)}, file, indent=1, ensure_ascii=False)
                sync(file)
            replaced = self.root / f"{_REPLACED}{name}"
            if (record := _record(running)) and _final_record(final) not in ("", record):
                self._put_aside(name, self._aside(_INTERRUPTED, name), "another episode of this name was recorded after it")
            if final.exists():
                shutil.rmtree(replaced, ignore_errors=True)
                final.rename(replaced)
            partial.rename(final)
            sync_folder(self.root)
            shutil.rmtree(replaced, ignore_errors=True)
            shutil.rmtree(running, ignore_errors=True)
        except OSError as error:
            shutil.rmtree(partial, ignore_errors=True)
            raise _cannot_write(final, error) from None
        except InputError:
            shutil.rmtree(partial, ignore_errors=True)
            raise
        return final

    def rewrite(self, rollout: Rollout) -> None:
        """Other arrays for an episode that is there (rewards that came late); its age, frames and protection stay. A process that dies
        meanwhile leaves the old or the new ones, whole. Raises InputError where it is not there or cannot be written."""
        _check(rollout)
        folder = self._folder(rollout.episode_id)
        try:
            age = (folder / "meta.json").stat()
            old = json.loads((folder / "meta.json").read_text(encoding="utf-8"))
            with replacing(folder / "meta.json") as meta, replacing(folder / "arrays.npz") as arrays:
                with meta.open("w", encoding="utf-8") as file:
                    json.dump({**old, **_meta(rollout)}, file, indent=1, ensure_ascii=False)
                os.utime(meta, ns=(age.st_atime_ns, age.st_mtime_ns))
                with arrays.open("wb") as file:
                    write_arrays(file, to_arrays(rollout))
        except OSError as error:
            raise _cannot_write(folder, error) from None
        except ValueError as error:
            raise InputError(f"{folder / 'meta.json'}: damaged: {error}") from None

    def read(self, episode_id: str) -> Rollout:
        """Raises InputError naming the file that is missing or damaged."""
        folder = self.root / _folder_name(episode_id)
        meta_path, arrays_path = folder / "meta.json", folder / "arrays.npz"
        try:
            meta = json.loads(meta_path.read_text(encoding="utf-8"))
            text = read_meta(meta)
            if meta["format"] not in _READABLE:
                raise ValueError(f"format {meta['format']} is not {' or '.join(map(str, _READABLE))}")
        except FileNotFoundError:
            raise InputError(f"rollout '{episode_id}' is not in {self.root}") from None
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise InputError(f"{meta_path}: damaged: {_cause(error)}") from None
        try:
            with np.load(arrays_path, allow_pickle=False) as file:
                arrays = {name: file[name] for name in file.files}
            if len(arrays) != meta.get("arrays", len(arrays)):
                raise ValueError(f"{len(arrays)} arrays instead of {meta['arrays']}")
            rollout = from_arrays(text, arrays)
            _check(rollout)
        except DAMAGED as error:
            raise InputError(f"{arrays_path}: damaged: {_cause(error)}") from None
        return rollout

    def iteration(self, episode_id: str) -> int | None:
        """Of an episode, without reading its arrays; None where it is not there or cannot be read."""
        try:
            return int(json.loads((self.root / _folder_name(episode_id) / "meta.json").read_text(encoding="utf-8"))["iteration"])
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def has_frames(self, episode_id: str) -> bool:
        """Whether frames of every control step were recorded, without reading them; False where the episode is not there."""
        return (self.root / _folder_name(episode_id) / _FRAMES).exists()

    def frames(self, episode_id: str) -> Frames | None:
        """The frames of every control step, where they were recorded. Raises InputError where the file is damaged."""
        path = self._folder(episode_id) / _FRAMES
        return Frames(path) if path.exists() else None

    def list(self) -> list[str]:
        """Ids of the whole episodes, sorted. Half-written ones are not among them."""
        if not self.root.is_dir():
            return []
        return sorted(folder.name for folder in self.root.iterdir() if not folder.name.startswith(".") and (folder / "meta.json").is_file())

    def read_all(self) -> Iterator[Rollout]:
        """The episodes in order of their ids; one that cannot be read is quarantined."""
        for episode_id in self.list():
            try:
                yield self.read(episode_id)
            except InputError as error:
                if (self.root / episode_id / "meta.json").is_file():  # else another process has removed it meanwhile
                    self.quarantine(episode_id, str(error))

    def quarantine(self, episode_id: str, reason: str) -> Path:
        """Set an episode aside, with the reason in a text file; returns its new folder. Nothing is deleted."""
        name = _folder_name(episode_id)
        target = self._aside(_QUARANTINE, name)
        self._put_aside(name, target, reason)
        return target

    def _put_aside(self, name: str, target: Path, reason: str) -> None:
        (self.root / name).rename(target)
        (target / "reason.txt").write_text(reason + "\n", encoding="utf-8")
        sync_folder(self.root)

    def _aside(self, where: str, name: str) -> Path:
        """A path in `where` that nothing has yet."""
        aside = self.root / where
        aside.mkdir(exist_ok=True)
        return next(path for path in (aside / name, *(aside / f"{name}-{count}" for count in range(1, 10_000))) if not path.exists())

    def left_running(self) -> dict[str, Path]:
        """Episodes that nobody made final -> their events, an empty file where there are none. Only while nobody writes."""
        left = {}
        for folder in sorted((self.root / _RUNNING).iterdir() if (self.root / _RUNNING).is_dir() else ()):
            record = _record(folder)
            if record and record == _final_record(self.root / folder.name):
                shutil.rmtree(folder, ignore_errors=True)  # it was written, its files were not yet removed
            else:
                (folder / _EVENTS).touch()
                left[folder.name] = folder / _EVENTS
        return left

    def interrupt(self, episode_id: str, rollout: Rollout | None, reason: str) -> Path:
        """Move what a killed process left of a running episode to `interrupted/`, with the reason in a text file; returns its new folder.

        rollout: what could be recovered; the folder is then an episode that `RolloutStore(root / "interrupted")` reads. None: its files
        stay as they are.
        """
        name = _folder_name(episode_id)
        target = self._aside(_INTERRUPTED, name)
        running = self.root / _RUNNING / name
        try:
            (running / "reason.txt").write_text(reason + "\n", encoding="utf-8")
            if rollout is not None:
                _check(rollout)
                with (running / "arrays.npz").open("wb") as file:
                    write_arrays(file, to_arrays(rollout))
                    sync(file)
                with (running / "meta.json").open("w", encoding="utf-8") as file:
                    json.dump({**_meta(rollout), "episode_id": target.name}, file, indent=1, ensure_ascii=False)
                    sync(file)
            running.rename(target)
            sync_folder(target.parent)
        except OSError as error:
            raise _cannot_write(target, error) from None
        if rollout is not None:
            (target / _EVENTS).unlink()
        return target

    def interrupted(self) -> dict[str, str]:
        """Folder in `interrupted/` -> what happened to it."""
        return self._reasons(_INTERRUPTED)

    def quarantined(self) -> dict[str, str]:
        """Folder in `quarantine/` -> why it is there."""
        return self._reasons(_QUARANTINE)

    def _reasons(self, where: str) -> dict[str, str]:
        reasons = sorted((self.root / where).glob("*/reason.txt"))
        return {path.parent.name: path.read_text(encoding="utf-8", errors="replace").strip() for path in reasons}

    def set_aside(self) -> dict[str, tuple[int, int]]:
        """What the store keeps beside its episodes: `interrupted` and `quarantine` -> (folders, bytes)."""
        found = {}
        for where in (_INTERRUPTED, _QUARANTINE):
            folders = [path for path in (self.root / where).glob("*") if path.is_dir()]
            found[where] = len(folders), sum(_bytes(folder) for folder in folders)
        return found

    def clear(self, where: str) -> int:
        """Delete all that is in `interrupted` or `quarantine`, as a human asked; returns the bytes that are free now."""
        if where not in (_INTERRUPTED, _QUARANTINE):
            raise InputError(f"'{where}' cannot be cleared; there are {_INTERRUPTED} and {_QUARANTINE}")
        _, size = self.set_aside()[where]
        for folder in (self.root / where).glob("*"):
            shutil.rmtree(folder, ignore_errors=True)
        return size - self.set_aside()[where][1]

    def protect(self, episode_id: str, on: bool = True) -> None:
        """Keep an episode whatever the budget (or no longer). InputError where it is not there."""
        mark = self._folder(episode_id) / PROTECTED
        mark.touch() if on else mark.unlink(missing_ok=True)

    def protected(self, episode_id: str) -> bool:
        return (self._folder(episode_id) / PROTECTED).exists()

    def outcome(self, episode_id: str) -> str:
        """How an episode ended, without reading its arrays; empty where its meta.json is damaged."""
        try:
            return str(json.loads((self._folder(episode_id) / "meta.json").read_text(encoding="utf-8"))["outcome"])
        except (OSError, ValueError, KeyError, TypeError):
            return ""

    def size(self, episode_id: str) -> int:
        """Bytes of its files."""
        return sum(found.st_size for path in self._folder(episode_id).iterdir() if (found := _stat(path)))

    def prune(self, budget: int) -> list[str]:
        """Delete whole episodes, the oldest first, until all together, with what is set aside, take at most `budget` bytes; protected ones,
        what is set aside and the newest stay. Returns the ids of those that went."""
        found = [(one, _stat(self.root / one / "meta.json")) for one in self.list()]
        ages = [one for _, one in sorted((stat.st_mtime_ns, one) for one, stat in found if stat)]
        return prune(
            self.root, {one: self.size(one) for one in ages}, budget, self.protected, sum(size for _, size in self.set_aside().values())
        )

    def _check_space(self, size: int) -> None:
        try:
            self.root.mkdir(parents=True, exist_ok=True)
            free = shutil.disk_usage(self.root).free
        except OSError as error:
            raise _cannot_write(self.root, error) from None
        if free < size + _RESERVE:
            raise InputError(f"no space for rollouts: {self.root} has {free >> 20} MiB free, {(size + _RESERVE) >> 20} MiB are needed")

    def _folder(self, episode_id: str) -> Path:
        folder = self.root / _folder_name(episode_id)
        if not (folder / "meta.json").is_file():
            raise InputError(f"rollout '{episode_id}' is not in {self.root}")
        return folder

    def clean(self) -> int:
        """Remove what killed writers left behind; returns how many. Only while nobody writes."""
        for replaced in self.root.glob(f"{_REPLACED}*"):
            final = self.root / replaced.name.removeprefix(_REPLACED)
            if final.exists():
                shutil.rmtree(replaced, ignore_errors=True)
            else:
                replaced.rename(final)
        for name in self.list():
            sweep(self.root / name)
        partials = list(self.root.glob(f"{PARTIAL}*"))
        for partial in partials:
            shutil.rmtree(partial, ignore_errors=True)
        return len(partials)


def _meta(rollout: Rollout) -> dict[str, Any]:
    """What meta.json says. arrays: how many there are, for a damaged archive may hide some."""
    return {"format": _FORMAT, **meta_of(rollout), "arrays": len(to_arrays(rollout))}


def meta_of(rollout: Rollout) -> dict[str, Any]:
    """What of a rollout is no array."""
    kinds = {**_META, **{key: kind for key, (kind, _) in _LATER.items()}}
    return {key: kind(getattr(rollout, key)) for key, kind in kinds.items()}


def _final_record(folder: Path) -> str:
    """The same of an episode that is final; empty where it is none, or was not recorded here."""
    try:
        return str(json.loads((folder / "meta.json").read_text(encoding="utf-8")).get("record", ""))
    except (OSError, ValueError, AttributeError):
        return ""


def _bytes(folder: Path) -> int:
    return sum(found.st_size for path in folder.rglob("*") if path.is_file() and (found := _stat(path)))


def _stat(path: Path) -> os.stat_result | None:
    """None where another process has taken the file away."""
    try:
        return path.stat()
    except FileNotFoundError:
        return None


def _record(running: Path) -> str:
    """What tells this recording of an episode from another of the same name; empty where there is none."""
    try:
        return str(next(entries(running / _EVENTS)).header.get("record", ""))
    except (OSError, StopIteration, ValueError, AttributeError):
        return ""


def _link(source: Path, target: Path) -> None:
    try:
        os.link(source, target)
    except OSError:  # not every file system has a second name for a file
        shutil.copyfile(source, target)


def _cannot_write(path: Path, error: OSError) -> InputError:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return InputError(f"no space for rollouts: {path.parent} is full")
    return InputError(f"rollout '{path.name}' cannot be written to {path.parent}: {error.strerror or error}")


def read_meta(meta: dict[str, Any]) -> dict[str, Any]:
    """What `meta_of` gave, from JSON, whatever the format. Raises KeyError, TypeError or ValueError."""
    known = {key: kind(meta[key]) for key, kind in _META.items()}
    return known | {key: kind(meta.get(key, default)) for key, (kind, default) in _LATER.items()}


def from_arrays(meta: dict[str, Any], arrays: dict[str, np.ndarray]) -> Rollout:
    """The rollout of `read_meta` and `to_arrays`. Raises KeyError naming an array that is missing."""
    groups: dict[str, dict[str, np.ndarray]] = {group: {} for group in _GROUPS}
    for name, array in arrays.items():
        group, _, key = name.partition("/")
        if key:
            groups[group][key] = array
    return Rollout(**meta, **{key: arrays[key] for key in _ARRAYS}, **{key: arrays.get(key) for key in _OPTIONAL}, **groups)  # type: ignore[arg-type]


def to_arrays(rollout: Rollout) -> dict[str, np.ndarray]:
    """The arrays of a rollout by name, as they stand in `arrays.npz`."""
    arrays = {name: np.asarray(getattr(rollout, name)) for name in _ARRAYS}
    arrays.update({name: np.asarray(getattr(rollout, name)) for name in _OPTIONAL if getattr(rollout, name) is not None})
    for group in _GROUPS:
        arrays.update({f"{group}/{name}": np.asarray(array) for name, array in getattr(rollout, group).items()})
    return arrays


def _check(rollout: Rollout) -> None:
    steps = len(rollout.stamps)
    lengths: dict[str, tuple[Any, int]] = {name: (getattr(rollout, name), steps) for name in _ARRAYS}
    if rollout.latents is not None:
        lengths["latents"] = (rollout.latents, steps)
    lengths.update({f"images/{name}": (array, steps) for name, array in rollout.images.items()})
    lengths.update({f"rewards/{name}": (array, steps + 1) for name, array in rollout.rewards.items()})
    for group in ("scores", "steps"):
        parts = getattr(rollout, group)
        lengths.update({f"{group}/{name}": (array, len(parts.get("stamps", ()))) for name, array in parts.items()})
    for name, (array, length) in lengths.items():
        if len(array) != length:
            raise InputError(f"rollout '{rollout.episode_id}': {name} has {len(array)} rows, {length} are needed for {steps} steps")


def write_arrays(file: Any, arrays: dict[str, np.ndarray]) -> None:
    """The .npz that np.load reads; numpy's own writer compresses at level 6, ten times slower for a tenth less."""
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        for name, array in arrays.items():
            buffer = BytesIO()
            np.lib.format.write_array(buffer, np.asarray(array, order="C"), allow_pickle=False)
            archive.writestr(f"{name}.npy", buffer.getvalue())


def _folder_name(episode_id: str) -> str:
    if not _NAME.fullmatch(episode_id) or episode_id in (_QUARANTINE, _RUNNING, _INTERRUPTED):
        raise InputError(f"episode id '{episode_id}' must be letters, digits, '.', '_' and '-', and no folder of the store's own")
    return episode_id


def _cause(error: BaseException) -> str:
    text = f"'{error.args[0]}' is missing" if isinstance(error, KeyError) and error.args else str(error)
    return " ".join(text.split()) or type(error).__name__
