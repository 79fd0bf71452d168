"""Gazebo Sim: our table as a world, a robot description made ready for it, and what joins both to ROS 2."""
