"""Message definitions as a bag carries them, so that whoever reads it needs none installed.

Role: finds the .msg files of an installed type and of all types in it, comments and units included, and the type's hash (REP 2011), in the
share folders of AMENT_PREFIX_PATH. Does not depend on ROS.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path

from whetstone.errors import InputError

_RULE = "=" * 80


@dataclass(frozen=True)
class Definition:
    """type: package/msg/Name; text: `ros2msg` as MCAP has it, the type's own definition and then those of the types in it; hash: RIHS01."""

    type: str
    text: str
    hash: str


def definition(name: str) -> Definition:
    """Raises InputError where the type, or one in it, is not installed."""
    described = _find(name, "json")
    try:
        data = json.loads(described.read_text(encoding="utf-8"))
        references = [one["type_name"] for one in data["type_description_msg"]["referenced_type_descriptions"]]
        digest = next(one["hash_string"] for one in data["type_hashes"] if one["type_name"] == name)
    except (OSError, ValueError, KeyError, StopIteration) as error:
        raise InputError(f"{described}: not the description of a message type: {error!r}") from None
    parts = [_find(name, "msg").read_text(encoding="utf-8")]
    for other in references:
        package, _, short = other.partition("/msg/")
        parts.append(f"{_RULE}\nMSG: {package}/{short}\n{_find(other, 'msg').read_text(encoding='utf-8')}")
    return Definition(name, "\n".join(parts), digest)


def _find(name: str, suffix: str) -> Path:
    package, _, short = name.partition("/msg/")
    for prefix in os.environ.get("AMENT_PREFIX_PATH", "").split(os.pathsep):
        path = Path(prefix) / "share" / package / "msg" / f"{short}.{suffix}"
        if prefix and path.is_file():
            return path
    raise InputError(f"message type '{name}' is not installed; install its package, {package}, and source its setup file")
