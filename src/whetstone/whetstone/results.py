"""Files of figures: results/<name>.json, one format for all.

Role: {"command", "commit", "machine", "date", "rows"}; a row is {"case", "subject", "metric", "value", "unit"} with optional "n", "low",
"high" (95 % interval). "configurations" says for which configuration each case was made, so that a study can be resumed. Knows nothing
of what is measured. Standard library only.
"""

from __future__ import annotations

import datetime
import fcntl
import hashlib
import os
import platform
import subprocess
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from whetstone import config, jsonfile


def write(path: Path, rows: Sequence[dict[str, Any]], *, command: str, beside: Mapping[str, Any] | None = None) -> None:
    """A file of these rows alone, in their order. beside: what else it says."""
    jsonfile.write(path, {**_origin(command), "rows": list(rows), **(beside or {})})


def merge(path: Path, new: Sequence[dict[str, Any]], *, command: str, configurations: dict[str, str]) -> None:
    """Put rows into a results file; a row of the same case, subject and metric is replaced. Safe with several writers."""
    with _locked(path):
        data: dict[str, Any] = jsonfile.read(path) or {"rows": []}
        replaced = {_key(row) for row in new}
        kept = [row for row in data["rows"] if _key(row) not in replaced]
        merged = {
            **_origin(command),
            "rows": sorted([*kept, *new], key=_key),
            "configurations": dict(sorted((data.get("configurations", {}) | configurations).items())),
        }
        jsonfile.write(path, merged)


def has(path: Path, case: str, metrics: Sequence[str], name: str, configuration: str) -> bool:
    """The file holds all these metrics of the case, made with this configuration. name: key in "configurations"."""
    data = jsonfile.read(path)
    if not data or data.get("configurations", {}).get(name) != configuration:
        return False
    there = {row["metric"] for row in data["rows"] if row["case"] == case}
    return set(metrics) <= there


def _origin(command: str) -> dict[str, Any]:
    date = datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%d")
    return {"command": command, "commit": commit(), "machine": machine(), "date": date}


def _key(row: dict[str, Any]) -> tuple[str, str, str]:
    return row["case"], row["subject"], row["metric"]


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    name = hashlib.sha256(str(path.absolute()).encode()).hexdigest()[:16]
    handle = os.open(Path(tempfile.gettempdir()) / f"whetstone-results-{name}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


def commit() -> str:
    """The checkout's git commit, "-dirty" where files differ from it, "unknown" outside a checkout."""
    try:
        base = ["git", "-C", str(config.root())]
        name = subprocess.run([*base, "rev-parse", "HEAD"], capture_output=True, text=True, timeout=10, check=True).stdout.strip()
        changed = subprocess.run([*base, "status", "--porcelain", "-uno"], capture_output=True, text=True, timeout=10, check=True).stdout
        return name + ("-dirty" if changed.strip() else "")
    except (OSError, subprocess.SubprocessError):
        return "unknown"


def machine() -> str:
    """Processor count and kind, system."""
    model = platform.processor() or platform.machine()
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                model = line.split(":", 1)[1].strip()
                break
    except OSError:
        pass
    return f"{os.cpu_count()} cores, {model}, {platform.system()} {platform.release()}"
