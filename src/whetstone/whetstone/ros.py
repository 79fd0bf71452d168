"""ROS 2 as the nodes use it.

Role: quality of service per kind of topic, stamps, raw messages, and `WhetstoneNode`: a lifecycle node with typed
parameters, diagnostics, deadlines that name the missing peer, and one way to fail (one line, an exit code, no traceback).
`run_node` is the whole main() of a node. Knows no robot, policy, reward model or learner. The only module of this
package that imports rclpy.
"""

from __future__ import annotations

import array
import dataclasses
import functools
import os
import signal
import socket
import sys
import threading
import time
import traceback
from collections.abc import Callable
from importlib import import_module
from typing import Any, Generic, TypeVar

import rclpy
from builtin_interfaces.msg import Time
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus, KeyValue
from rcl_interfaces.msg import ParameterDescriptor
from rclpy.clock import Clock
from rclpy.clock_type import ClockType
from rclpy.executors import ExternalShutdownException, SingleThreadedExecutor
from rclpy.impl.implementation_singleton import rclpy_implementation
from rclpy.lifecycle import LifecycleNode, LifecycleState, TransitionCallbackReturn
from rclpy.qos import DurabilityPolicy, HistoryPolicy, QoSProfile, ReliabilityPolicy
from rclpy.serialization import deserialize_message
from rclpy.signals import SignalHandlerOptions

from whetstone import config
from whetstone.cdr import stamp_of_raw as stamp_of_raw
from whetstone.errors import InputError, PeerError, WhetstoneError
from whetstone.snapshot import Tensor
from whetstone.transfer import Manifest

P = TypeVar("P")

EXIT_REFUSED = 2
"""Exit code after a WhetstoneError: the user can act on the line that was printed."""
EXIT_CRASHED = 3
"""Exit code after any other exception: a defect."""
DEADLINE_RESOLUTION = 0.1
"""Seconds by which a Deadline may be late."""
GRACE = 5.0
"""Seconds that a node may take to stop after SIGINT or SIGTERM before it is ended by force, unless it says otherwise."""


def _qos(depth: int, reliable: bool = True, latched: bool = False) -> QoSProfile:
    return QoSProfile(
        history=HistoryPolicy.KEEP_LAST,
        depth=depth,
        reliability=ReliabilityPolicy.RELIABLE if reliable else ReliabilityPolicy.BEST_EFFORT,
        durability=DurabilityPolicy.TRANSIENT_LOCAL if latched else DurabilityPolicy.VOLATILE,
    )


CAMERA_LIVE = _qos(1, reliable=False)
"""Cameras by wall clock: the newest frame wins, a lost one is lost."""
LOCKSTEP_DEPTH = 200
"""Messages of a topic that wait for a subscriber in lockstep. Who joins topics must be able to hold as many: all of one topic may be
handed over before the first of another."""
FRAME_LOCKSTEP = _qos(LOCKSTEP_DEPTH, latched=True)
"""Cameras and joint states in lockstep: every frame must arrive, also at a subscriber that is seconds behind (nobody waits for the
learner) and at one that the simulator has not discovered yet when the first episode begins."""
STATE = _qos(200)
"""Joint states by wall clock and other small state."""
COMMAND = _qos(1)
"""Driver commands: the newest wins."""
COMMAND_FROM_MANY = _qos(4)
"""The same for who must notice that there are two senders: of depth 1 the one that speaks last in each period would hide the other."""
EVENT = _qos(LOCKSTEP_DEPTH, latched=True)
"""Rewards, actions, guard reports, truth: every one counts, also for a subscriber that is discovered a moment late."""
LATCHED = _qos(1, latched=True)
"""A publisher's current state, for late joiners too (episode, weights/manifest, learner/update)."""
EPISODE = _qos(10, latched=True)
"""For subscribers of `episode`: phases follow each other at once, and none may be missed."""
WEIGHTS_CHUNK = _qos(128)
"""Chunks that somebody asked for: four windows of them (policy_node.weights.WINDOW)."""


def camera_qos(realtime: bool) -> QoSProfile:
    """QoS of a camera, for its publisher and its subscribers."""
    return CAMERA_LIVE if realtime else FRAME_LOCKSTEP


