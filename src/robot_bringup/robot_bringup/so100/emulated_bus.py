"""A SO-100's six servos behind a pseudo-terminal, to test the driver with and to try it without an arm.

Role: speaks the protocol of Feetech's STS series byte for byte: instruction and status packets, checksums, PING, READ, WRITE, REG WRITE,
ACTION, SYNC READ, SYNC WRITE; behind it a model of a STS3215 that moves toward its goal at a limited speed while its torque is on. Faults
on demand: a servo that answers late, damaged, by a wrong id, with half a packet or never; a cable that is pulled. Written from the maker's
protocol and memory table, and on purpose without the SDK and without registers.py, so that both are checked against it. It is not the
servo: gains, friction, gravity and the time on the wire are not modelled. Does not depend on ROS.

    python -m robot_bringup.so100.emulated_bus link:=/tmp/so100 calibration:=/tmp/so100.yaml
"""

from __future__ import annotations

import os
import select
import signal
import sys
import threading
import time
import tty
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from whetstone.arguments import parse_arguments, run
from whetstone.errors import ConfigError, InputError

PING, READ, WRITE, REG_WRITE, ACTION, SYNC_READ, SYNC_WRITE = 0x01, 0x02, 0x03, 0x04, 0x05, 0x82, 0x83
BROADCAST = 0xFE
TURN = 4096
FASTEST = 3000.0
"""Ticks/s that a servo reaches: about 4.6 rad/s."""
FAULTS = ("none", "late", "checksum", "id", "half", "never")
_LASTING = 40
"""Memory below this address survives a power cut."""

_HELP = """python -m robot_bringup.so100.emulated_bus link:=/tmp/so100 calibration:=''

The servos of a SO-100 on a pseudo-terminal that `link` leads to; `calibration` is a file to write that fits them. Lines on standard input
change them:

  hand ID TICKS           turn it by hand (torque off)
  block ID LOW HIGH       something stands in its way; without numbers: no more
  temperature ID DEGREES  voltage ID VOLTS
  fault ID KIND           late, checksum, id, half, never, none
  unplug, replug          the USB cable
  cut                     the power supply fails for a moment
  show                    positions and torque
"""


