"""Reward models and policies judged on what was recorded: bags and stored episodes, without a robot and without ROS."""
