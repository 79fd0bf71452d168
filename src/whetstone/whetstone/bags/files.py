"""The files of a bag.

Role: from a path (a rosbag2 folder, one .mcap, .db3 or .bag file, any of them compressed with zstd) to its files in order and what
metadata.yaml says of them; a kind is told by a file's first bytes, not by its name. Does not depend on rclpy.
"""

from __future__ import annotations

import os
import re
import shutil
import sqlite3
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import apsw
import yaml
from backports import zstd
from mcap.exceptions import McapError
from mcap.reader import SeekingReader
from rosbags.rosbag1 import ReaderError as Rosbag1Error
from rosbags.rosbag2 import ReaderError as Rosbag2Error

from whetstone.bags.damaged import ScannedMcap, ScannedRosbag1, ScannedSqlite, metadata_of
from whetstone.bags.storage import MCAP, ROS1, SQLITE, ZSTD, Storage, WholeFile
from whetstone.errors import InputError

METADATA = "metadata.yaml"
_INFORMATION = "rosbag2_bagfile_information"
_SUFFIXES = (".mcap", ".db3", ".bag", ".active")
_COMPRESSED = (".zstd", ".zst")
_SCANNED = {MCAP: ScannedMcap, SQLITE: ScannedSqlite, ROS1: ScannedRosbag1}
READ_ERRORS = (Rosbag1Error, Rosbag2Error, McapError, ValueError, KeyError, TypeError, IndexError, AssertionError, EOFError, OSError,
               RuntimeError, zstd.ZstdError, sqlite3.Error, apsw.Error)  # fmt: skip
"""What a damaged file may raise while rosbags reads it."""


@dataclass
class Files:
    """paths: in the order in which they were written. metadata: what the recorder says of itself (custom_data). duration: ns, as declared;
    None: nobody says. warnings: what is missing or cannot be read."""

    paths: list[Path]
    metadata: dict[str, str] = field(default_factory=dict)
    duration: int | None = None
    warnings: list[str] = field(default_factory=list)


def find_files(path: Path) -> Files:
    """Raises InputError where there is no bag."""
    if path.is_file():
        return _of_folder(path.parent) if path.name == METADATA else Files([path])
    if not path.is_dir():
        raise InputError(f"{path}: no such file or folder")
    return _of_folder(path)


def bags_in(folder: Path) -> list[Path]:
    """The bags in a folder of bags, files and folders, by name; empty where it is a bag itself, or none."""
    if (folder / METADATA).exists():
        return []
    loose = [one for one in folder.iterdir() if one.is_file() and is_bag_name(one.name)]
    inside = [one for one in folder.iterdir() if one.is_dir() and not one.name.startswith(".")]
    inside = [one for one in inside if any(file.name == METADATA or is_bag_name(file.name) for file in one.iterdir())]
    # The files of one bag may have lost their metadata.yaml.
    return sorted([*loose, *inside]) if inside or len(stems_of(loose)) > 1 else []


def open_file(path: Path, unpacked: Callable[[], Path]) -> Storage:
    """An open file of a bag. unpacked: makes the folder for what must be decompressed first. Raises InputError where it is none."""
    kind = kind_of(path)
    if kind == ZSTD:
        path = _decompress(path, unpacked())
        kind = kind_of(path)
    if kind is None and path.stat().st_size == 0:
        raise InputError(f"{path}: not a bag: it is empty")
    if kind is None:
        raise InputError(f"{path}: not a bag: it begins neither as MCAP, nor as sqlite3, nor as a ROS 1 bag")
    storage = None
    metadata: dict[str, str] = {}
    try:
        if kind == MCAP:
            indexed, metadata = _summary(path)
            storage = WholeFile(path, kind) if indexed else None
        elif kind == ROS1 or not (_beside(path) or _short(path)):
            storage = WholeFile(path, kind)
    except READ_ERRORS:
        storage = None
    if storage is None:
        return scan_file(path)
    storage.metadata.update(metadata)
    return storage


def scan_file(path: Path) -> Storage:
    """The same, without looking at its index. Raises InputError where nothing of it can be read."""
    kind = kind_of(path)
    try:
        if kind not in _SCANNED:
            raise ValueError("its first bytes are those of no bag")
        return _SCANNED[kind](path)
    except READ_ERRORS as error:
        raise InputError(f"{path}: cannot be read: {' '.join(str(error).split()) or type(error).__name__}") from None


def kind_of(path: Path) -> bytes | None:
    """How the file begins, of the ways that are known."""
    try:
        with path.open("rb") as file:
            first = file.read(16)
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror}") from None
    return next((kind for kind in (MCAP, SQLITE, ROS1, ZSTD) if first.startswith(kind)), None)


