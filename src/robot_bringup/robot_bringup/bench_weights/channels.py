"""The ways that weights are sent: a sender and a receiver each.

Role: a sender is made with the state that both sides begin with; `push(state, version)` starts at once, `spin(seconds)` does what the
channel needs while it is under way, `ready` says when the other side is there. A receiver is made with the tensors to load into and calls
`applied(version)` when a snapshot is in them.

`OneMessage` is the naive way with DDS. `Grpc` does what LeRobot's actor and learner do: torch.save, chunks of 2 MB with a mark of begin,
middle or end, one server-side stream, torch.load(weights_only=True); the messages are bytes, since there is no protoc here. `ZeroMq` does
what agentlace does: lz4.frame of a pickle on a PUB socket with a queue of 3, SUB with CONFLATE.
"""

from __future__ import annotations

import array
import io
import pickle
import queue
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from robot_bringup.bench_weights.states import State

Applied = Callable[[int], None]
CHUNK = 2 * 1024 * 1024  # LeRobot's
_OPTIONS = [("grpc.max_receive_message_length", 4 << 20), ("grpc.max_send_message_length", 4 << 20)]
_BEGIN, _MIDDLE, _END = b"\0", b"\1", b"\2"


class Tensors:
    """What a receiver loads into: a policy of nothing but weights, as torch parameters are."""

    def __init__(self, state: State) -> None:
        import torch

        from whetstone.contracts import PolicySpec

        self.spec = PolicySpec("bench", (), (1, 1), (), 1, 1, 20.0, "c0ffee")
        self.tensors = {name: torch.from_numpy(array.copy()) for name, array in state.items()}

    def trainable_state(self) -> State:
        return {name: tensor.numpy().copy() for name, tensor in self.tensors.items()}

    def load_trainable_state(self, state: Mapping[str, Any]) -> None:
        import torch

        for name, tensor in self.tensors.items():
            value = state[name]
            tensor.copy_(torch.from_numpy(value) if isinstance(value, np.ndarray) else value)

    def as_arrays(self) -> State:
        return {name: tensor.numpy() for name, tensor in self.tensors.items()}


# ------------------------------------------------------------------------------------------------------------------ over ROS


class _Ros:
    def __init__(self, name: str) -> None:
        import rclpy
        from rclpy.clock import Clock
        from rclpy.clock_type import ClockType
        from rclpy.node import Node

        from whetstone.ros import make_executor

        rclpy.init()
        self.node: Any = Node(name, namespace="/bench")
        self.node.steady_clock, self.node.counters = Clock(clock_type=ClockType.STEADY_TIME), {}
        self._executor = make_executor()
        self._executor.add_node(self.node)

    def spin(self, seconds: float) -> None:
        self._executor.spin_once(timeout_sec=seconds)


class WhetstoneSender(_Ros):
    """options: of learner_node.publisher.Options."""

    def __init__(self, state: State, options: dict[str, Any]) -> None:
        from learner_node.publisher import Options
        from learner_node.weights_topics import WeightsTopics

        super().__init__("sender")
        self._topics = WeightsTopics(self.node, Options(**options), ("bench", "c0ffee"))
        self._topics.publisher.start_from(state)

    @property
    def ready(self) -> bool:
        return self.node.count_subscribers("/bench/weights/chunk") > 0 and self.node.count_publishers("/bench/weights/ack") > 0

    def push(self, state: State, version: int) -> None:
        self._topics.publisher.push(state, version, version - 1, version)

    def close(self) -> None:
        self._topics.publisher.close()


class WhetstoneReceiver(_Ros):
    """received: bytes of chunks that came."""

    def __init__(self, tensors: Tensors, applied: Applied) -> None:
        from policy_node.weights import WeightsReceiver
        from policy_node.weights_topics import WeightsTopics

        super().__init__("receiver")
        self._receiver = WeightsReceiver(tensors, lambda: None)  # type: ignore[arg-type]
        self._applied = applied
        self._topics = WeightsTopics(self.node, self._receiver, self._apply)

    @property
    def received(self) -> int:
        return self._receiver.counts["bytes"]

    def _apply(self) -> None:
        answer = self._receiver.apply()
        if answer is not None and answer.status == "applied":
            self._applied(answer.version)
        self._topics.acknowledge(answer)


class OneMessageSender(_Ros):
    def __init__(self, state: State, options: dict[str, Any]) -> None:
        from std_msgs.msg import UInt8MultiArray

        from whetstone.ros import LATCHED

        super().__init__("sender")
        self._type = UInt8MultiArray
        self._publisher = self.node.create_publisher(UInt8MultiArray, "weights", LATCHED)

    @property
    def ready(self) -> bool:
        return self._publisher.get_subscription_count() > 0

    def push(self, state: State, version: int) -> None:
        data = array.array("B")
        data.frombytes(saved(state, version))
        self._publisher.publish(self._type(data=data))

    def close(self) -> None:
        pass


