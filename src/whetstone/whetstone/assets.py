"""Where weights and models lie.

Role: turns a name such as 'franka/policy.safetensors' into a path under assets/, or one clear error. Reads nothing.
"""

from __future__ import annotations

from pathlib import Path, PurePosixPath

from whetstone import config
from whetstone.errors import AssetError


def asset_path(relative: str) -> Path:
    """Path of assets/<relative> (a file or a folder). Raises AssetError where it is missing."""
    parts = PurePosixPath(relative)
    if parts.is_absolute() or ".." in parts.parts or not parts.parts:
        raise AssetError(f"asset '{relative}' must be a path inside the assets folder")
    path = config.root() / "assets" / parts
    if not path.exists():
        raise AssetError(f"asset '{relative}' is missing (looked in {config.root() / 'assets'}); run `make assets` to build it")
    return path
