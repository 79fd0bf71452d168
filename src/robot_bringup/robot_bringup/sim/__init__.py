"""MuJoCo stand-in for the robot: scene, tasks, scripted experts. Pure: arrays in, arrays out, no ROS."""

import os
import sys

# MuJoCo picks its OpenGL at import and by default wants a display, which a robot's computer seldom has.
if sys.platform == "linux":
    os.environ.setdefault("MUJOCO_GL", "egl")
