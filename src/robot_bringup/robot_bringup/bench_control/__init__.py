"""How evenly, how soon and how smoothly commands reach the arm in real time: see __main__.py."""
