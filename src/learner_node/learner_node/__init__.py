"""Joining rewards to steps, learning algorithms, and the node that publishes weights (`node.py`, the only module that imports rclpy)."""
