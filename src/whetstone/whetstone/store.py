"""Rollouts on disk.

Role: one folder per episode, `meta.json` + `arrays.npz`, written under a temporary name and renamed when complete, so that
a folder that is there is whole. What cannot be read is set aside in `quarantine/` with the reason, never deleted; what is protected stays
when the disk budget is spent. No pickle. Depends on numpy only.
"""

from __future__ import annotations

import errno
import json
import os
import re
import shutil
import zipfile
import zlib
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np

from whetstone.contracts import Rollout
from whetstone.errors import InputError

_FORMAT = 2
_READABLE = (1, 2)
"""Format 1 knew no `scores` and `steps`."""
_QUARANTINE = "quarantine"
_PROTECTED = "protected"
_PARTIAL = ".partial-"
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
_ARRAYS = ("stamps", "proprioception", "actions", "log_probabilities", "policy_versions")
_OPTIONAL = ("latents", "last_proprioception")
_GROUPS = ("images", "rewards", "last_images", "scores", "steps")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")


class RolloutStore:
    """Episodes under `root`. Safe to read while another process writes."""

    def __init__(self, root: str | os.PathLike[str]) -> None:
        self.root = Path(root)

    def write(self, rollout: Rollout) -> Path:
        """Write one episode, replacing one of the same id. Returns its folder. Raises InputError where that is not possible."""
        _check(rollout)
        name = _folder_name(rollout.episode_id)
        size = sum(array.nbytes for array in _arrays(rollout).values())
        partial = self.root / f"{_PARTIAL}{os.getpid()}-{name}"
        final = self.root / name
        try:
            self.root.mkdir(parents=True, exist_ok=True)
            free = shutil.disk_usage(self.root).free
            if free < size + _RESERVE:
                raise InputError(f"no space for rollouts: {self.root} has {free >> 20} MiB free, {(size + _RESERVE) >> 20} MiB are needed")
            shutil.rmtree(partial, ignore_errors=True)
            partial.mkdir()
            with (partial / "arrays.npz").open("wb") as file:
                _write_arrays(file, _arrays(rollout))
                _sync(file)
            with (partial / "meta.json").open("w", encoding="utf-8") as file:
                meta = {"format": _FORMAT, **{key: kind(getattr(rollout, key)) for key, kind in _META.items()}}
                json.dump(meta, file, indent=1, ensure_ascii=False)
                _sync(file)
            if final.exists():
                shutil.rmtree(final)
            partial.rename(final)
            _sync_folder(self.root)
        except OSError as error:
            shutil.rmtree(partial, ignore_errors=True)
            if error.errno in (errno.ENOSPC, errno.EDQUOT):
                raise InputError(f"no space for rollouts: {self.root} is full") from None
            raise InputError(f"rollout '{name}' cannot be written to {self.root}: {error.strerror or error}") from None
        return final

    def read(self, episode_id: str) -> Rollout:
        """Raises InputError naming the file that is missing or damaged."""
        folder = self.root / _folder_name(episode_id)
        meta_path, arrays_path = folder / "meta.json", folder / "arrays.npz"
        try:
            meta = json.loads(meta_path.read_text(encoding="utf-8"))
            text = {key: kind(meta[key]) for key, kind in _META.items()}
            if meta["format"] not in _READABLE:
                raise ValueError(f"format {meta['format']} is not {' or '.join(map(str, _READABLE))}")
        except FileNotFoundError:
            raise InputError(f"rollout '{episode_id}' is not in {self.root}") from None
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise InputError(f"{meta_path}: damaged: {_cause(error)}") from None
        try:
            with np.load(arrays_path, allow_pickle=False) as file:
                arrays = {name: file[name] for name in file.files}
            groups: dict[str, dict[str, np.ndarray]] = {group: {} for group in _GROUPS}
            for name, array in arrays.items():
                group, _, key = name.partition("/")
                if key:
                    groups[group][key] = array
            rollout = Rollout(**text, **{key: arrays[key] for key in _ARRAYS}, **{key: arrays.get(key) for key in _OPTIONAL}, **groups)  # type: ignore[arg-type]
            _check(rollout)
        except (OSError, ValueError, KeyError, TypeError, EOFError, zlib.error, zipfile.BadZipFile, InputError) as error:
            raise InputError(f"{arrays_path}: damaged: {_cause(error)}") from None
        return rollout

    def iteration(self, episode_id: str) -> int | None:
        """Of an episode, without reading its arrays; None where it is not there or cannot be read."""
        try:
            return int(json.loads((self.root / _folder_name(episode_id) / "meta.json").read_text(encoding="utf-8"))["iteration"])
        except (OSError, ValueError, KeyError, TypeError):
            return None

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
                self.quarantine(episode_id, str(error))

    def quarantine(self, episode_id: str, reason: str) -> Path:
        """Set an episode aside, with the reason in a text file; returns its new folder. Nothing is deleted."""
        name = _folder_name(episode_id)
        aside = self.root / _QUARANTINE
        aside.mkdir(exist_ok=True)
        target = next(path for path in (aside / name, *(aside / f"{name}-{count}" for count in range(1, 10_000))) if not path.exists())
        (self.root / name).rename(target)
        (target / "reason.txt").write_text(reason + "\n", encoding="utf-8")
        _sync_folder(self.root)
        return target

    def quarantined(self) -> dict[str, str]:
        """Folder in `quarantine/` -> why it is there."""
        reasons = sorted((self.root / _QUARANTINE).glob("*/reason.txt"))
        return {path.parent.name: path.read_text(encoding="utf-8", errors="replace").strip() for path in reasons}

    def protect(self, episode_id: str, on: bool = True) -> None:
        """Keep an episode whatever the budget (or no longer). InputError where it is not there."""
        mark = self._folder(episode_id) / _PROTECTED
        mark.touch() if on else mark.unlink(missing_ok=True)

    def protected(self, episode_id: str) -> bool:
        return (self._folder(episode_id) / _PROTECTED).exists()

    def size(self, episode_id: str) -> int:
        """Bytes of its files."""
        return sum(path.stat().st_size for path in self._folder(episode_id).iterdir())

    def prune(self, budget: int) -> list[str]:
        """Delete whole episodes, the oldest first, until all together take at most `budget` bytes; protected and quarantined ones and the
        newest stay. Returns the ids of those that went."""
        ages = sorted(self.list(), key=lambda one: ((self.root / one / "meta.json").stat().st_mtime_ns, one))
        sizes = {one: self.size(one) for one in ages}
        total, gone = sum(sizes.values()), []
        for one in ages[:-1]:
            if total <= budget:
                break
            if not self.protected(one):
                # Renamed first: an episode that is half deleted must not look like a whole one.
                partial = self.root / f"{_PARTIAL}{os.getpid()}-{one}"
                (self.root / one).rename(partial)
                shutil.rmtree(partial, ignore_errors=True)
                total -= sizes[one]
                gone.append(one)
        return gone

    def _folder(self, episode_id: str) -> Path:
        folder = self.root / _folder_name(episode_id)
        if not (folder / "meta.json").is_file():
            raise InputError(f"rollout '{episode_id}' is not in {self.root}")
        return folder

    def clean(self) -> int:
        """Remove what killed writers left behind; returns how many. Only while nobody writes."""
        partials = list(self.root.glob(f"{_PARTIAL}*"))
        for partial in partials:
            shutil.rmtree(partial, ignore_errors=True)
        return len(partials)


def _arrays(rollout: Rollout) -> dict[str, np.ndarray]:
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


def _write_arrays(file: Any, arrays: dict[str, np.ndarray]) -> None:
    """The .npz that np.load reads; numpy's own writer compresses at level 6, ten times slower for a tenth less."""
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        for name, array in arrays.items():
            buffer = BytesIO()
            np.lib.format.write_array(buffer, np.asarray(array, order="C"), allow_pickle=False)
            archive.writestr(f"{name}.npy", buffer.getvalue())


def _folder_name(episode_id: str) -> str:
    if not _NAME.fullmatch(episode_id):
        raise InputError(f"episode id '{episode_id}' must be letters, digits, '.', '_' and '-'")
    return episode_id


def _sync(file: Any) -> None:
    file.flush()
    os.fsync(file.fileno())


def _sync_folder(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _cause(error: BaseException) -> str:
    text = f"'{error.args[0]}' is missing" if isinstance(error, KeyError) and error.args else str(error)
    return " ".join(text.split()) or type(error).__name__
