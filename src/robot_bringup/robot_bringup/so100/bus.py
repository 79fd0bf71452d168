"""The serial line that the servos hang on.

Role: reads and writes registers of many servos at once, again where an answer is late, damaged or missing, and says which servo it was and
what to look at. The packets are made and read by the SDK (scservo_sdk). Four things it leaves to us: what a late servo said to an earlier
question is thrown away before the next one; answers are told apart by their id, so that one silent servo does not hide the others; waiting
does not spin; time is the steady clock's. Knows no joint angles; does not depend on ROS.
"""

from __future__ import annotations

import errno
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

import scservo_sdk
import serial

from robot_bringup.so100 import registers
from robot_bringup.so100.registers import Register
from whetstone.errors import PeerError

try:
    from termios import error as _TermiosError
except ImportError:  # not a POSIX system
    _TermiosError = OSError

_PATIENCE = 1e-3
"""Seconds that one read of the port waits for bytes."""


class BusError(PeerError):
    """The line or a servo on it did not do what it was asked to."""


class LineLost(BusError):
    """The port is gone or cannot be used: the cable was pulled, the adapter has no power, or somebody else has it."""


class ServoSilent(BusError):
    """Some servos gave no answer that could be read. ids: which."""

    def __init__(self, message: str, ids: Sequence[int]) -> None:
        super().__init__(message)
        self.ids = tuple(ids)


class _Port(scservo_sdk.PortHandler):
    """The SDK's port with a steady clock, a wait that does not spin, and a line that is clean before each question."""

    def __init__(self, name: str, patience: float) -> None:
        super().__init__(name)
        self._patience = patience

    def setupPort(self, cflag_baud: int) -> bool:
        # exclusive: two programs on one half-duplex line destroy each other's packets.
        self.ser = serial.Serial(self.port_name, cflag_baud, timeout=_PATIENCE, write_timeout=0.5, exclusive=True)
        self.is_open = True
        self.ser.reset_input_buffer()
        self.tx_time_per_byte = 1000.0 / cflag_baud * 10.0
        return True

    def clearPort(self) -> None:
        self.ser.reset_input_buffer()

    def getCurrentTime(self) -> float:
        return time.monotonic() * 1e3

    def setPacketTimeout(self, packet_length: int) -> None:
        self.setPacketTimeoutMillis(self.tx_time_per_byte * packet_length + self._patience * 1e3)


