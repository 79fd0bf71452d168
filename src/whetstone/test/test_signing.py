"""Signed announcements of weights: what the signature covers, and keys that are none."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from whetstone.errors import ConfigError
from whetstone.signing import load_key, refusal, sign
from whetstone.snapshot import pack, table_of
from whetstone.transfer import manifest_of

KEY = b"k" * 32
STATE = {"a": np.arange(4, dtype=np.float32)}
MANIFEST = manifest_of(pack(STATE, table_of(STATE)), table_of(STATE), 3, 8, "zstd", "ba5e", "host", "/dev/shm/file")
REST: dict[str, Any] = {"parent": 2, "iteration": 1, "policy_id": "flow_vla", "config_hash": "c0ffee"}


def test_only_the_key_that_signed_is_believed() -> None:
    signature = sign(KEY, MANIFEST, **REST)
    assert refusal(KEY, signature, sign(KEY, MANIFEST, **REST)) == ""
    other = b"o" * 32
    assert "another key" in refusal(other, signature, sign(other, MANIFEST, **REST))
    assert "another key" in refusal(KEY, "ü" + signature[1:], signature)
    assert "not signed" in refusal(KEY, "", signature)
    assert refusal(b"", "", "") == "" == refusal(b"", signature, "")


def test_the_signature_covers_whatever_the_manifest_says() -> None:
    signature = sign(KEY, MANIFEST, **REST)
    for field in dataclasses.fields(MANIFEST):
        if field.name in ("table", "chunk_sha256"):  # their hashes are signed, and the receiver holds both to them
            continue
        value = getattr(MANIFEST, field.name)
        changed = dataclasses.replace(MANIFEST, **{field.name: value + 1 if isinstance(value, int) else value[::-1]})
        assert sign(KEY, changed, **REST) != signature, field.name
    for name, value in REST.items():
        assert sign(KEY, MANIFEST, **{**REST, name: value + 1 if isinstance(value, int) else value + "x"}) != signature, name


def test_a_key_is_a_private_file_that_is_long_enough(tmp_path: Path) -> None:
    path = tmp_path / "key"
    with pytest.raises(ConfigError, match=r"weights_key: .*key cannot be read: No such file"):
        load_key(str(path))
    path.write_bytes(KEY + b"\n")
    path.chmod(0o644)
    with pytest.raises(ConfigError, match="can be read by others than its owner; run `chmod 600"):
        load_key(str(path))
    path.chmod(0o600)
    assert load_key(str(path)) == KEY
    path.write_bytes(b"short")
    with pytest.raises(ConfigError, match="holds 5 bytes; at least 32 are needed"):
        load_key(str(path))
