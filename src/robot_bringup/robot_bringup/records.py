"""Files of a run directory: JSON lines that grow by whole lines.

Role: the files' names, and the only writers and readers of those that grow while a run goes on, so that nobody sees half a record.
Does not depend on ROS.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from whetstone.errors import InputError
from whetstone.jsonfile import plain

EPISODES = "episodes.jsonl"
UPDATES = "updates.jsonl"
EVALUATION = "evaluation.jsonl"
TRUTH = "truth.jsonl"
STOPS = "stops.jsonl"
PROMPTS = "prompts.jsonl"
OUTCOME = "outcome.json"
REWARDS = "rewards.jsonl"
SETTINGS = "run.json"
PROBE = "probe.json"


def append(path: Path, record: dict[str, Any]) -> None:
    """Add one line in a single write. NaN becomes null. Raises InputError where the disk refuses."""
    line = (json.dumps(plain(record), ensure_ascii=False, allow_nan=False) + "\n").encode()
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
    """Complete records from byte `offset` on, and the offset after the last of them. A missing file has none. Raises InputError naming a
    line that is none."""
    try:
        with path.open("rb") as handle:
            handle.seek(offset)
            data = handle.read()
    except FileNotFoundError:
        return [], offset
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror}") from None
    end, found = data.rfind(b"\n") + 1, []
    for number, line in enumerate(data[:end].split(b"\n"), start=1):
        if not line.strip():
            continue
        try:
            record = json.loads(line)
        except ValueError as error:
            raise InputError(f"{path}: line {number} from byte {offset} on is not JSON: {error}") from None
        if not isinstance(record, dict):
            raise InputError(f"{path}: line {number} from byte {offset} on is not a record, but {type(record).__name__}")
        found.append(record)
    return found, offset + end


def read_all(path: Path) -> list[dict[str, Any]]:
    """Every complete record of the file."""
    return read(path)[0]