class ServoBus:
    """An open line. joints: servo id -> name of its joint, for messages. patience: s that a servo may take to answer. retries: how often a
    question is asked again. On construction opens the port. Raises LineLost.

    failures: questions that had to be asked again, by servo id. Use as a context manager, or close().
    """

    def __init__(self, port: str, joints: Mapping[int, str], patience: float = 0.02, retries: int = 2) -> None:
        self.port, self.ids = port, tuple(joints)
        self.failures = dict.fromkeys(joints, 0)
        self._joints = dict(joints)
        self._patience, self._tries = patience, retries + 1
        self._more = 0
        self._port = _Port(port, patience)
        self._packets = scservo_sdk.PacketHandler(0)  # 0: of two bytes the lower comes first, as the STS series has it
        with self._line():
            self._port.setBaudRate(registers.BAUD_RATE)

    def __enter__(self) -> ServoBus:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Give the port back. What the servos were told last stays in force."""
        if self._port.ser is not None:
            try:
                self._port.closePort()
            except (OSError, _TermiosError):
                pass  # the line is gone already

    # Questions and orders.

    def ping(self) -> None:
        """Raises ServoSilent unless every servo is there and is a STS3215."""
        models = self.read(registers.MODEL_NUMBER)
        others = [id for id, model in models.items() if model != registers.MODEL]
        if others:
            found = ", ".join(f"{self.name(id)} is model {models[id]}" for id in others)
            raise BusError(f"{found}; this driver knows model {registers.MODEL} (STS3215) only")

    def read(self, register: Register, ids: Sequence[int] = ()) -> dict[int, int]:
        """id -> value, of these servos or all. Raises ServoSilent and LineLost."""
        return {id: values[register] for id, values in self.read_many((register,), ids).items()}

    def read_many(self, wanted: Sequence[Register], ids: Sequence[int] = ()) -> dict[int, dict[Register, int]]:
        """id -> register -> value. One question to all: what lies between the registers is read too. Raises ServoSilent and LineLost."""
        start = min(register.address for register in wanted)
        length = max(register.address + register.size for register in wanted) - start
        data = self._gather(start, length, tuple(ids) or self.ids)
        return {
            id: {register: register.decode(data[id][register.address - start :]) for register in wanted} for id in tuple(ids) or self.ids
        }

    def write_all(self, register: Register, values: Mapping[int, int]) -> None:
        """Tell all of them at once; nobody answers, so what matters is read back by who writes it. Raises LineLost."""
        words = [word for id, value in values.items() for word in (id, *register.encode(value))]
        with self._line():
            result = self._packets.syncWriteTxOnly(self._port, register.address, register.size, words, len(words))
        if result != scservo_sdk.COMM_SUCCESS:
            raise LineLost(f"{self.port}: {register.name} could not be written: {self._say(result)}")

    def write(self, register: Register, id: int, value: int) -> None:
        """Tell one servo and wait until it says that it has heard. Raises ServoSilent and LineLost."""
        data = list(register.encode(value))
        for _ in range(self._tries):
            with self._line():
                result, _ = self._packets.writeTxRx(self._port, id, register.address, register.size, data)
            if result == scservo_sdk.COMM_SUCCESS:
                return
            self.failures[id] += 1
        raise self._silent([id])

    def write_lasting(self, register: Register, values: Mapping[int, int]) -> None:
        """Write what survives a power cut, and read it back. Only with the torque off. Raises BusError."""
        for id, value in values.items():
            self.write(registers.LOCK, id, 0)
            try:
                self.write(register, id, value)
            finally:
                self.write(registers.LOCK, id, 1)
        found = self.read(register, tuple(values))
        for id, value in values.items():
            if found[id] != value:
                raise BusError(f"{self.name(id)} kept {found[id]} as its {register.name} where {value} was written; is its torque off?")

    def name(self, id: int) -> str:
        """'servo 3 (elbow_flex_joint)'."""
        return f"servo {id} ({self._joints[id]})" if id in self._joints else f"servo {id}"

    # The line.

    def _gather(self, start: int, length: int, ids: Sequence[int]) -> dict[int, bytes]:
        """At least `length` bytes at `start` of each servo; those that did not answer are asked again.

        Answers say neither what was asked nor when. After each question that was not answered in full they are asked for another number of
        bytes, so that what comes late is not taken for an answer to a later question.
        """
        found: dict[int, bytes] = {}
        missing = list(ids)
        for _ in range(self._tries):
            with self._line():
                size = length + self._more
                result = self._packets.syncReadTx(self._port, start, size, missing, len(missing))
                if result != scservo_sdk.COMM_SUCCESS:
                    raise LineLost(f"{self.port}: could not be written: {self._say(result)}")
                found.update(self._answers(size, missing))
            missing = [id for id in missing if id not in found]
            if not missing:
                return found
            self._more = (self._more + 1) % 4
            for id in missing:
                self.failures[id] += 1
        raise self._silent(missing)

    def _answers(self, length: int, ids: Sequence[int]) -> Iterator[tuple[int, bytes]]:
        """(id, data) as they come, in whatever order, until all have come or the time is up. Others' and damaged ones are left out."""
        left = set(ids)
        while left:
            packet, result = self._packets.rxPacket(self._port)
            if result == scservo_sdk.COMM_SUCCESS:
                id, data = packet[2], bytes(packet[5:-1])
                if id in left and len(data) == length:
                    left.discard(id)
                    yield id, data
            if self._port.isPacketTimeout():
                return

    @contextmanager
    def _line(self) -> Iterator[None]:
        """What goes wrong with the port becomes LineLost, with what to do about it."""
        try:
            yield
        except (OSError, _TermiosError, TypeError) as error:
            # SerialException is an OSError. TypeError: pyserial's, of a port that was closed under it.
            raise LineLost(f"{self.port}: {_cause(error)}") from None
        finally:
            self._port.is_using = False

    def _say(self, result: int) -> str:
        return self._packets.getTxRxResult(result).removeprefix("[TxRxResult] ")

    def _silent(self, ids: Sequence[int]) -> ServoSilent:
        if len(ids) == len(self.ids) > 1:
            said = f"no servo on {self.port} answers: is the arm's power supply on, and is this the arm's port?"
        else:
            names = ", ".join(self.name(id) for id in ids)
            first = self.name(min(ids))
            verb = "does" if len(ids) == 1 else "do"
            said = f"{names} {verb} not answer within {self._patience * 1e3:g} ms: check the cable that leads to {first}, and its id"
        return ServoSilent(said, ids)


def _cause(error: BaseException) -> str:
    number = getattr(error, "errno", None) or (error.args[0] if error.args and isinstance(error.args[0], int) else None)
    text = str(error)
    if number == errno.ENOENT:
        return "no such device; is the USB cable in? `ls /dev/serial/by-id` lists the adapters"
    if number in (errno.EACCES, errno.EPERM):
        return "may not be opened by this user; `sudo usermod -aG dialout $USER`, then log in again"
    if number == errno.EBUSY or "exclusively lock" in text:
        return "is in use by another program; stop it (`fuser -v` with the port's name says which)"
    return f"the line is gone ({text or type(error).__name__}); is the USB cable in?"
