"""The receiver's topics of weights: manifest, chunks, the service that it asks for them, acknowledgements.

Role: ROS around `WeightsReceiver`, for the policy node, the tests of the transport and its benchmark. Who owns the policy says when a
snapshot may be applied.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from whetstone_msgs.msg import WeightsAck, WeightsChunk, WeightsManifest
from whetstone_msgs.srv import RequestChunks

from policy_node.weights import Acknowledgement, WeightsReceiver
from whetstone.ros import EVENT, LATCHED, WEIGHTS_CHUNK, manifest_from_message, to_stamp
from whetstone.signing import refusal, sign

_STATUS = {"applied": WeightsAck.STATUS_APPLIED, "refused": WeightsAck.STATUS_REFUSED, "rolled_back": WeightsAck.STATUS_ROLLED_BACK}


class WeightsTopics:
    """node: a WhetstoneNode. key: that manifests must be signed with; b"": anybody's are taken. ready: called when a snapshot is whole,
    to apply it now or later. stamp: ns, of now."""

    def __init__(
        self, node: Any, receiver: WeightsReceiver, ready: Callable[[], None], key: bytes = b"", stamp: Callable[[], int] = lambda: 0
    ) -> None:
        self._node, self._receiver, self._ready, self._key, self._stamp = node, receiver, ready, key, stamp
        self._acks = node.create_publisher(WeightsAck, "weights/ack", EVENT)
        self._request = node.create_client(RequestChunks, "weights/request")
        self._note = ""
        node.create_subscription(WeightsManifest, "weights/manifest", self._on_manifest, LATCHED)
        node.create_subscription(WeightsChunk, "weights/chunk", self._on_chunk, WEIGHTS_CHUNK)
        node.create_timer(0.25, self._go_on, clock=node.steady_clock)
        self._reading = node.create_timer(0.001, self._read, clock=node.steady_clock)
        self._reading.cancel()

    def acknowledge(self, answer: Acknowledgement | None) -> None:
        """Publish and log it."""
        if answer is None:
            return
        text = f"weights {answer.version}: {answer.status.replace('_', ' ')}{': ' + answer.reason if answer.reason else ''}"
        log = self._node.get_logger()
        if answer.status == "applied":
            log.info(text)
        else:
            log.warning(text)
        self._node.counters["weights_version"] = self._receiver.version
        self._node.counters["weights_outcome"] = text
        message = WeightsAck(
            version=answer.version,
            payload_sha256=answer.payload_sha256,
            status=_STATUS[answer.status],
            reason=answer.reason,
            receiver=self._node.get_fully_qualified_name(),
        )
        message.header.stamp = to_stamp(self._stamp())
        self._acks.publish(message)

    def _on_manifest(self, message: WeightsManifest) -> None:
        manifest = manifest_from_message(message)
        own = sign(self._key, manifest, message.parent, message.iteration, message.policy_id, message.config_hash) if self._key else ""
        if reason := refusal(self._key, message.signature, own):
            self._node.counters["unsigned_weights"] = self._node.counters.get("unsigned_weights", 0) + 1
            self.acknowledge(Acknowledgement(manifest.version, "refused", reason, manifest.payload_sha256))
            return
        self.acknowledge(self._receiver.announce(manifest, message.policy_id, message.config_hash, time.monotonic()))
        if self._receiver.reading:
            self._reading.reset()
        self._go_on()

    def _on_chunk(self, message: WeightsChunk) -> None:
        now = time.monotonic()
        self.acknowledge(self._receiver.add(message.version, message.payload_sha256, message.index, message.encoding, message.data, now))
        self._go_on()

    def _read(self) -> None:
        """From the hand-over file, a little at a time."""
        self._receiver.read(time.monotonic())
        if not self._receiver.reading:
            self._reading.cancel()
            self._go_on()

    def _go_on(self) -> None:
        """Ask for what is missing, say what is new, hand over what is whole."""
        if self._request.service_is_ready():
            wanted = self._receiver.wanted(time.monotonic())
            if wanted is not None:
                self._request.call_async(
                    RequestChunks.Request(
                        version=wanted.version,
                        payload_sha256=wanted.payload_sha256,
                        base_sha256=wanted.base_sha256,
                        indices=wanted.indices,
                    )
                )
        if self._receiver.note != self._note:
            self._note = self._receiver.note
            self._node.get_logger().warning(f"weights: {self._note}", throttle_duration_sec=1.0)
        counters = self._node.counters
        counters["weights_receiving"] = self._receiver.progress
        for name, count in self._receiver.counts.items():
            if count:
                counters[f"weights_{name}"] = count
        if self._receiver.ready:
            self._ready()
