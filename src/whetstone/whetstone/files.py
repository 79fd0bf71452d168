"""Files that are there whole or not at all, whatever kills their writer, and stay so through a power cut.

Role: the one place that knows how. Standard library only.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

_PARTIAL = ".partial"


@contextmanager
def replacing(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Yields another path in the same folder; what the block writes there becomes `path` at its end, or is removed where the block fails.
    Two processes that replace the same file do not see each other's. Raises OSError."""
    path = Path(path)
    partial = path.with_name(f".{path.name}.{os.getpid()}{_PARTIAL}")
    try:
        yield partial
        with partial.open("rb") as file:
            sync(file)
        os.replace(partial, path)
        sync_folder(path.parent)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise


def sweep(folder: Path) -> None:
    """Remove what killed writers left in a folder. Only where nobody else writes."""
    for left in folder.glob(f".*{_PARTIAL}"):
        left.unlink(missing_ok=True)


def sync(file: Any) -> None:
    """Return when an open file's content is on the disk."""
    file.flush()
    os.fsync(file.fileno())


def sync_folder(path: Path) -> None:
    """Return when the names in a folder are on the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
