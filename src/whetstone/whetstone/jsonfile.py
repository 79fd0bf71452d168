"""JSON files that appear whole, and values as JSON knows them.

Role: the one place that reads and writes a whole JSON file. Standard library only.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

from whetstone import files
from whetstone.errors import InputError


def write(path: Path, data: Any) -> None:
    """Replace the file by `data` as JSON; a reader sees the old content or the new, never a part."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with files.replacing(path) as partial:
            partial.write_text(json.dumps(plain(data), indent=1, ensure_ascii=False, allow_nan=False) + "\n", encoding="utf-8")
    except OSError as error:
        raise InputError(f"{path}: cannot be written: {error.strerror}") from None


def read(path: Path) -> Any:
    """The content of a JSON file, or None where there is none. Raises InputError where it is not JSON."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except ValueError as error:
        raise InputError(f"{path}: not JSON: {error}") from None


def plain(value: Any) -> Any:
    """Dictionaries, lists, numbers and texts; numpy scalars become Python's, what is not finite becomes None."""
    if isinstance(value, dict):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    if hasattr(value, "item") and not isinstance(value, (str, bytes)):  # a numpy scalar
        value = value.item()
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
