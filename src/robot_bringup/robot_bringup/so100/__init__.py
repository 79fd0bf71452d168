"""A driver of our own for the SO-100, for labs without ros2_control.

Role: from the serial line of its six Feetech STS3215 to the topics that the robot's profile names. bus speaks to the servos, calibration
says what their ticks mean, arm decides what they are told, driver_node is ROS around it. emulated_bus stands in for the servos.
"""
