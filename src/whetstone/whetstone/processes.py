"""Processes that do not outlive the one that started them.

Role: the one place that asks the kernel for that. Standard library only; nothing where there is no such kernel.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys

_PR_SET_PDEATHSIG = 1
_LIBC = ctypes.CDLL(None, use_errno=True) if sys.platform == "linux" else None
"""Loaded here, for between fork and exec nothing may be."""


def die_with(parent: int) -> None:
    """From now on this process is killed when its parent ends, however it ends; at once where that is no longer `parent`."""
    if _LIBC is not None:
        _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)
