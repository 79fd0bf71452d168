"""A learner's side of the weights topics, for tests: in the test's own process, or as a process that can be killed.

Role: helpers only. As a script: `python weights_sender.py ROBOT VERSION SECONDS [KILL]` announces a snapshot made from VERSION and serves
it; with KILL it ends by SIGKILL after that many chunks, in the middle of a push.
"""

from __future__ import annotations

import os
import signal
import sys
import time

import numpy as np
import rclpy
from rclpy.clock import Clock
from rclpy.clock_type import ClockType
from rclpy.node import Node
from whetstone_msgs.msg import WeightsAck
from whetstone_msgs.srv import RequestChunks

from learner_node.publisher import Options, Pushed
from learner_node.weights_topics import WeightsTopics
from whetstone.ros import EVENT, make_executor

BALLAST = 400_000  # floats: four chunks
CONFIG_HASH = "c0ffee"


def state_of(version: int, bias: float = 0.5, ballast: int = BALLAST) -> dict[str, np.ndarray]:
    """Weights of the stand-in policy, the same for the same version."""
    return {
        "bias": np.full(1, bias, np.float32),
        "ballast": np.random.default_rng(version).normal(size=ballast).astype(np.float32),
    }


class Sender(WeightsTopics):
    """damage: index -> [what, how often]: "lost", "flipped", "twice", or a Sender whose chunk is sent in its place."""

    def __init__(self, node: Node, config_hash: str = CONFIG_HASH, key: bytes = b"", **options) -> None:
        node.steady_clock, node.counters = Clock(clock_type=ClockType.STEADY_TIME), {}
        self.node = node
        self.acks: list[WeightsAck] = []
        self.requests: list[list[int]] = []
        self.damage: dict[int, list] = {}
        self.reversed = False
        self.told: list = []
        node.create_subscription(WeightsAck, "weights/ack", self.acks.append, EVENT)
        super().__init__(node, Options(**options), ("stand_in", config_hash), key)
        self.manifests, self.chunks = self._manifests, self._chunks

    def _on_request(self, request: RequestChunks.Request, response: RequestChunks.Response) -> RequestChunks.Response:
        self.requests.append(list(request.indices))
        if self.reversed:
            request.indices = list(reversed(request.indices))
        return super()._on_request(request, response)

    def _send(self, pushed: Pushed, index: int, how: int, data) -> None:
        kind, times = self.damage.get(index, (None, 0))
        if times:
            self.damage[index] = [kind, times - 1]
            if kind == "lost":
                return
            if kind == "flipped":
                data = bytes([data[0] ^ 1]) + bytes(data[1:])
            elif kind == "twice":
                super()._send(pushed, index, how, data)
            elif kind is not None:
                pushed = kind
        self.told.append((index, how, len(data)))
        super()._send(pushed, index, how, data)

    def push(self, version: int, bias: float = 0.5) -> Pushed:
        self.publisher.push(state_of(version, bias), version, 0, 0)
        assert self.publisher._newest is not None
        return self.publisher._newest


def main(robot: str, version: int, seconds: float, kill: int = 0) -> None:
    rclpy.init()
    node = Node("peer_learner", namespace=f"/{robot}")
    sender = Sender(node)

    def count(pushed: Pushed, index: int, how: int, data) -> None:
        WeightsTopics._send(sender, pushed, index, how, data)
        sender.told.append(index)
        if kill and len(sender.told) >= kill:
            time.sleep(0.2)  # what was sent is under way by now
            os.kill(os.getpid(), signal.SIGKILL)

    sender.publisher._send = count
    sender.publisher.resume(sender.publisher.prepare(state_of(version), version, 0, 0))
    executor = make_executor()
    executor.add_node(node)
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        executor.spin_once(timeout_sec=0.1)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), float(sys.argv[3]), int(sys.argv[4]) if len(sys.argv) > 4 else 0)
