"""Isaac Sim: the scene for its stage script, and the script itself, which runs in Isaac Sim's own Python."""
