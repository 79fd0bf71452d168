"""ros2 launch robot_bringup evaluate.launch.py name:=value ...   (--show-args lists the arguments)

The same run as `whetstone run evaluate`: both read robot_bringup.plan.
"""

from robot_bringup.launching import describe


def generate_launch_description():
    return describe("evaluate")
