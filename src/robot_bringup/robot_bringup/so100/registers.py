"""The memory of a Feetech STS3215, as far as the driver uses it.

Role: addresses, sizes and units (the maker's memory table of the STS series). Two bytes are little-endian; a signed value is a magnitude
and a sign bit, not a two's complement. Depends on nothing.
"""

from __future__ import annotations

from dataclasses import dataclass

TICKS = 4096
"""Counts of the position sensor in one turn."""
MODEL = 777
"""What a STS3215 says in MODEL_NUMBER."""
BAUD_RATE = 1_000_000


@dataclass(frozen=True)
class Register:
    """address: of its first byte; size: 1 or 2 bytes; sign_bit: of a signed value. Below address 40 it survives a power cut."""

    name: str
    address: int
    size: int
    sign_bit: int | None = None

    def decode(self, data: bytes) -> int:
        """The value of `size` bytes."""
        value = int.from_bytes(data[: self.size], "little")
        if self.sign_bit is None or not value >> self.sign_bit & 1:
            return value
        return -(value & (1 << self.sign_bit) - 1)

    def encode(self, value: int) -> bytes:
        """Raises ValueError where the register cannot hold the value."""
        limit = 1 << (8 * self.size if self.sign_bit is None else self.sign_bit)
        if abs(value) >= limit or (value < 0 and self.sign_bit is None):
            raise ValueError(f"{self.name} cannot hold {value}")
        return (abs(value) | (limit if value < 0 else 0)).to_bytes(self.size, "little")


MODEL_NUMBER = Register("model number", 3, 2)
MIN_POSITION = Register("lower position limit", 9, 2)  # ticks that goals are cut to
MAX_POSITION = Register("upper position limit", 11, 2)
CORRECTION = Register("position correction", 31, 2, sign_bit=11)  # ticks; position = sensor - correction
MODE = Register("mode", 33, 1)  # 0: position
TORQUE = Register("torque", 40, 1)  # 0: off, 1: on
ACCELERATION = Register("acceleration", 41, 1)  # 100 ticks/s^2; 0: none set
GOAL_POSITION = Register("goal position", 42, 2, sign_bit=15)  # ticks
GOAL_SPEED = Register("goal speed", 46, 2, sign_bit=15)  # ticks/s; 0: as fast as it goes
TORQUE_LIMIT = Register("torque limit", 48, 2)  # 0.1 % of the stall torque
LOCK = Register("lock", 55, 1)  # 0: what is written below address 40 survives a power cut
POSITION = Register("position", 56, 2, sign_bit=15)  # ticks
SPEED = Register("speed", 58, 2, sign_bit=15)  # ticks/s
LOAD = Register("load", 60, 2, sign_bit=10)  # 0.1 % of the voltage that the motor is given
VOLTAGE = Register("voltage", 62, 1)  # 0.1 V
TEMPERATURE = Register("temperature", 63, 1)  # degrees Celsius
STATUS = Register("status", 65, 1)  # bits of STATUS_BITS
CURRENT = Register("current", 69, 2, sign_bit=15)  # 6.5 mA

STATUS_BITS = {0: "voltage", 1: "sensor", 2: "temperature", 3: "current", 5: "overload"}
"""What the servo itself finds wrong, by the bit of STATUS."""
