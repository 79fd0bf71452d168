"""The sender's topics of weights: manifest, chunks, the service that asks for them, acknowledgements.

Role: ROS around `WeightsPublisher`, for the learner node, the tests of the transport and its benchmark. Chunks are sent in short bursts
from a timer, so that the executor is never kept for longer than that.
"""

from __future__ import annotations

import array
from collections.abc import Callable
from typing import Any

from whetstone_msgs.msg import WeightsAck, WeightsChunk, WeightsManifest
from whetstone_msgs.srv import RequestChunks

from learner_node.publisher import Options, Pushed, WeightsPublisher
from whetstone import encoding
from whetstone.ros import EVENT, LATCHED, WEIGHTS_CHUNK, manifest_to_message
from whetstone.signing import sign

BURST = 0.01
"""Seconds of encoding and sending at a time."""


class WeightsTopics:
    """node: a WhetstoneNode. said: (policy_id, config_hash). key: that manifests are signed with; b"": they are not. stamp: ns, of now.
    prefix: in front of the topics' names, e.g. "/left/"; empty: they are in the node's own namespace."""

    def __init__(
        self,
        node: Any,
        options: Options,
        said: tuple[str, str],
        key: bytes = b"",
        stamp: Callable[[], int] = lambda: 0,
        prefix: str = "",
    ) -> None:
        self._node, self._said, self._key, self._stamp = node, said, key, stamp
        self._whose = prefix.removeprefix("/")
        self._manifests = node.create_publisher(WeightsManifest, f"{prefix}weights/manifest", LATCHED)
        self._chunks = node.create_publisher(WeightsChunk, f"{prefix}weights/chunk", WEIGHTS_CHUNK)
        self.publisher = WeightsPublisher(self._announce, self._send, options)
        node.create_service(RequestChunks, f"{prefix}weights/request", self._on_request)
        node.create_subscription(WeightsAck, f"{prefix}weights/ack", self._on_ack, EVENT)
        self._timer = node.create_timer(0.001, self._burst, clock=node.steady_clock)
        self._timer.cancel()

    def _announce(self, pushed: Pushed) -> None:
        if pushed.warning:
            self._node.get_logger().warning(pushed.warning)
        said = (pushed.parent, pushed.iteration, *self._said)
        signature = sign(self._key, pushed.manifest, *said) if self._key else ""
        self._manifests.publish(manifest_to_message(pushed.manifest, self._stamp(), *said, signature))
        self._tell()

    def _send(self, pushed: Pushed, index: int, how: int, data: encoding.Buffer) -> None:
        message = WeightsChunk(
            version=pushed.manifest.version, payload_sha256=pushed.manifest.payload_sha256, index=index, encoding=how, data=_octets(data)
        )
        self._chunks.publish(message)

    def _on_request(self, request: RequestChunks.Request, response: RequestChunks.Response) -> RequestChunks.Response:
        response.reason = self.publisher.request(request.version, request.payload_sha256, request.base_sha256, request.indices)
        response.ok = not response.reason
        if self.publisher.busy:
            self._timer.reset()
        return response

    def _burst(self) -> None:
        if not self.publisher.send_some(BURST):
            self._timer.cancel()
        self._tell()

    def _on_ack(self, message: WeightsAck) -> None:
        if message.status == WeightsAck.STATUS_APPLIED:
            self.publisher.acknowledged(message.version, message.payload_sha256)
            self._node.counters[f"{self._whose}weights_applied"] = message.version
            return
        self._node.counters[f"{self._whose}weights_not_applied"] = f"{message.version}: {message.reason}"
        self._node.get_logger().warning(f"{message.receiver} did not apply weights {message.version}: {message.reason}")

    def _tell(self) -> None:
        self._node.counters[f"{self._whose}weights_sent"] = self.publisher.progress


def _octets(data: encoding.Buffer) -> array.array:
    """What a uint8[] field takes without looking at every byte."""
    octets = array.array("B")
    octets.frombytes(data)
    return octets
