"""Whether training in bfloat16 pays on this machine.

Role: one question about the hardware. A CPU without instructions for it imitates bfloat16, three times slower than float32.
Depends on torch.
"""

from __future__ import annotations

import functools
from pathlib import Path

import torch

_FLAGS = {"avx512_bf16", "amx_bf16", "bf16"}  # x86, x86, ARM


def cpu_flags(cpuinfo: str) -> set[str]:
    """The instruction-set flags in the text of /proc/cpuinfo."""
    lines = (line.partition(":") for line in cpuinfo.splitlines())
    return {flag for key, _, value in lines if key.strip() in ("flags", "Features") for flag in value.split()}


@functools.cache
def has_bfloat16(device: str = "cpu") -> bool:
    """Whether `device` ('cpu', 'cuda') computes in bfloat16 natively; False where that cannot be found out."""
    if device.startswith("cuda"):
        return torch.cuda.is_bf16_supported(including_emulation=False)
    try:
        return bool(_FLAGS & cpu_flags(Path("/proc/cpuinfo").read_text()))
    except OSError:
        return False


def autocast(device: str = "cpu") -> torch.autocast:
    """For training on `device`: bfloat16 where it pays, else float32."""
    return torch.autocast(device, torch.bfloat16, enabled=has_bfloat16(device))
