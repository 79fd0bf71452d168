"""The SO-100 driver's state machine on emulated servos, with clocks of its own and no line between: what the servos are told, and when."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from robot_bringup.so100 import registers
from robot_bringup.so100.arm import Arm, State
from robot_bringup.so100.bus import BusError, LineLost, ServoSilent
from robot_bringup.so100.calibration import RAD_PER_TICK, Calibration, Converter, JointCalibration
from robot_bringup.so100.emulated_bus import EmulatedServos
from robot_bringup.so100.settings import load_settings
from whetstone.profile import load_profile

PROFILE = load_profile("so100")
SETTINGS = load_settings("so100", PROFILE)
NAMES = (*PROFILE.joint_names, PROFILE.gripper.joint)
PERIOD = 1 / SETTINGS.rate
SECOND = 1_000_000_000
# Directions and offsets as different as those of a real arm.
CALIBRATION = Calibration(
    "so100",
    "2026-01-01T00:00:00+00:00",
    {name: JointCalibration(i + 1, 2048 if i < 5 else 1900, 100 + i, 3990 + i, 1 if i % 2 else -1, 10 * i) for i, name in enumerate(NAMES)},
)
START = np.array([0.3, -0.8, 0.6, 0.4, -1.0, 0.5])


class MemoryLine:
    """The servos' memory without packets. silent: ids that do not answer; gone: the cable is out; deaf: registers whose writes are lost."""

    def __init__(self, servos: EmulatedServos) -> None:
        self.servos = servos.servos
        self.failures = dict.fromkeys(self.servos, 0)
        self.silent: set[int] = set()
        self.gone = False
        self.deaf: set[registers.Register] = set()
        self.written: list[tuple[registers.Register, dict[int, int]]] = []

    def close(self) -> None: ...

    def ping(self) -> None:
        self.read(registers.MODEL_NUMBER)

    def name(self, id: int) -> str:
        return f"servo {id}"

    def read(self, register, ids=()):
        return {id: values[register] for id, values in self.read_many((register,), ids).items()}

    def read_many(self, wanted, ids=()):
        if self.gone:
            raise LineLost("the cable is out")
        if self.silent:
            raise ServoSilent("a servo is silent", sorted(self.silent))
        memory = {id: bytes(servo.memory) for id, servo in self.servos.items()}
        return {id: {one: one.decode(memory[id][one.address :]) for one in wanted} for id in self.servos}

    def write_all(self, register, values) -> None:
        if self.gone:
            raise LineLost("the cable is out")
        if register in self.deaf:
            return
        self.written.append((register, dict(values)))
        for id, value in values.items():
            self.servos[id].write(register.address, register.encode(value))


class Bench:
    """An arm, its servos and two clocks that only go on when it is told to."""

    def __init__(self) -> None:
        self.servos = EmulatedServos()
        for id, joint in enumerate(CALIBRATION.joints.values(), 1):
            self.servos.servos[id].put(31, joint.correction, 11)
        self.converter = Converter(CALIBRATION, NAMES)
        self.place(START)
        self.line = MemoryLine(self.servos)
        self.plugged = True
        self.now = 100.0
        self.opened: list[float] = []
        self.arm = Arm(PROFILE, CALIBRATION, SETTINGS, self._open, lambda: round(self.now * SECOND))
        self.arm.connect(self.now)
        self.goals: list[np.ndarray] = []

    def _open(self) -> MemoryLine:
        self.opened.append(self.now)
        if not self.plugged:
            raise LineLost("no such device")
        self.line.gone = False
        return self.line

    def place(self, positions) -> None:
        for id, ticks in self.converter.to_ticks(np.asarray(positions)).items():
            self.servos.servos[id].turn_by_hand(ticks)

    def run(self, seconds: float) -> None:
        for _ in range(round(seconds / PERIOD)):
            self.now += PERIOD
            self.servos.step(PERIOD)
            self.arm.step(self.now)

    def command(self, positions, seconds=0.05, stamp=0.0, names=PROFILE.joint_names):
        whole, nanosec = divmod(round(seconds * SECOND), SECOND)
        point = SimpleNamespace(positions=list(positions), time_from_start=SimpleNamespace(sec=whole, nanosec=nanosec))
        whole, nanosec = divmod(round(stamp * SECOND), SECOND)
        header = SimpleNamespace(stamp=SimpleNamespace(sec=whole, nanosec=nanosec))
        return self.arm.command(SimpleNamespace(header=header, joint_names=list(names), points=[point]))

    def start(self) -> None:
        self.run(0.05)
        assert self.command(self.positions()[:-1]) is None
        self.run(0.05)
        assert self.arm.state is State.FOLLOWING

    def positions(self) -> np.ndarray:
        return self.converter.to_rad({id: servo.position for id, servo in self.servos.servos.items()})

    def torque(self) -> list[bool]:
        return [servo.torque for servo in self.servos.servos.values()]

    def goal_rows(self) -> np.ndarray:
        return np.array(
            [[values[id] for id in range(1, 7)] for register, values in self.line.written if register is registers.GOAL_POSITION]
        )


