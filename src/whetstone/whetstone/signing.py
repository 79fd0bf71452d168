"""Signed announcements of weights: who may change what a robot does.

Role: HMAC-SHA256 (RFC 2104) over all that a manifest says, under a key that learner and robot share. The chunks need no signature: the
manifest holds the hash of each. Standard library only.

What it does not do: nobody is kept from listening, and a manifest that was signed once can be announced again to a robot that was restarted
since (a robot that runs refuses versions older than its own). The key belongs in a file that only its owner can read.
"""

from __future__ import annotations

import dataclasses
import hmac
import json
import stat
from pathlib import Path

from whetstone.errors import ConfigError
from whetstone.transfer import Manifest

SHORTEST = 32
"""Bytes of a key, at least."""


def load_key(path: str) -> bytes:
    """From a file, without white space around it. Raises ConfigError where it is missing, too short or readable by others."""
    file = Path(path).expanduser()
    try:
        mode, key = file.stat().st_mode, file.read_bytes().strip()
    except OSError as error:
        raise ConfigError(f"weights_key: {file} cannot be read: {error.strerror}") from None
    if mode & (stat.S_IRWXG | stat.S_IRWXO):
        raise ConfigError(f"weights_key: {file} can be read by others than its owner; run `chmod 600 {file}`")
    if len(key) < SHORTEST:
        raise ConfigError(
            f"weights_key: {file} holds {len(key)} bytes; at least {SHORTEST} are needed, e.g. `openssl rand -hex 32 > {file}`"
        )
    return key


def sign(key: bytes, manifest: Manifest, parent: int, iteration: int, policy_id: str, config_hash: str) -> str:
    """Hex. Of the tensor table and of the chunks' digests their hashes stand in; `transfer.check_manifest` holds both against those."""
    said = {
        field.name: getattr(manifest, field.name) for field in dataclasses.fields(manifest) if field.name not in ("table", "chunk_sha256")
    }
    fields = {**said, "parent": parent, "iteration": iteration, "policy_id": policy_id, "config_hash": config_hash}
    return hmac.new(key, json.dumps(fields, sort_keys=True, separators=(",", ":")).encode(), "sha256").hexdigest()


def refusal(key: bytes, signature: str, expected: str) -> str:
    """Why a manifest with this signature must not be taken; empty where it may. key: b"" where none is configured: then anything may."""
    if not key:
        return ""
    if not signature:
        return "its manifest is not signed, and this robot takes signed ones only (weights_key)"
    # As bytes: compare_digest refuses text that is not ASCII.
    if not hmac.compare_digest(signature.encode(), expected.encode()):
        return "its manifest was signed with another key, or changed on its way"
    return ""
