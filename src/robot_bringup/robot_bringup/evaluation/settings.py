"""What an evaluation is of, as one value that processes can be handed and whose hash says whether a result still holds.

Role: pure data. Does not depend on ROS, torch or files being there.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from robot_bringup.evaluation.models import Named
from robot_bringup.evaluation.recordings import Source, identity
from whetstone import config
from whetstone.contracts import PolicyMode
from whetstone.images import Resize
from whetstone.profile import load_profile

FORMAT = 2
"""Of what is written for a recording; another one is evaluated again."""


@dataclass(frozen=True)
class Settings:
    """robot: its profile; rewards, policies: what is evaluated; mode: how policies act; device: of networks; threads: of each process;
    instruction: instead of the recording's own, empty: that; task: its name; cameras: ours -> topic; mapping: which topic is what, a file
    of config/bags or its path; start, end: s from the beginning of a recording, None: all of it; resize: what is done with images of
    another size; spool: bytes of frames that one model's recording may take on the disk; seed: of the controls."""

    robot: str
    rewards: tuple[Named, ...] = ()
    policies: tuple[Named, ...] = ()
    mode: PolicyMode = "greedy"
    device: str = "cpu"
    threads: int = 1
    instruction: str = ""
    task: str = ""
    cameras: Mapping[str, str] = field(default_factory=dict)
    mapping: str = ""
    start: float | None = None
    end: float | None = None
    resize: Resize = "no"
    spool: int = 4_000_000_000
    seed: int = 0

    def key(self, source: Source) -> str:
        """Hex. Of all that the result for a source depends on: files of the recording, configurations, weights."""
        said = [source.kind, source.id, source.outcome, source.judge, source.controls, source.identity()]
        return config.config_hash([FORMAT, *self._own, said])

    @cached_property
    def _own(self) -> list[Any]:
        """What the results for all sources depend on, as it was when it was first asked for."""
        named = {kind: [self._model(kind, one) for one in getattr(self, kind)] for kind in ("rewards", "policies")}
        plain = {name: value for name, value in asdict(self).items() if name not in ("rewards", "policies", "threads", "spool", "device")}
        mapping = dict(config.load_yaml(config.find("bags", self.mapping))) if self.mapping else {}
        return [named, plain, mapping, dict(config.load_extended("robots", self.robot))]

    def _model(self, kind: str, one: Named) -> list[Any]:
        contents = config.load_yaml(config.find(kind, one.configuration))
        files = [*_files(contents, load_profile(self.robot).asset_name), *([one.weights] if one.weights else [])]
        inner = contents.get("inner")
        below = self._model(kind, Named(inner, inner)) if isinstance(inner, str) else []
        return [one.name, dict(contents), [[path, identity(Path(path))] for path in files], below]


def _files(contents: Any, robot: str) -> list[str]:
    """Paths of all files and folders that the values of a configuration name."""
    if isinstance(contents, dict):
        return [path for value in contents.values() for path in _files(value, robot)]
    if isinstance(contents, list):
        return [path for value in contents for path in _files(value, robot)]
    if not isinstance(contents, str) or not contents or "\n" in contents:
        return []
    path = Path(contents.replace("{robot}", robot)).expanduser()
    path = path if path.is_absolute() else config.root() / "assets" / path
    try:
        return [str(path)] if path.exists() else []
    except OSError:
        return []  # a text, not a name
