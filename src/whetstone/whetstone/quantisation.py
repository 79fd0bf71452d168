"""Weights in fewer bits: which kinds there are, and whether this machine runs them.

Role: int8 and nf4 by bitsandbytes on CUDA (nf4 on a CPU too, where it saves memory and costs time); int8 on a CPU by torch's own integer
product, which is faster there than float32. Of a vision-language model only the language model is quantised: the vision tower is a small
part of the work and the part that suffers. Depends on torch; bitsandbytes is imported when it is asked for.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Literal

import torch
from torch import nn

from whetstone.errors import AssetError, ConfigError
from whetstone.precision import has_bfloat16

Precision = Literal["float32", "bfloat16", "float16", "int8", "nf4"]
_VISION = ("visual", "vision_model", "vision_tower", "vision", "connector", "multi_modal_projector", "projector", "mlp1")
"""What the vision towers and projectors of the known families are called."""

_FAR = 16
"""Input columns of a layer that are not rounded."""
_PACKED_ROWS = 32
"""Outputs that bitsandbytes' packed layout of 4-bit weights takes together."""
_TOKENS = 64
"""Random ones, that show which columns these are."""


class Int8Linear(nn.Module):
    """A linear layer of int8 weights, one scale per output, for CPUs: inputs (..., in) are rounded to int8 with one scale per row as they
    come, products are summed in int32. Not for training.

    far: input columns that are multiplied unrounded: language models have some that are many times the rest, whose scale would leave the
    rest no bits (LLM.int8(), arXiv 2208.07339, section 3.2). Always the same ones, where the paper looks for them anew in every batch, so
    that a token's outputs do not depend on what else is in the pass.
    """

    weight: torch.Tensor
    scale: torch.Tensor
    far: torch.Tensor

    def __init__(self, linear: nn.Linear, far: Sequence[int] = ()) -> None:
        super().__init__()
        self.register_buffer("far", torch.tensor(far, dtype=torch.long))
        weight = linear.weight.detach().float()
        scale = (weight.abs().amax(dim=1) / 127).clamp_min(1e-12)
        # Copied, not only transposed: of a matrix with one row torch's product takes strides for granted that a view does not have.
        turned = torch.empty(weight.shape[::-1], dtype=torch.int8, device=weight.device)
        self.register_buffer("weight", turned.copy_((weight / scale[:, None]).round().t()))
        self.register_buffer("scale", scale)
        self.bias = linear.bias

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        rows = inputs.flatten(0, -2).float()
        near = rows.index_fill(1, self.far, 0.0)
        spread = (near.abs().amax(dim=1, keepdim=True) / 127).clamp_min(1e-12)
        product = torch._int_mm((near / spread).round().to(torch.int8), self.weight)
        outputs = torch.addmm(product.float() * spread, rows[:, self.far], self.weight[self.far].float()) * self.scale
        if self.bias is not None:
            outputs = outputs + self.bias
        return outputs.to(inputs.dtype).unflatten(0, inputs.shape[:-1])


def quantise(model: nn.Module, keep: Iterable[str] = ("lm_head",)) -> None:
    """Replace every linear layer of a language model, in place, by Int8Linear. keep: names that stay as they are (the head's logits are
    the score itself)."""
    kept, reach = set(keep), _reach(model)
    for name, columns in reach.items():
        path, _, last = name.rpartition(".")
        if not kept & set(name.split(".")):
            parent = model.get_submodule(path)
            far = columns.topk(min(_FAR, len(columns))).indices.tolist()
            setattr(parent, last, Int8Linear(parent.get_submodule(last), far))  # type: ignore[arg-type]