def test_nothing_is_written_before_the_first_valid_command() -> None:
    bench = Bench()
    bench.run(0.5)
    assert bench.arm.state is State.READING
    assert bench.command([0.0] * 5, names=PROFILE.joint_names[:4]) == "joint 'wrist_roll_joint' is missing"
    assert bench.command([float("nan")] * 5) == "a position is not finite"
    assert "joint 'elbow' is unknown; this arm has" in str(bench.command([0.0] * 5, names=("elbow", *PROFILE.joint_names[1:])))
    bench.run(0.1)
    assert bench.line.written == [] and not any(bench.torque())


def test_torque_comes_on_with_every_goal_where_its_servo_is() -> None:
    bench = Bench()
    bench.run(0.1)
    here = [servo.position for servo in bench.servos.servos.values()]
    assert bench.command(START[:-1] + 0.9, seconds=0.9) is None
    bench.run(PERIOD)
    goals = [one for one in bench.line.written if one[0] is registers.GOAL_POSITION]
    assert list(goals[0][1].values()) == here
    order = [register for register, _ in bench.line.written]
    assert order.index(registers.GOAL_POSITION) < order.index(registers.TORQUE)
    bench.run(3.0)
    np.testing.assert_allclose(bench.positions()[:-1], START[:-1] + 0.9, atol=0.01)
    assert abs(bench.positions()[-1] - START[-1]) < 0.01  # the jaw stays
    # At the speed that was asked for: it was interpolated, not jumped to.
    rows = bench.goal_rows()[:91]
    assert np.abs(np.diff(rows, axis=0)).max() <= 1.0 * PERIOD / RAD_PER_TICK * 1.5 + 1


def test_a_lost_goal_keeps_the_torque_off() -> None:
    bench = Bench()
    bench.run(0.05)
    bench.place(START + 0.5)
    bench.run(0.05)
    bench.line.deaf = {registers.GOAL_POSITION}
    assert bench.command(START[:-1]) is None
    bench.run(0.2)
    assert not any(bench.torque()) and bench.arm.state is State.READING
    bench.line.deaf = set()
    bench.run(0.05)
    assert all(bench.torque())
    assert np.abs(bench.positions() - START - 0.5)[:-1].max() < 3.0 * 0.05 + 0.01  # from where it was, at no more than its speed


angle = st.floats(-1e9, 1e9)


@given(
    st.lists(st.tuples(st.lists(angle, min_size=5, max_size=5), st.floats(0, 2), st.integers(1, 30), angle), min_size=1, max_size=6),
    st.data(),
)
@settings(max_examples=60, deadline=None)
def test_whatever_is_commanded_the_goals_keep_to_position_speed_and_lead(commands, data) -> None:
    bench = Bench()
    bench.run(0.02)
    blocked = data.draw(st.none() | st.integers(1, 6))
    if blocked is not None:
        position = bench.servos.servos[blocked].position
        bench.servos.servos[blocked].obstacle = (position - 20, position + 20)
    low, high = bench.converter.to_ticks(bench.arm.lower), bench.converter.to_ticks(bench.arm.upper)
    ends = np.sort([[low[id], high[id]] for id in range(1, 7)], axis=1)
    step = np.append(PROFILE.velocity, SETTINGS.gripper.velocity) * PERIOD / RAD_PER_TICK
    for positions, seconds, periods, grip in commands:
        bench.command(positions, seconds)
        bench.arm.grip(grip)
        for _ in range(periods):
            before = np.array([servo.position for servo in bench.servos.servos.values()])
            count = len(bench.goal_rows())
            bench.run(PERIOD)
            rows = bench.goal_rows()
            for row in rows[count:]:
                assert (row >= ends[:, 0] - 1).all() and (row <= ends[:, 1] + 1).all()
            if count and len(rows) > count:
                assert (np.abs(rows[-1] - rows[count - 1]) <= step + 1).all()
                here = np.array([servo.position for servo in bench.servos.servos.values()])
                nearest = np.minimum(np.abs(rows[-1] - here), np.abs(rows[-1] - before))
                assert (nearest <= PROFILE.guard.max_step / RAD_PER_TICK + 1).all()


