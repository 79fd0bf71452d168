"""`make bench-bags`: bags recorded, read, converted and evaluated, each against the way one would do it without us."""
