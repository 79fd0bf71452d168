"""Policies (pure), chunk execution, and the node that drives the arm (`node.py`, the only module that imports rclpy)."""
