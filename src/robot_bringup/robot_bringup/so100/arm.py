"""What the servos are told.

Role: the state machine of the driver, one `step` per period of the line: connect and only read; torque at the first valid command, with
the goals where the arm is, so that nothing jumps; follow the trajectory in force inside limits of position, speed and lead; hold on a
fault; park before the torque is cut; when the line is lost, open it again, and begin again with reading. Clocks come in as arguments and
the line through `open_line`, so that all of it is tested without either. Does not depend on rclpy.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any, Protocol

import numpy as np

from robot_bringup.so100 import registers
from robot_bringup.so100.bus import BusError, LineLost, ServoSilent
from robot_bringup.so100.calibration import RAD_PER_TICK, Calibration, Converter, limits
from robot_bringup.so100.health import LOOKS_AT, Judge, Vitals
from robot_bringup.so100.registers import Register
from robot_bringup.so100.settings import DriverSettings
from robot_bringup.trajectory import NANOSECONDS, TrajectoryController
from whetstone.profile import RobotProfile

SPARE_SPEED = 1.5
"""The servo's own limit of speed and acceleration, as a multiple of what the profile allows: a second fence, behind ours."""


class Line(Protocol):
    """What the arm needs of bus.ServoBus."""

    failures: dict[int, int]

    def close(self) -> None: ...
    def ping(self) -> None: ...
    def name(self, id: int) -> str: ...
    def read(self, register: Register, ids: Sequence[int] = ()) -> dict[int, int]: ...
    def read_many(self, wanted: Sequence[Register], ids: Sequence[int] = ()) -> dict[int, dict[Register, int]]: ...
    def write_all(self, register: Register, values: Mapping[int, int]) -> None: ...


class State(Enum):
    """LOST: no line. READING: nothing is written; servos whose torque is on keep their goal. FOLLOWING: torque on, goals every period.
    PARKING: on the way to the park pose."""

    LOST = "lost"
    READING = "reading"
    FOLLOWING = "following"
    PARKING = "parking"


@dataclass(frozen=True)
class Reading:
    """stamp: robot time (ns) at which the answers had come; positions: (joints + 1,) rad, arm joints in profile order and the gripper's;
    velocities: rad/s."""

    stamp: int
    positions: np.ndarray
    velocities: np.ndarray


