"""Nodes as processes: each way to fail is one line and an exit code, each wish to stop is obeyed at once.

Also QoS and raw stamps on real DDS.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

rclpy = pytest.importorskip("rclpy")

from lifecycle_msgs.msg import Transition  # noqa: E402
from lifecycle_msgs.srv import ChangeState  # noqa: E402
from rclpy.serialization import serialize_message  # noqa: E402
from sensor_msgs.msg import Image, JointState  # noqa: E402
from std_msgs.msg import String  # noqa: E402

from whetstone import images, ros, snapshot  # noqa: E402
from whetstone.errors import InputError  # noqa: E402
from whetstone.transfer import manifest_of  # noqa: E402

PROBE = Path(__file__).parent / "ros_probe.py"
DEADLINE = 120.0  # s; for a machine that is busy with other things, the tests themselves wait for events
PARAMETERS = "[FATAL] ros_probe.py: parameters of node 'probe':"


@pytest.fixture
def probe(domain: int) -> Iterator[Callable[..., subprocess.Popen[str]]]:
    started: list[subprocess.Popen[str]] = []

    def start(fault: str, *arguments: str, before: tuple[str, ...] = ()) -> subprocess.Popen[str]:
        command = [sys.executable, str(PROBE), *before, "--ros-args", *(["-p", f"fault:={fault}"] if fault else []), *arguments]
        environment = {**os.environ, "ROS_DOMAIN_ID": str(domain), "ROS_AUTOMATIC_DISCOVERY_RANGE": "LOCALHOST"}
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)
        started.append(process)
        return process

    yield start
    for process in started:
        process.kill()
        process.communicate()


def until(process: subprocess.Popen[str], line: str) -> None:
    assert process.stdout is not None
    for text in process.stdout:
        if text.strip() == line:
            return
    raise AssertionError(f"'{line}' never came: {process.communicate()}")


@pytest.mark.parametrize(
    ("fault", "arguments", "code", "line"),
    [
        ("configure", (), 2, "[FATAL] probe: config/x.yaml: key 'y' is unknown"),
        ("constructor", (), 2, "[FATAL] ros_probe.py: config/x.yaml: key 'y' is unknown"),
        ("defect", (), 3, "[FATAL] probe: RuntimeError: boom with a second line"),
        ("timer", (), 3, "[FATAL] probe: ZeroDivisionError: division by zero"),
        ("then", (), 3, "[FATAL] probe: ZeroDivisionError: division by zero"),
        ("service_raises", (), 3, "[FATAL] probe: ZeroDivisionError: division by zero"),
        ("deadline", (), 2, "[FATAL] probe: no first frame from 'camera' within 0.3 s; is it running on this ROS domain?"),
        ("no_server", (), 2, "[FATAL] probe: no answer to 'nobody' from 'manager' within 0.3 s; is it running on this ROS domain?"),
        ("", (), 2, f"{PARAMETERS} key 'fault' is missing; it must be text"),
        (
            "x",
            ("-p", "seconds:=soon"),
            2,
            f"{PARAMETERS} key 'seconds' must be a number, not text ('soon')",
        ),
        ("x", ("-p", "seconds:=-1"), 2, f"{PARAMETERS} key 'seconds' must be greater than 0, not -1.0"),
    ],
)
def test_a_failure_is_one_line_and_an_exit_code(probe: Any, fault: str, arguments: tuple[str, ...], code: int, line: str) -> None:
    process = probe(fault, *arguments)
    _, errors = process.communicate(timeout=DEADLINE)
    assert process.returncode == code and errors.strip() == line


def test_wrong_ros_arguments_are_named(probe: Any) -> None:
    process = probe("x", "--params-file", "/nowhere.yaml")
    _, errors = process.communicate(timeout=DEADLINE)
    assert process.returncode == 2
    assert "Traceback" not in errors and "[FATAL] ros_probe.py: " in errors and "/nowhere.yaml" in errors.splitlines()[-1]


def test_parameters_are_typed_and_a_met_deadline_is_quiet(probe: Any) -> None:
    process = probe("met", "-p", "seconds:=1", "-p", "names:=[a, b]", "-p", "of_another_node:=3")
    output, errors = process.communicate(timeout=DEADLINE)
    assert process.returncode == 7 and errors == ""
    assert "parameters Parameters(fault='met', seconds=1.0, names=('a', 'b'))" in output
    assert output.split()[-2:] == ["deactivate", "cleanup"]


def test_a_service_is_called_without_blocking(probe: Any) -> None:
    process = probe("service")
    output, errors = process.communicate(timeout=DEADLINE)
    assert (process.returncode, errors) == (0, "") and "answer served" in output


def test_diagnostics_carry_the_counters(probe: Any) -> None:
    process = probe("diagnostics", "-r", "__ns:=/franka")
    output, errors = process.communicate(timeout=DEADLINE)
    assert (process.returncode, errors) == (0, "")
    assert "/franka/probe active {'frames': '3', 'seconds': '0.25', 'peer': 'camera'}" in output


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_wish_to_stop_is_obeyed_at_once_and_quietly(probe: Any, number: signal.Signals) -> None:
    process = probe("none")
    until(process, "active")
    process.send_signal(number)
    output, errors = process.communicate(timeout=DEADLINE)
    assert (process.returncode, errors, output.split()) == (0, "", ["deactivate", "cleanup"])
    # A node that takes longer than its grace ends with code 1.


def test_a_failure_while_stopping_is_not_hidden(probe: Any) -> None:
    process = probe("deactivate")
    until(process, "active")
    process.send_signal(signal.SIGTERM)
    _, errors = process.communicate(timeout=DEADLINE)
    assert process.returncode == 2 and errors.strip() == "[FATAL] probe: cannot hold"


def test_a_node_that_is_stuck_is_ended_by_force(probe: Any) -> None:
    process = probe("stuck")
    until(process, "stuck")
    process.send_signal(signal.SIGTERM)
    _, errors = process.communicate(timeout=DEADLINE)
    assert process.returncode == 1 and "did not stop within 0.5 s" in errors


class Peer:
    """The test's own side of the graph."""

    def __init__(self, domain: int) -> None:
        self.context = rclpy.Context()
        rclpy.init(context=self.context, domain_id=domain)
        self.node = rclpy.create_node("peer", context=self.context)
        self.executor = rclpy.executors.SingleThreadedExecutor(context=self.context)
        self.executor.add_node(self.node)

    def spin(self, done: Callable[[], Any]) -> None:
        end = time.monotonic() + DEADLINE
        while not done():
            assert time.monotonic() < end, "the deadline of the test is over"
            self.executor.spin_once(timeout_sec=0.05)

    def close(self) -> None:
        self.executor.shutdown()
        self.node.destroy_node()
        rclpy.shutdown(context=self.context)


