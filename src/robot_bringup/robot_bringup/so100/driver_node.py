"""The driver node of a SO-100: its servos behind the topics that the robot's profile names.

Role: ROS around arm.Arm: joint_states out, the trajectory topic and the gripper's action in, the servos' health in /diagnostics, ~/reset
for a human. It stands where simulator_node stands in simulation. Between configure and activate it holds the line open and is silent;
deactivate parks the arm and cuts the torque, unless the watchdog has stopped the arm: then it does not move, and keeps its torque.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus, KeyValue
from sensor_msgs.msg import JointState
from std_srvs.srv import Trigger
from trajectory_msgs.msg import JointTrajectory
from whetstone_msgs.msg import Watchdog

from robot_bringup.gripper_server import GripperServer
from robot_bringup.so100 import bringup
from robot_bringup.so100.arm import Arm, Reading, State
from robot_bringup.so100.bus import BusError, ServoBus
from robot_bringup.so100.calibration import load_calibration
from robot_bringup.so100.settings import load_settings
from whetstone.profile import load_profile
from whetstone.ros import COMMAND, GRACE, LATCHED, STATE, WhetstoneNode, joints_qos, run_node, to_stamp


@dataclass(frozen=True)
class Parameters:
    """calibration: the file that `whetstone calibrate-arm` made of this arm. robot: name of its config file. port: of the serial adapter.
    driver: name of a file in config/drivers. autostart: the node configures and activates itself, where no episode manager does.
    """

    calibration: str
    robot: str = "so100"
    port: str = "/dev/ttyACM0"
    driver: str = "so100"
    autostart: bool = False


class DriverNode(WhetstoneNode[Parameters]):
    """See the module."""

    def __init__(self) -> None:
        super().__init__("so100_driver", Parameters)
        self.autostart = self.parameters.autostart

    def configure(self) -> None:
        p = self.parameters
        self._profile = profile = load_profile(p.robot)
        bringup.check(profile)
        self._settings = settings = load_settings(p.driver, profile)
        calibration = load_calibration(p.calibration, profile)
        servos = {joint.id: name for name, joint in calibration.joints.items()}
        line = settings.line

        def open_line() -> ServoBus:
            return ServoBus(p.port, servos, line.patience, line.retries)

        self._arm = Arm(profile, calibration, settings, open_line, lambda: self.get_clock().now().nanoseconds)
        self._arm.connect(time.monotonic())
        self.grace = bringup.parking(profile, calibration, settings) + GRACE
        self._joints = self.create_publisher(JointState, profile.joint_states, joints_qos(True))
        self._health = self.create_publisher(DiagnosticArray, "/diagnostics", STATE)
        self._commands = self.create_subscription(JointTrajectory, profile.command.topic, self._on_command, COMMAND)
        self._watchdog = self.create_subscription(Watchdog, "watchdog", self._on_watchdog, LATCHED)
        self._stopped: tuple[str, ...] = ()  # why the watchdog has stopped the arm
        self._reset = self.create_service(Trigger, "~/reset", self._on_reset)
        grip = settings.gripper
        self._gripper = GripperServer(
            self,
            profile,
            arrived=grip.arrived,
            stalled=(grip.resting, max(round(grip.resting_for * profile.rate), 1)),
            refuses=self._refuses,
            sent=lambda opening: self._arm.grip(profile.opening_to_position(opening)),
        )
        self._gripper_at = 0.0
        self._said: tuple[State, tuple[str, ...]] = (State.READING, ())

    def activate(self) -> None:
        self._timer = self.create_timer(1 / self._settings.rate, self._period, clock=self.steady_clock)
        self._health_timer = self.create_timer(1.0, self._say_health, clock=self.steady_clock)
        self.get_logger().info(f"reading {self.parameters.port}; the torque comes with the first command")

    def deactivate(self) -> None:
        self.destroy_timer(self._timer)
        self.destroy_timer(self._health_timer)
        self._gripper.reset(self._gripper.opening)
        self._park()

    def cleanup(self) -> None:
        self._arm.close()
        self._gripper.destroy()
        self.destroy_subscription(self._commands)
        self.destroy_subscription(self._watchdog)
        self.destroy_service(self._reset)
        self.destroy_publisher(self._joints)
        self.destroy_publisher(self._health)

    # In.

    def _refuses(self) -> str | None:
        return self._arm.refuses() if self.state() == "active" else "the driver is not active"

    def _on_command(self, message: JointTrajectory) -> None:
        reason = self._arm.command(message) if self.state() == "active" else "the driver is not active"
        if reason is not None:
            self.get_logger().warning(f"trajectory refused: {reason}", throttle_duration_sec=0.5)

    def _on_watchdog(self, message: Watchdog) -> None:
        self._stopped = tuple(message.reasons) if message.stopped else ()

    def _on_reset(self, _: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
        wrong, self._stopped = self._arm.reset(), ()  # a watchdog that is gone can be released no more
        response.success, response.message = wrong is None, wrong or "the next command begins from where the arm is"
        return response

    # Out.

    def _period(self) -> None:
        reading = self._arm.step(time.monotonic())
        if reading is not None:
            self._publish(reading)
        said = (self._arm.state, self._arm.faults())
        if said != self._said:
            self._announce(said[1])
            self._said = said
            self._say_health()

    def _publish(self, reading: Reading) -> None:
        message = JointState(name=list(self._arm.names), position=reading.positions.tolist(), velocity=reading.velocities.tolist())
        message.header.stamp = to_stamp(reading.stamp)
        self._joints.publish(message)
        if reading.stamp / 1e9 - self._gripper_at >= self._profile.period or reading.stamp / 1e9 < self._gripper_at:
            self._gripper_at = reading.stamp / 1e9
            self._gripper.measured(self._profile.position_to_opening(float(reading.positions[-1])))

    def _announce(self, faults: tuple[str, ...]) -> None:
        if faults and faults != self._said[1]:
            self.get_logger().error(f"holding: {'; '.join(faults)}")
            self._gripper.reset(self._gripper.opening)
        elif self._said[1] and not faults:
            self.get_logger().info("well again; the next command begins from where the arm is")
        elif self._arm.state is State.FOLLOWING:
            self.get_logger().info("the torque is on")

    def _say_health(self) -> None:
        arm = self._arm
        faults, warnings = arm.faults(), arm.warnings()
        level, words = DiagnosticStatus.OK, arm.state.value
        if faults:
            level, words = DiagnosticStatus.ERROR, "holding: " + "; ".join(faults)
        elif warnings:
            level, words = DiagnosticStatus.WARN, "; ".join(warnings)
        elif arm.waits():
            words = "holding: no command"
        values = {"state": arm.state.value, "port": self.parameters.port, "missed_reads": arm.missed, "lines_lost": arm.lost}
        statuses = [self._status("arm", level, words, values)]
        retries = arm.retries()
        for id, vitals in arm.vitals.items():
            level = DiagnosticStatus.ERROR if vitals.faults else DiagnosticStatus.WARN if vitals.warnings else DiagnosticStatus.OK
            values = {
                "id": id,
                "temperature": vitals.temperature,
                "voltage": vitals.voltage,
                "load": vitals.load,
                "current": round(vitals.current, 3),
                "asked_again": retries.get(id, 0),
            }
            statuses.append(self._status(arm.names[arm.order(id)], level, "; ".join((*vitals.faults, *vitals.warnings)) or "well", values))
        message = DiagnosticArray(status=statuses)
        message.header.stamp = self.get_clock().now().to_msg()
        self._health.publish(message)

    def _status(self, part: str, level: bytes, words: str, values: dict[str, Any]) -> DiagnosticStatus:
        pairs = [KeyValue(key=key, value=f"{value:g}" if isinstance(value, float) else str(value)) for key, value in values.items()]
        return DiagnosticStatus(
            level=level, name=f"{self.get_fully_qualified_name()}: {part}", message=words, hardware_id=self.parameters.port, values=pairs
        )

    # Parking.

    def _park(self) -> None:
        """Blocks until the arm is parked, or cannot be."""
        arm, period = self._arm, 1 / self._settings.rate
        if self._stopped and arm.state is State.FOLLOWING:
            self.get_logger().error(
                f"not parked: the watchdog has stopped the arm ({'; '.join(self._stopped)}). The torque stays on, so that the arm does not "
                "fall: support it, then cut its supply; or start this driver again and stop it: it parks then"
            )
            return
        if not arm.park(time.monotonic()):
            if arm.state is State.LOST:
                self.get_logger().error(f"not parked: {arm.reason}. Servos that have torque keep it: support the arm, then cut its supply")
            return
        self.get_logger().info("parking the arm")
        due = time.monotonic()
        while (there := arm.parking(time.monotonic())) is None:
            reading = arm.step(time.monotonic())
            if reading is not None:
                self._publish(reading)
            due = max(due + period, time.monotonic())
            time.sleep(max(due - time.monotonic(), 0.0))
        if there:
            try:
                arm.release()
                self.get_logger().info("parked; the torque is off")
                return
            except BusError as error:
                reason = str(error)
        else:
            names = ", ".join(arm.off_park()) or "the line"
            reason = "; ".join(arm.faults()) or f"{names} did not get to the park pose"
        self.get_logger().error(
            f"not parked: {reason}. The torque stays on, so that the arm does not fall: support it, then cut its supply"
        )


def main(args: list[str] | None = None) -> int:
    """Executable `so100_driver`."""
    return run_node(DriverNode, args)


if __name__ == "__main__":
    raise SystemExit(main())