class Arm:
    """An arm on a line. names: of all joints, the gripper's last. clock: robot time, ns. `now` of all methods: steady s. On construction
    opens nothing.

    vitals: servo id -> Vitals, as last seen. reason: why the line was lost, in words. missed: periods without a complete answer.
    lost: times that the line was lost. torque_lost: servos that let go by themselves, until reset().
    """

    def __init__(
        self,
        profile: RobotProfile,
        calibration: Calibration,
        settings: DriverSettings,
        open_line: Callable[[], Line],
        clock: Callable[[], int],
    ) -> None:
        self.names = (*profile.joint_names, profile.gripper.joint)
        self.vitals: dict[int, Vitals] = {}
        self.reason = "not connected yet"
        self.missed = self.lost = 0
        self.torque_lost: tuple[int, ...] = ()
        self.state = State.LOST
        self._profile, self._settings = profile, settings
        self._open_line, self._clock = open_line, clock
        self._line: Line | None = None
        self._converter = Converter(calibration, self.names)
        self._corrections = {joint.id: joint.correction for joint in self._converter.joints}
        allowed = np.array([limits(profile)[name] for name in self.names])
        self.lower = np.maximum(allowed[:, 0], self._converter.lower)
        self.upper = np.minimum(allowed[:, 1], self._converter.upper)
        self._velocity = np.append(profile.velocity, settings.gripper.velocity)
        self._park_pose = np.array([settings.park.pose[name] for name in profile.joint_names])
        grips = len(self.names) - 1
        self._judges = {id: Judge(settings.health, i != grips) for i, id in enumerate(self._converter.ids)}
        self._controller = TrajectoryController(profile.joint_names)
        self._measured: Reading | None = None
        self._ticks: dict[int, int] = {}
        self._desired = np.zeros(len(self.names))
        self._grip = 0.0
        self._wanted = False  # a valid command has come that the torque is not on for yet
        self._alive_until: int | None = None
        self._held: tuple[str, ...] = ()
        self._unwell: tuple[str, ...] = ()  # what was wrong with the servos, until hold_for after it was last seen
        self._well_at = 0.0
        self._backoff = settings.line.backoff
        self._retry_at = self._heard_at = self._health_at = self._stepped_at = 0.0
        self._park: tuple[np.ndarray, float, float, float] | None = None  # from, begin, arrival, deadline

    # Connecting.

    def connect(self, now: float) -> None:
        """Open the line and look whether these are the servos that were calibrated. Writes nothing. Raises BusError."""
        line = self._open_line()
        try:
            line.ping()
            for id, mode in line.read(registers.MODE).items():
                if mode != 0:
                    raise BusError(f"{line.name(id)} is in mode {mode}, not in position mode; `whetstone calibrate-arm` sets it")
            for id, correction in line.read(registers.CORRECTION).items():
                if correction != self._corrections[id]:
                    raise BusError(
                        f"{line.name(id)} corrects its position by {correction} ticks, and by {self._corrections[id]} when it was "
                        "calibrated; is it another arm, or was it calibrated elsewhere since? Run `whetstone calibrate-arm` again"
                    )
            lowest, highest = line.read(registers.MIN_POSITION), line.read(registers.MAX_POSITION)
            for joint in self._converter.joints:
                if lowest[joint.id] > joint.low or highest[joint.id] < joint.high:
                    raise BusError(
                        f"{line.name(joint.id)} itself stops at {lowest[joint.id]} and {highest[joint.id]} ticks, inside its calibrated "
                        f"range of {joint.low} to {joint.high}; run `whetstone calibrate-arm` again"
                    )
        except BusError:
            line.close()
            raise
        self._line = line
        self._backoff = self._settings.line.backoff
        self._heard_at = self._stepped_at = now
        self._health_at = now
        self._begin_reading()

    def close(self) -> None:
        """Give the line back. Torque and goals stay as they are."""
        if self._line is not None:
            self._line.close()
        self._line = None
        self.state, self.reason = State.LOST, "closed"

    def _begin_reading(self) -> None:
        self.state = State.READING
        self._wanted = False
        self._park = None

    def _lose(self, error: BusError, now: float) -> None:
        if self._line is not None:
            self._line.close()
            self.lost += 1
        self._line = None
        self.state, self.reason = State.LOST, str(error)
        self._measured = None
        self._retry_at = now + self._backoff
        self._backoff = min(2 * self._backoff, self._settings.line.backoff_most)

    # What is wrong.

    def faults(self) -> tuple[str, ...]:
        """Why the arm takes no command, in words; empty: it takes them."""
        if self.state is State.LOST:
            return (self.reason,)
        found = [*self._unwell]
        found += [f"{self._name(id)} let go by itself (did its supply fail?): ~/reset when it is safe" for id in self.torque_lost]
        return tuple(found)

    def warnings(self) -> tuple[str, ...]:
        """What will soon be a fault, in words."""
        return tuple(f"{self._name(id)} {warning}" for id, vitals in self.vitals.items() for warning in vitals.warnings)

    def retries(self) -> dict[int, int]:
        """Servo id -> questions that had to be asked it again since the line was opened."""
        return dict(self._line.failures) if self._line is not None else {}

    def reset(self) -> str | None:
        """A human says that servos which let go may be used again. Returns None, or what is still wrong. The next command begins anew."""
        if self.state is State.LOST:
            return self.reason
        self.torque_lost = ()
        still = self.faults()
        return "; ".join(still) or None

    def order(self, id: int) -> int:
        """Where the servo stands among `names`."""
        return self._converter.ids.index(id)

    def _name(self, id: int) -> str:
        return f"servo {id} ({self.names[self.order(id)]})"

    # Commands.

    def command(self, message: Any) -> str | None:
        """Take a trajectory (fields of trajectory_msgs/JointTrajectory). Returns None, or why it is refused."""
        refused = self.refuses()
        if refused is not None:
            return refused
        stamp, time = message.header.stamp, self._clock()
        sent = stamp.sec * NANOSECONDS + stamp.nanosec
        timeout = self._settings.command_timeout
        if sent and time - sent > timeout * NANOSECONDS:
            return f"it is {(time - sent) / NANOSECONDS:.2f} s old, more than command_timeout ({timeout:g} s); are the clocks in step?"
        reason = self._controller.accept(message, time)
        if reason is None:
            self._wanted = True
            end = self._controller.end
            self._alive_until = None if end is None else end + round(timeout * NANOSECONDS)
        return reason

    def grip(self, position: float) -> str | None:
        """Send the gripper's joint to a position, rad. Returns None, or why it is refused."""
        refused = self.refuses()
        if refused is None:
            self._grip = position
            self._wanted = True
        return refused

    def refuses(self) -> str | None:
        """Why no command would be taken now; None: one would."""
        faults = self.faults()
        if faults:
            return "; ".join(faults)
        if self.state is State.PARKING:
            return "the arm is being parked"
        if self._measured is None:
            return "the arm's position is not known yet"
        return None

    def waits(self) -> bool:
        """Whether the last trajectory is over for longer than command_timeout: the arm holds until another one comes."""
        return self.state is State.FOLLOWING and (self._alive_until is None or self._clock() > self._alive_until)

    # One period of the line.

    def step(self, now: float) -> Reading | None:
        """Read, judge, tell. Returns what was read; None: no complete answer in this period."""
        if self._line is None:
            if now >= self._retry_at:
                try:
                    self.connect(now)
                except BusError as error:
                    self._lose(error, now)
            return None
        try:
            return self._period(self._line, now)
        except ServoSilent as error:
            self.missed += 1
            if now - self._heard_at > self._settings.line.lost_after:
                self._lose(error, now)
        except LineLost as error:
            self._lose(error, now)
        return None

    def _period(self, line: Line, now: float) -> Reading:
        answers = line.read_many((registers.POSITION, registers.SPEED))
        self._heard_at = now
        time = self._clock()
        self._ticks = {id: values[registers.POSITION] for id, values in answers.items()}
        speeds = {id: values[registers.SPEED] for id, values in answers.items()}
        self._measured = Reading(time, self._converter.to_rad(self._ticks), self._converter.to_speed(speeds))
        seconds = min(max(now - self._stepped_at, 0.0), 3 / self._settings.rate)
        self._stepped_at = now
        if now >= self._health_at:
            self._health_at = now + self._settings.health_every
            self._look(line, now)
        if self.state is State.READING and not self._wanted:
            self._controller.hold(self._measured.positions[:-1])
            self._grip = float(self._measured.positions[-1])
        self._tell(line, self._measured.positions, now, time, seconds)
        return self._measured

    def _look(self, line: Line, now: float) -> None:
        values = line.read_many(LOOKS_AT)
        self.vitals = {id: judge.look(values[id], now) for id, judge in self._judges.items()}
        unwell = tuple(f"{self._name(id)} {fault}" for id, vitals in self.vitals.items() for fault in vitals.faults)
        if unwell:
            self._well_at = now + self._settings.health.hold_for
        if unwell or now >= self._well_at:
            self._unwell = unwell
        if self.state in (State.FOLLOWING, State.PARKING):
            loose = tuple(id for id, torque in line.read(registers.TORQUE).items() if not torque)
            if loose:
                self.torque_lost = tuple(sorted({*self.torque_lost, *loose}))
                self._begin_reading()
        faults = self.faults()
        if faults and not self._held and self.state is State.FOLLOWING:
            self._hold_here()
        self._held = faults

    def _hold_here(self) -> None:
        """Stop pushing: what is wanted is where the arm is. The jaw keeps its grip unless it is the one in trouble."""
        assert self._measured is not None
        self._controller.hold(self._measured.positions[:-1])
        self._desired[:-1] = self._measured.positions[:-1]
        if self.vitals[self._converter.ids[-1]].faults:
            self._grip = self._desired[-1] = float(self._measured.positions[-1])

    def _tell(self, line: Line, measured: np.ndarray, now: float, time: int, seconds: float) -> None:
        if self.state is State.READING:
            if not self._wanted or self.faults():
                self._wanted = False
                return
            self._engage(line)
            self.state = State.FOLLOWING
        if self.state is State.PARKING:
            assert self._park is not None
            start, began, arrival, _ = self._park
            share = 1.0 if arrival <= began else min((now - began) / (arrival - began), 1.0)
            target = start + share * (np.append(self._park_pose, start[-1]) - start)
        else:
            target = np.append(self._controller.sample(time), self._grip)
        target = np.clip(target, self.lower, self.upper)
        step = self._velocity * seconds
        lead = self._profile.guard.max_step
        desired = self._desired + np.clip(target - self._desired, -step, step)
        # What is in the arm's way must not wind up a distance that it then jumps.
        self._desired = np.clip(desired, measured - lead, measured + lead)
        line.write_all(registers.GOAL_POSITION, self._converter.to_ticks(self._desired))

    def _engage(self, line: Line) -> None:
        """Torque on with every goal where its servo is: or where it was told to be before, if it is held there still."""
        torque, goals = line.read(registers.TORQUE), line.read(registers.GOAL_POSITION)
        reach = self._profile.guard.max_step / RAD_PER_TICK
        here = {id: goals[id] if torque[id] and abs(goals[id] - ticks) <= reach else ticks for id, ticks in self._ticks.items()}
        speed = self._velocity * SPARE_SPEED / RAD_PER_TICK
        acceleration = np.append(self._profile.acceleration, self._profile.acceleration.max()) * SPARE_SPEED / RAD_PER_TICK / 100
        ids = self._converter.ids
        line.write_all(registers.GOAL_SPEED, {id: round(value) for id, value in zip(ids, speed)})
        line.write_all(registers.ACCELERATION, {id: min(round(value), 254) for id, value in zip(ids, acceleration)})
        line.write_all(registers.TORQUE_LIMIT, {ids[-1]: round(1000 * self._settings.gripper.torque)})
        self._write(line, registers.GOAL_POSITION, here)
        self._write(line, registers.TORQUE, dict.fromkeys(ids, 1))
        self._desired = self._converter.to_rad(here)

    def _write(self, line: Line, register: Register, values: Mapping[int, int]) -> None:
        """Write, and go on only when every servo has it: nobody answers such a write, and a lost one must not become a jump."""
        line.write_all(register, values)
        if line.read(register) != values:
            line.write_all(register, values)
            found = line.read(register)
            wrong = [id for id, value in values.items() if found[id] != value]
            if wrong:
                raise ServoSilent(f"{self._name(wrong[0])} does not take its {register.name}", wrong)

    # Parking.

    def park(self, now: float) -> bool:
        """Begin to go to the park pose, where any servo has torque. Returns whether there is something to wait for."""
        if self._line is None or self._measured is None:
            return False
        try:
            if not any(self._line.read(registers.TORQUE).values()):
                self._begin_reading()
                return False
            if self.state is State.READING:
                self._engage(self._line)
        except ServoSilent:
            self.missed += 1
            return True  # parking() says that it cannot
        except LineLost as error:
            self._lose(error, now)
            return False
        settings = self._settings.park
        arrival = now + float(np.abs(self._park_pose - self._desired[:-1]).max()) / settings.velocity
        self._park = (self._desired.copy(), now, arrival, arrival + settings.patience)
        self.state = State.PARKING
        return True

    def parking(self, now: float) -> bool | None:
        """None: on its way; True: there; False: it cannot get there."""
        if self.state is not State.PARKING or self._park is None or self._measured is None:
            return False
        _, _, arrival, deadline = self._park
        far = float(np.abs(self._measured.positions[:-1] - self._park_pose).max())
        if now >= arrival and far <= self._settings.park.tolerance:
            return True
        return False if now > deadline else None

    def off_park(self) -> list[str]:
        """Joints that are not at their park position."""
        if self._measured is None:
            return []
        far = np.abs(self._measured.positions[:-1] - self._park_pose) > self._settings.park.tolerance
        return [name for name, is_far in zip(self.names, far) if is_far]

    def release(self) -> None:
        """Cut the torque. Raises BusError where a servo keeps it."""
        if self._line is not None:
            self._write(self._line, registers.TORQUE, dict.fromkeys(self._converter.ids, 0))
        self._begin_reading()
