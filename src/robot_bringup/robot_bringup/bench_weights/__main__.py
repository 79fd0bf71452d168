"""Starts the two sides of each channel, one measurement after the other, and writes the rows.

Role: see the package. A push is measured from the moment when the sender has the new weights as arrays to the moment when the receiver's
tensors hold them; afterwards the tensors are compared with what was sent, bit by bit. Times are medians of the repeats. CPU time is of
both processes with all their threads; memory is the peak above what the process had with its weights loaded.
"""

from __future__ import annotations

import json
import os
import queue
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from robot_bringup.bench_weights import network
from whetstone import config, results
from whetstone.arguments import integer, parse_arguments, run, spelled
from whetstone.config import unknown
from whetstone.errors import ConfigError

ARGUMENTS = {
    "sizes": "1MB,10MB,100MB,1GB",
    "subjects": "whetstone,whetstone_file,one_message,grpc_chunks,zeromq_lz4",
    "policy": "true",
    "loss": "1,5,20",
    "loss_size": "10MB",
    "repeats": "5",
    "timeout": "120",
    "loss_timeout": "30",
    "domain": "97",
    "note": "",
    "results": "results/bench-weights.json",
}
HELP = """make bench-weights ARGS='name:=value ...': weights from one process to another

  sizes:=1MB,10MB,100MB,1GB     empty: none
  subjects:=whetstone,...       whetstone (chunks over DDS), whetstone_file, one_message, grpc_chunks, zeromq_lz4
  policy:=true                  also: all, adapters, differences and 16 bits of a policy-like state of 100 MB
  loss:=1,5,20                  per cent of packets lost between two namespaces (needs root, ip and nft); empty: none
  loss_size:=10MB
  repeats:=5                    one at 1 GB
  timeout:=120                  seconds that a push may take
  loss_timeout:=30              the same where packets are lost
  domain:=97                    ROS domain
  note:=                        what else ran on the machine, for the rows; the load average is noted anyway
  results:=results/bench-weights.json
"""
_SIZES = {"1MB": 1, "10MB": 10, "100MB": 100, "1GB": 1000}
_START = 90.0
_PLAIN = {"differences": False}


@dataclass(frozen=True)
class Subject:
    """channel: of `channels`; options: of learner_node.publisher.Options, for ours; state, trained: what is sent and what changes;
    profile: of config/dds."""

    channel: str
    options: dict[str, Any] = field(default_factory=dict)
    state: str = "dense"
    trained: str = "all"
    profile: str = ""


SUBJECTS = {
    "whetstone": Subject("whetstone", _PLAIN),
    "whetstone_file": Subject("whetstone", {**_PLAIN, "file_above": 1}),
    "one_message": Subject("one_message"),
    "grpc_chunks": Subject("grpc"),
    "zeromq_lz4": Subject("zeromq"),
}
# With DDS as it is and as config/dds/lossy.xml sets it.
LOSSY = {
    "whetstone": Subject("whetstone", _PLAIN, profile="lossy"),
    "whetstone_default_dds": Subject("whetstone", _PLAIN),
    "one_message": Subject("one_message", profile="lossy"),
    "grpc_chunks": Subject("grpc"),
    "zeromq_lz4": Subject("zeromq"),
}
POLICY = {
    ("all trained", "whetstone_uncompressed"): Subject("whetstone", {**_PLAIN, "compression": "none"}, "policy"),
    ("all trained", "whetstone_full"): Subject("whetstone", _PLAIN, "policy"),
    ("all trained", "whetstone_difference"): Subject("whetstone", {}, "policy"),
    ("all trained", "whetstone_bf16"): Subject("whetstone", {**_PLAIN, "precision": "bf16"}, "policy"),
    ("LoRA trained", "whetstone_full"): Subject("whetstone", _PLAIN, "policy", "adapters"),
    ("LoRA trained", "whetstone_difference"): Subject("whetstone", {}, "policy", "adapters"),
    ("LoRA trained", "whetstone_lora_only"): Subject("whetstone", {}, "adapters", "adapters"),
}


class Failed(Exception):
    """A push that did not arrive, in words."""


