"""ros2 launch robot_bringup sim.launch.py name:=value ...   (--show-args lists the arguments)

The same run as `whetstone run sim`: both read robot_bringup.plan.
"""

from robot_bringup.launching import describe


def generate_launch_description():
    return describe("sim")