@dataclass
class Servo:
    """One STS3215. memory: its bytes, as the maker's table has them. sensor: where it is in its turn, ticks, before its correction.

    obstacle: positions that it cannot leave. fault: one of FAULTS; lateness: s, of an answer that is late.
    """

    id: int
    sensor: float = 2048.0
    memory: bytearray = field(default_factory=lambda: bytearray(71))
    obstacle: tuple[float, float] | None = None
    fault: str = "none"
    lateness: float = 0.03
    pressed: float = 0.0  # s that it has pushed against something

    def __post_init__(self) -> None:
        values = {
            0: 3, 1: 10, 3: 9, 4: 3, 5: self.id, 8: 1, 13: 70, 14: 140, 15: 40, 19: 44, 21: 32, 22: 32, 34: 20, 35: 200, 36: 80,
            55: 1, 62: 74, 63: 30,
        }  # fmt: skip
        for address, value in values.items():
            self.memory[address] = value
        for address, value in {11: 4095, 16: 1000, 28: 500, 48: 1000}.items():
            self.put(address, value)
        self.kept = bytearray(self.memory)
        self.waiting: tuple[int, bytes] | None = None  # of REG WRITE
        self.tell()

    # Memory.

    def word(self, address: int, sign_bit: int | None = None) -> int:
        value = self.memory[address] | self.memory[address + 1] << 8
        if sign_bit is not None and value & 1 << sign_bit:
            return -(value & (1 << sign_bit) - 1)
        return value

    def put(self, address: int, value: int, sign_bit: int | None = None) -> None:
        if sign_bit is not None and value < 0:
            value = -value | 1 << sign_bit
        self.memory[address : address + 2] = bytes((value & 0xFF, value >> 8 & 0xFF))

    def write(self, address: int, data: bytes) -> None:
        """As an instruction writes: what is measured cannot be written, and what is locked is forgotten at a power cut."""
        for offset, value in enumerate(data):
            place = address + offset
            if place < 5 or place >= 56:
                continue
            if place == 40 and value == 128:  # here is the middle
                self.put(31, round(self.sensor) - 2048, 11)
                continue
            self.memory[place] = value
        if address < _LASTING and not self.memory[55]:
            self.kept[:_LASTING] = self.memory[:_LASTING]
        self.tell()

    def cut(self) -> None:
        """The power fails and comes back."""
        self.memory[:_LASTING] = self.kept[:_LASTING]
        for address in range(40, 56):
            self.memory[address] = 0
        self.memory[48:50], self.memory[55] = self.memory[16:18], 1
        self.waiting = None
        self.tell()

    # The motor.

    @property
    def torque(self) -> bool:
        return bool(self.memory[40])

    @property
    def position(self) -> int:
        """What it says: its sensor, corrected."""
        return self.word(56, 15)

    def step(self, seconds: float) -> None:
        """Let time pass."""
        before = self._exact()
        goal, now = min(max(self.word(42, 15), self.word(9)), self.word(11)), before
        if self.torque and self.memory[33] == 0:
            speed = min(abs(self.word(46, 15)) or FASTEST, FASTEST)
            now += min(max(goal - before, -speed * seconds), speed * seconds)
        if self.obstacle is not None:
            now = min(max(now, self.obstacle[0]), self.obstacle[1])
        self.sensor = (now + self.word(31, 11)) % TURN
        pushing = goal - now if self.torque else 0.0
        load = min(abs(pushing) * 8, self.word(48))
        self.pressed = self.pressed + seconds if load > self.memory[36] * 10 and now == before else 0.0
        if self.pressed > self.memory[35] / 100:  # overload: said until it pushes no more
            self.memory[65] |= 0x20
        elif not self.pressed:
            self.memory[65] &= ~0x20
        if seconds > 0:
            self.put(58, round((now - before) / seconds), 15)
        self.put(60, round(load if pushing >= 0 else -load), 10)
        self.tell()

    def _exact(self) -> float:
        return (self.sensor - self.word(31, 11)) % TURN

    def turn_by_hand(self, position: float) -> None:
        """Bring it to a position; what it does about that is up to its torque."""
        self.sensor = (position + self.word(31, 11)) % TURN
        self.tell()

    def tell(self) -> None:
        """Bring what can be read about the motor up to date."""
        self.put(56, round(self._exact()) % TURN, 15)
        status = self.memory[65] & 0x20
        status |= 0x01 if not self.memory[15] <= self.memory[62] <= self.memory[14] else 0
        status |= 0x04 if self.memory[63] > self.memory[13] else 0
        self.memory[65] = status
        self.memory[66] = int(self.word(58, 15) != 0)


def checksum(body: Iterable[int]) -> int:
    """Of all bytes between the header and itself."""
    return ~sum(body) & 0xFF


def packet(id: int, kind: int, parameters: bytes = b"") -> bytes:
    """kind: the instruction, or in an answer the servo's error bits."""
    body = bytes((id, len(parameters) + 2, kind)) + parameters
    return b"\xff\xff" + body + bytes((checksum(body),))