def joints_qos(realtime: bool) -> QoSProfile:
    """QoS of joint states, for their publisher and who needs every one of them."""
    return STATE if realtime else FRAME_LOCKSTEP


def message_class(name: str, lacking: str = "its package") -> Any:
    """The Python class of a message type, package/msg/Name. Raises InputError where it is not installed; lacking: what its package is."""
    package, _, short = name.partition("/msg/")
    try:
        return getattr(import_module(f"{package}.msg"), short)
    except (ImportError, AttributeError):
        raise InputError(f"message type '{name}' is not installed; install {lacking}, {package}") from None


def to_ns(stamp: Time) -> int:
    """builtin_interfaces/Time -> integer ns."""
    return stamp.sec * 1_000_000_000 + stamp.nanosec


def to_stamp(ns: int) -> Time:
    """Integer ns -> builtin_interfaces/Time."""
    return Time(sec=ns // 1_000_000_000, nanosec=ns % 1_000_000_000)


def deserialize(data: bytes, message_type: Any) -> Any:
    """The message in serialised bytes (what a subscription with raw=True hands over)."""
    return deserialize_message(data, message_type)


def manifest_to_message(
    manifest: Manifest, stamp: int, parent: int, iteration: int, policy_id: str, config_hash: str, signature: str = ""
) -> Any:
    """whetstone_msgs/WeightsManifest that announces the snapshot. stamp: ns; signature: of whetstone.signing."""
    from whetstone_msgs.msg import TensorEntry, WeightsManifest

    message = WeightsManifest(
        version=manifest.version,
        parent=parent,
        iteration=iteration,
        policy_id=policy_id,
        config_hash=config_hash,
        tensors=[TensorEntry(name=t.name, dtype=t.dtype, shape=list(t.shape), offset=t.offset, size=t.size) for t in manifest.table],
        payload_size=manifest.payload_size,
        chunk_size=manifest.chunk_size,
        chunk_count=manifest.chunk_count,
        table_sha256=manifest.table_sha256,
        chunk_sha256=array.array("B", manifest.chunk_sha256),
        payload_sha256=manifest.payload_sha256,
        compression=manifest.compression,
        base_sha256=manifest.base_sha256,
        host=manifest.host,
        path=manifest.path,
        signature=signature,
    )
    message.header.stamp = to_stamp(stamp)
    return message


def manifest_from_message(message: Any) -> Manifest:
    """Manifest in a whetstone_msgs/WeightsManifest (unchecked: `transfer.check_manifest` checks it)."""
    return Manifest(
        version=message.version,
        table=tuple(Tensor(t.name, t.dtype, tuple(int(n) for n in t.shape), t.offset, t.size) for t in message.tensors),
        payload_size=message.payload_size,
        chunk_size=message.chunk_size,
        chunk_count=message.chunk_count,
        table_sha256=message.table_sha256,
        chunk_sha256=bytes(message.chunk_sha256),
        payload_sha256=message.payload_sha256,
        compression=message.compression,
        base_sha256=message.base_sha256,
        host=message.host,
        path=message.path,
    )


class Deadline:
    """A wait for a peer that ends by `meet()` or, in time, by a PeerError that names it."""

    def __init__(self, waiting: set[Deadline], seconds: float, message: str) -> None:
        self._waiting = waiting
        self._seconds = seconds
        self._message = message
        self.restart()
        waiting.add(self)

    @property
    def met(self) -> bool:
        return self not in self._waiting

    def meet(self) -> None:
        """The peer answered (or nobody waits any longer). Calling it again does nothing."""
        self._waiting.discard(self)

    def restart(self) -> None:
        """Begin the wait anew."""
        self._expires = time.monotonic() + self._seconds

    def check(self) -> None:
        """Raises PeerError where the time is up."""
        if not self.met and time.monotonic() >= self._expires:
            self.meet()
            raise PeerError(self._message)


class WhetstoneNode(LifecycleNode, Generic[P]):
    """Base of the nodes.

    A subclass passes its parameter dataclass and implements any of `configure` (load, self-test, create publishers and
    subscriptions), `activate`, `deactivate` (stop, hold the arm) and `cleanup` (free, close files). Any of them, and any
    callback, may raise a WhetstoneError: the process logs that one line and ends with EXIT_REFUSED. Other exceptions
    end it with EXIT_CRASHED.

    parameters: the node's parameters, parsed strictly into the dataclass (types, ranges, missing ones).
        They are read-only; parameters that the dataclass lacks are ignored (a parameter file serves all nodes).
    counters: name -> value, published on /diagnostics at 1 Hz.
    autostart: the node configures and activates itself (for nodes that nobody manages); run_node's argument does the same.
    grace: seconds that it may take to stop after a signal before it is ended by force.
    """

    autostart = False
    grace = GRACE

    def __init__(self, name: str, parameters: type[P]) -> None:
        super().__init__(name)
        self._waiting: set[Deadline] = set()
        self._deadline_timer: Any = None
        self._change_state = self._service_change_state.callback
        self._service_change_state.callback = self._answer_change_state
        self.exit_code: int | None = None
        self.counters: dict[str, Any] = {}
        self.steady_clock = Clock(clock_type=ClockType.STEADY_TIME)
        self.parameters: P = self._read_parameters(parameters)
        self._diagnostics = self.create_publisher(DiagnosticArray, "/diagnostics", STATE)
        self.create_timer(1.0, self._publish_diagnostics, clock=self.steady_clock)

    # What a subclass implements.

    def configure(self) -> None:
        """Load what the node needs and prove that it works."""

    def activate(self) -> None:
        """Begin to act."""

    def deactivate(self) -> None:
        """Stop acting and leave the arm held."""

    def cleanup(self) -> None:
        """Give back what configure took."""

    # What a subclass uses.

    def finish(self, code: int = 0) -> None:
        """End the process with this exit code once the current callback returns."""
        if self.exit_code is None:
            self.exit_code = code
            if self.executor is not None:
                self.executor.wake()

    def fail(self, error: BaseException | str) -> None:
        """Log one line and end the process: EXIT_REFUSED for a WhetstoneError or a text, EXIT_CRASHED for anything else."""
        refused = isinstance(error, (WhetstoneError, str))
        text = str(error) if refused else f"{type(error).__name__}: {error}"
        self.get_logger().fatal(" ".join(text.split()))
        if isinstance(error, BaseException) and not refused:
            self.get_logger().debug("".join(traceback.format_exception(error)))
        self.finish(EXIT_REFUSED if refused else EXIT_CRASHED)

    def deadline(self, seconds: float, peer: str, what: str) -> Deadline:
        """Begin to wait for `what` from `peer`; unless met in time the node fails with 'no <what> from '<peer>' within <s> s'."""
        if self._deadline_timer is None:
            # One timer for all waits: rcl keeps what it knows of a destroyed timer, and some waits come with every episode.
            self._deadline_timer = self.create_timer(DEADLINE_RESOLUTION, self._check_deadlines, clock=self.steady_clock)
        return Deadline(self._waiting, seconds, f"no {what} from '{peer}' within {seconds:g} s; is it running on this ROS domain?")

    def _check_deadlines(self) -> None:
        for deadline in list(self._waiting):
            deadline.check()

    def call(self, client: Any, request: Any, peer: str, seconds: float, then: Callable[[Any], object]) -> Deadline:
        """Call a service as soon as it is there, without blocking; `then(response)`. No answer in time: the node fails naming the peer."""
        deadline = self.deadline(seconds, peer, f"answer to '{client.srv_name}'")
        polls: list[Any] = []

        def answered(future: Any) -> None:
            if not deadline.met:
                deadline.meet()
                then(future.result())

        def send() -> bool:
            if deadline.met or client.service_is_ready():
                for timer in polls:
                    self.destroy_timer(timer)
                if not deadline.met:
                    client.call_async(request).add_done_callback(self.guarded(answered))
                return True
            return False

        if not send():
            polls.append(self.create_timer(0.02, send, clock=self.steady_clock))
        return deadline

    def guarded(self, callback: Callable[..., Any]) -> Callable[..., Any]:
        """The callback, ending the node by `fail` where it raises. Subscriptions, timers and services are wrapped so already;
        wrap what goes to futures and action clients (rclpy only prints what those raise)."""

        @functools.wraps(callback)
        def call(*arguments: Any) -> Any:
            try:
                return callback(*arguments)
            except Exception as error:
                self.fail(error)
                return arguments[1] if len(arguments) == 2 else None  # of a service: the response as it stands

        return call

    # rclpy's side.

    def create_subscription(self, msg_type: Any, topic: str, callback: Callable[..., Any], qos_profile: Any, **options: Any) -> Any:
        return super().create_subscription(msg_type, topic, self.guarded(callback), qos_profile, **options)

    def create_timer(self, timer_period_sec: float, callback: Callable[..., Any], *args: Any, **options: Any) -> Any:
        return super().create_timer(timer_period_sec, self.guarded(callback), *args, **options)

    def create_service(self, srv_type: Any, srv_name: str, callback: Callable[..., Any], **options: Any) -> Any:
        return super().create_service(srv_type, srv_name, self.guarded(callback), **options)

    def on_configure(self, state: LifecycleState) -> TransitionCallbackReturn:
        return self._transition(self.configure, super().on_configure, state)

    def on_activate(self, state: LifecycleState) -> TransitionCallbackReturn:
        return self._transition(self.activate, super().on_activate, state)

    def on_deactivate(self, state: LifecycleState) -> TransitionCallbackReturn:
        return self._transition(self.deactivate, super().on_deactivate, state)

    def on_cleanup(self, state: LifecycleState) -> TransitionCallbackReturn:
        return self._transition(self.cleanup, super().on_cleanup, state)

    def on_shutdown(self, state: LifecycleState) -> TransitionCallbackReturn:
        def leave() -> None:
            if state.label == "active":
                self.deactivate()
            if state.label in ("active", "inactive"):
                self.cleanup()

        result = self._transition(leave, super().on_shutdown, state)
        self.finish(0)
        return result

    def _answer_change_state(self, request: Any, response: Any) -> Any:
        """rclpy raises, and never answers, where the transition does not lead on from the present state; we say no."""
        try:
            return self._change_state(request, response)
        except rclpy_implementation.RCLError:
            asked = request.transition.label or request.transition.id
            self.get_logger().warning(f"transition {asked} does not exist in state '{self.state()}'")
            response.success = False
            return response

    def state(self) -> str:
        """Lifecycle state: unconfigured, inactive, active or finalized."""
        return self._state_machine.current_state[1]

    def _transition(self, step: Callable[[], None], base: Callable[..., Any], state: LifecycleState) -> TransitionCallbackReturn:
        try:
            step()
            return base(state)
        except Exception as error:
            self.fail(error)
            return TransitionCallbackReturn.FAILURE

    def _read_parameters(self, cls: type[P]) -> P:
        values = {}
        for field in dataclasses.fields(cls):  # type: ignore[arg-type]
            default = None if field.default is dataclasses.MISSING else field.default
            if field.default_factory is not dataclasses.MISSING:
                default = field.default_factory()
            descriptor = ParameterDescriptor(dynamic_typing=True, read_only=True)
            # An empty list has no type in ROS; it stays unset and the dataclass's default holds.
            value = self.declare_parameter(field.name, None if default in ((), []) else default, descriptor).value
            if value is not None:
                values[field.name] = list(value) if not isinstance(value, (str, int, float, bool)) else value
        return config.parse(cls, values, f"parameters of node '{self.get_name()}'")

    def _publish_diagnostics(self) -> None:
        if not self.counters:
            return
        status = DiagnosticStatus(level=DiagnosticStatus.OK, name=self.get_fully_qualified_name(), message=self.state())
        words = {key: f"{value:g}" if isinstance(value, float) else str(value) for key, value in self.counters.items()}
        status.values = [KeyValue(key=key, value=value) for key, value in words.items()]
        message = DiagnosticArray(status=[status])
        message.header.stamp = self.get_clock().now().to_msg()
        self._diagnostics.publish(message)


class _Signals:
    """SIGINT and SIGTERM as a flag that wakes the executor; a second signal, or `grace` seconds, end the process by force."""

    def __init__(self) -> None:
        self.asked = False
        self.grace: Callable[[], float] = lambda: GRACE
        self.wake: Callable[[], None] = lambda: None
        self._read, write = socket.socketpair()
        write.setblocking(False)
        self._write = write
        # The C handler writes to the socket even while the main thread is deep in a library; the thread below hears it.
        self._old_fd = signal.set_wakeup_fd(write.fileno(), warn_on_full_buffer=False)
        self._old = {number: signal.signal(number, lambda *_: None) for number in (signal.SIGINT, signal.SIGTERM)}
        threading.Thread(target=self._watch, name="signals", daemon=True).start()

    def _watch(self) -> None:
        while number := self._read.recv(1):
            if number[0] not in (signal.SIGINT, signal.SIGTERM):
                continue
            if self.asked:
                os._exit(128 + number[0])
            self.asked = True
            grace = self.grace()
            timer = threading.Timer(grace, self._force, (grace,))
            timer.daemon = True
            timer.start()
            self.wake()

    def _force(self, grace: float) -> None:
        print(f"[ERROR] {os.path.basename(sys.argv[0])}: did not stop within {grace:g} s; ended by force", file=sys.stderr, flush=True)
        os._exit(1)

    def close(self) -> None:
        signal.set_wakeup_fd(self._old_fd)
        for number, handler in self._old.items():
            signal.signal(number, handler)
        self._write.close()


def make_executor() -> Any:
    """The events executor where rclpy has it (half the CPU time of a wait set per message), else the single-threaded one."""
    try:
        from rclpy.experimental.events_executor import EventsExecutor
    except ImportError:
        return SingleThreadedExecutor()
    return EventsExecutor()


def run_node(cls: Callable[[], WhetstoneNode[Any]], args: list[str] | None = None, autostart: bool = False) -> int:
    """Run one node until it finishes, fails or is told to stop; the body of an executable's main(). Returns the exit code.

    autostart: the node configures and activates itself (for nodes that nobody manages).
    SIGINT and SIGTERM are a wish to stop: the node is deactivated and cleaned up, and the code is 0.
    """
    os.environ.setdefault("RCUTILS_CONSOLE_OUTPUT_FORMAT", "[{severity}] {name}: {message}")
    signals = _Signals()
    try:
        rclpy.init(args=args, signal_handler_options=SignalHandlerOptions.NO)
    except Exception as error:
        # Wrong --ros-args or a parameter file that cannot be read: rcl's text spans lines and names its source files.
        print(f"[FATAL] {os.path.basename(sys.argv[0])}: {_first_line(error)}", file=sys.stderr, flush=True)
        signals.close()
        return EXIT_REFUSED
    node: WhetstoneNode[Any] | None = None
    code = EXIT_CRASHED
    try:
        node = cls()
        code = _spin(node, signals, autostart or node.autostart)
    except WhetstoneError as error:  # from the constructor: there is no node to log through
        print(f"[FATAL] {os.path.basename(sys.argv[0])}: {error}", file=sys.stderr, flush=True)
        code = EXIT_REFUSED
    finally:
        if node is not None:
            node.destroy_node()
        if rclpy.ok():
            rclpy.shutdown()
    signals.close()
    if _workers():
        # A worker thread inside a numeric library would crash the interpreter's own shutdown.
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    return code


def _spin(node: WhetstoneNode[Any], signals: _Signals, autostart: bool) -> int:
    executor = make_executor()
    executor.add_node(node)
    signals.wake = executor.wake
    signals.grace = lambda: node.grace
    if autostart and node.trigger_configure() == TransitionCallbackReturn.SUCCESS:
        node.trigger_activate()
    while node.exit_code is None and not signals.asked:
        try:
            executor.spin_once(timeout_sec=0.2)
        except ExternalShutdownException:
            break
        except Exception as error:
            node.fail(error)
    asked = node.exit_code is None
    if node.state() == "active":
        node.trigger_deactivate()
    if node.state() == "inactive":
        node.trigger_cleanup()
    executor.remove_node(node)
    executor.shutdown()
    # A wish to stop is no failure, unless stopping itself went wrong.
    return 0 if asked and node.exit_code is None else int(node.exit_code or 0)


def _workers() -> bool:
    return any(
        thread is not threading.main_thread() and thread.name != "signals" and not isinstance(thread, threading.Timer)
        for thread in threading.enumerate()
    )


def _first_line(error: BaseException) -> str:
    line = (str(error).strip().splitlines() or [type(error).__name__])[0]
    return line.split(", at /")[0].strip()
