"""Two network namespaces with a bad network between them.

Role: `ip netns` and a veth pair; packets that come in are dropped at random by nftables, whole Ethernet frames as on a bad link, so that
a datagram of several fragments is lost with any of them. Needs root and the programs ip and nft; `unavailable` says what is missing.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

NAMES = ("whetstone_a", "whetstone_b")
ADDRESSES = ("10.77.0.1", "10.77.0.2")
_MEMORY = Path("/dev/shm")
_RULES = """
table netdev loss {{
  chain incoming {{
    type filter hook ingress device {device} priority 0; policy accept;
    numgen random mod 1000 < {per_mille} counter drop
  }}
}}
"""


def unavailable() -> str:
    """Why there can be no namespaces here, in words; empty where there can."""
    if os.geteuid() != 0:
        return "not root"
    for program in ("ip", "nft"):
        if shutil.which(program) is None:
            return f"no program '{program}' (apt-get install iproute2 nftables)"
    _ip("netns", "del", NAMES[0], check=False)  # of a run that was killed
    tried = _ip("netns", "add", NAMES[0], check=False)
    if tried.returncode:
        return f"ip netns: {tried.stderr.strip()}"
    _ip("netns", "del", NAMES[0])
    return ""


@contextmanager
def lossy(per_cent: float) -> Iterator[tuple[tuple[str, ...], tuple[str, ...]]]:
    """What to put before a command to run it in either namespace. Both are gone afterwards."""
    try:
        for name in NAMES:
            _ip("netns", "del", name, check=False)  # of a run that was killed
            _ip("netns", "add", name)
        devices = ("ws0", "ws1")
        _ip("link", "add", devices[0], "netns", NAMES[0], "type", "veth", "peer", "name", devices[1], "netns", NAMES[1])
        for name, device, address in zip(NAMES, devices, ADDRESSES):
            _ip("-n", name, "addr", "add", f"{address}/24", "dev", device)
            # One frame is one packet: else TCP would be handed over, and lost, 64 KB at a time.
            _ip("-n", name, "link", "set", device, "gso_max_segs", "1", "gso_max_size", "1500")
            _ip("-n", name, "link", "set", device, "up")
            _ip("-n", name, "link", "set", "lo", "up")
            _ip("-n", name, "route", "add", "224.0.0.0/4", "dev", device)
            if per_cent:
                rules = _RULES.format(device=device, per_mille=round(10 * per_cent))
                subprocess.run(["ip", "netns", "exec", name, "nft", "-f", "-"], input=rules, text=True, check=True, capture_output=True)
        first, second = (("ip", "netns", "exec", name, *_with_memory(name)) for name in NAMES)
        yield first, second
    finally:
        for name in NAMES:
            _ip("netns", "del", name, check=False)
            shutil.rmtree(_MEMORY / name, ignore_errors=True)


def _with_memory(name: str) -> tuple[str, ...]:
    """A namespace has a /dev/shm of its own: DDS must not find the other side there, but must find all of its own side."""
    shutil.rmtree(_MEMORY / name, ignore_errors=True)
    (_MEMORY / name).mkdir()
    return "bash", "-c", f'mount --bind {_MEMORY / name} {_MEMORY} && exec "$@"', "bash"


def dropped() -> int:
    """Packets that were lost so far, both ways."""
    total = 0
    for name in NAMES:
        argv = ["ip", "netns", "exec", name, "nft", "-j", "list", "ruleset"]
        listed = json.loads(subprocess.run(argv, check=True, capture_output=True, text=True).stdout)
        for rule in (entry["rule"] for entry in listed["nftables"] if "rule" in entry):
            total += sum(part["counter"]["packets"] for part in rule["expr"] if "counter" in part)
    return total


def _ip(*words: str, check: bool = True) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["ip", *words], check=check, capture_output=True, text=True)
