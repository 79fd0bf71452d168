"""Whether the servos are well.

Role: judges temperature, voltage, load and the servo's own status against the thresholds of the settings, with a way back that is further
than the way in, so that an arm at a threshold does not stutter. Speaks to no servo; does not depend on ROS.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from robot_bringup.so100 import registers
from robot_bringup.so100.registers import Register
from robot_bringup.so100.settings import Band, Health

LOOKS_AT = (registers.LOAD, registers.VOLTAGE, registers.TEMPERATURE, registers.STATUS, registers.CURRENT)


@dataclass(frozen=True)
class Vitals:
    """One servo. temperature: degrees Celsius; voltage: V; load: share of the voltage given to the motor, signed; current: A.

    warnings, faults: in words. With a fault the arm holds.
    """

    temperature: float
    voltage: float
    load: float
    current: float
    warnings: tuple[str, ...] = ()
    faults: tuple[str, ...] = ()


class Judge:
    """One servo's thresholds. limits_load: whether pushing hard is a fault (not of a gripper, which grips)."""

    def __init__(self, settings: Health, limits_load: bool) -> None:
        self._settings = settings
        self._limits_load = limits_load
        self._stopped: set[str] = set()
        self._pushing_since: float | None = None

    def look(self, values: Mapping[Register, int], now: float) -> Vitals:
        """What LOOKS_AT read, at steady time `now` (s)."""
        load, voltage = values[registers.LOAD] / 1000, values[registers.VOLTAGE] / 10
        temperature = float(values[registers.TEMPERATURE])
        settings = self._settings
        warnings: list[str] = []
        faults: list[str] = []

        def judge(kind: str, band: Band, amount: float, text: str, rising: bool = True) -> None:
            sign = 1 if rising else -1
            over = sign * (amount - band.stop)
            if over >= 0:
                self._stopped.add(kind)
            elif over < -band.back:
                self._stopped.discard(kind)
            if kind in self._stopped:
                faults.append(f"{text} (limit {band.stop:g})")
            elif sign * (amount - band.warn) >= 0:
                warnings.append(f"{text} (limit {band.stop:g})")

        judge("temperature", settings.temperature, temperature, f"is {temperature:g} degrees hot: let it cool")
        judge("voltage_low", settings.voltage_low, voltage, f"has {voltage:g} V only: is the supply strong enough?", rising=False)
        judge("voltage_high", settings.voltage_high, voltage, f"has {voltage:g} V, too many: is it the right supply?")
        if self._limits_load:
            if abs(load) < settings.load.stop and "load" not in self._stopped:
                self._pushing_since = None
            elif self._pushing_since is None:
                self._pushing_since = now
            steady = self._pushing_since is not None and now - self._pushing_since >= settings.load_for
            amount = abs(load) if steady or "load" in self._stopped else min(abs(load), settings.load.stop - 1e-9)
            judge("load", settings.load, amount, f"pushes with {abs(load):.0%} of its force: is something in its way?")
        for bit, word in registers.STATUS_BITS.items():
            if values[registers.STATUS] >> bit & 1:
                faults.append(f"itself reports: {word}")
        current = values[registers.CURRENT] * 0.0065
        return Vitals(temperature, voltage, load, current, tuple(warnings), tuple(faults))
