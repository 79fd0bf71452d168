"""Files of a run directory: JSON lines that grow by whole lines, JSON files that appear whole.

Role: the only writers and readers of episodes.jsonl, evaluation.jsonl, updates.jsonl, truth.jsonl and outcome.json, so that a
reader never sees half a record even while a run goes on. Does not depend on ROS.
"""

from __future__ import annotations

import json
import math
import os
from pathlib import Path
from typing import Any

from whetstone.errors import InputError

EPISODES = "episodes.jsonl"
UPDATES = "updates.jsonl"
EVALUATION = "evaluation.jsonl"
TRUTH = "truth.jsonl"
OUTCOME = "outcome.json"
SETTINGS = "run.json"
PROBE = "probe.json"


def append(path: Path, record: dict[str, Any]) -> None:
    """Add one line in a single write. NaN becomes null. Raises InputError where the disk refuses."""
    line = (json.dumps(_plain(record), ensure_ascii=False, allow_nan=False) + "\n").encode()
    try:
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        try:
            if os.write(handle, line) != len(line):
                raise InputError(f"{path}: only part of a record could be written; is the disk full?")
        finally:
            os.close(handle)
    except OSError as error:
        raise InputError(f"{path}: cannot be written: {error.strerror}") from None


def read(path: Path, offset: int = 0) -> tuple[list[dict[str, Any]], int]:
    """Complete records from byte `offset` on, and the offset after the last of them. A missing file has none."""
    try:
        with path.open("rb") as handle:
            handle.seek(offset)
            data = handle.read()
    except FileNotFoundError:
        return [], offset
    end = data.rfind(b"\n") + 1
    return [json.loads(line) for line in data[:end].splitlines() if line.strip()], offset + end


def read_all(path: Path) -> list[dict[str, Any]]:
    """Every complete record of the file."""
    return read(path)[0]


def write_json(path: Path, data: Any) -> None:
    """Replace the file by `data` as JSON; a reader sees the old content or the new, never a part."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.write_text(json.dumps(_plain(data), indent=1, ensure_ascii=False, allow_nan=False) + "\n", encoding="utf-8")
        os.replace(temporary, path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise InputError(f"{path}: cannot be written: {error.strerror}") from None


def read_json(path: Path) -> Any:
    """The content of a JSON file, or None where there is none. Raises InputError where it is not JSON."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except ValueError as error:
        raise InputError(f"{path}: not JSON: {error}") from None


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if hasattr(value, "item") and not isinstance(value, (str, bytes)):  # a numpy scalar
        value = value.item()
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
