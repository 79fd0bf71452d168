"""A listener that notes where the time of a control step goes.

Role: for `whetstone bench` only. Collects latencies from `policy/action` and `reward` and the simulator's counters from
/diagnostics, and writes probe.json into the run directory when it is stopped.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from diagnostic_msgs.msg import DiagnosticArray
from whetstone_msgs.msg import Action, Reward

from robot_bringup import records
from whetstone import jsonfile
from whetstone.ros import EVENT, STATE, WhetstoneNode, run_node


@dataclass(frozen=True)
class Parameters:
    """run_dir: where probe.json goes."""

    run_dir: str


class Probe(WhetstoneNode[Parameters]):
    """See the module."""

    def __init__(self) -> None:
        super().__init__("probe", Parameters)

    def configure(self) -> None:
        self._latencies: dict[str, list[float]] = {"policy": [], "reward": []}
        self._simulator: dict[str, float] = {}
        self.create_subscription(Action, "policy/action", lambda message: self._latencies["policy"].append(message.latency), EVENT)
        self.create_subscription(Reward, "reward", lambda message: self._latencies["reward"].append(message.latency), EVENT)
        self.create_subscription(DiagnosticArray, "/diagnostics", self._on_diagnostics, STATE)

    def cleanup(self) -> None:
        latencies = {name: {"count": len(values), "seconds": sum(values)} for name, values in self._latencies.items()}
        jsonfile.write(Path(self.parameters.run_dir) / records.PROBE, {**latencies, "simulator": self._simulator})

    def _on_diagnostics(self, message: DiagnosticArray) -> None:
        for status in message.status:
            if status.name == f"{self.get_namespace().rstrip('/')}/simulator":
                self._simulator = {
                    item.key: float(item.value) for item in status.values if item.key == "frames" or item.key.endswith("_ms")
                }


def main(args: list[str] | None = None) -> int:
    """`python -m robot_bringup.probe_node`."""
    return run_node(Probe, args, autostart=True)


if __name__ == "__main__":
    raise SystemExit(main())
