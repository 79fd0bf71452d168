"""ros2 launch robot_bringup learner.launch.py robots:=one,two name:=value ...   (--show-args lists the arguments)

The same as `whetstone run learner`: both read robot_bringup.plan.
"""

from robot_bringup.launching import describe


def generate_launch_description():
    return describe("learner")