def test_old_commands_are_refused_and_a_silent_sender_is_noticed() -> None:
    bench = Bench()
    bench.start()
    assert "is 0.60 s old" in str(bench.command(START[:-1], stamp=bench.now - 0.6, seconds=2.0)).replace("it is", "is")
    assert bench.command(START[:-1], stamp=bench.now - 0.02) is None
    bench.run(0.3)
    assert not bench.arm.waits()
    bench.run(0.5)
    assert bench.arm.waits() and all(bench.torque())
    held = bench.goal_rows()[-1]
    bench.run(1.0)
    assert (bench.goal_rows()[-1] == held).all()


@pytest.mark.parametrize(
    ("address", "value", "words"),
    [(63, 66, "is 66 degrees hot"), (62, 40, "has 4 V only"), (62, 136, "has 13.6 V, too many"), (65, 0x20, "itself reports: overload")],
)
def test_an_unwell_servo_makes_the_arm_hold_until_it_is_well(address, value, words) -> None:
    bench = Bench()
    bench.start()
    servo = bench.servos.servos[3]
    well = servo.memory[address]
    bench.command(START[:-1] + 0.8, seconds=2.0)
    bench.run(0.5)
    assert bench.arm.faults() == ()
    servo.memory[address] = value
    if address == 65:
        servo.obstacle, servo.pressed = (servo.position, servo.position), 10.0
        servo.memory[36] = 0
    bench.run(0.5)
    here = bench.positions()
    assert any(words in fault and fault.startswith("servo 3 (elbow_flex_joint)") for fault in bench.arm.faults()), bench.arm.faults()
    assert words in str(bench.command(START[:-1]))
    assert bench.arm.grip(1.0) is not None
    bench.run(0.5)
    assert np.abs(bench.positions() - here).max() < 0.02 and all(bench.torque())
    servo.memory[address], servo.obstacle, servo.memory[36] = well, None, 80
    bench.run(1.5)
    assert bench.arm.faults() == () and np.abs(bench.positions() - here).max() < 0.02
    assert bench.command(START[:-1], seconds=1.0) is None
    bench.run(2.0)
    np.testing.assert_allclose(bench.positions()[:-1], START[:-1], atol=0.02)


def test_a_threshold_has_a_way_back_and_a_warning_before_it() -> None:
    bench = Bench()
    bench.start()
    servo = bench.servos.servos[1]
    for temperature, faults, warnings in ((56, 0, 1), (65, 1, 0), (62, 1, 0), (59, 0, 1), (40, 0, 0)):
        servo.memory[63] = temperature
        bench.run(1.3)
        assert (len(bench.arm.faults()), len(bench.arm.warnings())) == (faults, warnings), temperature


def test_pushing_against_something_ends_in_holding() -> None:
    bench = Bench()
    bench.start()
    servo = bench.servos.servos[1]
    servo.obstacle = (servo.position - 5, servo.position + 5)
    for _ in range(40):
        bench.command(START[:-1] + 1.0)
        bench.run(0.05)
    assert "pushes with" in bench.arm.faults()[0]
    bench.run(1.5)  # it gave in: pushes no more, and is well again
    assert bench.arm.faults() == ()


def test_a_pulled_cable_holds_and_the_arm_goes_on_from_where_it_is() -> None:
    bench = Bench()
    bench.start()
    bench.command(START[:-1] + 0.5, seconds=1.0)
    bench.run(0.5)
    bench.line.gone, bench.plugged = True, False
    bench.run(0.1)
    assert bench.arm.state is State.LOST and bench.arm.faults() and bench.command(START[:-1]) is not None
    bench.opened.clear()
    bench.run(12.0)
    waits = np.diff(bench.opened)
    assert waits[0] >= SETTINGS.line.backoff * 2 - 0.02 and waits.max() <= SETTINGS.line.backoff_most + 0.02
    assert all(bench.torque())  # the servos hold by themselves
    sagging = bench.servos.servos[2]  # holds, a little below its goal
    goal, low = sagging.word(42), sagging.position - 15
    sagging.obstacle = (low, low)
    bench.run(0.1)
    here = bench.positions()
    bench.plugged = True
    bench.line.written.clear()
    bench.run(6.0)
    assert bench.arm.state is State.READING and bench.line.written == [] and bench.arm.lost == 1
    np.testing.assert_allclose(bench.positions(), here, atol=1e-6)
    assert bench.command(START[:-1], seconds=1.0) is None
    bench.run(PERIOD)
    wanted = [servo.position for servo in bench.servos.servos.values()]
    wanted[1], sagging.obstacle = goal, None
    assert np.abs(bench.goal_rows()[0] - wanted).max() <= 2
    bench.run(2.0)
    np.testing.assert_allclose(bench.positions()[:-1], START[:-1], atol=0.01)