@pytest.fixture
def peer(domain: int, monkeypatch: pytest.MonkeyPatch) -> Iterator[Peer]:
    monkeypatch.setenv("ROS_AUTOMATIC_DISCOVERY_RANGE", "LOCALHOST")
    peer = Peer(domain)
    yield peer
    peer.close()


def change(peer: Peer, transition: int) -> bool:
    client = peer.node.create_client(ChangeState, "/probe/change_state")
    peer.spin(client.service_is_ready)
    future = client.call_async(ChangeState.Request(transition=Transition(id=transition)))
    peer.spin(future.done)
    result = future.result()
    assert result is not None
    return result.success


def test_a_manager_leads_the_node_through_its_life(probe: Any, peer: Peer) -> None:
    process = probe("none", before=("--managed",))
    assert change(peer, Transition.TRANSITION_CONFIGURE)
    assert change(peer, Transition.TRANSITION_ACTIVATE)
    assert not change(peer, Transition.TRANSITION_CLEANUP)  # not from the active state
    assert change(peer, Transition.TRANSITION_ACTIVE_SHUTDOWN)
    output, _ = process.communicate(timeout=DEADLINE)
    assert process.returncode == 0 and output.split()[-3:] == ["active", "deactivate", "cleanup"]


def test_a_manager_hears_that_configure_failed_before_the_node_ends(probe: Any, peer: Peer) -> None:
    process = probe("configure", before=("--managed",))
    assert not change(peer, Transition.TRANSITION_CONFIGURE)
    process.communicate(timeout=DEADLINE)
    assert process.returncode == 2


