"""The folder of a local model, and what can be wrong with it.

Role: one wording for a folder that is not named, is not there or holds something else; and what names its weights. Does not depend on
torch or transformers.
"""

from __future__ import annotations

import hashlib
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


def revision(folder: Path) -> str:
    """12 hex digits that name the files of a model folder: its configuration, its vocabulary, its weights."""
    return digest(sorted(path for path in folder.iterdir() if path.suffix in (".json", ".safetensors", ".bin", ".gguf", ".jinja")))


def digest(paths: list[Path]) -> str:
    """Of names, sizes and contents; of files above 16 MiB, 64 KiB at each of 64 places: a checkpoint of 16 GB need not be read twice."""
    digest, part, places = hashlib.sha256(), 1 << 16, 64
    for path in paths:
        size = path.stat().st_size
        digest.update(f"{path.name} {size} ".encode())
        with path.open("rb") as file:
            if size <= 1 << 24:
                digest.update(file.read())
                continue
            for place in range(places):
                file.seek((size - part) * place // (places - 1))
                digest.update(file.read(part))
    return digest.hexdigest()[:12]
