"""Weights over real DDS: a policy process receives what this test sends, through loss, damage, strangers and deaths."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import pytest

pytest.importorskip("rclpy")

from graph import ROBOT, Graph
from lifecycle_msgs.msg import Transition
from lifecycle_msgs.srv import ChangeState
from rclpy.node import Node
from weights_sender import Sender, state_of
from whetstone_msgs.msg import Episode, WeightsAck

from whetstone import encoding


@pytest.fixture
def graph(tmp_path, domain):
    graph = Graph(tmp_path, domain)
    yield graph
    graph.close()


def start_policy(graph: Graph, weights_key: str = "") -> None:
    graph.start("policy_node", "policy_node", "policy", policy=graph.stand_in, weights_key=weights_key)


def until_ack(graph: Graph, sender: Sender, version: int) -> WeightsAck:
    graph.until(lambda: any(ack.version == version for ack in sender.acks))
    (ack,) = [ack for ack in sender.acks if ack.version == version]
    return ack


def until_done(graph: Graph, node: str, transition: int) -> None:
    """Ask until it answers: its killed predecessor is still known by name for a while, and says nothing."""
    client = graph.node.create_client(ChangeState, f"{node}/change_state")
    while True:
        future = client.call_async(ChangeState.Request(transition=Transition(id=transition)))
        end = time.monotonic() + 1.0
        graph.until(lambda future=future, end=end: future.done() or time.monotonic() > end)
        if future.done():
            break
    graph.node.destroy_client(client)


def test_whatever_happens_to_chunks_and_the_boundary_is_kept(graph: Graph) -> None:
    """Lost, flipped, doubled, in another order, of an old version, of another learner's snapshot of the same version."""
    sender = Sender(graph.node)
    start_policy(graph)
    graph.until_matched(sender.chunks, sender.manifests, graph.episodes)
    graph.say(Episode.PHASE_RUNNING, start=1_000_000_000)
    sender.damage = {1: ["lost", 1]}
    old = sender.push(1)
    graph.until(lambda: sender.requests == [[0, 1, 2, 3], [1]])
    graph.say(Episode.PHASE_PAUSED, start=1_000_000_000)
    assert sender.acks == []  # the episode still runs
    graph.say(Episode.PHASE_ENDED)
    ack = until_ack(graph, sender, 1)
    assert ack.status == WeightsAck.STATUS_APPLIED and ack.receiver == f"/{ROBOT}/policy"

    sender.requests.clear()
    sender.reversed = True
    sender.damage = {1: ["twice", 1], 2: ["flipped", 1], 3: [old, 1]}
    sender.push(2)
    assert until_ack(graph, sender, 2).status == WeightsAck.STATUS_APPLIED
    assert sender.requests[0] == [0, 1, 2, 3] and sorted(index for asked in sender.requests[1:] for index in asked) == [2, 3]

    sender.damage = {0: ["flipped", 99]}
    sender.push(3)
    ack = until_ack(graph, sender, 3)
    assert ack.status == WeightsAck.STATUS_REFUSED and ack.reason.startswith("chunk 0: ") and "3 times" in ack.reason


def test_a_second_learner_is_named_and_nothing_of_its_is_applied(graph: Graph) -> None:
    other = Node("other_learner", namespace=f"/{ROBOT}", context=graph.context)
    graph.executor.add_node(other)
    sender, rival = Sender(graph.node), Sender(other)
    graph.say(Episode.PHASE_WAITING)
    start_policy(graph)
    graph.until_matched(sender.chunks, sender.manifests, rival.chunks, rival.manifests)
    sender.push(5)
    assert until_ack(graph, sender, 5).status == WeightsAck.STATUS_APPLIED
    rival.push(5, bias=0.7)
    graph.until(lambda: len(sender.acks) == 2)
    ack = sender.acks[1]
    assert ack.status == WeightsAck.STATUS_REFUSED and "two snapshots are called version 5" in ack.reason
    assert "do two learners send?" in ack.reason and rival.told == []
    graph.executor.remove_node(other)
    other.destroy_node()


def test_differences_are_sent_to_who_has_the_weights_before(graph: Graph) -> None:
    sender = Sender(graph.node)
    graph.say(Episode.PHASE_WAITING)
    start_policy(graph)
    graph.until_matched(sender.chunks, sender.manifests)
    sender.push(1)
    assert until_ack(graph, sender, 1).status == WeightsAck.STATUS_APPLIED
    graph.until(lambda: sender.node.counters.get("weights_applied") == 1)
    sender.told.clear()
    state = state_of(1)
    state["ballast"][::1000] += 1
    sender.publisher.push(state, 2, 1, 0)
    assert until_ack(graph, sender, 2).status == WeightsAck.STATUS_APPLIED
    assert [how for _, how, _ in sender.told] == [encoding.DIFFERENCE] * 4
    assert sum(size for *_, size in sender.told) < 0.01 * 4 * len(state["ballast"])