class EmulatedServos:
    """All servos of a line: bytes in, bytes out. Not for two threads at a time.

    written: (id, address, data) of everything that was written, in order.
    """

    def __init__(self, ids: Iterable[int] = range(1, 7)) -> None:
        self.servos = {id: Servo(id) for id in ids}
        self.written: list[tuple[int, int, bytes]] = []
        self._heard = bytearray()

    def step(self, seconds: float) -> None:
        for servo in self.servos.values():
            servo.step(seconds)

    def hear(self, data: bytes) -> list[tuple[float, bytes]]:
        """Bytes of the line -> (seconds from now, answer), in the order of the answers. What is no packet is passed over in silence."""
        self._heard += data
        answers = []
        while (found := self._next()) is not None:
            answers += self._obey(*found)
        return answers

    def _next(self) -> tuple[int, int, bytes] | None:
        heard = self._heard
        while True:
            start = heard.find(b"\xff\xff")
            if start < 0:
                del heard[: max(len(heard) - 1, 0)]
                return None
            del heard[:start]
            if len(heard) < 4:
                return None
            id, length = heard[2], heard[3]
            if id == 0xFF or length < 2:
                del heard[0]
                continue
            if len(heard) < length + 4:
                return None
            body, sum = bytes(heard[2 : length + 3]), heard[length + 3]
            if checksum(body) != sum:
                del heard[0]
                continue
            del heard[: length + 4]
            return id, body[2], body[3:]

    def _obey(self, id: int, instruction: int, parameters: bytes) -> list[tuple[float, bytes]]:
        if instruction == SYNC_READ and id == BROADCAST and len(parameters) > 2:
            address, length = parameters[:2]
            return self._say([(one, self._read(one, address, length)) for one in parameters[2:] if one in self.servos])
        if instruction == SYNC_WRITE and id == BROADCAST and len(parameters) > 2:
            address, length = parameters[:2]
            for start in range(2, len(parameters) - length, length + 1):
                self._write(parameters[start], address, parameters[start + 1 : start + 1 + length])
            return []
        asked = [one for one in self.servos if id in (one, BROADCAST)]
        if instruction == PING:
            return self._say([(one, b"") for one in asked])
        if instruction == READ and len(parameters) == 2 and id != BROADCAST:
            return self._say([(one, self._read(one, *parameters)) for one in asked])
        if instruction == WRITE and len(parameters) > 1:
            for one in asked:
                self._write(one, parameters[0], parameters[1:])
        elif instruction == REG_WRITE and len(parameters) > 1:
            for one in asked:
                self.servos[one].waiting = (parameters[0], parameters[1:])
        elif instruction == ACTION:
            for one in asked:
                waiting, self.servos[one].waiting = self.servos[one].waiting, None
                if waiting is not None:
                    self._write(one, *waiting)
        else:
            return []
        return self._say([(one, b"") for one in asked if id != BROADCAST and self.servos[one].memory[8]])

    def _read(self, id: int, address: int, length: int) -> bytes:
        memory = self.servos[id].memory
        return bytes(memory[address : address + length]).ljust(length, b"\0")

    def _write(self, id: int, address: int, data: bytes) -> None:
        if id in self.servos and self.servos[id].fault != "never":
            self.written.append((id, address, data))
            self.servos[id].write(address, data)

    def _say(self, answers: list[tuple[int, bytes]]) -> list[tuple[float, bytes]]:
        said = []
        for id, data in answers:
            servo = self.servos[id]
            whole = packet(id, servo.memory[65] & 0x7F, data)
            if servo.fault == "checksum":
                whole = whole[:-1] + bytes((whole[-1] ^ 0x01,))
            elif servo.fault == "id":
                whole = packet(id + 100, servo.memory[65] & 0x7F, data)
            elif servo.fault == "half":
                whole = whole[: len(whole) // 2]
            if servo.fault != "never":
                said.append((servo.lateness if servo.fault == "late" else 0.0, whole))
        return said


class EmulatedBus:
    """The servos on a pseudo-terminal that `link` leads to, in a thread of its own. Use as a context manager, or start() and close().

    lock: hold it while looking at or changing `line`.
    """

    TICK = 0.002
    """Seconds between two looks at line and clock."""

    def __init__(self, link: Path, ids: Iterable[int] = range(1, 7)) -> None:
        self.link = link
        self.line = EmulatedServos(ids)
        self.lock = threading.RLock()
        self._ends: tuple[int, int] | None = None
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._serve, name="emulated bus", daemon=True)

    def __enter__(self) -> EmulatedBus:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def start(self) -> None:
        """Raises InputError where the link cannot be made."""
        self.replug()
        self._thread.start()

    def close(self) -> None:
        self._done.set()
        self._thread.join()
        self.unplug()

    def servo(self, id: int) -> Servo:
        return self.line.servos[id]

    def unplug(self) -> None:
        """Whoever has the port open gets an error from now on; the servos keep their torque and their goals."""
        with self.lock:
            ends, self._ends = self._ends, None
            self.link.unlink(missing_ok=True)
            for end in ends or ():
                os.close(end)

    def replug(self) -> None:
        """A new port, behind the same link."""
        with self.lock:
            if self._ends is not None:
                return
            try:
                master, slave = os.openpty()
                tty.setraw(slave)  # else what is read would be echoed, and a byte like a newline changed
                self._ends = master, slave  # the slave stays open here too, so that the driver may come and go
                partial = self.link.with_name(f".{self.link.name}.{os.getpid()}")
                partial.unlink(missing_ok=True)
                partial.symlink_to(os.ttyname(slave))
                partial.replace(self.link)
            except OSError as error:
                raise InputError(f"{self.link}: the link to the emulated servos cannot be made: {error.strerror}") from None

    def cut(self) -> None:
        """The arm's power supply fails for a moment."""
        with self.lock:
            for servo in self.line.servos.values():
                servo.cut()

    def _serve(self) -> None:
        late: list[tuple[float, bytes]] = []
        last = time.monotonic()
        while not self._done.is_set():
            with self.lock:
                master = self._ends[0] if self._ends else None
            if master is None:
                time.sleep(self.TICK)
            else:
                try:
                    select.select([master], [], [], self.TICK)
                except (OSError, ValueError):
                    pass  # unplugged meanwhile
            with self.lock:
                now = time.monotonic()
                self.line.step(now - last)
                last = now
                late = self._exchange(now, late)

    def _exchange(self, now: float, late: list[tuple[float, bytes]]) -> list[tuple[float, bytes]]:
        if self._ends is None:
            return []
        master = self._ends[0]
        if select.select([master], [], [], 0)[0]:
            late = late + [(now + delay, answer) for delay, answer in self.line.hear(os.read(master, 4096))]
        for due, answer in late:
            if due <= now:
                os.write(master, answer)
        return [(due, answer) for due, answer in late if due > now]


