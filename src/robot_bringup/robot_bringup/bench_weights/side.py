"""One end of a channel in a process of its own.

Role: `python -m robot_bringup.bench_weights.side JSON`; obeys lines on stdin (arm, push N, report, quit) and answers with lines of JSON on
stdout. Times are of CLOCK_MONOTONIC, which all processes of a machine share. What is measured ends when the tensors hold the weights;
making the next update, and the fingerprint that proves them, are left out.
"""

from __future__ import annotations

import json
import os
import queue
import sys
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch  # noqa: F401  (before memory is measured: whoever has a policy has it)

from robot_bringup.bench_weights import channels, states
from whetstone.snapshot import BF16


def _memory(word: str) -> int:
    """Bytes of this process: VmRSS, now, or VmHWM, at the peak (proc(5))."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(word))
    return int(line.split()[1]) * 1024


def say(**values: Any) -> None:
    print(json.dumps(values), flush=True)


class Side:
    """order: role ("sender", "receiver"), channel, kind of state, megabytes, trained ("all", "adapters"), address, port, options."""

    def __init__(self, order: dict[str, Any]) -> None:
        self._order = order
        state = states.policy() if order["kind"] != "dense" else states.dense(order["megabytes"])
        self._state = states.adapters(state) if order["kind"] == "adapters" else state
        del state
        self._trained = states.is_adapter if order["trained"] == "adapters" else (lambda name: True)
        self._version = 0
        self._applied: dict[int, float] = {}
        if order["role"] == "sender":
            options = order["options"]
            self._channel = channels.SENDERS[order["channel"]](self._state, options)
        else:
            self._tensors = channels.Tensors(self._state)
            self._state = {}
            self._channel = channels.receiver(order["channel"], self._tensors, self._on_applied, order["address"], order["port"])
        self._base = _memory("VmRSS")
        self._cpu = 0.0

    def _on_applied(self, version: int) -> None:
        self._applied[version] = time.monotonic()
        say(event="applied", version=version, time=self._applied[version])

    def _expected(self) -> states.State:
        """What the receiver should end up with."""
        if self._order["options"].get("precision") != "bf16":
            return self._state
        return {name: array.astype(BF16).astype(np.float32) for name, array in self._state.items()}

    def obey(self, line: str) -> bool:
        """Do what the line says. False: it said quit."""
        word, _, number = line.partition(" ")
        if word == "arm":
            if self._order["role"] == "sender":
                self._version = int(number)
                states.update(self._state, self._version, self._trained)
            Path("/proc/self/clear_refs").write_text("5")  # the peak is that from now on
            self._cpu = time.process_time()
            say(event="armed")
        elif word == "push":
            began = time.monotonic()
            self._channel.push(self._state, self._version)
            say(event="pushed", time=began)
        elif word == "report":
            cpu, peak = time.process_time() - self._cpu, _memory("VmHWM") - self._base
            sender = self._order["role"] == "sender"
            found = states.fingerprint(self._expected() if sender else self._tensors.as_arrays())
            say(event="report", cpu=cpu, peak=peak, fingerprint=found, received=0 if sender else self._channel.received)
        return word != "quit"

    def run(self) -> None:
        lines: queue.SimpleQueue[str] = queue.SimpleQueue()

        def read() -> None:
            for line in sys.stdin:
                lines.put(line.strip())
            lines.put("quit")

        threading.Thread(target=read, daemon=True).start()
        if self._order["role"] == "sender":
            while not self._channel.ready:
                self._channel.spin(0.02)
        say(event="ready")
        while True:
            while not lines.empty():
                if not self.obey(lines.get()):
                    if self._order["role"] == "sender":
                        self._channel.close()
                    return
            self._channel.spin(0.005)


if __name__ == "__main__":
    Side(json.loads(sys.argv[1])).run()
    sys.stdout.flush()
    os._exit(0)  # threads of the channels do not end by themselves
