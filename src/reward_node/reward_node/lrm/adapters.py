"""LoRA adapters of a vision-language model, one for each question (arXiv 2603.16065 publishes three for Qwen3-VL-8B).

Role: loads them by PEFT, checks that they do something, switches between them. Depends on transformers and peft, which are imported when
adapters are asked for.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from whetstone.errors import AssetError, ConfigError


def load_adapters(model: Any, folders: Mapping[str, str], source: str) -> None:
    """Put the adapter of every folder beside the model's weights, under its name. source: the YAML, for messages.

    Raises AssetError where one is missing, is of another model, or changes nothing: a base that was spread over devices while loading can
    leave an adapter's second matrix silently at zero.
    """
    try:
        import peft  # noqa: F401
    except ImportError as error:
        raise ConfigError(f"{source}: key 'adapters' needs peft, which is not installed: pip install peft") from error
    for name, folder in folders.items():
        path = Path(folder).expanduser()
        if not (path / "adapter_config.json").is_file():
            raise AssetError(f"{source}: adapters.{name} '{path}' is not an adapter (no adapter_config.json)")
        try:
            model.load_adapter(str(path), adapter_name=name)
        except Exception as error:  # peft and safetensors raise types of their own; each means that it does not fit
            line = next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
            raise AssetError(f"{source}: adapters.{name} '{path}' does not fit this model: {line}") from error
        second = [part for key, part in model.named_parameters() if f"lora_B.{name}." in key]
        if not second or not any(bool(part.any()) for part in second):
            raise AssetError(f"{source}: adapters.{name} '{path}' changes nothing (its lora_B are zero or missing)")
    model.requires_grad_(False)
    model.eval()


def switch(model: Any, name: str | None) -> None:
    """To the adapter of this name; None: there are none."""
    if name is not None:
        model.set_adapter(name)