def _of_folder(folder: Path) -> Files:
    # A file and what `ros2 bag play` unpacked beside it are one: the file itself.
    bags = sorted((path for path in folder.iterdir() if path.is_file() and is_bag_name(path.name)), key=_natural)
    by_name = {_plain(path.name): path for path in bags}
    there = list(by_name.values())
    information = folder / METADATA
    if not information.exists():
        if not there:
            raise InputError(f"{folder}: not a bag: it has no {METADATA}, and no .mcap, .db3 or .bag file")
        if len(stems_of(there)) > 1:
            names = ", ".join(path.name for path in there)
            raise InputError(f"{folder}: several bags and no {METADATA} that makes them one: {names}; name one of them")
        files = Files(there)
        if there[0].suffix != ".bag":
            files.warnings.append(f"it has no {METADATA} (its recorder was cut off?): its files are read as they are")
        return files
    try:
        data = yaml.safe_load(information.read_text(encoding="utf-8"))[_INFORMATION]
        named = [folder / Path(name).name for name in data["relative_file_paths"]]
        named = [path if path.is_file() else by_name.get(_plain(path.name), path) for path in named]
        custom = data.get("custom_data") or {}
        files = Files([], {str(key): str(value) for key, value in custom.items()}, int(data["duration"]["nanoseconds"]))
    except (OSError, UnicodeDecodeError, yaml.YAMLError, KeyError, TypeError, ValueError, AttributeError) as error:
        if not there:
            raise InputError(f"{information}: not the {METADATA} of a bag, and there is no .mcap, .db3 or .bag file beside it") from None
        said = f"'{error.args[0]}' is missing" if isinstance(error, KeyError) else " ".join(str(error).split())
        return Files(there, warnings=[f"its {METADATA} cannot be read ({said}): its files are read as they are"])
    files.paths = [path for path in named if path.is_file()]
    files.warnings += [f"file {path.name} is missing" for path in named if not path.is_file()]
    stems = stems_of(named)
    known = {_plain(path.name) for path in named}
    later = [path for name, path in by_name.items() if name not in known and _stem(name) in stems]
    if later:
        files.warnings.append(f"{METADATA} does not name {', '.join(path.name for path in later)}: read all the same")
        files.paths = sorted([*files.paths, *later], key=_natural)
        files.duration = None
    if not files.paths:
        missing = ", ".join(path.name for path in named) or "none"
        raise InputError(f"{folder}: none of the files that its {METADATA} names is there ({missing})")
    return files


def is_bag_name(name: str) -> bool:
    """Whether a file of a bag may be called so."""
    return _plain(name).endswith(_SUFFIXES)


def _plain(name: str) -> str:
    """bag_0.db3 for bag_0.db3.zstd"""
    for ending in _COMPRESSED:
        name = name.removesuffix(ending)
    return name


def bag_name(path: Path) -> str:
    """What a bag is called: its folder, or its file without what says the format."""
    path = Path(os.path.abspath(path))
    if path.name == METADATA:
        path = path.parent
    name = _plain(path.name)
    for suffix in () if path.is_dir() else reversed(_SUFFIXES):
        name = name.removesuffix(suffix)
    return name


def stems_of(paths: Iterable[Path]) -> set[str]:
    """What the files of a split bag have in common: bag for bag_0.mcap and bag_1.mcap.zstd."""
    return {_stem(path.name) for path in paths}


def _natural(path: Path) -> list[Any]:
    """bag_2.mcap before bag_10.mcap"""
    return [int(part) if part.isdigit() else part for part in re.split(r"(\d+)", path.name)]


def _stem(name: str) -> str:
    return re.sub(r"(_\d+)?(\.\w+)+$", "", name)


def _summary(path: Path) -> tuple[bool, dict[str, str]]:
    """Whether an MCAP file has an index of chunks, and what its metadata records say."""
    with path.open("rb") as file:
        reader = SeekingReader(file)
        summary = reader.get_summary()
        if summary is None or not summary.chunk_indexes:
            return False, {}
        said: dict[str, str] = {}
        for record in reader.iter_metadata():
            said.update(metadata_of(record))
        return True, said


def _beside(path: Path) -> bool:
    """Whether the recorder of a sqlite3 file left a journal, which rosbags would not look at."""
    journal = path.with_name(path.name + "-wal")
    return journal.is_file() and journal.stat().st_size > 0


def _short(path: Path) -> bool:
    """Whether a sqlite3 file ends within a page, or before the last one that its header counts: SQLite may read zeros there."""
    with path.open("rb") as file:
        header = file.read(100)
    page, size = int.from_bytes(header[16:18], "big"), path.stat().st_size
    page = 65536 if page == 1 else page
    counted = int.from_bytes(header[28:32], "big") if header[24:28] == header[92:96] else 0
    return page < 512 or size % page != 0 or size < counted * page


def _decompress(path: Path, folder: Path) -> Path:
    target = folder / re.sub(r"\.zstd?$", "", path.name)
    try:
        with path.open("rb") as packed, target.open("wb") as out:
            decompressor = zstd.ZstdDecompressor()
            while block := packed.read(1 << 20):
                while block:
                    if decompressor.eof:  # one frame after another: parallel compressors write many
                        decompressor = zstd.ZstdDecompressor()
                    out.write(decompressor.decompress(block))
                    block = decompressor.unused_data if decompressor.eof else b""
    except zstd.ZstdError:
        pass  # what came before it is read as far as it goes
    except OSError as error:
        target.unlink(missing_ok=True)
        free = shutil.disk_usage(folder).free >> 20
        raise InputError(
            f"{path}: cannot be decompressed to {folder} ({error.strerror}; {free} MiB free): set TMPDIR to a folder with more room"
        ) from None
    return target
