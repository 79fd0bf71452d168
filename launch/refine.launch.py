"""ros2 launch robot_bringup refine.launch.py name:=value ...   (--show-args lists the arguments)

The same run as `whetstone run refine`: both read robot_bringup.plan.
"""

from robot_bringup.launching import describe


def generate_launch_description():
    return describe("refine")
