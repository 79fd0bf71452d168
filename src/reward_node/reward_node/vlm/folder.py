"""The folder of a local model, and what can be wrong with it.

Role: one wording for a folder that is not named, is not there or holds something else. Does not depend on torch or transformers.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from whetstone.errors import AssetError, ConfigError


def model_folder(folder: str | None, source: str, kind: str, example: str) -> Path:
    """The folder that `source` (the YAML, for messages) names. kind: of model, in words; example: a published one.

    ConfigError where none is named, AssetError where it holds no config.json.
    """
    if not folder:
        raise ConfigError(f"{source}: key 'model' is empty; set it to the folder of a local {kind}, for example {example}")
    path = Path(folder).expanduser()
    if not (path / "config.json").is_file():
        raise AssetError(
            f"{source}: model '{path}' is not a model folder (no config.json); download the model and set 'model' to its folder"
        )
    return path


@contextmanager
def loading(path: Path) -> Iterator[None]:
    """Whatever transformers raises inside becomes an AssetError of one line that names the folder."""
    try:
        yield
    except (ImportError, OSError, ValueError, KeyError, RuntimeError) as error:
        reason = next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
        raise AssetError(f"model '{path}' cannot be loaded: {reason}") from error
