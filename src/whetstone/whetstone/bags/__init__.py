"""Rosbags, read in code: rosbag2 (MCAP, sqlite3, compressed, split) and ROS 1, whole or damaged. No rclpy."""
