"""Models behind one call on numpy arrays, their files and their descriptions."""