class Process:
    """One side, and its lines."""

    def __init__(self, order: dict[str, Any], before: Sequence[str], environment: dict[str, str], log: Path) -> None:
        argv = [*before, sys.executable, "-m", "robot_bringup.bench_weights.side", json.dumps(order)]
        self._log, self._role = log, order["role"]
        with log.open("w") as errors:
            self._process = subprocess.Popen(
                argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors, text=True, env={**os.environ, **environment}
            )
        self._said: queue.Queue[dict[str, Any]] = queue.Queue()
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            if line.startswith("{"):
                self._said.put(json.loads(line))

    def tell(self, line: str) -> None:
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(f"{line}\n")
            self._process.stdin.flush()
        except OSError:
            raise Failed(self._dead()) from None

    def hear(self, event: str, seconds: float) -> dict[str, Any]:
        end = time.monotonic() + seconds
        while True:
            try:
                said = self._said.get(timeout=min(0.5, max(0.0, end - time.monotonic())))
            except queue.Empty:
                if self._process.poll() is not None and self._said.empty():
                    raise Failed(self._dead()) from None
                if time.monotonic() >= end:
                    raise Failed(f"not within {seconds:g} s: {event} ({self._role})") from None
                continue
            if said["event"] == event:
                return said

    def _dead(self) -> str:
        lines = [line for line in self._log.read_text().splitlines() if line.strip()]
        return f"{self._role} ended with {self._process.poll()}: {lines[-1] if lines else 'without a word'}"

    def close(self) -> None:
        try:
            self.tell("quit")
            self._process.wait(10)
        except (Failed, subprocess.TimeoutExpired):
            self._process.kill()
            self._process.wait()


@dataclass
class Push:
    """seconds from push to applied; CPU seconds and bytes at the peak of either side; bytes of chunks that came; whether all was right."""

    seconds: float
    cpu: tuple[float, float]
    peak: tuple[int, int]
    received: int
    right: bool


def measure(
    subject: Subject,
    megabytes: float,
    repeats: int,
    values: dict[str, str],
    folder: Path,
    before: tuple[Sequence[str], Sequence[str]] = ((), ()),
    address: str = "127.0.0.1",
) -> list[Push]:
    """One pair of processes, a push to warm up, and the repeats. Raises Failed."""
    lost = before != ((), ())
    port = 18000 + os.getpid() % 2000
    environment = {
        "ROS_DOMAIN_ID": values["domain"],
        "ROS_AUTOMATIC_DISCOVERY_RANGE": "SUBNET" if lost else "LOCALHOST",
        "OMP_NUM_THREADS": "1",
    }
    if subject.profile:
        environment["FASTRTPS_DEFAULT_PROFILES_FILE"] = str(config.root() / "config" / "dds" / f"{subject.profile}.xml")
    options = {**subject.options, **({} if subject.channel == "whetstone" else {"address": address, "port": port})}
    order = {"channel": subject.channel, "kind": subject.state, "megabytes": megabytes, "trained": subject.trained}
    order |= {"address": address, "port": port, "options": options}
    timeout = float(values["timeout"])
    sides = [
        Process({**order, "role": role}, prefix, environment, folder / f"{role}.log")
        for role, prefix in (("sender", before[0]), ("receiver", before[1]))
    ]
    sender, receiver = sides
    try:
        for side in sides:
            side.hear("ready", _START)
        pushes, warm, received = [], 0 if repeats == 1 else 1, 0
        for version in range(1, repeats + warm + 1):
            for side in sides:
                side.tell(f"arm {version}")
                side.hear("armed", _START)
            sender.tell("push")
            began = sender.hear("pushed", timeout)["time"]
            while (applied := receiver.hear("applied", timeout))["version"] != version:
                pass
            reports = []
            for side in sides:
                side.tell("report")
                reports.append(side.hear("report", _START))
            sent, got = reports
            right = sent["fingerprint"] == got["fingerprint"]
            one = Push(applied["time"] - began, (sent["cpu"], got["cpu"]), (sent["peak"], got["peak"]), got["received"] - received, right)
            received = got["received"]
            if version > warm:
                pushes.append(one)
        return pushes
    finally:
        for side in sides:
            side.close()


