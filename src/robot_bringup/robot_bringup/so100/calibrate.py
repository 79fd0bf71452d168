"""`whetstone calibrate-arm`: a human shows what the ticks of one arm's servos mean.

Role: torque off; the arm in its zero pose, which the servos are told to count from; each joint at its two ends, which gives range and
direction; everything checked while it can still be shown again; the file written at the end, whole. Prompts and a live table on a terminal,
plain lines elsewhere; needs nothing but Enter. Does not depend on ROS.
"""

from __future__ import annotations

import os
import select
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table

from robot_bringup.so100 import registers
from robot_bringup.so100.bus import ServoBus, ServoSilent
from robot_bringup.so100.calibration import COVERAGE, RAD_PER_TICK, Calibration, JointCalibration, limits, save_calibration
from robot_bringup.so100.registers import TICKS
from robot_bringup.so100.settings import DriverSettings, load_settings
from whetstone.arguments import parse_arguments
from whetstone.errors import InputError
from whetstone.profile import RobotProfile, load_profile

HELP = """whetstone calibrate-arm name:=value ...: show the driver of a SO-100 what its servos' ticks mean (docs/so100.md)

  robot:=so100          the arm's profile
  port:=/dev/ttyACM0    of its serial adapter; better /dev/serial/by-id/..., which stays the same
  out:=so100_arm.yaml   the calibration file; one that is there is replaced at the end
  driver:=so100         the driver's settings: config/drivers, or a path
"""
_DEFAULTS = {"robot": "so100", "port": "/dev/ttyACM0", "out": "so100_arm.yaml", "driver": "so100"}
_MIDDLE = TICKS // 2
_PERIOD = 0.03
"""Seconds between two looks at the servos."""
_PATIENCE = 3.0
"""Seconds that a servo may be silent while the arm is moved by hand."""


def main(words: Sequence[str], console: Console) -> int:
    """Returns the exit code. Raises ConfigError, BusError and InputError."""
    if any(word in ("-h", "--help") for word in words):
        print(HELP, end="")
        return 0
    values = parse_arguments(list(words), _DEFAULTS)
    profile = load_profile(values["robot"])
    settings = load_settings(values["driver"], profile)
    out = Path(values["out"]).expanduser()
    if out.is_dir() or not os.access(out.parent if out.parent.is_dir() else Path(), os.W_OK):
        raise InputError(f"{out}: no file can be written there")
    names = {servo.id: name for name, servo in settings.servos.items()}
    with ServoBus(values["port"], names, settings.line.patience, settings.line.retries) as bus:
        calibration = _Session(profile, settings, bus, console, _Enter(sys.stdin.fileno())).run()
    save_calibration(calibration, out)
    console.print(f"written to {out}; the driver takes it as its parameter calibration", highlight=False, soft_wrap=True)
    return 0


class _Enter:
    """Presses of Enter on a file descriptor, without waiting. (A buffered file would hold back a line that came with another.)"""

    def __init__(self, descriptor: int) -> None:
        self.descriptor = descriptor
        self._pressed = 0

    def within(self, seconds: float) -> bool:
        """Whether Enter was pressed; waits at most so long. Raises InputError where nobody can press it any more."""
        if not self._pressed and select.select([self.descriptor], [], [], seconds)[0]:
            try:
                data = os.read(self.descriptor, 4096)
            except OSError:  # the terminal was closed
                data = b""
            if not data:
                raise InputError("standard input ended before the arm was calibrated; no file was written")
            self._pressed += data.count(b"\n")
        if not self._pressed:
            return False
        self._pressed -= 1
        return True

    @contextmanager
    def unseen(self) -> Iterator[None]:
        """Enter does not move the lines of the live table while this lasts."""
        if not os.isatty(self.descriptor):
            yield
            return
        import termios

        before = termios.tcgetattr(self.descriptor)
        quiet = [*before[:3], before[3] & ~termios.ECHO, *before[4:]]
        termios.tcsetattr(self.descriptor, termios.TCSADRAIN, quiet)
        try:
            yield
        finally:
            with suppress(termios.error):  # the terminal was closed
                termios.tcsetattr(self.descriptor, termios.TCSADRAIN, before)


@dataclass
class _Seen:
    """What was seen of a joint since it was asked for, ticks. jumped: its count went over the end of the turn."""

    now: int
    low: int
    high: int
    jumped: bool = False

    def see(self, ticks: int) -> None:
        self.jumped |= abs(ticks - self.now) > _MIDDLE
        self.now, self.low, self.high = ticks, min(self.low, ticks), max(self.high, ticks)