def test_on_one_machine_a_file_does_and_no_chunk_is_sent(graph: Graph, tmp_path: Path) -> None:
    sender = Sender(graph.node, file_above=1)
    graph.say(Episode.PHASE_WAITING)
    start_policy(graph)
    graph.until_matched(sender.chunks, sender.manifests)
    pushed = sender.push(1)
    assert until_ack(graph, sender, 1).status == WeightsAck.STATUS_APPLIED
    assert sender.requests == sender.told == []
    file = Path(pushed.manifest.path)
    assert file.stat().st_mode & 0o777 == 0o600
    gone = sender.publisher.prepare(state_of(2), 2, 1, 0)
    Path(gone.manifest.path).unlink()
    sender.publisher.publish(gone)
    assert until_ack(graph, sender, 2).status == WeightsAck.STATUS_APPLIED
    assert len(sender.told) == 4 and "asking for chunks instead" in graph.log("policy")
    sender.publisher.close()
    assert not file.exists()


def test_a_late_joiner_gets_what_was_pushed_before_it_came(graph: Graph) -> None:
    sender = Sender(graph.node)
    graph.say(Episode.PHASE_WAITING)
    sender.push(4)
    start_policy(graph)
    assert until_ack(graph, sender, 4).status == WeightsAck.STATUS_APPLIED
    assert sender.requests == [[0, 1, 2, 3]]


def test_a_policy_killed_while_it_receives_catches_up_when_it_is_back(graph: Graph) -> None:
    sender = Sender(graph.node)
    graph.say(Episode.PHASE_WAITING)
    start_policy(graph)
    graph.until_matched(sender.chunks, sender.manifests)
    sender.damage = {3: ["lost", 1]}
    sender.push(6)
    graph.until(lambda: len(sender.told) == 3)
    graph.processes["policy"].kill()
    graph.until_exit("policy")
    assert sender.acks == []
    graph.start("policy_node", "policy_node", "policy", active=False, policy=graph.stand_in)
    for transition in (Transition.TRANSITION_CONFIGURE, Transition.TRANSITION_ACTIVATE):
        until_done(graph, "policy", transition)
    assert until_ack(graph, sender, 6).status == WeightsAck.STATUS_APPLIED


def test_a_learner_killed_in_the_middle_of_a_push_goes_on_when_it_is_back(graph: Graph) -> None:
    """What had come stays; the rest is asked of the learner that announces the same again. A real process, a real SIGKILL."""
    acks = Sender(graph.node).acks  # it only listens
    graph.say(Episode.PHASE_WAITING)
    start_policy(graph)
    script = [sys.executable, str(Path(__file__).with_name("weights_sender.py")), ROBOT, "7"]
    first = subprocess.run([*script, "60", "2"], env=graph.environment, timeout=60, check=False)
    assert first.returncode == -9 and acks == []
    second = subprocess.Popen([*script, "60"], env=graph.environment, text=True)
    graph.processes["learner"] = second
    (graph.tmp_path / "learner.log").touch()
    graph.until(lambda: acks != [])
    assert [(ack.version, ack.status) for ack in acks] == [(7, WeightsAck.STATUS_APPLIED)]


def test_with_a_key_only_signed_weights_are_taken(graph: Graph, tmp_path: Path) -> None:
    """What was not signed, or with another key, changes nothing, not even what version comes next."""
    key = tmp_path / "key"
    key.write_bytes(b"k" * 32)
    key.chmod(0o600)
    sender = Sender(graph.node)
    start_policy(graph, weights_key=str(key))
    graph.until_matched(sender.chunks, sender.manifests, graph.episodes)
    graph.say(Episode.PHASE_ENDED)
    sender.push(7)
    ack = until_ack(graph, sender, 7)
    assert ack.status == WeightsAck.STATUS_REFUSED and "is not signed" in ack.reason
    sender._key = b"o" * 32
    sender.push(9)
    ack = until_ack(graph, sender, 9)
    assert ack.status == WeightsAck.STATUS_REFUSED and "another key" in ack.reason
    assert sender.told == []
    sender._key = key.read_bytes()
    sender.publisher._newest = None
    sender.push(1)
    assert until_ack(graph, sender, 1).status == WeightsAck.STATUS_APPLIED


def test_weights_of_another_configuration_are_refused_by_name(graph: Graph) -> None:
    sender = Sender(graph.node, config_hash="beef")
    graph.say(Episode.PHASE_WAITING)
    start_policy(graph)
    graph.until_matched(sender.chunks, sender.manifests)
    sender.push(1)
    ack = until_ack(graph, sender, 1)
    assert ack.status == WeightsAck.STATUS_REFUSED and "config_hash" in ack.reason


def test_weights_that_break_the_policy_are_rolled_back(graph: Graph) -> None:
    sender = Sender(graph.node)
    graph.say(Episode.PHASE_WAITING)
    start_policy(graph)
    graph.until_matched(sender.chunks, sender.manifests)
    sender.push(1, bias=float("nan"))
    ack = until_ack(graph, sender, 1)
    assert ack.status == WeightsAck.STATUS_ROLLED_BACK and "not finite" in ack.reason