def _obey_line(bus: EmulatedBus, words: list[str]) -> str:
    """One line of standard input; what to print."""
    name, *rest = words
    if name in ("unplug", "replug", "cut") and not rest:
        getattr(bus, name)()
        return ""
    with bus.lock:
        if name == "show" and not rest:
            servos = bus.line.servos.values()
            return "\n".join(f"{servo.id}: {servo.position} {'torque on' if servo.torque else 'torque off'}" for servo in servos)
        try:
            servo = bus.servo(int(rest[0]))
            if name == "hand":
                servo.turn_by_hand(float(rest[1]))
            elif name == "block":
                servo.obstacle = (float(rest[1]), float(rest[2])) if rest[1:] else None
            elif name == "temperature":
                servo.memory[63] = int(rest[1])
            elif name == "voltage":
                servo.memory[62] = round(float(rest[1]) * 10)
            elif name == "fault" and rest[1] in FAULTS:
                servo.fault = rest[1]
            else:
                raise ValueError
        except (ValueError, IndexError, KeyError):
            raise ConfigError(f"'{' '.join(words)}' is none of the lines that `--help` lists") from None
        servo.tell()
    return ""


def write_calibration(path: Path) -> None:
    """Of servos that were all mounted in the middle of their turn."""
    from robot_bringup.so100.calibration import Calibration, JointCalibration, save_calibration
    from robot_bringup.so100.settings import load_settings
    from whetstone.profile import load_profile

    servos = load_settings("so100", load_profile("so100")).servos
    joints = {name: JointCalibration(servo.id, 2048, 0, TURN - 1, 1, 0) for name, servo in servos.items()}
    save_calibration(Calibration("so100", "emulated", joints), path)


def main(arguments: list[str]) -> None:
    """Until standard input ends. Raises ConfigError and InputError."""
    values = parse_arguments(arguments, {"link": "/tmp/so100", "calibration": ""})
    link = Path(values["link"])
    if link.exists() and not link.is_symlink():
        raise InputError(f"{link}: is there already, and is no link")
    if values["calibration"]:
        write_calibration(Path(values["calibration"]))
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # the link goes then too
    with EmulatedBus(link) as bus:
        print(f"six emulated servos on {link}; Ctrl-C ends them", flush=True)
        try:
            for line in sys.stdin:
                try:
                    if line.split() and (said := _obey_line(bus, line.split())):
                        print(said, flush=True)
                except ConfigError as error:
                    print(error, file=sys.stderr, flush=True)
            if not sys.stdin.isatty():
                threading.Event().wait()  # standard input ended, as it does in the background
        except KeyboardInterrupt:
            pass


if __name__ == "__main__":
    run(main, _HELP)