def _reach(model: nn.Module) -> dict[str, torch.Tensor]:
    """Name of a linear layer -> (in,) how far its input columns reach, over random tokens. Which ones stand out is the model's habit and
    hardly depends on the text."""
    found = {name: torch.zeros(part.in_features) for name, part in model.named_modules() if isinstance(part, nn.Linear)}

    def watch(name: str) -> Callable[..., None]:
        def hook(_: nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
            found[name] = torch.maximum(found[name], inputs[0].detach().float().flatten(0, -2).abs().amax(dim=0).cpu())

        return hook

    parts = dict(model.named_modules())
    hooks = [parts[name].register_forward_pre_hook(watch(name)) for name in found]
    try:
        embedding: Any = model.get_input_embeddings()  # type: ignore[operator]
        ids = torch.randint(embedding.num_embeddings, (1, _TOKENS), generator=torch.Generator().manual_seed(0))
        with torch.inference_mode():
            model(input_ids=ids.to(embedding.weight.device), use_cache=False)
    finally:
        for one in hooks:
            one.remove()
    return found


def loading_arguments(precision: Precision, device: str) -> dict[str, Any]:
    """Of transformers' from_pretrained. ConfigError where this machine cannot run that precision."""
    on_cuda = device.startswith("cuda")
    if on_cuda and not torch.cuda.is_available():
        raise ConfigError(f"device '{device}': this machine has no CUDA GPU that torch sees; use device:=cpu")
    if precision in ("float32", "bfloat16", "float16"):
        if precision == "bfloat16" and not has_bfloat16(device):
            logging.getLogger("whetstone").warning("'%s' imitates bfloat16, slower than float32; consider dtype: float32", device)
        return {"dtype": getattr(torch, precision)}
    if precision == "int8" and not on_cuda:
        return {"dtype": torch.float32}  # quantised after loading
    try:
        import bitsandbytes  # noqa: F401
        from transformers import BitsAndBytesConfig
    except ImportError as error:
        raise ConfigError(f"dtype: {precision} needs bitsandbytes, which is not installed: pip install bitsandbytes") from error
    compute = torch.bfloat16 if has_bfloat16(device) else torch.float32
    kinds: dict[str, Any] = {"load_in_8bit": True}
    if precision == "nf4":
        kinds = {"load_in_4bit": True, "bnb_4bit_quant_type": "nf4", "bnb_4bit_compute_dtype": compute}
    settings = BitsAndBytesConfig(llm_int8_skip_modules=[*_VISION, "lm_head"], **kinds)
    return {"dtype": compute, "quantization_config": settings, "device_map": {"": device}}


def finish(model: Any, precision: Precision, device: str) -> Any:
    """The loaded model on its device and in its precision, its kernels tried. AssetError where they do not work here."""
    if precision == "int8" and not device.startswith("cuda"):
        try_int8()
        quantise(_language(model))
    if precision in ("int8", "nf4") and getattr(model, "is_quantized", False):
        _unpack(model)
        _try(model, precision, device)
        return model  # already where device_map put it
    return model.to(torch.device(device))


def try_int8() -> None:
    """Whether the integer product gives on this CPU what it must. AssetError where not."""
    generator = torch.Generator().manual_seed(0)
    linear = nn.Linear(64, 48, bias=True)
    with torch.no_grad():
        linear.weight.normal_(generator=generator)
        assert linear.bias is not None
        linear.bias.normal_(generator=generator)
        inputs = torch.randn(5, 64, generator=generator)
        try:
            found = Int8Linear(linear)(inputs)
        except RuntimeError as error:
            raise AssetError(f"dtype: int8 does not run on this CPU ({_line(error)}); use dtype: float32") from error
        if not torch.allclose(found, linear(inputs), atol=0.5):
            raise AssetError("dtype: int8 gives wrong products on this CPU; use dtype: float32")


def _language(model: Any) -> nn.Module:
    """The language model of a vision-language model."""
    inner = getattr(model, "model", model)
    found = next((getattr(inner, name) for name in ("language_model", "text_model", "text") if hasattr(inner, name)), None)
    if found is None:
        raise ConfigError(f"dtype: int8 does not know where {type(model).__name__} keeps its language model; use dtype: float32")
    return found


def _unpack(model: Any) -> None:
    """On CPUs with AVX512-BF16 bitsandbytes lays 4-bit weights out anew at the first product, in whole blocks, and fails where a layer is
    not made of such. Those keep the layout that every CPU takes."""
    for layer in model.modules():
        if getattr(layer, "support_avx512bf16_for_cpu", False):
            state = layer.weight.quant_state
            layer.support_avx512bf16_for_cpu = layer.in_features % state.blocksize == 0 and layer.out_features % _PACKED_ROWS == 0


def _try(model: Any, precision: str, device: str) -> None:
    """One product by a quantised layer: AssetError where there is none, it does not run or it gives what are no numbers."""
    layer = next((one for one in model.modules() if type(one).__module__.startswith("bitsandbytes")), None)
    if layer is None:
        raise AssetError(f"dtype: {precision} left every layer as it was: this model's layers are not of the kind that bitsandbytes knows")
    inputs = torch.randn(4, layer.in_features, generator=torch.Generator().manual_seed(0)).to(device, model.dtype)
    try:
        with torch.inference_mode():
            found = layer(inputs).float()
    except Exception as error:  # CUDA and bitsandbytes raise what they like; each means that it does not run here
        raise AssetError(f"dtype: {precision} does not run on '{device}' ({_line(error)}); use dtype: bfloat16") from error
    if not torch.isfinite(found).all():
        raise AssetError(f"dtype: {precision} gives values on '{device}' that are not numbers; use dtype: bfloat16")


def _line(error: Exception) -> str:
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
