"""Weights over real DDS: the learner's publisher here, the policy node in another process."""

from __future__ import annotations

import array

import numpy as np
import pytest

pytest.importorskip("rclpy")

from graph import ROBOT, Graph
from whetstone_msgs.msg import Episode, WeightsAck, WeightsChunk, WeightsManifest
from whetstone_msgs.srv import ResendChunks

from learner_node.publisher import Pushed, WeightsPublisher
from whetstone.ros import EVENT, LATCHED, WEIGHTS_CHUNK, manifest_to_message
from whetstone.signing import sign

BALLAST = 400_000  # floats: four chunks


class Sender:
    """A learner's side with a wire that can damage or lose chunks."""

    def __init__(self, graph: Graph, config_hash: str = "c0ffee") -> None:
        self.graph, self.acks, self.requests, self.damage, self.key = graph, [], [], {}, b""
        self.config_hash = config_hash
        node = graph.node
        self.manifests = node.create_publisher(WeightsManifest, "weights/manifest", LATCHED)
        self.chunks = node.create_publisher(WeightsChunk, "weights/chunk", WEIGHTS_CHUNK)
        node.create_subscription(WeightsAck, "weights/ack", self.acks.append, EVENT)
        node.create_service(ResendChunks, "weights/resend", self.resend)
        self.publisher = WeightsPublisher(self.announce, self.send)

    def announce(self, pushed: Pushed) -> None:
        said = pushed.parent, 0, "stand_in", self.config_hash
        signature = sign(self.key, pushed.manifest, *said) if self.key else ""
        self.manifests.publish(manifest_to_message(pushed.manifest, 0, *said, signature))

    def send(self, version: int, index: int, data: bytes) -> None:
        """damage: index -> how often it is lost (None) or damaged (a byte to flip)."""
        kind, times = self.damage.get(index, (None, 0))
        if times:
            self.damage[index] = (kind, times - 1)
            if kind == "lost":
                return
            data = bytes([data[0] ^ 1]) + data[1:]
        self.chunks.publish(WeightsChunk(version=version, index=index, data=array.array("B", data)))

    def resend(self, request, response):
        self.requests.append(list(request.indices))
        response.reason = self.publisher.resend(request.version, list(request.indices))
        response.ok = not response.reason
        return response

    def push(self, version: int, bias: float = 0.5) -> None:
        state = {"bias": np.full(1, bias, np.float32), "ballast": np.random.default_rng(version).normal(size=BALLAST).astype(np.float32)}
        self.publisher.push(state, version, 0, 0)

    def until_ack(self, version: int) -> WeightsAck:
        self.graph.until(lambda: any(ack.version == version for ack in self.acks))
        (ack,) = [ack for ack in self.acks if ack.version == version]
        return ack


@pytest.fixture
def graph(tmp_path, domain):
    graph = Graph(tmp_path, domain)
    yield graph
    graph.close()


def start_policy(graph: Graph, weights_key: str = "") -> None:
    graph.start("policy_node", "policy_node", "policy", policy=graph.stand_in, weights_key=weights_key)


def test_lost_and_damaged_chunks_are_sent_again_and_the_boundary_is_kept(graph: Graph) -> None:
    sender = Sender(graph)
    start_policy(graph)
    graph.until_matched(sender.chunks, sender.manifests, graph.episodes)
    graph.say(Episode.PHASE_RUNNING, start=1_000_000_000)
    sender.damage = {1: ("lost", 1)}
    sender.push(1)
    graph.until(lambda: sender.requests == [[1]])
    graph.say(Episode.PHASE_PAUSED, start=1_000_000_000)
    assert sender.acks == []  # the episode still runs
    graph.say(Episode.PHASE_ENDED)
    ack = sender.until_ack(1)
    assert ack.status == WeightsAck.STATUS_APPLIED and ack.receiver == f"/{ROBOT}/policy"

    sender.requests.clear()
    sender.damage = {2: ("flipped", 1)}
    sender.push(2)
    assert sender.until_ack(2).status == WeightsAck.STATUS_APPLIED
    assert sender.requests == [[0, 1, 2, 3]]

    sender.damage = {0: ("flipped", 99)}
    sender.push(3)
    ack = sender.until_ack(3)
    assert ack.status == WeightsAck.STATUS_REFUSED and "sha256" in ack.reason


def test_late_joiner_gets_what_was_pushed_before_it_came(graph: Graph) -> None:
    sender = Sender(graph)
    graph.say(Episode.PHASE_WAITING)
    sender.push(4)
    start_policy(graph)
    assert sender.until_ack(4).status == WeightsAck.STATUS_APPLIED
    assert sender.requests == [[0, 1, 2, 3]]


def test_with_a_key_only_signed_weights_are_taken(graph: Graph, tmp_path) -> None:
    """What was not signed, or with another key, changes nothing, not even what version comes next."""
    key = tmp_path / "key"
    key.write_bytes(b"k" * 32)
    key.chmod(0o600)
    sender = Sender(graph)
    start_policy(graph, weights_key=str(key))
    graph.until_matched(sender.chunks, sender.manifests, graph.episodes)
    graph.say(Episode.PHASE_ENDED)
    sender.push(7)
    ack = sender.until_ack(7)
    assert ack.status == WeightsAck.STATUS_REFUSED and "is not signed" in ack.reason
    sender.key = b"o" * 32
    sender.push(9)
    ack = sender.until_ack(9)
    assert ack.status == WeightsAck.STATUS_REFUSED and "another key" in ack.reason
    sender.key, sender.publisher = key.read_bytes(), WeightsPublisher(sender.announce, sender.send)
    sender.push(1)
    assert sender.until_ack(1).status == WeightsAck.STATUS_APPLIED


def test_weights_of_another_configuration_are_refused_by_name(graph: Graph) -> None:
    sender = Sender(graph, config_hash="beef")
    graph.say(Episode.PHASE_WAITING)
    start_policy(graph)
    graph.until_matched(sender.chunks, sender.manifests)
    sender.push(1)
    ack = sender.until_ack(1)
    assert ack.status == WeightsAck.STATUS_REFUSED and "config_hash" in ack.reason


def test_weights_that_break_the_policy_are_rolled_back(graph: Graph) -> None:
    sender = Sender(graph)
    graph.say(Episode.PHASE_WAITING)
    start_policy(graph)
    graph.until_matched(sender.chunks, sender.manifests)
    sender.push(1, bias=float("nan"))
    ack = sender.until_ack(1)
    assert ack.status == WeightsAck.STATUS_ROLLED_BACK and "not finite" in ack.reason
