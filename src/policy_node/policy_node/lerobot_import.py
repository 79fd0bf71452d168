"""lerobot, imported beside versions that it does not ask for.

Role: the one place that knows how lerobot is found, and what has to be put right before it can be imported. `make setup` keeps it in a
folder of its own (.venv/lerobot), because with torchvision on the path transformers chooses other image processors, and a reward model
would see other pixels. Where lerobot is installed in the environment itself, that one is used.

What is put right, each where it is needed only:
- torchvision from PyPI is linked to torch's CUDA build; beside the CPU build its compiled operators are missing, and importing it fails at
  the first of them. Nothing here calls them: they are declared, without a body.
- lerobot 0.4 imports all its policies to import one, and GR00T's dataclass is none for transformers 5. An empty one stands in for it.
- lerobot 0.4 builds pi0 and pi0.5 of a patched transformers 4.53. What the patch changed is in pi_gemma.py, and stands in for it there.
"""

from __future__ import annotations

import sys
import types
from importlib import import_module
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from policy_node.convention import first_line
from whetstone.errors import ConfigError

FOLDER = Path(sys.prefix) / "lerobot"
_OPERATORS = ("nms", "qnms")
_DECIDED = "transformers.models.auto.image_processing_auto"
_GROOT = "lerobot.policies.groot"
_CHECK = "transformers.models.siglip.check"
_KEPT: list[Any] = []  # torch forgets operators with the library object that declared them


def lerobot(module: str) -> Any:
    """`lerobot.<module>`. Raises ConfigError naming what is missing."""
    try:
        if "lerobot" not in sys.modules:
            _prepare()
        return import_module(f"lerobot.{module}")
    except ImportError as error:
        raise ConfigError(f"lerobot cannot be imported ({first_line(error)}): run `make setup`, or pip install lerobot==0.4.4") from error


def pi(kind: str) -> Any:
    """The class of the policy `pi0` or `pi05`, built of pi_gemma.py where this lerobot asks for a patched transformers."""
    module = lerobot(f"policies.{kind}.modeling_{kind}")
    if version("lerobot").startswith("0.4."):
        from transformers.models.gemma import modeling_gemma as gemma

        from policy_node import pi_gemma

        check = types.ModuleType(_CHECK)
        check.check_whether_transformers_replace_is_installed_correctly = lambda: True  # type: ignore[attr-defined]
        sys.modules[_CHECK] = check
        import_module(_CHECK.rpartition(".")[0]).check = check  # type: ignore[attr-defined]
        module.PaliGemmaForConditionalGeneration, module.GemmaForCausalLM = pi_gemma.VisionLanguage, pi_gemma.Expert
        module.modeling_gemma = types.SimpleNamespace(
            apply_rotary_pos_emb=gemma.apply_rotary_pos_emb,
            eager_attention_forward=gemma.eager_attention_forward,
            _gated_residual=pi_gemma.gated_residual,
        )
    return getattr(module, f"{kind.upper()}Policy")


def _prepare() -> None:
    if find_spec("torchvision") is None and _DECIDED in sys.modules:
        raise ConfigError("lerobot must be loaded before any other model: transformers has already gone without its torchvision here")
    if find_spec("lerobot") is None and FOLDER.is_dir():
        sys.path.append(str(FOLDER))  # last: what both have is taken from the environment
    import torch
    import transformers

    try:
        import_module("torchvision")
    except RuntimeError:
        for name in [name for name in sys.modules if name.partition(".")[0] == "torchvision"]:
            del sys.modules[name]
        library = torch.library.Library("torchvision", "DEF")
        for operator in _OPERATORS:
            library.define(f"{operator}(Tensor boxes, Tensor scores, float threshold) -> Tensor")
        _KEPT.append(library)
        import_module("torchvision")
    if version("lerobot").startswith("0.4.") and int(transformers.__version__.partition(".")[0]) >= 5:
        package, configuration = types.ModuleType(_GROOT), types.ModuleType(f"{_GROOT}.configuration_groot")
        package.__path__ = []
        configuration.GrootConfig = type("GrootConfig", (), {})  # type: ignore[attr-defined]
        sys.modules |= {package.__name__: package, configuration.__name__: configuration}