class _Session:
    """One arm. ids and words come from the driver's settings."""

    def __init__(self, profile: RobotProfile, settings: DriverSettings, bus: ServoBus, console: Console, enter: _Enter) -> None:
        self._profile, self._settings, self._bus, self._console, self._enter = profile, settings, bus, console, enter
        self._ids = {name: servo.id for name, servo in settings.servos.items()}
        self._seen: dict[str, _Seen] = {}
        self._asked = ""  # joint that is being shown

    def run(self) -> Calibration:
        bus = self._bus
        bus.ping()
        bus.write_all(registers.TORQUE, dict.fromkeys(bus.ids, 0))
        holding = [bus.name(id) for id, torque in bus.read(registers.TORQUE).items() if torque]
        if holding:
            raise InputError(f"{', '.join(holding)} did not let go; does another program move this arm?")
        modes = {id: 0 for id, mode in bus.read(registers.MODE).items() if mode != 0}
        bus.write_lasting(registers.MODE, modes)
        self._say("The torque is off. The calibration that the arm has had is void once the first step is done.")
        corrections = self._home()
        joints = {name: self._range(name, corrections[id]) for name, id in self._ids.items()}
        calibration = Calibration(self._profile.name, datetime.now(timezone.utc).isoformat(timespec="seconds"), joints)
        calibration.check(self._profile, "calibration")
        # A fence in the servos themselves.
        bus.write_lasting(registers.MIN_POSITION, {joint.id: joint.low for joint in joints.values()})
        bus.write_lasting(registers.MAX_POSITION, {joint.id: joint.high for joint in joints.values()})
        for name, joint in joints.items():
            low, high = joint.reach()
            self._say(f"{name}: {low:.2f} to {high:.2f} rad, ticks {joint.low} to {joint.high}, {'+' if joint.sign > 0 else '-'}")
        return calibration

    def _home(self) -> dict[int, int]:
        """The zero pose becomes the middle of each servo's turn, so that no joint meets its end. Returns servo id -> correction."""
        self._wait(
            "Bring the arm into its zero pose and hold it: pointing straight ahead, upper arm upright, forearm and hand level, "
            "moving jaw on its right, jaw half open. Then press Enter"
        )
        bus = self._bus
        before = bus.read(registers.CORRECTION)
        sensors = {id: (ticks + before[id]) % TICKS for id, ticks in self._read().items()}
        self._seen.clear()
        corrections = {id: max(sensor - _MIDDLE, 1 - _MIDDLE) for id, sensor in sensors.items()}
        bus.write_lasting(registers.CORRECTION, corrections)
        bus.write_lasting(registers.MIN_POSITION, dict.fromkeys(bus.ids, 0))
        bus.write_lasting(registers.MAX_POSITION, dict.fromkeys(bus.ids, TICKS - 1))
        for id, ticks in bus.read(registers.POSITION).items():
            if abs(ticks - _MIDDLE) > TICKS // 16:
                raise InputError(
                    f"{bus.name(id)} says {ticks} ticks in the zero pose where {_MIDDLE} are expected; was the arm held still?"
                )
        return corrections

    def _range(self, name: str, correction: int) -> JointCalibration:
        """One joint at both its ends, again until it is plausible."""
        words, place = self._settings.servos[name], f"{list(self._ids).index(name) + 1} of {len(self._ids)}, {name}"
        self._asked = name
        while True:
            self._seen.pop(name, None)
            ends = []
            for end in (words.upper, words.lower):
                self._wait(f"{place}: {end}, as far as it goes; then press Enter")
                ends.append(self._seen[name].now)
            wrong = self._implausible(name, *ends)
            if wrong is None:
                break
            self._say(f"{name}: {wrong}. Once more")
        seen, sign = self._seen[name], 1 if ends[0] > ends[1] else -1
        offset = _MIDDLE
        if name == self._profile.gripper.joint:  # its zero is where its closed end says, not where it stood half open
            gripper = self._profile.gripper
            closed = ends[1] if gripper.closed < gripper.open else ends[0]
            offset = closed - round(sign * gripper.closed / RAD_PER_TICK)
        return JointCalibration(self._ids[name], offset, seen.low, seen.high, sign, correction)  # type: ignore[arg-type]

    def _implausible(self, name: str, upper: int, lower: int) -> str | None:
        seen = self._seen[name]
        if seen.jumped:
            return "it went more than half a turn away from the zero pose; stay within half a turn, or begin again with a better zero pose"
        low, high = limits(self._profile)[name]
        wanted = (high - low) / RAD_PER_TICK
        if abs(upper - lower) < COVERAGE * wanted:
            return (
                f"its two ends are {abs(upper - lower) * RAD_PER_TICK:.2f} rad apart, and the profile has {high - low:.2f}; "
                "was another joint moved, or this one not to its ends?"
            )
        if name == self._profile.gripper.joint:
            return None
        sign = 1 if upper > lower else -1
        ends = sorted((sign * (seen.low - _MIDDLE) * RAD_PER_TICK, sign * (seen.high - _MIDDLE) * RAD_PER_TICK))
        covered = min(ends[1], high) - max(ends[0], low)
        if covered < COVERAGE * (high - low):
            return (
                f"it reaches {ends[0]:.2f} to {ends[1]:.2f} rad, and the profile has {low:g} to {high:g}; "
                "if it was at its ends, the zero pose was not right: begin again"
            )
        return None

    # The human.

    def _say(self, text: str) -> None:
        self._console.print(text, highlight=False, markup=False, soft_wrap=True)

    def _wait(self, prompt: str) -> None:
        """Look at the servos until Enter is pressed."""
        if not self._console.is_terminal:
            self._say(prompt)
            while not self._enter.within(_PERIOD):
                self._look()
            self._look()
            return
        with self._enter.unseen(), Live(console=self._console, auto_refresh=False, transient=True) as live:
            while not self._enter.within(_PERIOD):
                self._look()
                live.update(Group(prompt, self._table()), refresh=True)
            self._look()

    def _look(self) -> None:
        positions = self._read()
        for name, id in self._ids.items():
            ticks = positions[id]
            self._seen.setdefault(name, _Seen(ticks, ticks, ticks)).see(ticks)

    def _read(self) -> Mapping[int, int]:
        """Positions; a cable that is loose for a moment does not cost the work of minutes."""
        deadline = time.monotonic() + _PATIENCE
        while True:
            try:
                return self._bus.read(registers.POSITION)
            except ServoSilent:
                if time.monotonic() > deadline:
                    raise

    def _table(self) -> Table:
        table = Table("joint", "servo", "ticks", "lowest", "highest", "range, rad")
        for name, seen in self._seen.items():
            style = "bold" if name == self._asked else None
            span = f"{(seen.high - seen.low) * RAD_PER_TICK:.2f}"
            table.add_row(name, str(self._ids[name]), str(seen.now), str(seen.low), str(seen.high), span, style=style)
        return table
