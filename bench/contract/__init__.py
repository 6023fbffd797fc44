"""What a method must be: how each one describes itself, and the check that it keeps its contract."""