def test_a_servo_that_falls_silent_is_a_lost_line_after_a_while() -> None:
    bench = Bench()
    bench.start()
    bench.line.silent = {4}
    bench.run(0.2)
    assert bench.arm.state is State.FOLLOWING and bench.arm.missed == pytest.approx(20, abs=1)
    bench.run(0.3)
    assert bench.arm.state is State.LOST and bench.arm.faults() == ("a servo is silent",)


def test_a_supply_that_failed_needs_a_human() -> None:
    bench = Bench()
    bench.start()
    for servo in bench.servos.servos.values():
        servo.cut()
    bench.run(0.4)
    assert bench.arm.state is State.READING and "let go by itself" in bench.arm.faults()[0]
    bench.place(START + 0.3)  # it fell
    assert bench.command(START[:-1]) is not None
    bench.run(0.2)
    assert not any(bench.torque())
    assert bench.arm.reset() is None
    assert bench.command(bench.positions()[:-1]) is None
    bench.run(0.1)
    assert all(bench.torque())
    np.testing.assert_allclose(bench.positions(), START + 0.3, atol=0.01)


def test_parking_is_slow_and_ends_without_torque() -> None:
    bench = Bench()
    bench.start()
    bench.line.written.clear()
    assert bench.arm.park(bench.now)
    while bench.arm.parking(bench.now) is None:
        bench.run(PERIOD)
        assert bench.command(START[:-1]) == "the arm is being parked"
    assert bench.arm.parking(bench.now) is True and all(bench.torque())
    rows = bench.goal_rows()
    assert np.abs(np.diff(rows, axis=0)).max() <= SETTINGS.park.velocity * PERIOD / RAD_PER_TICK + 1
    bench.arm.release()
    assert not any(bench.torque())
    pose = [SETTINGS.park.pose[name] for name in PROFILE.joint_names]
    np.testing.assert_allclose(bench.positions()[:-1], pose, atol=SETTINGS.park.tolerance)


def test_an_arm_that_cannot_park_keeps_its_torque() -> None:
    bench = Bench()
    bench.start()
    servo = bench.servos.servos[2]
    servo.obstacle = (servo.position - 5, servo.position + 5)
    assert bench.arm.park(bench.now)
    while (there := bench.arm.parking(bench.now)) is None:
        bench.run(PERIOD)
    assert there is False and all(bench.torque()) and bench.arm.off_park() == ["shoulder_lift_joint"]


def test_an_arm_without_torque_has_nothing_to_park() -> None:
    bench = Bench()
    bench.run(0.1)
    assert not bench.arm.park(bench.now) and bench.line.written == []


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda servo: servo.put(31, 77, 11), "corrects its position by 77 ticks, and by 20 when it was calibrated"),
        (lambda servo: servo.memory.__setitem__(33, 1), "is in mode 1, not in position mode"),
        (lambda servo: servo.put(9, 1000), "itself stops at 1000 and 4095 ticks, inside its calibrated range of 102 to 3992"),
    ],
)
def test_an_arm_that_was_not_calibrated_like_this_is_refused(change, words) -> None:
    bench = Bench()
    bench.arm.close()
    change(bench.servos.servos[3])
    with pytest.raises(BusError, match="servo 3") as error:
        bench.arm.connect(bench.now)
    assert words in str(error.value)


def test_without_torque_the_arm_stays_where_it_was_parked() -> None:
    """In the simulated model, whose gravity compensation is taken away; from its home pose the same arm falls."""
    import mujoco

    from robot_bringup.sim.simulation import Simulation

    simulation = Simulation(PROFILE)
    model, data = simulation.model, simulation.data
    sim = PROFILE.sim
    assert sim is not None
    model.body_gravcomp[:] = model.actuator_gainprm[:] = model.actuator_biasprm[:] = 0

    def fall(positions) -> float:
        """Distance (m) that the hand has gone after 2 s without torque."""
        for name, position in zip(NAMES, positions):
            joint = sim.joints[name]
            data.qpos[model.joint(joint.model_joint).qposadr[0]] = joint.to_model(position)
        data.qvel[:] = 0
        mujoco.mj_forward(model, data)
        before = data.body(sim.model["hand_body"]).xpos.copy()
        mujoco.mj_step(model, data, nstep=round(2 / model.opt.timestep))
        return float(np.linalg.norm(data.body(sim.model["hand_body"]).xpos - before))

    assert fall([*(SETTINGS.park.pose[name] for name in PROFILE.joint_names), 0.0]) < 0.01
    assert fall([*PROFILE.home, 0.0]) > 0.1
    simulation.close()