def test_episode_phases_reach_a_late_joiner(peer: Peer) -> None:
    publisher = peer.node.create_publisher(String, "episode", ros.LATCHED)
    publisher.publish(String(data="old"))
    publisher.publish(String(data="new"))
    heard: list[str] = []
    peer.node.create_subscription(String, "episode", lambda message: heard.append(message.data), ros.EPISODE)
    peer.spin(lambda: heard)
    for text in ("ended", "resetting", "running"):
        publisher.publish(String(data=text))
    peer.spin(lambda: len(heard) >= 4)
    assert heard == ["new", "ended", "resetting", "running"]


def test_raw_messages_give_their_stamp_and_their_content(peer: Peer) -> None:
    frame = np.arange(8 * 6 * 3, dtype=np.uint8).reshape(6, 8, 3)
    message = images.to_message(frame, 1_700_000_000_123_456_789, "camera_front")
    publisher = peer.node.create_publisher(Image, "image", ros.camera_qos(realtime=False))
    raw: list[bytes] = []
    peer.node.create_subscription(Image, "image", raw.append, ros.camera_qos(realtime=False), raw=True)
    peer.spin(publisher.get_subscription_count)
    publisher.publish(message)
    peer.spin(lambda: raw)
    assert ros.stamp_of_raw(raw[0]) == 1_700_000_000_123_456_789 == ros.to_ns(message.header.stamp)
    np.testing.assert_array_equal(images.to_array(ros.deserialize(raw[0], Image), "front"), frame)


@pytest.mark.parametrize("qos", [ros.camera_qos(realtime=False), ros.joints_qos(realtime=False), ros.EVENT])
def test_what_is_said_before_a_subscriber_is_discovered_still_reaches_it(peer: Peer, qos) -> None:
    publisher = peer.node.create_publisher(String, "frames", qos)
    for index in range(20):
        publisher.publish(String(data=str(index)))
    heard: list[str] = []
    peer.node.create_subscription(String, "frames", lambda message: heard.append(message.data), qos)
    peer.spin(lambda: len(heard) >= 20)
    assert heard == [str(index) for index in range(20)]


def test_stamps() -> None:
    for ns in (0, 1, 999_999_999, 1_000_000_000, 2**31 * 1_000_000_000 - 1):
        assert ros.to_ns(ros.to_stamp(ns)) == ns
        state = JointState(name=["a"], position=[1.0])
        state.header.stamp = ros.to_stamp(ns)
        assert ros.stamp_of_raw(bytes(serialize_message(state))) == ns
    for data in (b"", b"\0\1\0\0\0\0", b"\0\x07\0\0" + bytes(16)):
        with pytest.raises(InputError):
            ros.stamp_of_raw(data)


def test_a_manifest_survives_its_message() -> None:
    pytest.importorskip("whetstone_msgs")
    state = {"w": np.ones((2, 3), np.float32), "b": np.zeros((), np.float32)}
    table = snapshot.table_of(state)
    manifest = manifest_of(snapshot.pack(state, table), table, 4, 8, "zstd", "ab", "host", "/dev/shm/x")
    message = ros.manifest_to_message(manifest, 5_000_000_001, 3, 2, "flow_vla", "abc")
    data = bytes(serialize_message(message))
    assert ros.stamp_of_raw(data) == 5_000_000_001
    back = ros.deserialize(data, type(message))
    assert ros.manifest_from_message(back) == manifest
    assert (back.parent, back.iteration, back.policy_id, back.config_hash) == (3, 2, "flow_vla", "abc")
