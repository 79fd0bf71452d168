"""The bags of a run on disk, by the same rules as its rollouts (whetstone/store.py).

Role: a bag that is being written lies in `running/`, and under its episode's name once it is whole; what a killed recorder left there goes
to `interrupted/`, with the reason, and is a bag that can be read as far as it goes. The oldest whole bags that are not protected go when
the disk budget is spent. Does not depend on ROS.
"""

from __future__ import annotations

import json
import os
import re
import shutil
from pathlib import Path

from robot_bringup.bags import metadata
from robot_bringup.bags.recovery import recover
from whetstone.budget import PARTIAL, PROTECTED, prune
from whetstone.errors import InputError

FOLDER = "bags"
"""Of a run's directory, where its bags lie."""
RUNNING, INTERRUPTED = "running", "interrupted"
RESERVE = 64 * 1024 * 1024
"""Bytes that stay free on the disk."""
AUDIT, WHOLE = "whetstone.audit", "whetstone.whole"
"""Keys of a bag's custom_data: the audit as JSON; "false" where the recording was cut off."""
_REASON = "reason.txt"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")


class BagFolder:
    """Bags under `root`. Only one process writes."""

    def __init__(self, root: str | os.PathLike[str]) -> None:
        self.root = Path(root)

    def begin(self, episode_id: str) -> Path:
        """Where the bag of an episode is to be written; not there yet. Raises InputError, OSError."""
        if not _NAME.fullmatch(episode_id) or episode_id in (RUNNING, INTERRUPTED):
            raise InputError(f"episode id '{episode_id}' is no name of a folder; no bag of it is written")
        (self.root / RUNNING).mkdir(parents=True, exist_ok=True)
        folder = self.root / RUNNING / episode_id
        if folder.exists():
            self.interrupt(folder, "it began again")
        return folder

    def finish(self, folder: Path) -> Path:
        """The bag is whole: give it its name. Another one of that name goes to `interrupted/`, as an episode does. Raises OSError."""
        final = self.root / folder.name
        if final.exists():
            self._aside(final, "another episode of this name was recorded after it")
        folder.rename(final)
        return final

    def interrupt(self, folder: Path, reason: str) -> Path:
        """Set what is left of a bag aside, readable as far as it goes. Raises OSError."""
        if not (folder / metadata.NAME).exists():
            audit = {"complete": False, "line": f"cut off: {reason}", "faults": [reason], "topics": {}, "absent": {}}
            recover(folder, {AUDIT: json.dumps(audit), WHOLE: "false"})
        return self._aside(folder, reason)

    def recover(self) -> list[str]:
        """Set aside what a killed recorder left in `running/`; a line about each. Only while nobody writes. Raises nothing: what cannot be
        recovered stays where it is, and is said."""
        said = []
        folders = sorted((self.root / RUNNING).iterdir()) if (self.root / RUNNING).is_dir() else []
        for folder in folders:
            try:
                if (folder / metadata.NAME).exists():  # it was whole, only not yet named
                    self.finish(folder)
                    continue
                target = self.interrupt(folder, "its recorder was killed")
                said.append(f"bag of episode {folder.name}: its recorder was killed; what there is of it is in {target}")
            except OSError as error:
                said.append(
                    f"bag of episode {folder.name}: its recorder was killed, and {error.filename or folder}: {error.strerror or error}"
                )
        for partial in self.root.glob(f"{PARTIAL}*"):
            shutil.rmtree(partial, ignore_errors=True)
        return said

    def list(self) -> list[str]:
        """Names of the whole bags, sorted."""
        return sorted(path.parent.name for path in self.root.glob(f"*/{metadata.NAME}"))

    def interrupted(self) -> dict[str, str]:
        """Bag in `interrupted/` -> what happened to it."""
        found = sorted((self.root / INTERRUPTED).glob(f"*/{_REASON}"))
        return {path.parent.name: path.read_text(encoding="utf-8", errors="replace").strip() for path in found}

    def protected(self, name: str) -> bool:
        return (self.root / name / PROTECTED).exists()

    def protect(self, name: str, on: bool = True) -> bool:
        """Keep a bag whatever the budget (or no longer), also one that is being written; whether it is there."""
        found = [folder for folder in (self.root / name, self.root / RUNNING / name) if _NAME.fullmatch(name) and folder.is_dir()]
        for folder in found:
            mark = folder / PROTECTED
            mark.touch() if on else mark.unlink(missing_ok=True)
        return bool(found)

    def running(self) -> list[str]:
        """Names of those that are being written, or were when their recorder was killed."""
        return sorted(path.name for path in (self.root / RUNNING).glob("*/"))

    def size(self, name: str) -> int:
        """Bytes of a bag's files."""
        return sum(path.stat().st_size for path in (self.root / name).iterdir())

    def prune(self, budget: int) -> list[str]:
        """Delete whole bags, the oldest first, until all together take at most `budget` bytes; protected and interrupted ones and the
        newest stay. Returns the names of those that went. Raises OSError."""
        ages = sorted((os.stat(self.root / name / metadata.NAME).st_mtime_ns, name) for name in self.list())
        return prune(self.root, {name: self.size(name) for _, name in ages}, budget, self.protected)

    def space(self) -> int:
        """Bytes that may still be written to the disk."""
        return shutil.disk_usage(self.root).free - RESERVE

    def _aside(self, folder: Path, reason: str) -> Path:
        aside = self.root / INTERRUPTED
        aside.mkdir(exist_ok=True)
        names = (folder.name, *(f"{folder.name}-{count}" for count in range(1, 10_000)))
        target = next(aside / name for name in names if not (aside / name).exists())
        (folder / _REASON).write_text(reason + "\n", encoding="utf-8")
        folder.rename(target)
        return target