def rows(case: str, subject: str, pushes: Sequence[Push], note: str) -> list[dict[str, Any]]:
    """Medians."""

    def median(values: Sequence[float]) -> float:
        return statistics.median(values)

    def row(metric: str, value: float, unit: str) -> dict[str, Any]:
        figure = {"case": case, "subject": subject, "metric": metric, "value": float(f"{value:.4g}"), "unit": unit, "n": len(pushes)}
        return {**figure, "note": note}

    made = [
        row("push_to_applied", median([push.seconds for push in pushes]), "s"),
        row("push_to_applied_slowest", max(push.seconds for push in pushes), "s"),
        row("cpu_time", median([sum(push.cpu) for push in pushes]), "s"),
        row("cpu_time_sender", median([push.cpu[0] for push in pushes]), "s"),
        row("cpu_time_receiver", median([push.cpu[1] for push in pushes]), "s"),
        row("peak_memory", max(sum(push.peak) for push in pushes) / 1e6, "MB"),
        row("peak_memory_sender", max(push.peak[0] for push in pushes) / 1e6, "MB"),
        row("peak_memory_receiver", max(push.peak[1] for push in pushes) / 1e6, "MB"),
        row("corrupt_applied", sum(not push.right for push in pushes), "1"),
    ]
    if subject.startswith("whetstone") and subject != "whetstone_file":
        made.append(row("sent", median([push.received for push in pushes]) / 1e6, "MB"))
    return made


def main(arguments: list[str]) -> None:
    values = parse_arguments(arguments, ARGUMENTS)
    sizes, names, losses = (values[key].split(",") if values[key] else [] for key in ("sizes", "subjects", "loss"))
    for size in [*sizes, values["loss_size"]]:
        if size not in _SIZES:
            raise ConfigError(unknown("size", size, list(_SIZES)))
    for name in names:
        if name not in SUBJECTS:
            raise ConfigError(unknown("subject", name, list(SUBJECTS)))
    repeats = integer(values, "repeats")
    if repeats < 1 or values["policy"] not in ("true", "false") or not all(loss.isdigit() and int(loss) < 100 for loss in losses):
        raise ConfigError("repeats:= must be at least 1, policy:= true or false, loss:= whole per cents below 100 joined by commas")
    todo: list[tuple[str, str, Subject, float, int, float | None]] = []
    for size in sizes:
        todo += [(size, name, SUBJECTS[name], _SIZES[size], 1 if size == "1GB" else repeats, None) for name in names]
    if values["policy"] == "true":
        todo += [(f"policy 100MB, {case}", name, subject, 0, repeats, None) for (case, name), subject in POLICY.items()]
    reason = network.unavailable() if losses else ""
    if reason:
        print(f"no loss is measured: {reason}", file=sys.stderr, flush=True)
    for loss in [] if reason else losses:
        size, count = values["loss_size"], min(repeats, 3)
        todo += [(f"{size}, {loss} % loss", name, subject, _SIZES[size], count, float(loss)) for name, subject in LOSSY.items()]
    # Which rows were made last is no part of how they are made.
    changed = spelled({name: values[name] for name in ("repeats", "timeout", "loss_timeout", "loss_size")}, ARGUMENTS)
    command = f"make bench-weights ARGS='{changed}'" if changed else "make bench-weights"
    for case, name, subject, megabytes, count, loss in todo:
        made = _one(case, name, subject, megabytes, count, loss, values)
        results.merge(Path(values["results"]), made, command=command, configurations={})
        for row in made:
            print(f"{row['case']:<28} {row['subject']:<24} {row['metric']:<24} {row['value']:>10} {row['unit']}", flush=True)


def _one(case: str, name: str, subject: Subject, megabytes: float, count: int, loss: float | None, values: dict[str, str]) -> list[dict]:
    load = f"load average {os.getloadavg()[0]:.1f} before{'; ' + values['note'] if values['note'] else ''}"
    with tempfile.TemporaryDirectory() as folder:
        try:
            if loss is None:
                pushes = measure(subject, megabytes, count, values, Path(folder))
            else:
                with network.lossy(loss) as before:
                    patient = {**values, "timeout": values["loss_timeout"]}
                    pushes = measure(subject, megabytes, count, patient, Path(folder), before, network.ADDRESSES[0])
                    load = f"{network.dropped()} packets lost, both ways and with the first push that is not counted; {load}"
        except Failed as failure:
            print(f"{case:<28} {name:<24} {failure}", file=sys.stderr, flush=True)
            return [_failed(case, name, 1.0, f"{failure}; {load}")]
    # Said also where all went well, so that it takes the place of a failure before.
    return [*rows(case, name, pushes, load), _failed(case, name, 0.0, load)]


def _failed(case: str, name: str, value: float, note: str) -> dict[str, Any]:
    return {"case": case, "subject": name, "metric": "failed", "value": value, "unit": "1", "note": note}


if __name__ == "__main__":
    run(main, HELP)