class OneMessageReceiver(_Ros):
    received = 0

    def __init__(self, tensors: Tensors, applied: Applied) -> None:
        from std_msgs.msg import UInt8MultiArray

        from whetstone.ros import LATCHED

        def on_message(message: UInt8MultiArray) -> None:
            applied(loaded(bytes(message.data), tensors))

        super().__init__("receiver")
        self.node.create_subscription(UInt8MultiArray, "weights", on_message, LATCHED)


# ------------------------------------------------------------------------------------------------------------------- without


def saved(state: State, version: int) -> bytes:
    """As LeRobot's state_to_bytes; the version travels with it."""
    import torch

    buffer = io.BytesIO()
    torch.save({"version": torch.tensor(version), **{name: torch.from_numpy(array) for name, array in state.items()}}, buffer)
    return buffer.getvalue()


def loaded(data: bytes, tensors: Tensors) -> int:
    """Into the tensors. Returns the version."""
    import torch

    state = torch.load(io.BytesIO(data), weights_only=True)
    version = int(state.pop("version"))
    tensors.load_trainable_state(state)
    return version


class _Threads:
    """Channels with threads of their own."""

    def spin(self, seconds: float) -> None:
        time.sleep(seconds)


class GrpcSender(_Threads):
    def __init__(self, state: State, options: dict[str, Any]) -> None:
        from concurrent.futures import ThreadPoolExecutor

        import grpc

        self._payloads: queue.Queue[bytes] = queue.Queue()
        self._met = threading.Event()
        self._server = grpc.server(ThreadPoolExecutor(2), options=_OPTIONS)
        handler = grpc.unary_stream_rpc_method_handler(self._stream)
        self._server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("bench", {"Stream": handler}),))
        self._server.add_insecure_port(f"{options['address']}:{options['port']}")
        self._server.start()

    @property
    def ready(self) -> bool:
        return self._met.is_set()

    def _stream(self, request: bytes, context: Any):
        self._met.set()
        while True:
            payload = io.BytesIO(self._payloads.get())
            size, sent = payload.getbuffer().nbytes, 0
            while sent < size:
                mark = _END if sent + CHUNK >= size else _BEGIN if sent == 0 else _MIDDLE
                chunk = payload.read(CHUNK)
                sent += len(chunk)
                yield mark + chunk

    def push(self, state: State, version: int) -> None:
        self._payloads.put(saved(state, version))

    def close(self) -> None:
        self._server.stop(0)


class GrpcReceiver(_Threads):
    received = 0

    def __init__(self, tensors: Tensors, applied: Applied, address: str, port: int) -> None:
        import grpc

        def listen() -> None:
            channel = grpc.insecure_channel(f"{address}:{port}", options=_OPTIONS)
            grpc.channel_ready_future(channel).result()
            buffer = io.BytesIO()
            for message in channel.unary_stream("/bench/Stream")(b""):
                if message[:1] == _BEGIN:
                    buffer.seek(0)
                    buffer.truncate(0)
                buffer.write(message[1:])
                if message[:1] == _END:
                    applied(loaded(buffer.getvalue(), tensors))
                    buffer.seek(0)
                    buffer.truncate(0)

        threading.Thread(target=listen, daemon=True).start()


class ZeroMqSender(_Threads):
    def __init__(self, state: State, options: dict[str, Any]) -> None:
        import zmq

        self._socket = zmq.Context().socket(zmq.PUB)
        self._socket.setsockopt(zmq.SNDHWM, 3)
        self._socket.bind(f"tcp://{options['address']}:{options['port']}")
        self._since = time.monotonic()

    @property
    def ready(self) -> bool:
        # A PUB socket does not say who listens.
        return time.monotonic() - self._since > 3.0

    def push(self, state: State, version: int) -> None:
        import lz4.frame

        self._socket.send(lz4.frame.compress(pickle.dumps({"version": version, "state": state})))

    def close(self) -> None:
        self._socket.close(0)


class ZeroMqReceiver(_Threads):
    received = 0

    def __init__(self, tensors: Tensors, applied: Applied, address: str, port: int) -> None:
        import lz4.frame
        import zmq

        def listen() -> None:
            socket = zmq.Context().socket(zmq.SUB)
            socket.setsockopt(zmq.CONFLATE, True)
            socket.setsockopt(zmq.RCVHWM, 3)
            socket.connect(f"tcp://{address}:{port}")
            socket.setsockopt_string(zmq.SUBSCRIBE, "")
            while True:
                message = pickle.loads(lz4.frame.decompress(socket.recv()))
                tensors.load_trainable_state(message["state"])
                applied(message["version"])

        threading.Thread(target=listen, daemon=True).start()


SENDERS: dict[str, Any] = {"whetstone": WhetstoneSender, "one_message": OneMessageSender, "grpc": GrpcSender, "zeromq": ZeroMqSender}


def receiver(channel: str, tensors: Tensors, applied: Applied, address: str, port: int) -> Any:
    """The receiving end of a channel."""
    if channel == "whetstone":
        return WhetstoneReceiver(tensors, applied)
    if channel == "one_message":
        return OneMessageReceiver(tensors, applied)
    return {"grpc": GrpcReceiver, "zeromq": ZeroMqReceiver}[channel](tensors, applied, address, port)
