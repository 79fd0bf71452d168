"""Playing recorded episodes into the real nodes: what is said, in which order (script.py), the process (node.py), the command."""
