"""A node for test_ros: what it does wrong, and when, is its parameter `fault`."""

from __future__ import annotations

import sys
import time
from dataclasses import dataclass, field

from diagnostic_msgs.msg import DiagnosticArray
from std_srvs.srv import Trigger

from whetstone import ros
from whetstone.errors import ConfigError


@dataclass
class Parameters:
    fault: str
    seconds: float = field(default=0.3, metadata={"gt": 0})
    names: tuple[str, ...] = ()


class Probe(ros.WhetstoneNode[Parameters]):
    def __init__(self) -> None:
        super().__init__("probe", Parameters)
        if self.parameters.fault == "constructor":
            raise ConfigError("config/x.yaml: key 'y' is unknown")

    def configure(self) -> None:
        if self.parameters.fault == "configure":
            raise ConfigError("config/x.yaml: key 'y' is unknown")
        if self.parameters.fault == "defect":
            raise RuntimeError("boom\nwith a second line")

    def activate(self) -> None:
        print("parameters", self.parameters, flush=True)
        fault, seconds = self.parameters.fault, self.parameters.seconds
        if fault == "deadline":
            self.deadline(seconds, "camera", "first frame")
        elif fault == "met":
            self.deadline(seconds, "camera", "first frame").meet()
            self.create_timer(2 * seconds, lambda: self.finish(7), clock=self.steady_clock)
        elif fault == "no_server":
            self.call(self.create_client(Trigger, "nobody"), Trigger.Request(), "manager", seconds, print)
        elif fault == "service":
            self.create_service(Trigger, "service", self._serve)
            self.call(self.create_client(Trigger, "service"), Trigger.Request(), "manager", 10.0, self._answered)
        elif fault == "service_raises":
            self.create_service(Trigger, "service", lambda request, response: 1 / 0)
            self.call(self.create_client(Trigger, "service"), Trigger.Request(), "manager", 10.0, lambda response: None)
        elif fault == "timer":
            self.create_timer(0.05, lambda: 1 / 0)
        elif fault == "then":
            self.create_service(Trigger, "service", self._serve)
            self.call(self.create_client(Trigger, "service"), Trigger.Request(), "manager", 10.0, lambda response: 1 / 0)
        elif fault == "diagnostics":
            self.counters.update(frames=3, seconds=0.25, peer="camera")
            self.create_subscription(DiagnosticArray, "/diagnostics", self._diagnosed, ros.STATE)
        elif fault == "stuck":
            self.grace = 0.5
            self.create_timer(0.01, self._stick)
        print("active", flush=True)

    def deactivate(self) -> None:
        print("deactivate", flush=True)
        if self.parameters.fault == "deactivate":
            raise ConfigError("cannot hold")

    def cleanup(self) -> None:
        print("cleanup", flush=True)

    def _serve(self, request: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
        response.success, response.message = True, "served"
        return response

    def _stick(self) -> None:
        print("stuck", flush=True)
        time.sleep(60)

    def _answered(self, response: Trigger.Response) -> None:
        print("answer", response.message, flush=True)
        self.finish(0)

    def _diagnosed(self, message: DiagnosticArray) -> None:
        (status,) = message.status
        print(status.name, status.message, {value.key: value.value for value in status.values}, flush=True)
        self.finish(0)


if __name__ == "__main__":
    sys.exit(ros.run_node(Probe, autostart="--managed" not in sys.argv))
