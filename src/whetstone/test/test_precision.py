"""What the text of /proc/cpuinfo says about bfloat16."""

from __future__ import annotations

import pytest

pytest.importorskip("torch")

from whetstone import precision  # noqa: E402


@pytest.mark.parametrize(
    ("cpuinfo", "expected"),
    [
        ("processor\t: 0\nflags\t\t: fpu avx2 avx512f avx512_bf16\n", True),
        ("processor\t: 0\nflags\t\t: fpu avx2 avx512f\nvmx flags\t: bf16\n", False),
        ("processor\t: 0\nFeatures\t: fp asimd bf16 i8mm\n", True),
        ("", False),
    ],
)
def test_a_processor_with_bfloat16_is_known_by_its_flags(monkeypatch, cpuinfo, expected):
    monkeypatch.setattr(precision.Path, "read_text", lambda self: cpuinfo)
    precision.has_bfloat16.cache_clear()
    assert precision.has_bfloat16("cpu") is expected
    precision.has_bfloat16.cache_clear()
